"""Where training runs: a Lightning Fabric for a device and a precision given as strings."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from threadpoolctl import threadpool_limits

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
# What torchrun tells the processes that it starts.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_processes() -> int:
    """Number of processes that a launcher such as torchrun has started to train together; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHER) else 1


def is_first_process() -> bool:
    """Whether this process is the one that writes files and talks to the user."""
    return launched_processes() == 1 or os.environ["RANK"] == "0"


def resolve_device(device: str) -> str:
    """Turn `"auto"` into the best device there is, and refuse devices that are not.

    Of several CUDA devices, each process that a launcher started takes its own.

    Returns
    -------
    `"cpu"`, `"mps"`, or `"cuda:<index>"`.
    """
    own = int(os.environ["LOCAL_RANK"]) if launched_processes() > 1 else 0
    if device == "auto":
        if torch.cuda.is_available():
            return resolve_device(f"cuda:{own}")
        return "mps" if torch.backends.mps.is_available() else "cpu"
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", str(device))
    if match is None or (match[2] is not None and match[1] != "cuda"):
        msg = f"device={device!r} is unknown: use 'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'."
        raise ValueError(msg)
    if match[1] == "cuda":
        n = torch.cuda.device_count()
        index = int(match[2] or own)
        if index >= n:
            msg = f"device={device!r} is not available: PyTorch sees {n} CUDA devices. Use device='auto' or 'cpu'."
            raise ValueError(msg)
        return f"cuda:{index}"
    if match[1] == "mps" and not torch.backends.mps.is_available():
        msg = "device='mps' is not available on this machine. Use device='auto' or 'cpu'."
        raise ValueError(msg)
    return match[1]


def check_devices(device: str, devices: int) -> int:
    """Refuse a number of processes that cannot be had.

    Parameters
    ----------
    device
        Kind of device, as for :func:`resolve_device`.
    devices
        Processes wanted, each with its own device; at 1, a launcher decides.

    Returns
    -------
    How many processes will train.
    """
    launched = launched_processes()
    if launched > 1 and devices not in (1, launched):
        msg = f"devices={devices} contradicts the launcher, which started {launched} processes. Leave `devices` out."
        raise ValueError(msg)
    n = max(devices, launched)
    kind, _, index = resolve_device(device).partition(":")
    if n == 1 or kind == "cpu":
        return n
    if kind == "mps":
        msg = f"devices={n} is not possible with device='mps'. Use devices=1, or device='cpu'."
        raise ValueError(msg)
    if re.fullmatch(r"cuda:\d+", device):
        msg = f"device={device!r} is one device, but devices={n} asks for several. Use device='cuda'."
        raise ValueError(msg)
    if devices > 1 and launched == 1 and devices > torch.cuda.device_count():
        msg = (
            f"devices={devices}, but PyTorch sees {torch.cuda.device_count()} CUDA devices. Use fewer or device='cpu'."
        )
        raise ValueError(msg)
    return n


def make_fabric(device: str, precision: str) -> Fabric:
    """Set up Lightning Fabric on one device without its start-up chatter."""
    kind, _, index = resolve_device(device).partition(":")
    return _fabric(precision, accelerator=kind, devices=[int(index)] if index else 1)


def make_joint_fabric(device: str, precision: str, *, skips_parameters: bool) -> Fabric:
    """Set up Lightning Fabric as one of the processes that a launcher has started, and meet the others.

    Parameters
    ----------
    device, precision
        As for :func:`make_fabric`.
    skips_parameters
        Whether in some steps a parameter has no part.
    """
    n = launched_processes()
    n_here = int(os.environ.get("LOCAL_WORLD_SIZE", n))
    # Buffers are those of batch norm, whose statistics are the same everywhere.
    strategy = DDPStrategy(
        find_unused_parameters=skips_parameters, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    fabric = _fabric(
        precision,
        accelerator=resolve_device(device).partition(":")[0],
        devices=n_here,
        num_nodes=n // n_here,
        strategy=strategy,
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def _fabric(precision: str, **place: Any) -> Fabric:
    if precision not in PRECISIONS:
        msg = f"precision={precision!r} is unknown: use one of {list(PRECISIONS)}."
        raise ValueError(msg)
    if precision == "64-true" and place["accelerator"] == "mps":
        msg = "precision='64-true' is not possible with device='mps'. Use device='cpu'."
        raise ValueError(msg)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")
        return Fabric(precision=precision, **place)  # type: ignore[arg-type]


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
