"""However a program was started and whatever else runs in it: the same result, no hang, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from threadpoolctl import threadpool_info

import scfcmi
from scfcmi import cli
from scfcmi.model import FCMI

from .conftest import next_moment

ROOT = Path(scfcmi.__file__).parents[1]
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(os.name != "posix", reason="signals and forks of POSIX"),
]
together = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed training")
# A process that takes longer than this hangs.
PATIENCE = 240

EXAMPLE = """
import os, sys
import numpy as np
from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions

def data(seed=0):
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 3, 240)
    x = rng.normal(size=(240, 12)) + 4 * np.eye(12)[types] + np.where(np.arange(240) % 2, 1.0, 0.0)[:, None]
    return x.astype(np.float32), np.array(["a", "b"] * 120)

def fit(seed=0, **given):
    return FCMI(3, random_state=seed, progress_bar=False, device="cpu", **given).fit(*data(seed))

def labels(seed=0):
    return fit(seed).labels_.tolist()

def published(devices):
    network = NetworkOptions(hidden=(8, 4), max_epochs=2, warmup_epochs=1, batch_size=120)
    return fit(preset="paper", network=network, devices=devices).labels_.tolist()
"""
own: dict[str, Any] = {}
exec(EXAMPLE, own)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a program that has the example above as a module."""
    (tmp_path / "example.py").write_text(EXAMPLE)

    def start(text: str, n_threads: int = 1, **given: Any) -> subprocess.Popen[str]:
        (tmp_path / "program.py").write_text(text)
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": str(n_threads)}
        environment |= {"NUMBA_NUM_THREADS": "2", "MPLBACKEND": "agg"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
        command = [sys.executable, str(tmp_path / "program.py")]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)

    return start


def said(process: subprocess.Popen[str]) -> list[str]:
    """What it printed; it must have ended well and in time."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it hangs; it said {process.communicate()}") from None
    assert process.returncode == 0, err
    return out.splitlines()


# threads --------------------------------------------------------------------------------------------------------------


def pools() -> list[tuple[str, int]]:
    return sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())


def test_fits_at_once_are_those_one_after_another() -> None:
    seeds = [0, 1, 2, 3]
    alone = [own["fit"](seed) for seed in seeds]
    before = torch.get_num_threads(), pools()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    # Threads give way to each other often, so that what they share shows.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(own["fit"], seeds))
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one.labels_, other.labels_)
        np.testing.assert_array_equal(one.assignment_.proba, other.assignment_.proba)
        np.testing.assert_array_equal(one.assignment_.embedding, other.assignment_.embedding)
    assert (torch.get_num_threads(), pools()) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_a_model_is_used_by_several_threads() -> None:
    model: FCMI = own["fit"]()
    x, groups = own["data"]()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.assign(x, groups), range(8)):
            np.testing.assert_array_equal(found.proba, model.assignment_.proba)


@pytest.mark.parametrize("call", ["tl.umap(adata)", "tl.markers(adata, 'fair_cluster', 'tech')"])
def test_threads_are_as_before_also_after_the_first_call(program: Callable[..., Any], call: str) -> None:
    """Where numba starts its own threads, which happens once in a process, and with more of them than PyTorch has."""
    text = f"""
import numpy as np, torch
from anndata import AnnData
from threadpoolctl import threadpool_info
import scfcmi
from scfcmi import pl, tl

rng = np.random.default_rng(0)
adata = AnnData(rng.gamma(1, 1, size=(60, 9)).astype("float32"), obsm={{"X_fair_cluster": rng.normal(size=(60, 4))}})
adata.obs["fair_cluster"], adata.obs["tech"] = list("01") * 30, list("aabb") * 15
numbers = lambda: (torch.get_num_threads(), {{pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}})
torch.set_num_threads(1)
n, pools = numbers()
{call}
after, later = numbers()
print(n, after, [name for name, number in pools.items() if later[name] != number])
"""
    assert said(program(text))[-1] == "1 1 []"


# other processes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_processes_that_a_program_starts_after_a_fit(program: Callable[..., Any], how: str) -> None:
    """With two threads, whose pools a forked process does not have."""
    text = f"""
import multiprocessing
from example import labels
if __name__ == "__main__":
    here = labels(0), labels(1)
    with multiprocessing.get_context({how!r}).Pool(2) as pool:
        there = pool.map(labels, [0, 1])
    print(there == list(here))
"""
    assert said(program(text, n_threads=2)) == ["True"]


@pytest.mark.slow
@together
@pytest.mark.parametrize("stdin", ["pipe", "terminal", "nothing"])
def test_any_standard_input(program: Callable[..., Any], stdin: str) -> None:
    """A pipe that nobody writes to and that stays open, a terminal, and no standard input at all."""
    text = "from example import labels, published\nprint(len(set(labels())), len(published(2)))"
    if stdin == "pipe":
        reader, writer = os.pipe()
    elif stdin == "terminal":
        writer, reader = os.openpty()
    else:
        text = "import os, sys\nos.close(0)\nsys.stdin = None\n" + text
        reader = writer = os.open(os.devnull, os.O_RDONLY)
    try:
        assert said(program(text, stdin=reader)) == ["3 240"]
    finally:
        for end in {reader, writer}:
            os.close(end)


@pytest.mark.slow
@together
def test_in_a_notebook(program: Callable[..., Any], tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    (tmp_path / "example.py").write_text(EXAMPLE)
    cells = [
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; from example import labels, published, fit",
        "print(labels())",
        "print(len(published(2)))",
        "fit()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    kernel = {"name": "python3", "display_name": "Python", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    nbclient.NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute()
    out = ["".join(one.get("text", "") for one in cell.outputs) for cell in notebook.cells]
    assert out[1].strip() == str(own["labels"]())
    assert out[2].strip() == "240"
    assert not [one for cell in notebook.cells for one in cell.outputs if one.get("name") == "stderr"]


# a process that is lost -----------------------------------------------------------------------------------------------

LAUNCHED = """
import os, signal, sys
from dataclasses import replace
from datetime import timedelta
import scfcmi._device
from example import data
from scfcmi.published import NetworkOptions, fit_published
from scfcmi.source import as_source, read_groups

