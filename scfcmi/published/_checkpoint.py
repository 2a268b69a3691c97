"""Checkpoints: the state of the training in one safetensors file, from which a fit that was cut off goes on.

Random numbers follow from the seed and the epoch, and centres from the weights, so that weights, optimiser and history
are all there is to keep. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scfcmi.source import Groups

from ._options import NetworkOptions
from ._step import State

SUFFIX, KIND, VERSION = ".safetensors", "scfcmi.checkpoint", 2
# Writing takes at most one part in this many of the time.
SELDOM = 20
# What may differ between the fit that was cut off and the one that goes on.
FREE = ("max_epochs", "early_stopping")


class Checkpoint:
    """A file that follows one fit.

    Parameters
    ----------
    path
        The file.
    options, groups, n_clusters, random_state
        Those of the fit, by which the file knows it again.
    digest
        That of the matrix.
    """

    def __init__(
        self, path: Path, options: NetworkOptions, groups: Groups, n_clusters: int, random_state: int, digest: str
    ) -> None:
        codes = hashlib.blake2b(np.ascontiguousarray(groups.codes).tobytes(), digest_size=16).hexdigest()
        self._path, self._next = path, -math.inf
        self._mark = {name: value for name, value in options.as_params().items() if name not in FREE}
        self._mark |= {"n_clusters": n_clusters, "random_state": random_state, "matrix": digest, "groups": codes}

    def resume(self, state: State) -> None:
        """Put a new state to where the file was written, if there is one.

        Raises
        ------
        ValueError
            If it is damaged, or belongs to another fit.
        """
        if not self._path.exists():
            return
        tensors, document = read(self._path)
        other = document["mark"]
        differing = [name for name in {**self._mark, **other} if self._mark.get(name) != other.get(name)]
        if differing:
            what = ", ".join(f"{n} is {other.get(n)!r} there and {self._mark.get(n)!r} here" for n in differing[:3])
            msg = (
                f"The checkpoint {str(self._path)!r} belongs to another fit: {what}. Repeat that fit's data and "
                "parameters to resume it, or name another file to start anew."
            )
            raise ValueError(msg)
        own, parameters = state.network.state_dict(), list(state.network.parameters())
        wanted = {f"network.{name}": value.shape for name, value in own.items()} | {"centres": None}
        wanted |= {f"{m}.{i}": p.shape for i, p in enumerate(parameters) for m in ("exp_avg", "exp_avg_sq")}
        steps = {f"step.{i}" for i in range(len(parameters))}
        for name, tensor in tensors.items():
            if name not in wanted and name not in steps:
                _unusable(self._path, f"it has the unknown tensor {name!r}")
            if wanted.get(name) is not None and tensor.shape != wanted[name]:
                _unusable(self._path, f"tensor {name!r} has the shape {tuple(tensor.shape)}")
        if missing := [name for name in wanted if name.startswith("network.") and name not in tensors]:
            _unusable(self._path, f"it lacks the tensor {missing[0]!r}")
        state.network.load_state_dict({name: tensors[f"network.{name}"] for name in own})
        kept = state.optimizer.state_dict()
        kept["state"] = {
            i: {name: tensors[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(len(parameters))
            if f"step.{i}" in tensors
        }
        state.optimizer.load_state_dict(kept)
        state.scaler.load_state_dict(document["scaler"])
        state.history[:] = document["history"]
        state.centres = tensors["centres"].to(parameters[0])

    def write(self, state: State, *, last: bool) -> None:
        """Replace the file as a whole, unless so much time went into writing lately that it can wait."""
        start = time.monotonic()
        if start < self._next and not last:
            return
        assert state.centres is not None
        tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
        for i, entry in state.optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{i}": value for name, value in entry.items()}
        tensors["centres"] = state.centres
        document = {
            "version": VERSION,
            "mark": self._mark,
            "history": state.history,
            "scaler": state.scaler.state_dict(),
        }
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        text = json.dumps(document)
        data = save(plain, metadata={KIND: text, "digest": _digest(plain, text)})
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)
        end = time.monotonic()
        self._next = end + SELDOM * (end - start)


def check_checkpoint(path: str | os.PathLike[str] | None) -> Path | None:
    """Refuse, before any work, a path that cannot be written to or a file that cannot be resumed from.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        If the folder is missing or closed, the suffix is another one, or the file is damaged.
    """
    if path is None:
        return None
    path = Path(path).absolute()
    if path.suffix != SUFFIX:
        msg = f"checkpoint={str(path)!r} must end with {SUFFIX!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} of the checkpoint does not exist. Create it first."
        raise FileNotFoundError(msg)
    if not os.access(path.parent, os.W_OK):
        msg = f"The folder {str(path.parent)!r} of the checkpoint cannot be written to. Choose another one."
        raise PermissionError(msg)
    if path.exists():
        read(path)
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a file, checked against the digest that was written with them.

    Raises
    ------
    ValueError
        If it is no checkpoint, damaged, or of another version.
    """
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        _unusable(path, f"it cannot be read ({error}); it may be truncated")
    if KIND not in notes or "digest" not in notes:
        _unusable(path, "its header is not that of a checkpoint")
    if notes["digest"] != _digest(tensors, notes[KIND]):
        _unusable(path, "its content is not what was written; it is damaged")
    document = json.loads(notes[KIND])
    if document.get("version") != VERSION:
        _unusable(path, f"its version is {document.get('version')!r}, and {VERSION} is read")
    return tensors, document


def remove_checkpoint(path: str | os.PathLike[str]) -> None:
    """Remove the file of a fit whose results are safe.

    Parameters
    ----------
    path
        The file; nothing happens if there is none.
    """
    Path(path).unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unusable(path: Path, what: str) -> NoReturn:
    msg = f"{str(path)!r} is not a usable checkpoint: {what}. Remove it, or name another file, to start anew."
    raise ValueError(msg)
