"""Checkpoints: the state of the training loop in one safetensors file, from which a run that was cut off goes on.

Nothing in a file is executed: numbers lie in tensors, and everything else in one JSON document in the header.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from lightning_fabric.plugins import Precision
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as pack_tensors
from torch import nn

from scfcmi.source import MatrixSource

if TYPE_CHECKING:
    from scfcmi.model._networks import FCMINet

SUFFIX = ".safetensors"
FORMAT, FORMAT_VERSION = "scfcmi.checkpoint", 1
FIELDS = {"format", "format_version", "fingerprint", "history", "rng", "groups", "schedule", "loss_scale"}
DIGEST = "blake2b:"
# Writing takes at most one part in this many of the time.
SELDOM = 20

Fingerprint = dict[str, Any]
Content = tuple[dict[str, NDArray[Any]], dict[str, Any]]


@dataclass
class State:
    """Everything that the training loop changes as it goes.

    Parameters
    ----------
    net, optimizer, schedule
        What is trained, and how; without a schedule the step is constant.
    precision
        Holds the scale of the loss in half precision.
    rng
        Source of the batches.
    history
        One row of loss terms per finished epoch.
    centres
        k-means centres of the last epoch, from which those of the next one start, shape (n_centres, n_latent).
    """

    net: FCMINet
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    precision: Precision
    rng: np.random.Generator
    history: list[dict[str, float]]
    centres: NDArray[np.float32] | None = None


class Checkpoint:
    """A file that follows one run.

    Parameters
    ----------
    path
        The file.
    fingerprint
        What tells the run from others.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._next = -np.inf

    def read(self) -> Content | None:
        """Tensors and document of the file, or `None` if there is none.

        Raises
        ------
        ValueError
            If it is damaged, or belongs to another run.
        """
        if not self._path.exists():
            return None
        tensors, document = read_checkpoint(self._path)
        other, own = document["fingerprint"], self._fingerprint
        differing = [name for name in sorted({*other, *own}) if other.get(name) != own.get(name)]
        if differing:
            what = ", ".join(_difference(name, other.get(name), own.get(name)) for name in differing[:5])
            msg = (
                f"The checkpoint {str(self._path)!r} belongs to another run: {what}. Repeat that run's data and "
                "parameters to resume it, or remove the file or name another one to start anew."
            )
            raise ValueError(msg)
        return tensors, document

    def restore(self, state: State, content: Content) -> None:
        """Put a state back to where the file was written."""
        tensors, document = content
        try:
            _restore(state, tensors, document)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            _unusable(self._path, f"its content does not fit together ({error})")

    def write(self, state: State, *, last: bool) -> None:
        """Replace the file as a whole, unless so much time went into writing lately that it can wait."""
        start = time.monotonic()
        if start < self._next and not last:
            return
        data = _pack(state, self._fingerprint)
        # A fixed name, so that a run killed while it writes leaves no more than one such file.
        temporary = _temporary(self._path)
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
    """Refuse, before any work, a path that cannot be written to or a file that cannot be resumed from."""
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
        read_checkpoint(path)
    return path


def remove_checkpoint(path: str | os.PathLike[str]) -> None:
    """Remove the file of a run whose results are safe."""
    path = Path(path)
    for gone in (path, _temporary(path)):
        gone.unlink(missing_ok=True)


