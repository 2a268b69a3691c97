"""Runs that are cut off go on to the same result, and what is no use to them is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData

from scfcmi.model import FCMI, _estimator
from scfcmi.tl import fair_cluster
from scfcmi.train import PRESETS, one_thread
from scfcmi.train._checkpoint import Checkpoint, fingerprint, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TYPES, GROUPS = np.arange(90) % 3, np.array(["a", "b"])[np.arange(90) // 3 % 2]
X = (5 * np.eye(8)[TYPES] + np.random.default_rng(0).normal(size=(90, 8))).astype(np.float32)
QUICK: dict[str, Any] = {"max_epochs": 6, "batch_size": 30, "progress_bar": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    paper = replace(PRESETS["paper"], hidden=(16, 8), n_shared=1, warmup_epochs=2)
    monkeypatch.setitem(PRESETS, "paper", paper)
    monkeypatch.setattr("scfcmi.train._checkpoint.SELDOM", 0)
    with one_thread():
        yield


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Interrupts the training when an epoch is done, and lists the epochs that were trained."""

    def at(last: int | None) -> list[int]:
        seen: list[int] = []

        @contextmanager
        def epoch_bar(n_epochs: int, progress_bar: bool | None) -> Iterator[Callable[[dict[str, float]], None]]:
            def tell(row: dict[str, float]) -> None:
                seen.append(int(row["epoch"]))
                if seen[-1] == last:
                    raise KeyboardInterrupt

            yield tell

        monkeypatch.setattr(_estimator, "epoch_bar", epoch_bar)
        return seen

    return at


def fit(path: Path | None, *, x: np.ndarray = X, **changes: Any) -> FCMI:
    params = {"n_clusters": 3, "checkpoint": path} | QUICK | changes
    return FCMI(**params).fit(x, GROUPS)


def assert_identical(a: FCMI, b: FCMI) -> None:
    for name in ("labels", "proba", "embedding"):
        np.testing.assert_array_equal(getattr(a.assignment_, name), getattr(b.assignment_, name))
    assert a.stopped_ == b.stopped_
    for name in a.history_:
        np.testing.assert_array_equal(a.history_[name], b.history_[name], err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"preset": "paper"},
        {"preset": "paper", "precision": "16-mixed"},
        {"patience": 4},
    ],
    ids=["default", "paper", "half", "stopped"],
)
@pytest.mark.parametrize("last", [2, 4])
def test_resumes_to_the_same_bits(
    cut: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], last: int
) -> None:
    if "patience" in changes:
        never_better = replace(PRESETS["default"], patience=4, learning_rate=1e-12)
        monkeypatch.setitem(PRESETS, "default", never_better)
        changes = {"max_epochs": 50}
    path = tmp_path / "run.safetensors"
    cut(None)
    whole = fit(None, **changes)
    cut(last)
    with pytest.raises(KeyboardInterrupt):
        fit(path, **changes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    seen = cut(None)
    assert_identical(fit(path, **changes), whole)
    # An epoch that was not written yet is repeated.
    assert seen == list(range(last, whole.stopped_["epoch"] + 1))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_training_is_not_repeated(cut: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    whole = fit(None)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="afterwards"):
        patch.setattr(FCMI, "_number_by_size", lambda *_: (_ for _ in ()).throw(OSError("afterwards")))
        fit(path)
    seen = cut(None)
    assert_identical(fit(path), whole)
    assert seen == []


def test_interrupted_call_leaves_adata_alone(adata: AnnData, cut: Callable, tmp_path: Path) -> None:
    before = adata.copy()
    options = QUICK | {"n_init": 2, "checkpoint": tmp_path / "run.safetensors"}
    whole = fair_cluster(adata, "tech", 3, copy=True, **options)
    assert list(tmp_path.iterdir()) == []
    cut(3)
    with pytest.raises(KeyboardInterrupt):
        fair_cluster(adata, "tech", 3, **options)
    assert list(adata.obs) == list(before.obs) and not adata.uns and not adata.obsm
    assert [file.name for file in tmp_path.iterdir()] == ["run.0.safetensors"]
    seen = cut(None)
    fair_cluster(adata, "tech", 3, **options)
    # The first run goes on, the second starts.
    assert seen == [3, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(adata.obsm["fair_cluster_proba"], whole.obsm["fair_cluster_proba"])
    assert "checkpoint" not in adata.uns["fair_cluster"]["params"]
    assert list(tmp_path.iterdir()) == []


def test_random_generators_are_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1]
    fit(tmp_path / "run.safetensors")
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


# killed for real ----------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from contextlib import contextmanager
import anndata, scfcmi
from scfcmi.model import _estimator

@contextmanager
def epoch_bar(n_epochs, progress_bar):
    def tell(row):
        print(int(row["epoch"]), flush=True)
        if row["epoch"] == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    yield tell

_estimator.epoch_bar = epoch_bar
adata = anndata.read_h5ad(sys.argv[1] + "/cells.h5ad")
scfcmi.tl.fair_cluster(adata, "tech", 3, devices=int(sys.argv[3]), precision=sys.argv[4], device="cpu", max_epochs=40,
                       batch_size=30, checkpoint=sys.argv[1] + "/run.safetensors")
adata.write_h5ad(sys.argv[1] + "/out.h5ad")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
@pytest.mark.parametrize(("devices", "precision"), [(1, "32-true"), (2, "64-true")])
def test_killed_run_resumes(adata: AnnData, tmp_path: Path, devices: int, precision: str) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def run(last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(last), str(devices), precision]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=250, check=False)

    assert run(10).returncode == -signal.SIGKILL
    assert (tmp_path / "run.safetensors").exists() and not (tmp_path / "out.h5ad").exists()
    again = run(0)
    assert again.returncode == 0
    if devices == 1:  # otherwise the processes may be ahead of who listens to them
        assert 1 < int(again.stdout.split()[0]) <= 10
    resumed = ad.read_h5ad(tmp_path / "out.h5ad")
    assert not (tmp_path / "run.safetensors").exists()
    options: dict[str, Any] = {"device": "cpu", "max_epochs": 40, "batch_size": 30, "progress_bar": False}
    whole = fair_cluster(adata, "tech", 3, copy=True, precision=precision, **options)
    assert resumed.obs["fair_cluster"].tolist() == whole.obs["fair_cluster"].tolist()
    if devices == 1:
        np.testing.assert_array_equal(resumed.obsm["X_fair_cluster"], whole.obsm["X_fair_cluster"])
    else:
        np.testing.assert_allclose(resumed.obsm["X_fair_cluster"], whole.obsm["X_fair_cluster"], atol=1e-5)


