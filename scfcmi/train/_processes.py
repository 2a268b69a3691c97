"""Several processes for one call: fresh interpreters that train together, while the caller waits.

They run :func:`work` and nothing of the caller's program, so that scripts need no guard and notebooks can do it too.
What they need is handed over as :mod:`multiprocessing` does it, by pickle through their standard input, and rows as
files that are mapped into memory once for all. They end when that input closes, that is with the caller.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from scfcmi.source import MatrixSource

from ._device import make_joint_fabric, one_thread
from ._trainer import Record, Tell, train

# Seconds for the other processes to say why they fail, once one has failed.
GRACE = 5.0
PROGRAM = "from scfcmi.train._processes import work; work()"


def train_in_processes(
    n_processes: int, device: str, precision: str, *, tell: Tell | None = None, **arguments: Any
) -> Record:
    """Start processes, have them call :func:`train` together, and bring the trained network back.

    Parameters
    ----------
    n_processes
        How many, each on its own device.
    device, precision
        Kind of devices and precision.
    tell
        Called after every epoch, in this process.
    **arguments
        Those of :func:`train`, except for `fabric`; `net` is trained in place and stays on its device.

    Raises
    ------
    RuntimeError
        If a process ends before its time. What it raised itself is raised here instead.
    """
    net, source = arguments.pop("net"), arguments.pop("source")
    with tempfile.TemporaryDirectory(prefix="scfcmi-") as name:
        folder = Path(name)
        job = {
            "device": device,
            "precision": precision,
            "net": net.cpu(),
            "rows": _write_rows(source, folder),
            "arguments": arguments,
        }
        with _workers(n_processes, folder) as workers:
            for worker in workers:
                _hand_over(worker, job)
            tensors, record = _listen(workers, folder, tell)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return record


# the caller's side --------------------------------------------------------------------------------------------------


@contextmanager
def _workers(n: int, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    shared |= {"GROUP_RANK": "0", "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(n):
            with _log(folder, rank).open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        [sys.executable, "-c", PROGRAM],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    )
                )
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
            assert worker.stdin is not None
            with suppress(OSError):
                worker.stdin.close()


def _hand_over(worker: subprocess.Popen[bytes], job: dict[str, Any]) -> None:
    assert worker.stdin is not None
    # Where it has ended already, that will be noticed where all ends are.
    with suppress(OSError):
        pickle.dump(job, worker.stdin)
        worker.stdin.flush()


def _listen(workers: Sequence[subprocess.Popen[bytes]], folder: Path, tell: Tell | None) -> Any:
    """Pass reports on until all processes have ended; what the first one made of its job is returned."""
    inbox: queue.Queue[tuple[int, str, Any]] = queue.Queue()
    for rank, worker in enumerate(workers):
        threading.Thread(target=_collect, args=(rank, worker, inbox), daemon=True).start()
    result: Any = None
    errors: list[Exception] = []
    codes: dict[int, int] = {}
    while len(codes) < len(workers):
        failing = bool(errors) or any(codes.values())
        try:
            rank, kind, value = inbox.get(timeout=GRACE if failing else None)
        except queue.Empty:
            break
        if kind == "epoch" and tell is not None:
            tell(value)
        elif kind == "done":
            result = value
        elif kind == "failed":
            errors.append(value)
        elif kind == "ended":
            codes[rank] = value
    # Processes that lose the others fail as well, with errors of the connection, which are all of this type.
    for error in errors:
        if not isinstance(error, RuntimeError):
            raise error
    killed = {rank: code for rank, code in codes.items() if code and code != 1}
    if killed or errors or result is None:
        rank, code = next(iter((killed or codes).items()), (0, 1))
        how = f"was ended by signal {-code}" if code < 0 else f"failed with status {code}"
        said = _log(folder, rank).read_text(errors="replace").strip()[-2000:]
        msg = f"Process {rank + 1} of {len(workers)} {how}; was there enough memory? Nothing was written.\n{said}"
        raise RuntimeError(msg) from (errors[0] if errors else None)
    return result


def _collect(rank: int, worker: subprocess.Popen[bytes], inbox: queue.Queue[tuple[int, str, Any]]) -> None:
    assert worker.stdout is not None
    with worker.stdout, suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
        while True:
            inbox.put((rank, *pickle.load(worker.stdout)))
    inbox.put((rank, "ended", worker.wait()))


def _log(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.log"


# rows ---------------------------------------------------------------------------------------------------------------


def _write_rows(source: MatrixSource, folder: Path) -> dict[str, Any]:
    """Copy all rows to files, in one walk; dense and sparse ones stay what they are."""
    lengths = [np.zeros(1, np.int64)]
    sparse = False
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        for _, block in source.chunks():
            sparse = sp.issparse(block)
            if sparse:
                block.data.tofile(data)
                block.indices.astype(np.int32).tofile(indices)
                lengths.append(np.diff(block.indptr).astype(np.int64))
            else:
                np.ascontiguousarray(block).tofile(data)
    return {
        "folder": str(folder),
        "shape": source.shape,
        "indptr": np.cumsum(np.concatenate(lengths)),
        "sparse": sparse,
    }


def _read_rows(folder: str, shape: tuple[int, int], indptr: Any, *, sparse: bool) -> MatrixSource:
    data = Path(folder) / "data"
    if not sparse:
        return MatrixSource(np.memmap(data, np.float32, "r", shape=shape))
    if indptr[-1] == 0:
        return MatrixSource(sp.csr_matrix(shape, dtype=np.float32))
    entries = np.memmap(data, np.float32, "r"), np.memmap(Path(folder) / "indices", np.int32, "r")
    return MatrixSource(sp.csr_matrix((*entries, indptr), shape=shape, copy=False))


# the side of the processes ------------------------------------------------------------------------------------------


def work() -> None:
    """Take a job from standard input, train with the other processes, and say what came of it."""
    # Whoever waits for this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox = os.fdopen(os.dup(1), "wb")
    # What libraries print must not get between the messages.
    os.dup2(2, 1)

    def send(kind: str, value: Any) -> None:
        outbox.write(pickle.dumps((kind, value)))
        outbox.flush()

    job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    try:
        net, settings = job["net"], job["arguments"]["settings"]
        fabric = make_joint_fabric(job["device"], job["precision"], skips_parameters=settings.warmup_epochs > 0)
        with one_thread() if settings.consensus else nullcontext():
            record = train(
                net,
                _read_rows(**job["rows"]),
                fabric=fabric,
                tell=lambda row: send("epoch", row),
                **job["arguments"],
            )
        if fabric.global_rank == 0:
            send("done", ({name: value.cpu().numpy() for name, value in net.state_dict().items()}, record))
        # Those that are done early must not look lost to the others.
        fabric.barrier()
    except Exception as error:
        try:
            send("failed", pickle.loads(pickle.dumps(error)))
        except (pickle.PicklingError, TypeError, AttributeError):
            send("failed", RuntimeError(f"{type(error).__name__}: {error}"))
        raise


def _end_with_the_caller() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
