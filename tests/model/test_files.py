"""Models on disk: what comes back, and what is refused."""

from __future__ import annotations

import inspect
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from scfcmi.model import FCMI
from scfcmi.model._files import PARAMS

DATA = Path(__file__).parent / "data"
N_CELLS, N_GENES = 90, 8


def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kind, tech = np.arange(N_CELLS) % 3, (np.arange(N_CELLS) // 3) % 2
    x = 0.5 * rng.normal(size=(N_CELLS, N_GENES)) + 4 * np.eye(N_GENES)[kind] + 1.5 * np.eye(N_GENES)[3 + tech] + 2
    return x.astype(np.float32), np.array(["tech0", "tech1"])[tech]


def fitted(**params: Any) -> FCMI:
    x, groups = cells()
    names = [f"gene{i}" for i in range(N_GENES)]
    settings = {"n_clusters": 3, "max_epochs": 3, "progress_bar": False, "device": "cpu"} | params
    return FCMI(**settings).fit(x, groups, feature_names=names)


@pytest.fixture(scope="module")
def model() -> FCMI:
    return fitted()


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


def with_document(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    header, data = split(path)
    document = json.loads(header["__metadata__"]["scfcmi"])
    change(document)
    header["__metadata__"]["scfcmi"] = json.dumps(document)
    join(path, header, data)


def with_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    metadata = split(path)[0]["__metadata__"]
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata)


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        FCMI.load(path)
    assert repr(str(path)) in str(caught.value)


# what comes back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"n_clusters": None}, {"preset": "paper", "max_epochs": 1}], ids=str)
def test_round_trip_is_exact(params: dict[str, Any], tmp_path: Path) -> None:
    before, path = fitted(**params), tmp_path / "model.safetensors"
    before.save(path)
    after = FCMI.load(path)
    x, _ = cells()
    for name in ("labels", "proba", "embedding"):
        np.testing.assert_array_equal(getattr(after.assign(x), name), getattr(before.assign(x), name))
    assert after.get_params() == before.get_params()
    assert after.settings_ == before.settings_
    assert after.groups_.levels == before.groups_.levels
    assert after.feature_names_ == before.feature_names_
    assert after.n_features_ == before.n_features_ == N_GENES
    assert after.stopped_ == before.stopped_
    assert after.used_params().keys() == before.used_params().keys()
    assert after.history_.keys() == before.history_.keys()
    for name, values in before.history_.items():
        np.testing.assert_array_equal(after.history_[name], values)
    assert after.n_clusters_evidence_.keys() == before.n_clusters_evidence_.keys()
    for name, value in before.n_clusters_evidence_.items():
        np.testing.assert_array_equal(after.n_clusters_evidence_[name], value)
    assert not hasattr(after, "assignment_")
    after.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


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


def test_a_file_of_the_first_release_still_works() -> None:
    """Made by the code of the first release; it is never made anew."""
    expected = json.loads((DATA / "fcmi-v1.json").read_text())
    model = FCMI.load(DATA / "fcmi-v1.safetensors", device="cpu")
    found = model.assign(np.array(expected["cells"], np.float32))
    assert found.labels.tolist() == expected["labels"]
    np.testing.assert_allclose(found.proba, expected["proba"], atol=2e-3)
    assert list(model.groups_.levels) == expected["levels"]


def test_training_cells_are_not_in_the_file(path: Path) -> None:
    header, _ = split(path)
    wide = [name for name, entry in header.items() if name != "__metadata__" and entry["shape"][:1] == [N_CELLS]]
    assert set(wide) == {"anchors.position", "anchors.codes"}, "projected cells and groups, nothing else per cell"


def test_loading_leaves_the_random_state_alone(path: Path) -> None:
    before = torch.get_rng_state()
    FCMI.load(path)
    assert torch.equal(before, torch.get_rng_state())


def test_every_constructor_argument_has_a_type() -> None:
    assert list(PARAMS) == list(inspect.signature(FCMI).parameters)


def test_device(path: Path) -> None:
    with_document(path, lambda d: d["params"].update(device="cuda:99"))
    assert FCMI.load(path, device="cpu").device == "cpu"
    assert FCMI.load(path).device == "auto"
    with pytest.raises(ValueError, match="device='gpu' is unknown"):
        FCMI.load(path, device="gpu")


def test_feature_names_are_checked() -> None:
    x, groups = cells()
    with pytest.raises(ValueError, match="feature_names has 2 entries, but X has 8 columns"):
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


def test_bad_places(model: FCMI, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must end with '.safetensors'"):
        model.save(tmp_path / "model.pkl")
    with pytest.raises(FileNotFoundError, match="folder .* does not exist"):
        model.save(tmp_path / "nowhere" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "folder.safetensors", overwrite=True)
    with pytest.raises(RuntimeError, match="not fitted"):
        FCMI(3).save(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no file .*missing.safetensors"):
        FCMI.load(tmp_path / "missing.safetensors")
    refused(tmp_path / "folder.safetensors", "not a regular file")


# files that are refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 5, 8, 100, 5000, -1])
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
    ("newer", lambda d: d.update(format_version=2), "format version is 2"),
    ("version as text", lambda d: d.update(format_version="1"), "format version is '1'"),
    ("version as truth", lambda d: d.update(format_version=True), "format version is True"),
    ("other format", lambda d: d.update(format="pickle"), "format is 'pickle'"),
    ("lacks", lambda d: d.pop("levels"), r"lacks \['levels'\]"),
    ("extra", lambda d: d.update(code="import os"), r"unknown \['code'\]"),
    ("no object", lambda d: d.update(params=[]), "params is not an object"),
    ("param type", lambda d: d["params"].update(random_state="0"), "random_state.*wrong type: '0'"),
    ("param truth", lambda d: d["params"].update(random_state=True), "random_state.*wrong type"),
    ("unknown param", lambda d: d["params"].update(__class__="os"), r"unknown \['__class__'\]"),
    ("preset", lambda d: d["params"].update(preset="x"), "preset 'x' is unknown"),
    ("n_clusters", lambda d: d["params"].update(n_clusters=1), "n_clusters"),
    ("levels", lambda d: d.update(levels=["a", 1]), "levels is not a list of text"),
    ("one level", lambda d: d.update(levels=["a"]), "fewer than two"),
    ("same levels", lambda d: d.update(levels=["a", "a"]), "levels has duplicates"),
    ("three levels", lambda d: d.update(levels=["a", "b", "c"]), "give every group a level"),
    ("names", lambda d: d.update(feature_names=["a"]), "feature_names has 1 entries"),
    ("huge", lambda d: d["sizes"].update(n_input=2**40), "n_input"),
    ("huge but allowed", lambda d: d["sizes"].update(n_input=2**20), "hyperparameters call for"),
    ("many features", lambda d: d.update(sizes=d["sizes"] | {"n_features": 2**31}, feature_names=None), "call for"),
    ("fraction", lambda d: d["sizes"].update(n_centres=60.0), "n_centres"),
    ("clusters", lambda d: d["sizes"].update(n_clusters=1000), "1000 clusters"),
    ("fewer clusters", lambda d: d["sizes"].update(n_clusters=2), "merge"),
    ("hidden", lambda d: d["settings"].update(hidden=[10**9]), "hidden"),
    ("many layers", lambda d: d["settings"].update(hidden=[128] * 1000), "hidden"),
    ("other width", lambda d: d["settings"].update(hidden=[128, 127]), "hyperparameters call for"),
    ("more layers", lambda d: d["settings"].update(hidden=[128, 128, 128]), "list of tensors lacks"),
    ("branches", lambda d: d["settings"].update(n_shared=2), "list of tensors lacks"),
    ("shared", lambda d: d["settings"].update(n_shared=9), "n_shared"),
    ("negative", lambda d: d["settings"].update(temperature=-1), "temperature"),
    ("zero", lambda d: d["settings"].update(temperature=0), "temperature"),
    ("setting type", lambda d: d["settings"].update(consensus="yes"), "consensus"),
    ("setting", lambda d: d["settings"].update(callback="f"), r"unknown \['callback'\]"),
    ("no setting", lambda d: d["settings"].pop("hidden"), r"lacks \['hidden'\]"),
    ("not consensus", lambda d: d["settings"].update(consensus=False), "contradict"),
    ("length", lambda d: d.update(length=-1), "length is -1"),
    ("no length", lambda d: d.update(length=None), "length contradicts"),
    ("history", lambda d: d["history"].update(loss="falls"), "history"),
    ("history big", lambda d: d["history"].update(loss=[10**400]), "history"),
    ("setting big", lambda d: d["settings"].update(alpha=10**400), "alpha"),
    ("param big", lambda d: d["params"].update(random_state=10**400), "random_state"),
    ("evidence", lambda d: d["n_clusters_evidence"].update(score={"a": 1}), "n_clusters_evidence"),
    ("stopped", lambda d: d["stopped"].update(reason=None), "stopped"),
]


@pytest.mark.parametrize(("change", "match"), [pytest.param(c, m, id=name) for name, c, m in CHANGES])
def test_descriptions_that_do_not_hold(path: Path, change: Callable[[dict[str, Any]], Any], match: str) -> None:
    with_document(path, change)
    refused(path, match)


def test_many_branches_are_not_built(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fitted(preset="paper", max_epochs=1).save(path)
    with_document(path, lambda d: d.update(levels=[str(i) for i in range(100_000)], factors=[]))
    refused(path, "too few for the branches")


TENSORS: list[tuple[str, Callable[[dict[str, np.ndarray]], Any], str]] = [
    ("missing", lambda t: t.pop("front.mean"), r"lacks \['front.mean'\]"),
    ("extra", lambda t: t.update({"../../evil": np.zeros(1)}), r"unknown \['../../evil'\]"),
    ("method", lambda t: t.update({"net.__init__": np.zeros(1)}), "unknown"),
    ("dtype", lambda t: t.update(merge=t["merge"].astype(np.int32)), "tensor 'merge' is 'I32"),
    ("shape", lambda t: t.update(merge=t["merge"][None]), "tensor 'merge' is"),
    ("transposed", lambda t: t.update({"net.head.weight": np.ascontiguousarray(t["net.head.weight"].T)}), "head"),
    ("nan", lambda t: t["net.head.bias"].fill(np.nan), "'net.head.bias' has NaN or infinite"),
    ("infinite", lambda t: t["front.loadings"].fill(np.inf), "'front.loadings' has NaN or infinite"),
    ("cluster", lambda t: t["merge"].fill(7), "'merge' names clusters beyond the 3"),
    ("negative cluster", lambda t: t["merge"].fill(-1), "'merge' names clusters"),
    ("scale", lambda t: t["front.scale"].fill(0), "'front.scale'"),
    ("variance", lambda t: t["net.trunk.1.running_var"].fill(-1), "running_var"),
    ("group", lambda t: t["anchors.codes"].fill(2), "'anchors.codes' names groups"),
]


@pytest.mark.parametrize(("change", "match"), [pytest.param(c, m, id=name) for name, c, m in TENSORS])
def test_tensors_that_do_not_fit(path: Path, change: Callable[[dict[str, np.ndarray]], Any], match: str) -> None:
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
    header["merge"]["data_offsets"] = offsets(*header["merge"]["data_offsets"])
    join(path, header, data)
    refused(path, match)


def test_entries_that_are_no_entries(path: Path) -> None:
    header, data = split(path)
    header["merge"] = None
    join(path, header, data)
    refused(path, "tensor 'merge' is described by None")


def test_any_damaged_byte_of_the_header_is_noticed_or_harmless(path: Path) -> None:
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    rng = np.random.default_rng(0)
    for position in rng.integers(0, 8 + n, 60):
        damaged = bytearray(raw)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            FCMI.load(path, device="cpu")
        except ValueError as error:
            assert str(path) in str(error)


def test_odd_file_names(model: FCMI, tmp_path: Path) -> None:
    path = tmp_path / "a b\n{x}%s'\".safetensors"
    model.save(path)
    assert FCMI.load(path).n_clusters_ == 3
    path.write_bytes(b"")
    refused(path, "too few")


def test_several_attributes_come_back(tmp_path: Path) -> None:
    x, tech = cells()
    donor = np.array(["u", "v", "w"])[np.arange(N_CELLS) // 6 % 3]
    model = FCMI(3, sensitive_weight=(1, 0.5), max_epochs=2, progress_bar=False, device="cpu")
    model.fit(x, {"tech": tech, "donor": donor}).save(tmp_path / "model.safetensors")
    again = FCMI.load(tmp_path / "model.safetensors")
    assert again.groups_.levels == model.groups_.levels
    for mine, theirs in zip(again.groups_.factors, model.groups_.factors, strict=True):
        assert (mine.name, mine.levels, mine.weight) == (theirs.name, theirs.levels, theirs.weight)
        np.testing.assert_array_equal(mine.of_group, theirs.of_group)
    h = model.transform(x)
    np.testing.assert_array_equal(again.decode(h, "tech1 | v"), model.decode(h, "tech1 | v"))


def factors(*changes: tuple[int, str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for i, name, value in changes:
            document["factors"][i][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(factors={}), "not a list"),
        (lambda d: d.update(factors=d["factors"] * 2), "duplicates"),
        (factors((0, "of_group", [0, 0])), "names levels beyond"),
        (factors((0, "of_group", [0, 2])), "names levels beyond"),
        (factors((0, "of_group", [0, 1, 1])), "give every group a level"),
        (factors((0, "of_group", [0, True])), "give every group a level"),
        (factors((0, "levels", ["a"]), (0, "of_group", [0, 0])), "same levels"),
        (factors((0, "weight", 2)), "the weight 2"),
        (factors((0, "name", 1)), "the name 1"),
        (lambda d: d["factors"][0].pop("levels"), "lacks"),
    ],
)
def test_attributes_that_do_not_hold(path: Path, change: Callable[[dict[str, Any]], Any], match: str) -> None:
    with_document(path, change)
    refused(path, match)