# what is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture
def written(cut: Callable, tmp_path: Path) -> Path:
    path = tmp_path / "run.safetensors"
    cut(4)
    with pytest.raises(KeyboardInterrupt):
        fit(path)
    cut(None)
    return path


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"max_epochs": 7}, r"`settings.max_epochs` is 6 there and 7 here"),
        ({"random_state": 1}, r"`random_state` is 0 there and 1 here"),
        ({"x": X + 1e-3 * TYPES[:, None].astype(np.float32)}, "`rows` holds other values"),
        ({"x": X[:, :7]}, r"`net.centres` is \[\d+, \d\] there and"),
        ({"precision": "bf16-mixed"}, "`precision` is '32-true' there and 'bf16-mixed' here"),
    ],
)
def test_another_run(written: Path, changes: dict[str, Any], match: str) -> None:
    before = written.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to another run: .*{match}"):
        fit(written, **changes)
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:-100], "truncated"),
        (lambda data: data[:5], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:], "it is damaged"),
        (lambda data: data.replace(b'\\"epoch\\": 2.0', b'\\"epoch\\": 9.0'), "it is damaged"),
        (lambda data: (2).to_bytes(8, "little") + b"{}", "its header is not that of a checkpoint"),
        (lambda data: b"\xff" * 64, "truncated"),
    ],
)
def test_damaged(written: Path, damage: Callable[[bytes], bytes], match: str) -> None:
    data = damage(written.read_bytes())
    assert data != written.read_bytes()
    written.write_bytes(data)
    with pytest.raises(ValueError, match=f"is not a usable checkpoint: .*{match}.*Remove it"):
        fit(written)
    assert written.read_bytes() == data


def test_content_that_does_not_fit_together(written: Path) -> None:
    tensors, document = read_checkpoint(written)
    keeper = Checkpoint(written, document["fingerprint"])
    model = fit(None)
    state: Any = type("State", (), {"net": model.net_, "optimizer": torch.optim.Adam(model.net_.parameters())})()
    state.schedule = None
    with pytest.raises(ValueError, match="does not fit together"):
        keeper.restore(state, (tensors, document))


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fit(None).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="its header is not that of a checkpoint"):
        fit(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("run.pt", ValueError, "must end with '.safetensors'"),
        ("none/run.safetensors", FileNotFoundError, "Create it first"),
        ("folder.safetensors", ValueError, "not a regular file"),
    ],
)
def test_paths(tmp_path: Path, name: str, error: type[Exception], match: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(error, match=match):
        fit(tmp_path / name)


def test_fingerprint_is_what_json_keeps() -> None:
    mark = fingerprint(settings=PRESETS["default"], rows=X, nothing=None)
    assert json.loads(json.dumps(mark)) == mark
    assert fingerprint(rows=X.copy()) == fingerprint(rows=X) != fingerprint(rows=X.T)
