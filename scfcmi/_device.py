"""Where computations run: devices named by strings, and a state of PyTorch that is the same afterwards."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
import torch.utils.deterministic
from threadpoolctl import ThreadpoolController, threadpool_limits

from scfcmi._warn import warn

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
# What torchrun tells the processes that it starts.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Folder in which processes meet that a fit has started itself.
FOLDER = "SCFCMI_FOLDER"
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# A process that does not answer for so long is taken for lost, and the others end.
LOST_AFTER = timedelta(minutes=30)
# From so many rows on, a pass over them is worth several threads.
MANY = 20_000
# Rows that are worked on at once are never fewer, and are halved so many times at most.
FEWEST_ROWS, HALVINGS = 16, 12
# Its attributes are made by hand, and type checkers do not see them.
_DETERMINISTIC: Any = torch.utils.deterministic


def launched_processes() -> int:
    """Number of processes that a launcher such as torchrun has started to work together; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHER) else 1


def world_size() -> int:
    """Number of processes that have met and exchange what they find; 1 if this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first_process() -> bool:
    """Whether this process is the one that writes files and talks to the user."""
    return launched_processes() == 1 or os.environ["RANK"] == "0"


def resolve_device(device: str) -> str:
    """Turn `"auto"` into the best device there is, and refuse devices that are not.

    Of several CUDA devices, each process that a launcher started takes its own.

    Returns
    -------
    `"cpu"`, `"mps"`, or `"cuda:<index>"`.

    Raises
    ------
    ValueError
        If the name is unknown, or there is no such device here.
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
    How many processes will work.

    Raises
    ------
    TypeError, ValueError
        If there are not so many devices, or a launcher has started another number.
    """
    if isinstance(devices, bool) or not isinstance(devices, int):
        msg = f"devices={devices!r} must be an integer, not {type(devices).__name__}."
        raise TypeError(msg)
    if devices < 1:
        msg = f"devices={devices} must be at least 1."
        raise ValueError(msg)
    launched = launched_processes()
    if launched > 1 and devices not in (1, launched):
        msg = f"devices={devices} contradicts the launcher, which started {launched} processes. Leave `devices` out."
        raise ValueError(msg)
    n = max(devices, launched)
    kind, _, _ = resolve_device(device).partition(":")
    if n == 1 or kind == "cpu":
        return n
    if kind == "mps":
        msg = f"devices={n} is not possible with device='mps'. Use devices=1, or device='cpu'."
        raise ValueError(msg)
    if re.fullmatch(r"cuda:\d+", device):
        msg = f"device={device!r} is one device, but devices={n} asks for several. Use device='cuda'."
        raise ValueError(msg)
    if launched == 1 and n > torch.cuda.device_count():
        msg = f"devices={n}, but PyTorch sees {torch.cuda.device_count()} CUDA devices. Use fewer or device='cpu'."
        raise ValueError(msg)
    return n


def on_cpu_by_default() -> AbstractContextManager[Any]:
    """Have tensors that name no device made on the CPU, whatever `torch.set_default_device` has been told."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class _Repeatable:
    """Who wants repeatable kernels at the moment, over all threads; the first switches, the last switches back."""

    def __init__(self) -> None:
        self._lock, self._n = threading.Lock(), 0
        self._before: tuple[bool, bool, bool, str | None] = (False, False, True, None)

    def enter(self) -> None:
        with self._lock:
            self._n += 1
            if self._n > 1:
                return
            workspace = os.environ.get(WORKSPACE)
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            fills = _DETERMINISTIC.fill_uninitialized_memory
            self._before = (torch.are_deterministic_algorithms_enabled(), warn_only, fills, workspace)
            # cuBLAS repeats itself only with workspaces of a fixed size, and PyTorch looks here for it.
            os.environ.setdefault(WORKSPACE, ":4096:8")
            torch.use_deterministic_algorithms(True)
            # Nothing here reads memory before it is written.
            _DETERMINISTIC.fill_uninitialized_memory = False

    def leave(self) -> None:
        with self._lock:
            self._n -= 1
            if self._n:
                return
            was_on, warn_only, fills, workspace = self._before
            _DETERMINISTIC.fill_uninitialized_memory = fills
            torch.use_deterministic_algorithms(was_on, warn_only=warn_only)
            if workspace is None:
                os.environ.pop(WORKSPACE, None)


_repeatable = _Repeatable()


@contextmanager
def repeatable(device: str | torch.device) -> Iterator[None]:
    """Have CUDA kernels give the same numbers every time for a while.

    Those of the CPU do so anyway, with the same number of threads. PyTorch knows this setting for the whole process
    only; several threads may be inside at once, and it is as it was when the last one leaves.

    Parameters
    ----------
    device
        Where work is done; nothing is changed for any but CUDA devices.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    _repeatable.enter()
    try:
        yield
    finally:
        _repeatable.leave()


class _Threads:
    """How many threads PyTorch and BLAS use on the CPU, which they know for the whole process only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n, self._before = 0, 1
        self._blas: Any = None

    def enter(self) -> int:
        with self._lock:
            now = torch.get_num_threads()
            if self._n == 0:
                self._before = now
                self._blas = threadpool_limits(1, "blas")
            self._n += 1
            torch.set_num_threads(1)
            return now

    def n_before(self) -> int:
        return self._before if self._n else torch.get_num_threads()

    def leave(self, before: int) -> None:
        with self._lock:
            self._n -= 1
            torch.set_num_threads(before if self._n else self._before)
            if not self._n:
                self._blas.restore_original_limits()


