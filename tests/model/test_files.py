"""Models on disk: what comes back, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError
from torch import nn

from scfcmi._options import OPTIONS
from scfcmi.communities import Look
from scfcmi.front import Front
from scfcmi.model import FCMI, Registered
from scfcmi.model._files import OF_A_LOOK
from scfcmi.published import NetworkOptions
from scfcmi.registration import Mixture

DATA = Path(__file__).parent / "data"
N_CELLS, N_GENES = 200, 12
SMALL = NetworkOptions(hidden=(16, 8), max_epochs=2, warmup_epochs=1, batch_size=64)


def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kind, tech = np.arange(N_CELLS) % 4, (np.arange(N_CELLS) // 4) % 2
    x = 0.3 * rng.normal(size=(N_CELLS, N_GENES)) + 6 * np.eye(N_GENES)[kind] + 1.5 * np.eye(N_GENES)[4 + tech] + 2
    return x.astype(np.float32), np.array(["tech0", "tech1"])[tech]


DEPTH = np.random.default_rng(1).normal(size=N_CELLS)


def fitted(fit: dict[str, Any] | None = None, **params: Any) -> FCMI:
    x, groups = cells()
    given = {"standardize": False, "progress_bar": False, "device": "cpu"} | params
    names = [f"gene{i}" for i in range(N_GENES)]
    return FCMI(**given).fit(x, **({"groups": groups, "feature_names": names} | (fit or {})))


def looked_at_again(look: Look, branch: int, again: int | None = None) -> Look:
    """A look with a closer one at a branch, and with one at a part of that: the same cells in the same directions."""
    inside = look.branch == branch
    rows = torch.from_numpy(inside)
    own = np.unique(look.leaf[inside], return_inverse=True)[1].astype(np.int64)
    closer = replace(
        look, position=look.position[rows], component=look.component[rows], leaf=look.leaf[inside], branch=own
    )
    return replace(look, closer={branch: closer if again is None else looked_at_again(closer, again)})


@pytest.fixture(scope="module")
def model() -> FCMI:
    """A fit with three looks, one inside the other."""
    model = fitted()
    model.state_ = replace(model.state_, look=looked_at_again(model.state_.look, 0, 1))
    return model


@pytest.fixture(scope="module")
def published() -> FCMI:
    return fitted(n_clusters=3, preset="paper", network=SMALL, fairness=0.5)


@pytest.fixture
def path(model: FCMI, tmp_path: Path) -> Path:
    model.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def join(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def sealed(path: Path) -> None:
    """Give a file that was changed on purpose a digest that is right, so that other checks have to notice."""
    raw = path.read_bytes()
    header, _ = split(path)
    old = json.loads(header["__metadata__"]["scfcmi"]).get("digest")
    if isinstance(old, str) and len(old) == 64:
        blank = raw.replace(old.encode(), b"0" * 64)
        path.write_bytes(raw.replace(old.encode(), hashlib.sha256(blank).hexdigest().encode()))


def with_document(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    header, data = split(path)
    document = json.loads(header["__metadata__"]["scfcmi"])
    change(document)
    header["__metadata__"]["scfcmi"] = json.dumps(document)
    join(path, header, data)
    sealed(path)


def with_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    metadata = split(path)[0]["__metadata__"]
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata)
    sealed(path)


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        FCMI.load(path)
    assert repr(str(path)) in str(caught.value)


def assert_same_assignments(one: FCMI, other: FCMI) -> None:
    x, groups = cells()
    for given in (None, groups):
        a, b = one.assign(x, given), other.assign(x, given)
        for name in ("labels", "proba", "embedding", "unlike"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert (a.leaves is None) == (b.leaves is None)
        assert a.leaves is None or (a.leaves != b.leaves).nnz == 0


# what comes back ----------------------------------------------------------------------------------------------------


def assert_same_model(after: FCMI, before: FCMI) -> None:
    stored = [name for name, option in OPTIONS.items() if option.stored]
    assert {name: getattr(after, name) for name in stored} == {name: getattr(before, name) for name in stored}
    assert after.network == before.network
    assert after.groups_.levels == before.groups_.levels
    for mine, theirs in zip(after.groups_.factors, before.groups_.factors, strict=True):
        assert (mine.name, mine.levels) == (theirs.name, theirs.levels)
        np.testing.assert_array_equal(mine.of_group, theirs.of_group)
    assert after.feature_names_ == before.feature_names_
    assert after.continuous_names_ == before.continuous_names_
    assert after.n_features_in_ == before.n_features_in_ == N_GENES
    assert (after.n_clusters_, after.n_dims_) == (before.n_clusters_, before.n_dims_)
    assert after.stopped_ == before.stopped_
    for name in ("history_", "n_clusters_evidence_"):
        mine, theirs = getattr(after, name), getattr(before, name)
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(mine[key], value)
    assert not hasattr(after, "assignment_") and not hasattr(after, "labels_")


FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "number given": {"n_clusters": 9, "random_state": np.int64(3)},
    "one group": {"fit": {"groups": None, "feature_names": None}},
    "numbers": {"fairness": 0.25, "fit": {"continuous": {"depth": DEPTH}}},
    "two attributes": {
        "standardize": True,
        "fit": {"groups": {"tech": cells()[1], "donor": np.arange(N_CELLS) // 8 % 3 + 1.0}},
    },
}


@pytest.mark.parametrize("name", list(FITS))
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    before, path = fitted(**FITS[name]), tmp_path / "model.safetensors"
    before.save(path)
    after = FCMI.load(path)
    assert_same_model(after, before)
    x, _ = cells()
    groups = before.groups_.values if len(before.groups_.levels) > 1 else None
    for given in (None, groups):
        a, b = after.assign(x, given), before.assign(x, given)
        for part in ("labels", "proba", "embedding", "unlike"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
        assert (a.leaves != b.leaves).nnz == 0
    level = before.groups_.levels[-1]
    np.testing.assert_array_equal(after.decode(a.embedding, level), before.decode(a.embedding, level))
    after.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_numbers_of_later_cells_count_as_before(tmp_path: Path) -> None:
    before, path = fitted(**FITS["numbers"]), tmp_path / "model.safetensors"
    before.save(path)
    x, groups = cells()
    a, b = (m.assign(x, groups, continuous={"depth": 3 * DEPTH}) for m in (before, FCMI.load(path)))
    np.testing.assert_array_equal(a.embedding, b.embedding)


def test_published_network_comes_back(published: FCMI, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    published.save(path)
    after = FCMI.load(path)
    assert_same_model(after, published)
    assert_same_assignments(after, published)
    after.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_looks_inside_looks_come_back(model: FCMI, path: Path) -> None:
    before, after = model.state_, FCMI.load(path).state_
    assert isinstance(before, Registered) and isinstance(after, Registered)
    looks = list(zip(before.look.walk(), after.look.walk(), strict=True))
    assert len(looks) == 3
    for mine, theirs in looks:
        assert sorted(mine.closer) == sorted(theirs.closer)
        assert torch.equal(mine.position, theirs.position) and torch.equal(mine.mixture.moves, theirs.mixture.moves)


def test_another_cut_of_a_loaded_tree(model: FCMI, path: Path) -> None:
    np.testing.assert_array_equal(
        FCMI.load(path).state_.recut(2).cluster_of_leaf, model.state_.recut(2).cluster_of_leaf
    )


def test_a_fresh_process_agrees(model: FCMI, path: Path, tmp_path: Path) -> None:
    x, _ = cells()
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy as np; from scfcmi.model import FCMI; folder = sys.argv[1]\n"
        "found = FCMI.load(folder + '/model.safetensors').assign(np.load(folder + '/x.npy'))\n"
        "np.savez(folder + '/found.npz', labels=found.labels, proba=found.proba, embedding=found.embedding)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    with np.load(tmp_path / "found.npz") as found:
        for name in ("labels", "proba", "embedding"):
            np.testing.assert_array_equal(found[name], getattr(model.assign(x), name))


def test_files_of_the_first_release_are_refused_in_words() -> None:
    refused(DATA / "fcmi-v1.safetensors", "fitted by scfcmi 0.1, whose models this release cannot use; fit again")


def test_every_part_of_a_look_has_its_place_in_files() -> None:
    """A field that is added to what a fit keeps must not be lost in files."""
    inner = {"front": Front, "mixture": Mixture}
    held = {name.partition(".")[0] for name in OF_A_LOOK}
    assert held | {"closer"} == {field.name for field in fields(Look)}
    for name, kind in inner.items():
        parts = {key.removeprefix(f"{name}.") for key in OF_A_LOOK if key.startswith(f"{name}.")}
        assert parts == {field.name for field in fields(kind)} - {"length", "height"}


def test_measured_cells_are_not_in_the_file(model: FCMI, path: Path) -> None:
    header, _ = split(path)
    wide = [name for name, entry in header.items() if name != "__metadata__" and N_CELLS in entry["shape"]]
    assert {name.rpartition(".")[2] for name in wide} == {"position", "component", "leaf", "branch"}
    x, _ = cells()
    held = np.concatenate([value.ravel() for value in load_file(path).values()])
    assert not np.isin(x[:50].ravel(), held).any()


def test_loading_leaves_the_random_state_alone(path: Path) -> None:
    before = torch.get_rng_state()
    FCMI.load(path)
    assert torch.equal(before, torch.get_rng_state())


def test_loading_needs_no_second_copy(tmp_path: Path) -> None:
    """NumPy tells `tracemalloc` of its arrays and PyTorch does not: what is seen are the copies alone."""
    rng = np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    FCMI(3, progress_bar=False, device="cpu").fit(rng.normal(size=(200, 6000)), ["a", "b"] * 100).save(path)
    size = path.stat().st_size
    assert size > 1e6
    FCMI.load(path)
    tracemalloc.start()
    try:
        FCMI.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.2 * size


def test_device(path: Path) -> None:
    with_document(path, lambda d: d["params"].update(device="cuda:99"))
    assert FCMI.load(path, device="cpu").device == "cpu"
    assert FCMI.load(path).device == "auto"
    with pytest.raises(ValueError, match="device='gpu' is unknown"):
        FCMI.load(path, device="gpu")


def test_feature_names_are_checked() -> None:
    x, groups = cells()
    with pytest.raises(ValueError, match="feature_names has 2 entries, but X has 12 columns"):
        FCMI(3).fit(x, groups, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="duplicates.*'a'"):
        FCMI(3).fit(x, groups, feature_names=["a"] * N_GENES)


# writing ------------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(model: FCMI, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(path)
    assert path.read_bytes() == before
    path.write_bytes(b"old")
    model.save(path, overwrite=True)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(model: FCMI, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        model.save(path, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_what_could_not_be_loaded_is_not_saved(model: FCMI, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    broken = fitted(n_clusters=2)
    broken.state_.look.front.scale[0] = np.nan
    with pytest.raises(ValueError, match="cannot be saved: tensor 'looks.0.front.scale' has values"):
        broken.save(path)
    broken = fitted(n_clusters=2)
    broken.history_["free_energy"][0] = np.inf
    with pytest.raises(ValueError, match="cannot be saved: it has the number inf"):
        broken.save(path)
    assert not os.listdir(tmp_path)


def test_own_modules_are_not_saved(tmp_path: Path) -> None:
    encoder = nn.Sequential(nn.Linear(N_GENES, 8), nn.ReLU(), nn.Linear(8, 3))
    own = NetworkOptions(hidden=(16, 8), max_epochs=1, warmup_epochs=0, batch_size=64, encoder=encoder)
    with pytest.raises(ValueError, match="modules of your own"):
        fitted(n_clusters=3, preset="paper", network=own).save(tmp_path / "model.safetensors")


def test_bad_places(model: FCMI, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must end with '.safetensors'"):
        model.save(tmp_path / "model.pkl")
    with pytest.raises(FileNotFoundError, match="folder .* does not exist"):
        model.save(tmp_path / "nowhere" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "folder.safetensors", overwrite=True)
    with pytest.raises(NotFittedError, match="not fitted"):
        FCMI(3).save(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no file .*missing.safetensors"):
        FCMI.load(tmp_path / "missing.safetensors")
    refused(tmp_path / "folder.safetensors", "not a regular file")


# files that are refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 5, 8, 100, 9000, -1])
def test_truncated(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    refused(path, "truncated|header claims")


def test_bytes_too_many(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    refused(path, "follow the header")


@pytest.mark.parametrize("claimed", [2**63, 2**40, 10**9])
def test_oversized_header(path: Path, claimed: int) -> None:
    path.write_bytes(struct.pack("<Q", claimed) + path.read_bytes()[8:])
    refused(path, "header claims")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"\xff\xfe{", "header is not valid JSON"),
        (b"{", "header is not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 200_000, "header is not valid JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b"{}", "no description of a model"),
        (b'{"__metadata__": {"scfcmi": 3}}', "no description of a model"),
        (b'{"__metadata__": {"scfcmi": "{"}}', "description is not valid JSON"),
        (b'{"__metadata__": {"scfcmi": "{}"}}', "format is None"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_broken_headers(path: Path, header: bytes, match: str) -> None:
    join(path, header, b"")
    refused(path, match)


def test_a_pickle_is_not_opened(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)
    refused(path, "header claims")


CHANGES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("newer", lambda d: d.update(format_version=3), "format version is 3.*newer release may read it"),
    ("older", lambda d: d.update(format_version=1), "fit again"),
    ("version as text", lambda d: d.update(format_version="2"), "format version is '2'"),
    ("version as truth", lambda d: d.update(format_version=True), "format version is True"),
    ("other format", lambda d: d.update(format="pickle"), "format is 'pickle'"),
    ("no digest", lambda d: d.update(digest="none"), "digest is 'none'"),
    ("lacks", lambda d: d.pop("levels"), r"lacks \['levels'\]"),
    ("extra", lambda d: d.update(code="import os"), r"unknown \['code'\]"),
    ("no object", lambda d: d.update(params=[]), r"params in its description is \[\]"),
    ("param type", lambda d: d["params"].update(random_state="0"), "random_state='0' must be an integer"),
    ("param truth", lambda d: d["params"].update(random_state=True), "random_state=True must be an integer"),
    ("unknown param", lambda d: d["params"].update(__class__="os"), r"unknown \['__class__'\]"),
    ("param lacks", lambda d: d["params"].pop("fairness"), r"lacks \['fairness'\]"),
    ("param range", lambda d: d["params"].update(fairness=2), "fairness=2 must be between"),
    ("param big", lambda d: d["params"].update(random_state=10**400), "number 1000"),
    ("device", lambda d: d["params"].update(device=None), "device is None"),
    ("preset", lambda d: d.update(preset="x"), "preset 'x' is unknown"),
    ("network", lambda d: d.update(network={"alpha": 1}), "options of the network lack"),
    ("other preset", lambda d: d.update(preset="paper"), "description of the network"),
    ("n_clusters", lambda d: d["params"].update(n_clusters=0), "n_clusters=0"),
    ("levels", lambda d: d.update(levels=["a", 1]), "levels is not a list of text"),
    ("no level", lambda d: d.update(levels=[]), "no group"),
    ("same levels", lambda d: d.update(levels=["a", "a"]), "levels has duplicates"),
    ("three levels", lambda d: d.update(levels=["a", "b", "c"]), "give every group a level"),
    ("names", lambda d: d.update(feature_names=["a"]), "feature_names has 1 entries"),
    ("numbers", lambda d: d.update(continuous_names=["depth"]), "the description calls for"),
    ("huge", lambda d: d["state"]["looks"][0].update(landmarks=2**60), "the description calls for"),
    ("beyond 64 bits", lambda d: d["state"]["looks"][0].update(landmarks=2**64), "number 18446744073709551616"),
    ("many features", lambda d: d.update(n_features=2**50, feature_names=None), "the description calls for"),
    ("no features", lambda d: d.update(n_features=0, feature_names=None), "n_features is 0"),
    ("fraction", lambda d: d["state"]["looks"][0].update(components=6.0), "components in its look 0 is 6.0"),
    ("nothing", lambda d: d["state"]["looks"][0].update(directions=0), "directions in its look 0 is 0"),
    ("clusters", lambda d: d["state"].update(clusters=1000), "1000 clusters"),
    ("fewer clusters", lambda d: d["state"].update(clusters=2), "cluster_of_leaf"),
    ("leaves", lambda d: d["state"].update(leaves=d["state"]["leaves"] + 1), "the description calls for"),
    ("fairness", lambda d: d["state"].update(fairness=1.5), "fairness in its state is 1.5"),
    ("typical", lambda d: d["state"].update(typical=[1.0, 0.0]), "typical"),
    ("one typical", lambda d: d["state"].update(typical=[1.0]), "typical"),
    ("no look", lambda d: d["state"].update(looks=[]), "no look"),
    ("look", lambda d: d["state"].update(looks=["all"]), "look 0 is 'all'"),
    ("look lacks", lambda d: d["state"]["looks"][0].pop("length"), r"look 0 lacks \['length'\]"),
    ("length", lambda d: d["state"]["looks"][0].update(length=-1), "the length -1"),
    ("height", lambda d: d["state"]["looks"][0].update(height=0), "the description calls for"),
    ("a circle", lambda d: d["state"]["looks"][1].update(inside=1), "look 1 is inside 1"),
    ("no parent", lambda d: d["state"]["looks"][1].update(inside=None), "look 1 is inside None"),
    ("a parent", lambda d: d["state"]["looks"][0].update(inside=0, branch=0), "look 0 is inside 0"),
    ("another branch", lambda d: d["state"]["looks"][1].update(branch=1), "other landmarks"),
    ("no branch", lambda d: d["state"]["looks"][1].update(branch=99), "other landmarks"),
    ("look twice", lambda d: d["state"]["looks"].append(d["state"]["looks"][1]), "second one at its branch"),
    ("history", lambda d: d["history"].update(loss="falls"), "history"),
    ("history big", lambda d: d["history"].update(loss=[10**400]), "number 1000"),
    ("evidence", lambda d: d["n_clusters_evidence"].update(score={"a": 1}), "n_clusters_evidence"),
    ("stopped", lambda d: d["stopped"].update(reason=None), "stopped"),
    ("factors", lambda d: d.update(factors={}), "factors in its description"),
    ("same factors", lambda d: d.update(factors=d["factors"] * 2), "duplicates"),
    ("factor", lambda d: d["factors"][0].update(of_group=[0, 0]), "names levels beyond"),
    ("factor beyond", lambda d: d["factors"][0].update(of_group=[0, 2]), "names levels beyond"),
    ("factor too long", lambda d: d["factors"][0].update(of_group=[0, 1, 1]), "give every group a level"),
    ("factor truth", lambda d: d["factors"][0].update(of_group=[0, True]), "give every group a level"),
    ("one level", lambda d: d["factors"][0].update(levels=["a"], of_group=[0, 0]), "same levels"),
    ("factor name", lambda d: d["factors"][0].update(name=1), "name in its factors is 1"),
    ("factor lacks", lambda d: d["factors"][0].pop("levels"), "lacks"),
    ("no factors", lambda d: d.update(factors=[]), "factors give two groups the same levels"),
]


@pytest.mark.parametrize(("change", "match"), [pytest.param(c, m, id=name) for name, c, m in CHANGES])
def test_descriptions_that_do_not_hold(path: Path, change: Callable[[dict[str, Any]], Any], match: str) -> None:
    with_document(path, change)
    refused(path, match)


def test_infinite_numbers_of_json(path: Path) -> None:
    header, data = split(path)
    text = header["__metadata__"]["scfcmi"].replace('"fairness": 0.0', '"fairness": 1e999')
    header["__metadata__"]["scfcmi"] = text
    join(path, header, data)
    refused(path, "number inf")


def test_many_branches_are_not_built(published: FCMI, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    published.save(path)
    with_document(path, lambda d: d["state"].update(n_groups=2**30))
    refused(path, "n_groups is 1073741824, but there are")


TENSORS: list[tuple[str, Callable[[dict[str, np.ndarray]], Any], str]] = [
    ("missing", lambda t: t.pop("looks.0.front.mean"), r"lacks \['looks.0.front.mean'\]"),
    ("extra", lambda t: t.update({"../../evil": np.zeros(1)}), r"unknown \['../../evil'\]"),
    ("type", lambda t: t.update({"looks.0.leaf": t["looks.0.leaf"].astype(np.int32)}), "of the type 'I32'"),
    ("other type", lambda t: t.update({"looks.0.leaf": t["looks.0.leaf"].astype(np.float64)}), "calls for"),
    ("shape", lambda t: t.update({"looks.0.leaf": t["looks.0.leaf"][None]}), "tensor 'looks.0.leaf' is"),
    (
        "transposed",
        lambda t: t.update({"looks.0.front.loadings": np.ascontiguousarray(t["looks.0.front.loadings"].T)[:, :-1]}),
        "front.loadings",
    ),
    ("nan", lambda t: t["looks.0.mixture.means"].__setitem__((0, 0), np.nan), "'looks.0.mixture.means' has values"),
    ("infinite", lambda t: t["looks.1.position"].fill(np.inf), "'looks.1.position' has values"),
    ("huge", lambda t: t["looks.0.mixture.moves"].fill(1e30), "'looks.0.mixture.moves' has values"),
    ("cluster", lambda t: t["cluster_of_leaf"].fill(99), "'cluster_of_leaf' has values"),
    ("other cut", lambda t: t["cluster_of_leaf"].__setitem__(slice(None), t["cluster_of_leaf"][::-1]), "no cut"),
    ("negative leaf", lambda t: t["looks.0.leaf"].fill(-1), "'looks.0.leaf' has values"),
    ("component", lambda t: t["looks.0.component"].fill(10**6), "'looks.0.component' has values"),
    ("branch", lambda t: t["looks.0.branch"].fill(N_CELLS), "'looks.0.branch' has values"),
    ("other leaves", lambda t: t["looks.0.leaf"].fill(0), "other landmarks, or gives them other leaves"),
    ("scale", lambda t: t["looks.0.front.scale"].fill(0), "'looks.0.front.scale' has values"),
    ("weights", lambda t: t["looks.1.front.weights"].fill(0), "'looks.1.front.weights' has values"),
    ("variance", lambda t: t["looks.0.mixture.variances"].fill(-1), "'looks.0.mixture.variances' has values"),
    ("shares", lambda t: t["looks.0.mixture.shares"].fill(0.9), "proportions that do not sum to one"),
    ("sizes", lambda t: t["looks.0.mixture.sizes"].fill(0), "proportions that do not sum to one"),
    ("node", lambda t: t["tree.merges"].fill(0), "joins nodes that are not there, or twice"),
    ("later node", lambda t: t["tree.merges"].__setitem__((0, 1), len(t["tree.merges"]) + 1), "joins nodes"),
    ("no node", lambda t: t["tree.merges"].fill(10**9), "'tree.merges' has values"),
    ("link", lambda t: t["tree.link"].__setitem__(-1, 1e6), "'tree.link' rises"),
]


@pytest.mark.parametrize(("change", "match"), [pytest.param(c, m, id=name) for name, c, m in TENSORS])
def test_tensors_that_do_not_fit(path: Path, change: Callable[[dict[str, np.ndarray]], Any], match: str) -> None:
    with_tensors(path, change)
    refused(path, match)


def test_quantiles_that_fall(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fitted(**FITS["numbers"]).save(path)
    with_tensors(path, lambda t: t["design.knots"].__setitem__((0, 3), 1e3))
    refused(path, "quantiles of a number fall")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t["centres"].fill(np.nan), "'centres' has NaN"),
        (lambda t: t.update(centres=t["centres"][:, :1].copy()), "'centres' is"),
        (lambda t: t.pop("scaling.low"), "scaling.low"),
        (lambda t: t["scaling.span"].fill(0), "scaling.span"),
    ],
)
def test_published_tensors_that_do_not_fit(
    published: FCMI, tmp_path: Path, change: Callable[[dict[str, np.ndarray]], Any], match: str
) -> None:
    path = tmp_path / "model.safetensors"
    published.save(path)
    with_tensors(path, change)
    refused(path, match)


@pytest.mark.parametrize(
    ("offsets", "match"),
    [
        (lambda first, last: [first, 2**60], "needs"),
        (lambda first, last: [first - last, 0], "needs"),
        (lambda first, last: [first + 8, last + 8], "overlap or leave a gap"),
        (lambda first, last: [float(first), float(last)], "offsets"),
        (lambda first, last: "all", "offsets"),
    ],
    ids=["huge", "negative", "shifted", "fractions", "text"],
)
def test_offsets_that_lie(path: Path, offsets: Callable[[int, int], Any], match: str) -> None:
    header, data = split(path)
    header["cluster_of_leaf"]["data_offsets"] = offsets(*header["cluster_of_leaf"]["data_offsets"])
    join(path, header, data)
    refused(path, match)


def test_entries_that_are_no_entries(path: Path) -> None:
    header, data = split(path)
    header["cluster_of_leaf"] = None
    join(path, header, data)
    refused(path, "tensor 'cluster_of_leaf' is described by None")


@pytest.mark.parametrize("kind", ["default", "paper"])
def test_any_flipped_bit_is_noticed(kind: str, model: FCMI, published: FCMI, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    (model if kind == "default" else published).save(path)
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    rng = np.random.default_rng(0)
    for position in [*range(8), *rng.integers(8, 8 + n, 60), 8 + n - 1, *rng.integers(8 + n, len(raw), 60)]:
        damaged = bytearray(raw)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refused(path, "not a usable model file")


def test_a_changed_number_is_said_to_be_damage(path: Path) -> None:
    header, data = split(path)
    first = header["looks.0.position"]["data_offsets"][0]
    changed = bytearray(data)
    changed[first] ^= 1
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) - len(data)] + changed)
    refused(path, "it is damaged")


def test_odd_file_names(model: FCMI, tmp_path: Path) -> None:
    path = tmp_path / "a b\n{x}%s'\".safetensors"
    model.save(path)
    assert FCMI.load(path).n_clusters_ == model.n_clusters_
    path.write_bytes(b"")
    refused(path, "too few")