scfcmi._device.LOST_AFTER = timedelta(seconds=10)

def lose(*_):  # the first process alone calls it
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))

x, groups = data()
options = NetworkOptions(hidden=(8, 4), max_epochs=50, warmup_epochs=1, batch_size=120, callback=lose)
fit_published(as_source(x), read_groups(groups), 3, options, random_state=0, device="cpu")
"""


@pytest.mark.slow
@together
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_launched_process_that_is_lost_ends_the_others(tmp_path: Path, how: str) -> None:
    """With the environment that torchrun gives: the process that is left fails, and does not wait for ever."""
    (tmp_path / "example.py").write_text(EXAMPLE)
    (tmp_path / "program.py").write_text(LAUNCHED)
    shared = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_PORT": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    shared |= {"SCFCMI_FOLDER": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        both = [
            subprocess.Popen(
                [sys.executable, str(tmp_path / "program.py"), how],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
            for rank in range(2)
        ]
        try:
            assert both[1].wait(timeout=PATIENCE) not in (0, -signal.SIGABRT), (tmp_path / "log").read_text()
        finally:
            for process in both:
                process.kill()
                process.wait()
    assert "RuntimeError" in (tmp_path / "log").read_text()


# the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cells(adata: AnnData, tmp_path: Path) -> Path:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def command(cells: Path, output: Path) -> list[str]:
    return ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(output), "--overwrite", "--device", "cpu"]


def is_complete(path: Path) -> bool:
    import anndata as ad

    found = ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)
    return "fair_cluster" in found.obs and found.shape == (300, 100)


def outcome(job: Callable[[], int], tmp_path: Path) -> int:
    """What a process of its own makes of it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = (tmp_path / "said").open("w", buffering=1)
            os.dup2(sys.stderr.fileno(), 2)
            code = job()
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("it hangs")


EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "shutil.copyfile"}


def at_event(n: int, strike: Callable[[], None]) -> None:
    """Strike once, before the n-th event of the disk."""
    seen = 0

    def watch(event: str, _: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == n:
                strike()

    sys.addaudithook(watch)


def send(which: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), which)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("old", [False, True])
def test_the_command_is_struck_at_every_step(
    cells: Path, tmp_path: Path, suffix: str, which: int, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was about to open, make, or rename: the output is the old one or the new one."""
    import anndata as ad

    def quick(adata: AnnData, *_: Any, key_added: str, **__: Any) -> None:
        adata.obs[key_added] = pd.Categorical(np.arange(adata.n_obs) % 3)

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", quick)
    if suffix == "zarr":
        ad.read_h5ad(cells).write_zarr(cells.with_suffix(".zarr"))
        cells = cells.with_suffix(".zarr")
    output = tmp_path / f"out.{suffix}"
    if old:
        assert cli.main(command(cells, output)) == 0
    n, struck = 1, 0
    while True:

        def job(n: int = n) -> int:
            at_event(n, send(which))
            return cli.main(command(cells, output))

        code = outcome(job, tmp_path)
        if code == 0:
            break
        struck += 1
        assert code == (130 if which == signal.SIGINT else -which), (tmp_path / "said").read_text()
        if which == signal.SIGINT:
            assert "Traceback" not in (tmp_path / "said").read_text()
        assert is_complete(output) if old or output.exists() else not output.exists()
        n = next_moment(n)
    assert struck > 5
    assert is_complete(output)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("step", [1, 9, 40])
def test_ctrl_c_in_the_middle_of_a_fit(cells: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from scfcmi.registration import _fit

    real, calls = _fit.m_step, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            send(signal.SIGINT)()
        return real(*args, **kwargs)

    monkeypatch.setattr(_fit, "m_step", interrupted)
    output = tmp_path / "out.h5ad"
    assert outcome(lambda: cli.main(command(cells, output)), tmp_path) == cli.INTERRUPTED
    assert (tmp_path / "said").read_text().splitlines()[-1].startswith("scfcmi: interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "said"]


@pytest.mark.slow
@together
def test_ctrl_c_reaches_the_processes_of_a_fit(program: Callable[..., Any]) -> None:
    """As in a terminal, where all processes of the command get the signal: the command ends, and none is left."""
    text = """
import os, signal, sys, threading
from example import fit
from scfcmi.published import NetworkOptions, _processes

def tell(folder, told, tell, pass_on=_processes._pass_on):
    now = pass_on(folder, told, tell)
    if now > 1:
        os.killpg(0, signal.SIGINT)
    return now

_processes._pass_on = tell
network = NetworkOptions(hidden=(8, 4), max_epochs=100000, warmup_epochs=1, batch_size=120)
try:
    fit(preset="paper", network=network, devices=2)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert said(program(text, start_new_session=True)) == ["interrupted"]


@pytest.mark.slow
def test_a_command_in_the_background_of_a_thread(cells: Path, tmp_path: Path) -> None:
    """Signals are the main thread's; elsewhere, the command must not ask for them."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(command(cells, tmp_path / "out.h5ad"))))
    thread.start()
    thread.join(PATIENCE)
    assert codes == [0]
    assert is_complete(tmp_path / "out.h5ad")
