"""A fit that was cut off goes on to the same result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from scfcmi.published import EpochReport, NetworkOptions, fit_published, remove_checkpoint
from scfcmi.published import _checkpoint as module
from scfcmi.source import as_source

from .conftest import SMALL, Cells

OPTIONS = replace(SMALL, max_epochs=9, warmup_epochs=3)


class Cut(Exception):
    """Stands for what ends a program."""


def run(cells: Cells, options: NetworkOptions, **given: Any) -> Any:
    given = {"groups": cells.groups, "n_clusters": 4, "random_state": 0} | given
    x = as_source(given.pop("x", cells.x))
    return fit_published(x, options=options, device="cpu", progress_bar=False, **given)


def cut_off(cells: Cells, options: NetworkOptions, after: int) -> None:
    def stop(report: EpochReport) -> None:
        if report.epoch == after:
            raise Cut

    with pytest.raises(Cut):
        run(cells, replace(options, callback=stop))


@pytest.mark.parametrize("centres", ["kmeans", "learned"])
@pytest.mark.parametrize("after", [2, 6])
def test_goes_on_to_the_same_result(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, centres: Any, after: int
) -> None:
    monkeypatch.setattr(module, "SELDOM", 0)
    options = replace(OPTIONS, centres=centres, checkpoint=tmp_path / "run.safetensors")
    whole = run(cells, replace(options, checkpoint=None))
    cut_off(cells, options, after)
    seen: list[int] = []
    resumed = run(cells, replace(options, callback=lambda report: seen.append(report.epoch)))
    assert seen == list(range(after, 10))  # the epoch in which it was cut off was not yet written
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    np.testing.assert_array_equal(resumed.assign(cells.x)[1], whole.assign(cells.x)[1])
    # A complete file gives the result once more, without an epoch.
    again = run(cells, replace(options, callback=lambda report: seen.append(report.epoch)))
    assert seen == list(range(after, 10))
    np.testing.assert_array_equal(again.assign(cells.x)[1], whole.assign(cells.x)[1])
    remove_checkpoint(tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_fit_is_refused(cells: Cells, tmp_path: Path) -> None:
    options = replace(OPTIONS, max_epochs=2, warmup_epochs=1, checkpoint=tmp_path / "run.safetensors")
    run(cells, options)
    for changes, match in (
        ({"random_state": 1}, "random_state is 0 there and 1 here"),
        ({"options": replace(options, beta=1)}, "beta is 0.2 there and 1.0 here"),
        ({"x": cells.x + 1}, "matrix is"),
    ):
        given = {"options": options} | changes
        with pytest.raises(ValueError, match=f"belongs to another fit: {match}"):
            run(cells, given.pop("options"), **given)


def test_damage_is_noticed(cells: Cells, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    options = replace(OPTIONS, max_epochs=2, warmup_epochs=1, checkpoint=path)
    run(cells, options)
    whole = path.read_bytes()
    for data, match in (
        (whole[:-1], "truncated"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "damaged"),
        (b"", "cannot be read"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"not a usable checkpoint: .*{match}"):
            run(cells, options)


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("run.pt", ValueError, "must end with '.safetensors'"),
        ("nowhere/run.safetensors", FileNotFoundError, "does not exist"),
    ],
)
def test_paths_that_cannot_be(cells: Cells, tmp_path: Path, name: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        run(cells, replace(OPTIONS, checkpoint=tmp_path / name))


def test_a_closed_folder_is_refused_before_any_work(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="cannot be written to"):
        run(cells, replace(OPTIONS, checkpoint=tmp_path / "run.safetensors"))


def changed(path: Path, what: Any, **document: Any) -> None:
    """Write a checkpoint anew, with a digest that is right, so that other checks have to notice."""
    with safe_open(path, "pt") as file:
        notes = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    what(tensors)
    text = json.dumps(json.loads(notes[module.KIND]) | document)
    path.write_bytes(save(tensors, metadata={module.KIND: text, "digest": module._digest(tensors, text)}))


@pytest.mark.parametrize(
    ("change", "document", "match"),
    [
        (lambda t: t.update(more=torch.zeros(2)), {}, "unknown tensor 'more'"),
        (lambda t: t.update({"exp_avg.0": torch.zeros(3)}), {}, r"tensor 'exp_avg\.0' has the shape \(3,\)"),
        (
            lambda t: t.pop(sorted(name for name in t if name.startswith("network."))[0]),
            {},
            "lacks the tensor 'network",
        ),
        (lambda t: None, {"version": 99}, "its version is 99"),
    ],
)
def test_what_does_not_fit_the_network(
    cells: Cells, tmp_path: Path, change: Any, document: dict[str, Any], match: str
) -> None:
    path = tmp_path / "run.safetensors"
    options = replace(OPTIONS, max_epochs=2, warmup_epochs=1, checkpoint=path)
    run(cells, options)
    changed(path, change, **document)
    with pytest.raises(ValueError, match=f"not a usable checkpoint: .*{match}"):
        run(cells, options)


def test_a_model_is_no_checkpoint(cells: Cells, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(save({"a": torch.zeros(2)}))
    with pytest.raises(ValueError, match="its header is not that of a checkpoint"):
        run(cells, replace(OPTIONS, checkpoint=path))


def test_little_time_goes_into_writing(cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once after the first epoch and once at the end, when writing takes long beside an epoch."""
    monkeypatch.setattr(module, "SELDOM", 10**9)
    written: list[int] = []
    save_as = module.save
    monkeypatch.setattr(module, "save", lambda *args, **given: (written.append(1), save_as(*args, **given))[1])
    run(cells, replace(OPTIONS, checkpoint=tmp_path / "run.safetensors"))
    assert len(written) == 2
