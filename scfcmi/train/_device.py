"""Where training runs: a Lightning Fabric for a device and a precision given as strings."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from threadpoolctl import threadpool_limits

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def resolve_device(device: str) -> str:
    """Turn `"auto"` into the best device there is, and refuse devices that are not.

    Returns
    -------
    `"cpu"`, `"mps"`, or `"cuda:<index>"`.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", str(device))
    if match is None or (match[2] is not None and match[1] != "cuda"):
        msg = f"device={device!r} is unknown: use 'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'."
        raise ValueError(msg)
    if match[1] == "cuda":
        n = torch.cuda.device_count()
        index = int(match[2] or 0)
        if index >= n:
            msg = f"device={device!r} is not available: PyTorch sees {n} CUDA devices. Use device='auto' or 'cpu'."
            raise ValueError(msg)
        return f"cuda:{index}"
    if match[1] == "mps" and not torch.backends.mps.is_available():
        msg = "device='mps' is not available on this machine. Use device='auto' or 'cpu'."
        raise ValueError(msg)
    return match[1]


def make_fabric(device: str, precision: str) -> Fabric:
    """Set up Lightning Fabric on one device without its start-up chatter."""
    if precision not in PRECISIONS:
        msg = f"precision={precision!r} is unknown: use one of {list(PRECISIONS)}."
        raise ValueError(msg)
    kind, _, index = resolve_device(device).partition(":")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")
        return Fabric(accelerator=kind, devices=[int(index)] if index else 1, precision=precision)  # type: ignore[arg-type]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run CPU work of PyTorch, BLAS and scikit-learn on one thread for a while.

    The pieces of a small problem are too short to be worth sharing: threads that wait for each other cost more than
    they bring, many times more on a busy machine, and results would depend on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
