"""Two processes give what one gives: through the API, the command line and torchrun, and they fail together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scfcmi.cli import main
from scfcmi.model import FCMI
from scfcmi.model._networks import FCMINet
from scfcmi.source import Groups, MatrixSource
from scfcmi.tl import fair_cluster
from scfcmi.train import PRESETS, _processes, check_devices, launched_processes, one_thread, train_in_processes
from scfcmi.train._processes import _read_rows, _write_rows

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# An odd number of cells, and batches that do not divide by two.
RUNS: dict[str, dict[str, Any]] = {
    "default": {"batch_size": 61, "max_epochs": 12},
    # In float32, Adam makes as much of rounding in this network as of the order of rows in a batch.
    "paper": {"batch_size": 121, "max_epochs": 23, "preset": "paper", "use_rep": "X_types", "precision": "64-true"},
}
QUIET: dict[str, Any] = {"device": "cpu", "progress_bar": False}

together = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch was built without distributed training"
)


def assert_same(found: AnnData, alone: dict[str, AnnData], runs: Sequence[str] = ("default", "paper")) -> None:
    for run in runs:
        assert found.obs[run].tolist() == alone[run].obs[run].tolist(), run
        assert adjusted_rand_score(found.obs[run], found.obs["cell_type"]) > 0.8
        a, b = (adata.uns[run]["history"] for adata in (found, alone[run]))
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-5, err_msg=f"{run} {name}")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import make_adata

    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata = make_adata(480, 60)
    rng = np.random.default_rng(0)
    # Clusters of different sizes, so that their numbers are not a matter of one cell.
    keep = rng.random(480) < np.array([1, 0.7, 0.5])[adata.obs["cell_type"].cat.codes]
    adata = adata[np.flatnonzero(keep)[:339]].copy()
    kind = adata.obs["cell_type"].cat.codes.to_numpy()
    noise = rng.normal(scale=0.5, size=(len(kind), 8))
    adata.obsm["X_types"] = (8 * np.eye(8)[kind] + noise).astype(np.float32)
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def alone(cells: Path) -> dict[str, AnnData]:
    found = {}
    for run, options in RUNS.items():
        with one_thread():
            found[run] = ad.read_h5ad(cells)
            fair_cluster(found[run], "tech", 3, key_added=run, **options, **QUIET)
    return found


SCRIPT = """
import sys, anndata, scfcmi
adata = anndata.read_h5ad(sys.argv[1])
for run, options in {runs}.items():
    scfcmi.tl.fair_cluster(adata, "tech", 3, key_added=run, devices={devices}, **options, **{quiet})
