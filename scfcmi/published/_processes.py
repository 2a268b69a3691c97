"""Several processes for one call: fresh interpreters that train together, while the caller waits.

They run this module and nothing of the caller's program, so that scripts need no guard and notebooks can do it too.
They take plain files from a folder of their own, meet through a file in it, and speak to each other on the loopback
interface alone. PyTorch's launcher is for programs of their own: it would take the caller's signal handlers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from safetensors.torch import load_file
from torch import Tensor

from scfcmi._device import FOLDER, LAUNCHER
from scfcmi.source import Factor, Groups, MatrixSource

from ._options import NetworkOptions
from ._shared import rank

# Seconds between looks at the processes.
POLL = 0.05
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
PARENT = "SCFCMI_PARENT"
# Called with the terms of an epoch, and its number.
Tell: TypeAlias = Callable[[Mapping[str, float], int], None]
# Exceptions that are raised again as what they were.
KNOWN = {error.__name__: error for error in (FloatingPointError, ValueError, MemoryError)}


def run_processes(
    n: int,
    source: MatrixSource,
    groups: Groups,
    options: NetworkOptions,
    arguments: Mapping[str, Any],
    tell: Tell,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Start processes, have them fit together, and bring back what the fit is made of.

    Parameters
    ----------
    n
        How many, each on its own device.
    source, groups, options
        As for the fit.
    arguments
        Its other arguments, plain values.
    tell
        Called after every epoch, in this process.

    Returns
    -------
    Tensors and description of the fit.

    Raises
    ------
    RuntimeError
        If a process ends before its time. What it raised itself is raised here instead, if it can be.
    """
    with tempfile.TemporaryDirectory(prefix="scfcmi-") as name:
        folder = Path(name)
        _write_rows(source, folder)
        np.save(folder / "codes.npy", groups.codes)
        factors = [{"name": f.name, "levels": list(f.levels), "of_group": f.of_group.tolist()} for f in groups.factors]
        job = {
            "options": options.as_params(),
            "checkpoint": None if options.checkpoint is None else str(Path(options.checkpoint).absolute()),
            "levels": list(groups.levels),
            "factors": factors,
            **arguments,
        }
        (folder / "job.json").write_text(json.dumps(job))
        _watch(n, folder, tell)
        return load_file(folder / "fit.safetensors"), json.loads((folder / "fit.json").read_text())


def _watch(n: int, folder: Path, tell: Tell) -> None:
    shared = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    # The package is found where it is here, and nothing else is that lies about in the current folder.
    shared |= {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONSAFEPATH": "1"}
    shared |= {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    shared |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    shared |= {FOLDER: str(folder), PARENT: str(os.getpid())}
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for which in range(n):
            with (folder / f"{which}.log").open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", "scfcmi.published._worker"],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=shared | {"RANK": str(which), "LOCAL_RANK": str(which)},
                    )
                )
        told = 0
        while True:
            codes = [worker.poll() for worker in workers]
            told = _pass_on(folder, told, tell)
            if any(codes):
                _explain(folder, codes)
            if all(code == 0 for code in codes):
                return
            time.sleep(POLL)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _pass_on(folder: Path, told: int, tell: Tell) -> int:
    """Tell of epochs that were finished since."""
    path = folder / "epochs.jsonl"
    rows = path.read_text().split("\n")[:-1] if path.exists() else []
    for line in rows[told:]:
        row, epoch = json.loads(line)
        tell(row, epoch)
    return len(rows)


def _explain(folder: Path, codes: list[int | None]) -> None:
    """Raise what a process raised; the others lose it, and say so only afterwards."""
    if (folder / "error.json").exists():
        kind, text = json.loads((folder / "error.json").read_text())
        raise KNOWN[kind](text)
    # Processes that lose another one fail as well; what ended that one is a signal, if there is one.
    code, which = min((code, i) for i, code in enumerate(codes) if code)
    how = f"was ended by signal {-code}" if code < 0 else f"failed with status {code}"
    said = (folder / f"{which}.log").read_text(errors="replace").strip()[-2000:]
    msg = f"Process {which + 1} of {len(codes)} {how}; was there enough memory? Nothing was written.\n{said}"
    raise RuntimeError(msg)


# rows ---------------------------------------------------------------------------------------------------------------


def _write_rows(source: MatrixSource, folder: Path) -> None:
    """Copy all rows to files, in one walk, to be mapped into memory once for all; sparse ones stay sparse."""
    lengths = [np.zeros(1, np.int64)]
    sparse = False
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        for _, block in source.chunks():
            sparse = sp.issparse(block)
            if sparse:
                block.data.astype(np.float32).tofile(data)
                block.indices.astype(np.int32).tofile(indices)
                lengths.append(np.diff(block.indptr).astype(np.int64))
            else:
                np.ascontiguousarray(block, np.float32).tofile(data)
    if sparse:
        np.save(folder / "indptr.npy", np.cumsum(np.concatenate(lengths)))
    (folder / "shape.json").write_text(json.dumps(source.shape))


def _read_rows(folder: Path) -> MatrixSource:
    shape = tuple(json.loads((folder / "shape.json").read_text()))
    if not (folder / "indptr.npy").exists():
        return MatrixSource(np.memmap(folder / "data", np.float32, "r", shape=shape))
    indptr = np.load(folder / "indptr.npy")
    if indptr[-1] == 0:
        return MatrixSource(sp.csr_matrix(shape, dtype=np.float32))
    entries = np.memmap(folder / "data", np.float32, "r"), np.memmap(folder / "indices", np.int32, "r")
    return MatrixSource(sp.csr_matrix((*entries, indptr), shape=shape, copy=False))


# the side of the processes ------------------------------------------------------------------------------------------


def read_job(folder: Path) -> dict[str, Any]:
    """Arguments of the fit, as :func:`run_processes` left them."""
    job = json.loads((folder / "job.json").read_text())
    factors = tuple(
        Factor(f["name"], tuple(f["levels"]), np.array(f["of_group"], np.int64)) for f in job.pop("factors")
    )
    groups = Groups(np.load(folder / "codes.npy"), tuple(job.pop("levels")), factors)
    options = replace(NetworkOptions.from_params(job.pop("options")), checkpoint=job.pop("checkpoint"))
    return {"source": _read_rows(folder), "groups": groups, "options": options, **job}


def tell_caller(row: Mapping[str, float], epoch: int) -> None:
    """Note an epoch for the caller, and end with it if it is gone."""
    if os.getppid() != int(os.environ[PARENT]):
        raise SystemExit(1)
    if rank() == 0:
        with (Path(os.environ[FOLDER]) / "epochs.jsonl").open("a") as file:
            file.write(json.dumps([row, epoch]) + "\n")


def note_error(error: Exception) -> None:
    """Leave what went wrong for the caller, where it can be raised again."""
    folder = Path(os.environ[FOLDER])
    temporary = folder / f"error.{os.environ['RANK']}"
    temporary.write_text(json.dumps([type(error).__name__, str(error)]))
    temporary.replace(folder / "error.json")