_threads = _Threads()
# Whether a thread is one of several that work side by side.
_worker = threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Have PyTorch and BLAS work on one thread for a while: with small matrices, waiting for another takes too long.

    Several threads of a program may be inside at once, and the number is as it was when the last one leaves.
    """
    before = _threads.enter()
    try:
        yield
    finally:
        _threads.leave(before)


@contextmanager
def one_openmp_thread() -> Iterator[None]:
    """Have compiled code of other libraries work on one thread, where several would add up in whatever order they end.

    scikit-learn's k-means is such: on three threads or more, the same seed gives other centres every time.
    """
    with _libraries().limit(limits=1, user_api="openmp"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def threads_kept() -> Iterator[None]:
    """Keep PyTorch's number of threads where numba works, which sets it once, when it starts threads of its own."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def side_by_side(
    work: Callable[[T], R], items: Iterable[T], *, device: str | torch.device = "cpu", n_rows: int = MANY
) -> Iterator[R]:
    """Do the same work on each of several items, on as many threads as PyTorch had before :func:`one_thread`.

    It pays where most of the time is spent in compiled code, which leaves Python to the others. Each thread takes the
    next item when it is done with one, so none waits for another that is held up by other programs, as threads of
    PyTorch's own do after every operation; and what is found does not depend on their number.

    Parameters
    ----------
    work
        Called with every item; what it does side by side itself is done on its own thread.
    items
        What there is to do.
    device
        Where it is done; on any other than the CPU, one thread is as quick as several.
    n_rows
        Rows in all items together; few of them are no work for several threads.

    Yields
    ------
    What `work` returns, in the order of the items.
    """
    items = list(items)
    alone = torch.device(device).type != "cpu" or n_rows < MANY or getattr(_worker, "is_one", False)
    n = 1 if alone else min(_threads.n_before(), len(items))
    if n < 2:
        yield from map(work, items)
        return
    # Every thread has a mode of its own, and tensors made in one cannot be changed in the other.
    inference = torch.is_inference_mode_enabled()

    def as_here(item: T) -> R:
        with torch.inference_mode(inference):
            return work(item)

    with one_thread(), ThreadPoolExecutor(n, initializer=setattr, initargs=(_worker, "is_one", True)) as pool:
        yield from pool.map(as_here, items)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Meet the other processes that a launcher has started, and part from them at the end; alone, nothing is done."""
    if launched_processes() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meet = f"file://{os.environ[FOLDER]}/meet" if FOLDER in os.environ else "env://"
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meet,
        timeout=LOST_AFTER,
        rank=int(os.environ["RANK"]),
        world_size=launched_processes(),
    )
    try:
        yield
        # Those that are done early must not look lost to the others.
        dist.barrier()
    finally:
        dist.destroy_process_group()


class _Room:
    """How often what is held on the device at once was halved, because there was no memory for it."""

    def __init__(self) -> None:
        self._lock, self._n = threading.Lock(), 0

    def rows(self, planned: int) -> int:
        return max(min(planned, FEWEST_ROWS), planned >> self._n)

    def halve(self, said: str) -> None:
        with self._lock:
            self._n += 1
            n = self._n
            if n > HALVINGS:
                self._n = 0
        if n > HALVINGS:
            msg = f"The device has no memory left, not even for {FEWEST_ROWS} cells at once ({said}). Use device='cpu'."
            raise MemoryError(msg)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warn(f"The device has no memory left ({said}): going on with 1/{2**n} of the cells at once, which is slower.")


_room = _Room()


def rows_at_once(planned: int) -> int:
    """So many rows as planned, or as there is room for on the device by what was found out in this process."""
    return _room.rows(planned)


def pieces(n_rows: int) -> list[slice]:
    """All rows at once, or in as many pieces as there is room for; one at least."""
    step = max(rows_at_once(n_rows), 1)
    return [slice(start, min(start + step, n_rows)) for start in range(0, max(n_rows, 1), step)]


def smaller_when_full(work: Callable[P, R]) -> Callable[P, R]:
    """Do work again in smaller pieces when the device has no memory for it.

    Parameters
    ----------
    work
        Takes as many rows at once as :func:`rows_at_once` or :func:`pieces` say, and changes nothing that it is given.

    Returns
    -------
    The same, which raises `MemoryError` if there is no room for the smallest pieces either.
    """

    @wraps(work)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return work(*args, **kwargs)
            except torch.OutOfMemoryError as error:
                said = str(error).partition(". ")[0]
            # Here, what the work held when it failed is free again.
            _room.halve(said)

    return tried
