"""A fit of the published network: what the terms do, what a seed promises, what is kept and what is refused."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from scfcmi.metrics import clustering_scores
from scfcmi.published import EpochReport, GroupBranches, NetworkOptions, PublishedFit, fit_published
from scfcmi.published import _rows as rows_module
from scfcmi.source import Groups, as_source, combine_groups

from .conftest import SMALL, Cells, make_cells


def fit(cells: Cells, options: NetworkOptions = SMALL, *, k: int = 4, seed: int = 0, **given: Any) -> PublishedFit:
    given = {"x": cells.x, "groups": cells.groups, "device": "cpu", "progress_bar": False} | given
    source, groups = as_source(given.pop("x")), given.pop("groups")
    return fit_published(source, groups, k, options, random_state=seed, **given)


def scores(found: PublishedFit, cells: Cells) -> dict[str, float]:
    return clustering_scores(found.assign(cells.x)[0], cells.groups.values, cells.types)


@pytest.fixture(scope="module")
def fitted(cells: Cells) -> PublishedFit:
    return fit(cells)


# what the terms do ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ablations_do_what_the_paper_says() -> None:
    """Means over four seeds: what each of the two losses is for is worse without it."""
    cells = make_cells(500, shift=2.0, separation=1.0, noise=1.0)
    options = NetworkOptions(hidden=(32, 32, 16), max_epochs=60, warmup_epochs=8, batch_size=64)
    runs = {"all": options, "without L_fair": replace(options, beta=0), "without L_clu": replace(options, alpha=0)}
    mean: dict[str, dict[str, float]] = {}
    for name, chosen in runs.items():
        found = [fit(cells, chosen, seed=seed) for seed in range(4)]
        scored = [scores(one, cells) for one in found]
        mean[name] = {key: float(np.mean([one[key] for one in scored])) for key in ("nmi", "nce")}
        mean[name]["h_c_given_x"] = float(np.mean([one.history["h_c_given_x"][-1] for one in found]))
    assert mean["without L_fair"]["nce"] < mean["all"]["nce"] - 0.2
    assert mean["without L_clu"]["nmi"] < mean["all"]["nmi"] - 0.02
    assert mean["without L_clu"]["h_c_given_x"] > mean["all"]["h_c_given_x"] + 0.5


def test_history(fitted: PublishedFit, cells: Cells) -> None:
    terms = {name: values[-1] for name, values in fitted.history.items()}
    assert set(terms) == {"loss", "reconstruction", "h_c", "h_c_given_x", "i_gc", "i_xc_given_g"}
    assert {len(values) for values in fitted.history.values()} == {SMALL.max_epochs}
    loss = terms["reconstruction"] - 0.04 * (terms["h_c"] - terms["h_c_given_x"]) + 0.2 * terms["i_gc"]
    assert terms["loss"] == pytest.approx(loss, abs=1e-6)
    # The first epochs are reconstruction alone.
    np.testing.assert_array_equal(fitted.history["loss"][:6], fitted.history["reconstruction"][:6])
    assert fitted.history["loss"][6] < fitted.history["reconstruction"][6]
    assert fitted.stopped == {"epoch": 24, "reason": "ran all 24 epochs"}
    assert np.bincount(fitted.assign(cells.x)[0], minlength=4).argmax() == 0


def test_stops_early_when_asked_to(cells: Cells) -> None:
    found = fit(cells, replace(SMALL, max_epochs=300, early_stopping=True, hidden=(16, 8)))
    assert 46 <= found.stopped["epoch"] < 300
    assert "information terms improved by less than 5% in 20 epochs" in found.stopped["reason"]


@pytest.mark.parametrize("centres", ["learned", "mixture"])
def test_other_centres(cells: Cells, centres: Any) -> None:
    found = fit(cells, replace(SMALL, centres=centres))
    assert scores(found, cells)["nmi"] > 0.3
    assert not np.allclose(found.history["loss"][7:], fit(cells).history["loss"][7:])
    again = PublishedFit.from_tensors(found.tensors(), found.meta())
    np.testing.assert_array_equal(again.assign(cells.x)[0], found.assign(cells.x)[0])


def test_several_attributes(cells: Cells) -> None:
    other = Groups((np.arange(len(cells.x)) % 3).astype(np.int64), ("x", "y", "z"))
    groups = combine_groups({"tech": cells.groups, "donor": other})
    found = fit(cells, groups=groups)
    last = {name: values[-1] for name, values in found.history.items()}
    assert {"i_gc_tech", "i_gc_donor"} < set(last)
    # Each attribute is in the loss, and their combinations are not.
    information = last["i_gc_tech"] + last["i_gc_donor"]
    loss = last["reconstruction"] - 0.04 * (last["h_c"] - last["h_c_given_x"]) + 0.2 * information
    assert last["loss"] == pytest.approx(loss, abs=1e-6)


def test_a_warm_up_without_reconstruction_learns_nothing(cells: Cells) -> None:
    found = fit(cells, replace(SMALL, reconstruction=0, max_epochs=9))
    np.testing.assert_array_equal(found.history["loss"][:6], 0)
    assert found.history["h_c_given_x"][8] < found.history["h_c_given_x"][5] - 0.01


def test_single_branch(cells: Cells) -> None:
    found = fit(cells, replace(SMALL, branches="single"))
    h = found.assign(cells.x)[2]
    zero, one = (found.decode(h, np.full(len(h), g)) for g in (0, 1))
    np.testing.assert_array_equal(zero, one)
    assert sum(v.numel() for v in found.tensors().values()) < sum(v.numel() for v in fit(cells).tensors().values())


# what a seed promises ------------------------------------------------------------------------------------------------


def test_same_seed_same_numbers_even_in_threads_and_nothing_global_changes(cells: Cells) -> None:
    options = replace(SMALL, max_epochs=8, warmup_epochs=3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()
    alone = {seed: fit(cells, options, seed=seed).assign(cells.x) for seed in (0, 1)}
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate(), torch.get_num_threads()
    torch.testing.assert_close(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    assert not torch.are_deterministic_algorithms_enabled()
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: fit(cells, options, seed=seed).assign(cells.x), (0, 1, 0, 1)))
    for seed, found in zip((0, 1, 0, 1), together, strict=True):
        for a, b in zip(found, alone[seed], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(alone[0][2], alone[1][2])


def test_any_storage_gives_the_same(cells: Cells, fitted: PublishedFit, monkeypatch: pytest.MonkeyPatch) -> None:
    want = fitted.assign(cells.x)
    for same in (sparse.csr_matrix(cells.x), sparse.csc_matrix(cells.x)):
        np.testing.assert_array_equal(fit(cells, x=same).assign(same)[1], want[1])
    monkeypatch.setitem(rows_module.RESIDENT_BYTES, "cpu", 0)
    np.testing.assert_array_equal(fit(cells).assign(cells.x)[1], want[1])


def test_from_disk(cells: Cells, fitted: PublishedFit, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = cells.x
        found = fit(cells, x=file["x"])
    np.testing.assert_array_equal(found.assign(cells.x)[1], fitted.assign(cells.x)[1])


def test_half_and_double_precision(cells: Cells) -> None:
    options = replace(SMALL, max_epochs=8, warmup_epochs=3)
    loss = {p: fit(cells, replace(options, precision=p)).history["loss"] for p in ("32-true", "64-true", "bf16-mixed")}
    np.testing.assert_allclose(loss["64-true"][:2], loss["32-true"][:2], atol=1e-3)
    np.testing.assert_allclose(loss["bf16-mixed"], loss["32-true"], atol=0.05)
    assert not np.array_equal(loss["bf16-mixed"], loss["32-true"])


# scaling, assigning, decoding ----------------------------------------------------------------------------------------


def test_columns_are_brought_to_the_range_of_the_output(cells: Cells, fitted: PublishedFit) -> None:
    low, high = torch.from_numpy(cells.x.min(0)), torch.from_numpy(cells.x.max(0))
    torch.testing.assert_close(fitted.scaling.apply(low[None]), -torch.ones(1, 20))
    torch.testing.assert_close(fitted.scaling.apply(high[None]), torch.ones(1, 20))
    x = torch.from_numpy(cells.x)
    torch.testing.assert_close(fitted.scaling.undo(fitted.scaling.apply(x)), x, atol=1e-5, rtol=1e-5)
    scaled = fitted.scaling.apply(x).numpy().clip(-1, 1)
    found, digest = rows_module.measure(as_source(scaled))
    assert (found.low == -1).all() and (found.span == 2).all()
    assert digest != rows_module.measure(as_source(cells.x))[1]


def test_a_column_that_never_changes(cells: Cells) -> None:
    x = cells.x.copy()
    x[:, 3] = 7
    found = fit(cells, replace(SMALL, max_epochs=2, warmup_epochs=1), x=x)
    assert np.isfinite(found.history["loss"]).all()
    assert found.decode(found.assign(x)[2], cells.groups.codes)[:, 3] == pytest.approx(7, abs=1.1)


def test_decoding_through_the_other_branch_moves_cells_to_the_other_group(cells: Cells, fitted: PublishedFit) -> None:
    codes = cells.groups.codes
    h = fitted.assign(cells.x)[2]
    own, other = fitted.decode(h, codes), fitted.decode(h, 1 - codes)
    assert np.corrcoef(own.ravel(), cells.x.ravel())[0, 1] > 0.8
    means = np.stack([cells.x[codes == g].mean(0) for g in (0, 1)])
    for g in (0, 1):
        moved = other[codes == g].mean(0)
        assert np.linalg.norm(moved - means[1 - g]) < 0.5 * np.linalg.norm(moved - means[g])


def test_chunks_are_assigned_as_the_whole(cells: Cells, fitted: PublishedFit) -> None:
    labels, proba, h = fitted.assign(cells.x)
    assert (labels.shape, proba.shape, h.shape) == ((400,), (400, 4), (400, 4))
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(h, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(fitted.assign(sparse.csr_matrix(cells.x[37:99]))[0], labels[37:99])
    assert fitted.assign(cells.x[:0])[1].shape == (0, 4)
    with pytest.raises(ValueError, match=r"shape \(400, 19\), but the fit has 20 columns"):
        fitted.assign(cells.x[:, 1:])
    with pytest.raises(ValueError, match="integers from 0 to 1"):
        fitted.decode(h, np.full(400, 2))
    with pytest.raises(ValueError, match="embedding has shape"):
        fitted.decode(h[:, 1:], cells.groups.codes)


# own modules, callback -----------------------------------------------------------------------------------------------


def own_modules(n_latent: int = 4) -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, n_latent))
        branches = [nn.Sequential(nn.Linear(16, 20), nn.Tanh()) for _ in range(2)]
        return {"encoder": encoder, "decoder": GroupBranches(nn.Sequential(nn.Linear(4, 16), nn.ReLU()), branches)}


def test_own_modules(cells: Cells) -> None:
    modules = own_modules()
    start = {name: value.clone() for name, value in modules["encoder"].state_dict().items()}
    options = replace(SMALL, **modules)
    found = fit(cells, options)
    assert scores(found, cells)["nmi"] > 0.4
    for name, value in modules["encoder"].state_dict().items():
        torch.testing.assert_close(value, start[name])  # the user's module is as it was
    np.testing.assert_array_equal(fit(cells, options).assign(cells.x)[1], found.assign(cells.x)[1])
    meta = json.loads(json.dumps(found.meta()))
    with pytest.raises(ValueError, match="needs one: pass it as `encoder`"):
        PublishedFit.from_tensors(found.tensors(), meta)
    again = PublishedFit.from_tensors(found.tensors(), meta, **own_modules())
    np.testing.assert_array_equal(again.assign(cells.x)[1], found.assign(cells.x)[1])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"encoder": own_modules(3)["encoder"]}, r"`encoder` returned \(64, 3\) for 64 cells; .*\(64, 4\) is needed"),
        ({"decoder": GroupBranches(nn.Linear(4, 2), [nn.Linear(2, 19)])}, r"`decoder` returned \(64, 19\)"),
    ],
)
def test_own_modules_of_the_wrong_shape(cells: Cells, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(cells, replace(SMALL, **changes))


def test_callback_sees_every_epoch(cells: Cells) -> None:
    seen: list[EpochReport] = []
    found = fit(cells, replace(SMALL, callback=seen.append))
    assert [report.epoch for report in seen] == list(range(1, 25))
    assert [report.terms["loss"] for report in seen] == list(found.history["loss"])
    assert seen[-1].proba.shape == (400, 4)
    nmi = [clustering_scores(report.labels, cells.groups.values, cells.types)["nmi"] for report in seen]
    assert nmi[-1] == pytest.approx(scores(found, cells)["nmi"])
    np.testing.assert_array_equal(seen[-1].proba.argmax(1), seen[-1].labels)


# files ---------------------------------------------------------------------------------------------------------------


def test_a_fit_is_put_together_again(cells: Cells, fitted: PublishedFit) -> None:
    again = PublishedFit.from_tensors(fitted.tensors(), json.loads(json.dumps(fitted.meta())))
    for a, b in zip(again.assign(cells.x), fitted.assign(cells.x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.options == replace(fitted.options)
    assert again.stopped == fitted.stopped
    for name, values in fitted.history.items():
        np.testing.assert_array_equal(again.history[name], values)


@pytest.mark.parametrize(
    ("where", "value", "match"),
    [
        ("n_groups", 10**9, "n_groups is 1000000000, but there are"),
        ("n_groups", 3, "decoder.branches.0.weight.* but the options call for"),
        ("n_clusters", 5, "n_latent is 4, which contradicts"),
        ("n_input", 2**31, "but the options call for"),
        ("n_latent", 3, "contradicts the options"),
        ("n_clusters", True, "not an integer"),
        ("version", 2, "format version 2"),
        ("history", {"loss": [float("nan")]}, "not lists of finite numbers"),
        ("stopped", {}, "does not say"),
        ("extra", 1, r"beyond what is known, \['extra'\]"),
    ],
)
def test_descriptions_that_lie(fitted: PublishedFit, where: str, value: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PublishedFit.from_tensors(fitted.tensors(), fitted.meta() | {where: value})


@pytest.mark.parametrize("hidden", [[2**20, 2**20], [2**21, 8], [8], "ab"])
def test_options_that_ask_for_too_much(fitted: PublishedFit, hidden: Any) -> None:
    meta = fitted.meta()
    with pytest.raises(
        ValueError, match="but the options call for|lack, or have beyond|options of the network|hidden="
    ):
        PublishedFit.from_tensors(fitted.tensors(), meta | {"options": meta["options"] | {"hidden": hidden}})


def test_tensors_that_are_not_what_they_should_be(fitted: PublishedFit) -> None:
    tensors, meta = fitted.tensors(), fitted.meta()
    for name, change, match in (
        ("centres", lambda t: t * torch.nan, "'centres' has NaN"),
        ("network.encoder.0.norm.running_var", lambda t: -t - 1, "running_var' has negative"),
        ("scaling.span", torch.zeros_like, "not positive"),
        ("centres", lambda t: t.double(), "float64.*call for torch.float32"),
    ):
        with pytest.raises(ValueError, match=match):
            PublishedFit.from_tensors(tensors | {name: change(tensors[name])}, meta)
    with pytest.raises(ValueError, match="lack, or have beyond what is known, .'network.more'"):
        PublishedFit.from_tensors(tensors | {"network.more": torch.zeros(1)}, meta)


# what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("alpha", -1, "alpha=-1 must be a finite number of at least 0"),
        ("beta", float("nan"), "beta=nan must be a finite number"),
        ("temperature", 0, "temperature=0 must be a finite number above 0"),
        ("learning_rate", float("inf"), "learning_rate=inf must be"),
        ("n_latent", 0, "n_latent=0 must be at least 1"),
        ("max_epochs", 0, "max_epochs=0 must be at least 1"),
        ("warmup_epochs", -1, "warmup_epochs=-1 must be at least 0"),
        ("batch_size", 0, "batch_size=0"),
        ("hidden", (8,), r"hidden=\(8,\) must be two to 64 widths"),
        ("hidden", (8, 0), "must be two to 64 widths"),
        ("branches", "many", "branches='many' is unknown: use one of"),
        ("centres", "leiden", "centres='leiden' is unknown"),
        ("precision", "32", "precision='32' is unknown"),
    ],
)
def test_values_out_of_range(name: str, value: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NetworkOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", "0.1"),
        ("beta", True),
        ("max_epochs", 3.5),
        ("hidden", 8),
        ("hidden", (8.0, 8.0)),
        ("early_stopping", 1),
        ("encoder", lambda x: x),
        ("callback", 3),
    ],
)
def test_values_of_the_wrong_type(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name}=.* must be"):
        NetworkOptions(**{name: value})


def test_options_are_plain_values(fitted: PublishedFit) -> None:
    options = NetworkOptions(alpha=np.float32(0.5), max_epochs=np.int64(3), hidden=[8, 4], n_latent=7)
    params = json.loads(json.dumps(options.as_params()))
    assert NetworkOptions.from_params(params) == options
    known = {field.name for field in fields(NetworkOptions)} - {"encoder", "decoder", "callback", "checkpoint"}
    assert known == set(params) - {"own_encoder", "own_decoder"}
    assert "n_latent" not in NetworkOptions().as_params()
    with pytest.raises(ValueError, match=r"beyond what is known, \['gamma'\]"):
        NetworkOptions.from_params(params | {"gamma": 1})


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"k": 1}, ValueError, "n_clusters=1 must be at least 2"),
        ({"k": 401}, ValueError, "between 2 and the number of cells, 400"),
        ({"k": 2.0}, TypeError, "n_clusters=2.0 must be an integer"),
        ({"seed": -1}, ValueError, "random_state=-1"),
        ({"device": "tpu"}, ValueError, "device='tpu' is unknown"),
        ({"devices": 0}, ValueError, "devices=0 must be at least 1"),
        ({"devices": 1.5}, TypeError, "devices=1.5"),
    ],
)
def test_arguments_that_cannot_be(cells: Cells, given: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fit(cells, **given)


def test_groups_of_other_cells(cells: Cells) -> None:
    with pytest.raises(ValueError, match="groups has 3 values, but there are 400 cells"):
        fit(cells, groups=cells.groups.take(np.arange(3)))


def test_divergence_is_told(cells: Cells) -> None:
    with pytest.raises(FloatingPointError, match="The loss became .* in epoch"):
        fit(cells, replace(SMALL, learning_rate=1e30))


def test_fewer_cells_than_a_batch(cells: Cells) -> None:
    found = fit(cells, replace(SMALL, batch_size=5000, max_epochs=2, warmup_epochs=1))
    assert np.isfinite(found.history["loss"]).all()