def fingerprint(**values: Any) -> Fingerprint:
    """Describe what a run works on in few words: arrays and sources by a digest, networks by their shapes.

    Parameters
    ----------
    **values
        Numbers, strings, arrays, row sources, networks, and dataclasses of these.

    Returns
    -------
    One entry per value and field, which JSON keeps as it is.
    """
    found: Fingerprint = {}
    for name, value in values.items():
        parts = value
        if is_dataclass(value):
            parts = {field.name: getattr(value, field.name) for field in fields(value)}
        elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
            parts = {str(i): item for i, item in enumerate(value)}
        if isinstance(parts, dict):
            inner = fingerprint(**parts)
            found |= {f"{name}.{key}": item for key, item in inner.items()}
        elif isinstance(value, nn.Module):
            found |= {f"{name}.{key}": list(item.shape) for key, item in value.state_dict().items()}
        elif isinstance(value, MatrixSource | np.ndarray):
            found[name] = _digest(value)
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def read_checkpoint(path: Path) -> Content:
    """Tensors and document of a file, checked against the digest that was written with them."""
    if not path.is_file():
        _unusable(path, "it is not a regular file")
    data = path.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n_header > len(data) - 8:
        _unusable(path, f"it has {len(data)} bytes and seems to be truncated")
    try:
        notes = json.loads(data[8 : 8 + n_header])["__metadata__"]
        text, digest = notes[FORMAT], notes["digest"]
    except (KeyError, TypeError, ValueError, RecursionError):
        _unusable(path, "its header is not that of a checkpoint")
    try:
        tensors = {name: np.array(value) for name, value in parse_tensors(data).items()}
    except SafetensorError as error:
        _unusable(path, f"its tensors cannot be read ({error}); it may be truncated")
    if digest != _seal(tensors, text):
        _unusable(path, "its content is not what was written; it is damaged")
    document = json.loads(text)
    if document["format_version"] != FORMAT_VERSION or set(document) != FIELDS:
        _unusable(path, f"its format version is {document['format_version']}, and {FORMAT_VERSION} is read")
    return tensors, document


def _pack(state: State, mark: Fingerprint) -> bytes:
    optimizer = state.optimizer.state_dict()
    tensors = {f"net.{name}": value for name, value in state.net.state_dict().items()}
    for i, entries in optimizer["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in entries.items()}
    arrays = {name: np.asarray(value.detach().cpu().numpy(), order="C") for name, value in tensors.items()}
    if state.centres is not None:
        arrays["centres"] = np.ascontiguousarray(state.centres)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": mark,
        "history": state.history,
        "rng": state.rng.bit_generator.state,
        "groups": optimizer["param_groups"],
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "loss_scale": state.precision.state_dict(),
    }
    text = json.dumps(document)
    return pack_tensors(arrays, metadata={FORMAT: text, "digest": _seal(arrays, text)})


def _restore(state: State, tensors: Mapping[str, NDArray[Any]], document: Mapping[str, Any]) -> None:
    entries: dict[int, dict[str, torch.Tensor]] = {}
    net: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "net":
            net[rest] = torch.from_numpy(value)
        elif kind == "optimizer":
            index, _, rest = rest.partition(".")
            entries.setdefault(int(index), {})[rest] = torch.from_numpy(value)
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    for i, entry in entries.items():
        if any(value.ndim and value.shape != parameters[i].shape for value in entry.values()):
            raise ValueError(f"the optimizer's state {i} has the wrong shape")
    if (state.schedule is None) != (document["schedule"] is None):
        raise ValueError("it has a schedule where there should be none, or none where there should be one")
    groups = [group | {"betas": tuple(group["betas"])} for group in document["groups"]]
    state.net.load_state_dict(net)
    state.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    if state.schedule is not None:
        if set(document["schedule"]) != set(state.schedule.state_dict()):
            raise ValueError("its schedule is of another version of PyTorch")
        state.schedule.load_state_dict(document["schedule"])
    state.precision.load_state_dict(document["loss_scale"])
    state.rng.bit_generator.state = document["rng"]
    state.history[:] = document["history"]
    state.centres = tensors.get("centres")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _seal(tensors: Mapping[str, NDArray[Any]], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest(value: MatrixSource | NDArray[Any]) -> str:
    """Hash of shape and values; sparse rows are hashed by their entries."""
    digest = hashlib.blake2b(repr(tuple(value.shape)).encode(), digest_size=16)
    blocks = (block for _, block in value.chunks()) if isinstance(value, MatrixSource) else (value,)
    for block in blocks:
        if isinstance(block, np.ndarray):
            digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        else:
            for part in (block.indptr.astype(np.int64), block.indices.astype(np.int64), block.data):
                digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return DIGEST + digest.hexdigest()


def _difference(name: str, other: Any, own: Any) -> str:
    if str(other or own).startswith(DIGEST):
        return f"`{name}` holds other values"
    return f"`{name}` is {other!r} there and {own!r} here"


def _unusable(path: Path, what: str) -> NoReturn:
    msg = f"{str(path)!r} is not a usable checkpoint: {what}. Remove it, or name another file, to start anew."
    raise ValueError(msg)
