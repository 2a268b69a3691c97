"""Several processes give what one gives, and when one of them ends so does the call."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from scfcmi.published import NetworkOptions, PublishedFit, fit_published
from scfcmi.published import _processes as module
from scfcmi.source import as_source

from .conftest import SMALL, Cells

together = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed training")
OPTIONS = replace(SMALL, max_epochs=3, warmup_epochs=1, batch_size=130, hidden=(16, 16, 8), precision="64-true")


def fit(cells: Cells, options: NetworkOptions = OPTIONS, *, devices: int = 1, x: Any = None) -> PublishedFit:
    source = as_source(cells.x if x is None else x)
    given = {"random_state": 0, "device": "cpu", "progress_bar": False}
    return fit_published(source, cells.groups, 4, options, devices=devices, **given)


@pytest.mark.slow
@together
def test_two_processes_are_one(cells: Cells) -> None:
    """In float64, in which sums in another order do not show; batches are not even, and rows sparse."""
    x = sparse.csr_matrix(np.where(cells.x > 0, cells.x, 0))
    one, two = fit(cells, x=x), fit(cells, devices=2, x=x)
    for name, values in one.history.items():
        np.testing.assert_allclose(two.history[name], values, rtol=1e-9, err_msg=name)
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(two.tensors()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert two.options == one.options


@pytest.mark.slow
@together
def test_what_a_process_raises_is_raised_here(cells: Cells) -> None:
    with pytest.raises(FloatingPointError, match="The loss became .* in epoch"):
        fit(cells, replace(OPTIONS, learning_rate=1e300, max_epochs=50), devices=2)


@pytest.mark.slow
@together
def test_a_killed_process_ends_the_call(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def kill_later() -> None:
        while len(started) < 2:
            time.sleep(0.01)
        time.sleep(0.5)
        started[1].send_signal(signal.SIGKILL)

    monkeypatch.setattr(module.subprocess, "Popen", remember)
    threading.Thread(target=kill_later, daemon=True).start()
    with pytest.raises(RuntimeError, match="Process 2 of 2 was ended by signal 9"):
        fit(cells, replace(OPTIONS, max_epochs=10**6), devices=2)
    assert all(worker.poll() is not None for worker in started)


PROGRAM = """
import numpy as np
from scfcmi.published import NetworkOptions, fit_published
from scfcmi.source import as_source, read_groups
x = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
options = NetworkOptions(hidden=(8, 4), max_epochs=2, warmup_epochs=1, batch_size=60)
fit = fit_published(as_source(x), read_groups(["a", "b"] * 30), 2, options, random_state=0, device="cpu", devices=2)
print(fit.stopped["epoch"])
"""


@pytest.mark.slow
@together
def test_a_script_needs_no_guard_and_its_folder_is_not_searched(tmp_path: Path) -> None:
    """The current folder has a module of the name of one that is needed, and standard input is a pipe."""
    (tmp_path / "program.py").write_text(PROGRAM)
    root = str(Path(module.__file__).parents[2])
    safe = [sys.executable, "-P", str(tmp_path / "program.py")]
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    done = subprocess.run(safe, cwd=tmp_path, env=environment, input="", text=True, capture_output=True, timeout=300)
    assert done.stdout.strip() == "2", done.stderr


OWN_MODULES = """
import os
import numpy as np
from torch import manual_seed, nn
from scfcmi.published import GroupBranches, NetworkOptions, fit_published
from scfcmi.source import Groups, as_source
rng = np.random.default_rng(0)
x = rng.normal(size=(90, 5)).astype("float32")
# Of the last group there are three cells, and ten batches or halves of batches in an epoch.
groups = Groups(np.repeat([0, 1, 2], [50, 37, 3]), ("a", "b", "c"))
manual_seed(0)
decoder = GroupBranches(nn.Linear(2, 4), [nn.Sequential(nn.Linear(4, 5), nn.Tanh()) for _ in range(3)])
options = NetworkOptions(
    encoder=nn.Linear(5, 2), decoder=decoder, max_epochs=3, warmup_epochs=1, batch_size=18, precision="64-true"
)
fit = fit_published(as_source(x), groups, 2, options, random_state=0, device="cpu", progress_bar=False)
if os.environ.get("RANK", "0") == "0":
    print(fit.history["loss"].tolist())
"""


@pytest.mark.slow
@together
def test_modules_of_ones_own_where_a_group_is_absent_from_a_process(tmp_path: Path) -> None:
    """Under torchrun as alone, also when only one of two processes has rows for a branch."""
    (tmp_path / "program.py").write_text(OWN_MODULES)
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    losses = []
    for how in ([], torchrun):
        command = [sys.executable, *how, str(tmp_path / "program.py")]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        losses.append(json.loads(done.stdout))
    np.testing.assert_allclose(*losses, rtol=1e-9)


def waiting(processes: Sequence[int]) -> list[tuple[str, str]]:
    """Addresses on which processes wait for others: the state of a socket that listens is 0A (Linux)."""
    held = {os.readlink(one) for process in processes for one in Path(f"/proc/{process}/fd").iterdir()}
    found = []
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in held:
                raw = bytes.fromhex(address.partition(":")[0])
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                found.append((table, socket.inet_ntop(family, words).removeprefix("::ffff:")))
    return found


@pytest.mark.slow
@together
@pytest.mark.skipif(sys.platform != "linux", reason="reads the tables of Linux")
def test_processes_meet_on_the_loopback_interface_alone(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    """No port is chosen before it is used, and none is open to other machines."""
    workers: list[subprocess.Popen[bytes]] = []
    ports: list[str] = []
    seen: list[tuple[str, str]] = []
    popen, pass_on = subprocess.Popen, module._pass_on

    def remember(*args: Any, **given: Any) -> Any:
        workers.append(popen(*args, **given))
        ports.append(given["env"]["MASTER_PORT"])
        return workers[-1]

    def look(*args: Any) -> int:
        told = pass_on(*args)
        if told > 1:
            seen.extend(waiting([worker.pid for worker in workers if worker.poll() is None]))
        return told

    monkeypatch.setattr(module.subprocess, "Popen", remember)
    monkeypatch.setattr(module, "_pass_on", look)
    fit(cells, replace(OPTIONS, max_epochs=20), devices=2)
    assert ports == ["0", "0"]
    assert seen and {address for _, address in seen} == {"127.0.0.1"}


def test_what_cannot_be_handed_over(cells: Cells) -> None:
    with pytest.raises(ValueError, match="do not know the callback of this program. Start .* with torchrun"):
        fit(cells, replace(OPTIONS, callback=print), devices=2)


@pytest.mark.parametrize("rows", ["dense", "sparse", "empty"])
def test_rows_are_handed_over_as_they_are(cells: Cells, rows: str, tmp_path: Path) -> None:
    x = {"dense": cells.x, "sparse": sparse.csr_matrix(np.where(cells.x > 1, cells.x, 0))}.get(rows)
    source = as_source(sparse.csr_matrix((400, 20)) if x is None else x)
    module._write_rows(source, tmp_path)
    read = module._read_rows(tmp_path)
    assert read.shape == source.shape
    for which in (np.array([3, 0, 40]), slice(0, 41)):
        a, b = source.rows(which), read.rows(which)
        assert sparse.issparse(a) == sparse.issparse(b)
        np.testing.assert_array_equal(*(m.toarray() if sparse.issparse(m) else m for m in (a, b)))