import os, torch
assert torch.distributed.is_initialized() == ({devices} == 1)
adata.write_h5ad(sys.argv[2] + os.environ.get("RANK", ""))
"""


@pytest.mark.slow
@together
def test_one_call(cells: Path, alone: dict[str, AnnData], tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out.h5ad"
    # Without a guard: the script must run once only.
    script.write_text(SCRIPT.format(runs=RUNS, quiet=QUIET, devices=2))
    subprocess.run([sys.executable, str(script), str(cells), str(out)], env=ENVIRONMENT, check=True, timeout=250)
    found = ad.read_h5ad(out)
    assert_same(found, alone)
    assert found.uns["default"]["params"]["devices"] == 2


@pytest.mark.slow
@together
def test_torchrun(cells: Path, alone: dict[str, AnnData], tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out.h5ad"
    script.write_text(SCRIPT.format(runs={"default": RUNS["default"]}, quiet=QUIET, devices=1))
    run_with = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*run_with, str(script), str(cells), str(out)], env=ENVIRONMENT, check=True, timeout=250)
    for rank in (0, 1):
        assert_same(ad.read_h5ad(f"{out}{rank}"), alone, ["default"])


@pytest.mark.slow
@together
def test_command_line(
    cells: Path, alone: dict[str, AnnData], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5ad"
    arguments = ["cluster", str(cells), "-o", str(out), "--sensitive-key", "tech", "--n-clusters", "3"]
    options = RUNS["default"]
    arguments += ["--batch-size", str(options["batch_size"]), "--max-epochs", str(options["max_epochs"])]
    assert main([*arguments, "--device", "cpu", "--devices", "2", "--key-added", "default"]) == 0
    assert_same(ad.read_h5ad(out), alone, ["default"])
    assert "mnce" in capsys.readouterr().out


# the loop itself ----------------------------------------------------------------------------------------------------

TYPES, CODES = np.arange(41) % 3, (np.arange(41) < 38).astype(np.int64)
GROUPS = Groups(CODES, ("a", "b"))
X = (4 * np.eye(6)[TYPES] + np.random.default_rng(0).normal(size=(41, 6))).astype(np.float32)
PUBLISHED = replace(
    PRESETS["paper"], hidden=(16, 8), n_shared=1, batch_size=9, max_epochs=6, warmup_epochs=2, learning_rate=0.05
)

PLAIN_STEPS = """
import sys, numpy as np, torch
from scfcmi.source import MatrixSource
from scfcmi.train import make_fabric, make_joint_fabric, launched_processes, train
from tests.train.test_processes import GROUPS, PUBLISHED, X, make_net
torch.optim.Adam = lambda parameters, lr, fused: torch.optim.SGD(parameters, lr=lr)
joint = launched_processes() > 1
fabric = make_joint_fabric("cpu", "32-true", skips_parameters=True) if joint else make_fabric("cpu", "32-true")
net = make_net()
record = train(net, MatrixSource(X), GROUPS, None, PUBLISHED, fabric, random_state=0)
weights = {f"net.{name}": value.numpy() for name, value in net.state_dict().items() if "tracked" not in name}
np.savez(f"{sys.argv[1]}{fabric.world_size}{fabric.global_rank}", **record.history, **weights)
"""


def make_net() -> FCMINet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FCMINet(6, 2, 3, n_latent=3, hidden=(16, 8), n_shared=1, temperature=0.1)


@pytest.mark.slow
@together
def test_same_steps(tmp_path: Path) -> None:
    """Steps along the gradient, which rounding cannot blow up, lead to the same weights, with and without warm-up."""
    command = [sys.executable, "-c", PLAIN_STEPS, f"{tmp_path}/"]
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    workers = [subprocess.Popen(command, env=ENVIRONMENT | meet | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=200)
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    one, *two = (np.load(tmp_path / name) for name in ("10.npz", "20.npz", "21.npz"))
    for name in one.files:
        np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
        np.testing.assert_allclose(two[0][name], one[name], rtol=0, atol=1e-5, err_msg=name)
    start = make_net().state_dict()
    assert np.abs(one["net.centres"] - start["centres"].numpy()).max() > 0.1
    assert one["loss"][-1] < 0.9 * one["loss"][0]


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two(x: np.ndarray, tell: Any = None) -> None:
    train_in_processes(
        2,
        "cpu",
        "32-true",
        tell=tell,
        net=make_net(),
        source=MatrixSource(sparse.csr_matrix(x)),
        groups=GROUPS,
        targets=None,
        settings=replace(PUBLISHED, max_epochs=300),
        random_state=0,
    )


@pytest.mark.slow
@together
def test_what_a_process_raises_is_raised_here() -> None:
    x = X.copy()
    x[3] = 1e30
    with pytest.raises(FloatingPointError, match="The loss became .* in epoch 1"):
        run_two(x)


@pytest.mark.slow
@together
def test_a_killed_process_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = _processes._workers

    @contextmanager
    def remember(n: int, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
        with start(n, folder) as workers:
            started.extend(workers)
            yield workers

    monkeypatch.setattr(_processes, "_workers", remember)

    def kill(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            started[1].send_signal(signal.SIGKILL)

    with pytest.raises(RuntimeError, match="Process 2 of 2 was ended by signal 9"):
        run_two(X, kill)
    assert all(worker.poll() is not None for worker in started)


@pytest.mark.parametrize("rows", [X, sparse.csr_matrix(np.where(X > 1, X, 0)), sparse.csr_matrix(X.shape)])
def test_rows_are_handed_over_as_they_are(rows: Any, tmp_path: Path) -> None:
    source = MatrixSource(rows)
    read = _read_rows(**_write_rows(source, tmp_path))
    assert read.shape == source.shape
    some = np.array([3, 0, 40])
    for which in (some, slice(0, 41)):
        a, b = source.rows(which), read.rows(which)
        assert sparse.issparse(a) == sparse.issparse(b)
        np.testing.assert_array_equal(*(m.toarray() if sparse.issparse(m) else m for m in (a, b)))


# what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "devices", "match"),
    [
        ("cuda", 3, "devices=3, but PyTorch sees 2 CUDA devices"),
        ("cuda:1", 2, "device='cuda:1' is one device, but devices=2"),
        ("mps", 2, "not possible with device='mps'"),
    ],
)
def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch, device: str, devices: int, match: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match=match):
        check_devices(device, devices)
    assert check_devices("cuda", 2) == check_devices("cpu", 2) == 2


def test_launcher_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_processes() == 1
    for name, value in (("RANK", 2), ("LOCAL_RANK", 2), ("WORLD_SIZE", 4), ("MASTER_ADDR", "host"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    assert launched_processes() == check_devices("cpu", 1) == check_devices("cpu", 4) == 4
    with pytest.raises(ValueError, match="devices=2 contradicts the launcher, which started 4 processes"):
        FCMI(3, devices=2, device="cpu").fit(X, CODES)


@pytest.mark.parametrize(("devices", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_number_of_devices(devices: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"devices={devices}"):
        FCMI(3, devices=devices, device="cpu").fit(X, CODES)
