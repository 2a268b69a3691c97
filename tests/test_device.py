"""Devices, given as strings, and a state of PyTorch that is as it was."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from scfcmi import _device
from scfcmi._device import check_devices, launched_processes, one_thread, repeatable, resolve_device, side_by_side


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "want"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, False, "auto", "cuda:0"),
        (2, True, "auto", "cuda:0"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "cpu", "cpu"),
        (0, True, "mps", "mps"),
    ],
)
def test_resolve(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, device: str, want: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device(device) == want


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:x", "cpu:1", "mps:0", "CUDA", ""])
def test_unknown(device: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}' is unknown: use 'auto'"):
        resolve_device(device)


@pytest.mark.parametrize(("device", "match"), [("cuda:2", "sees 2 CUDA devices"), ("mps", "not available")])
def test_not_there(monkeypatch: pytest.MonkeyPatch, device: str, match: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=match):
        resolve_device(device)


@pytest.mark.parametrize(
    ("device", "devices", "match"),
    [
        ("cuda", 3, "devices=3, but PyTorch sees 2 CUDA devices"),
        ("cuda:1", 2, "device='cuda:1' is one device, but devices=2"),
        ("mps", 2, "not possible with device='mps'"),
        ("cpu", 0, "devices=0 must be at least 1"),
    ],
)
def test_numbers_of_devices(monkeypatch: pytest.MonkeyPatch, device: str, devices: int, match: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match=match):
        check_devices(device, devices)
    assert check_devices("cuda", 2) == check_devices("cpu", 2) == 2


@pytest.mark.parametrize("devices", [1.5, None, True])
def test_numbers_of_devices_that_are_none(devices: Any) -> None:
    with pytest.raises(TypeError, match=f"devices={devices} must be an integer"):
        check_devices("cpu", devices)


def test_launcher_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_processes() == 1
    for name, value in zip(_device.LAUNCHER, (2, 2, 4, "host", 1), strict=True):
        monkeypatch.setenv(name, str(value))
    assert launched_processes() == check_devices("cpu", 1) == check_devices("cpu", 4) == 4
    assert not _device.is_first_process()
    with pytest.raises(ValueError, match="devices=2 contradicts the launcher, which started 4 processes"):
        check_devices("cpu", 2)


def test_repeatable_kernels_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users that overlap, as threads do: the setting stays until the second has left."""
    monkeypatch.delenv(_device.WORKSPACE, raising=False)
    first, second = repeatable("cuda"), repeatable("cuda:1")
    with repeatable("cpu"):
        assert not torch.are_deterministic_algorithms_enabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[_device.WORKSPACE] == ":4096:8"
    second.__exit__(None, None, None)
    assert not torch.are_deterministic_algorithms_enabled()
    assert _device.WORKSPACE not in os.environ


@pytest.mark.parametrize("n_threads", [1, 3])
def test_side_by_side_is_one_after_another(n_threads: int) -> None:
    """On as many threads as there were, in the order of the items, with all of them back at the end."""
    before, at_work = torch.get_num_threads(), set()

    def work(item: int) -> int:
        at_work.add(threading.get_ident())
        time.sleep(0.01)
        return item**2

    torch.set_num_threads(n_threads)
    try:
        with one_thread():
            assert list(side_by_side(work, range(12))) == [item**2 for item in range(12)]
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert len(at_work) == n_threads
    assert not any(thread.ident in at_work for thread in threading.enumerate() if thread is not threading.main_thread())


def test_what_fails_side_by_side_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 // item, [1, 0, 2]))
    assert list(side_by_side(abs, [])) == []


@contextmanager
def threads(n: int) -> Iterator[None]:
    """As many threads of PyTorch for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("alone", [{"n_rows": 100}, {"device": "meta"}], ids=["few rows", "not on the CPU"])
def test_what_is_no_work_for_several_threads_stays_on_one(alone: dict) -> None:
    with threads(3):
        own = list(side_by_side(lambda _: threading.get_ident(), range(6), **alone))
    assert set(own) == {threading.get_ident()}


@pytest.mark.parametrize("inference", [False, True])
def test_threads_are_in_the_mode_of_the_caller(inference: bool) -> None:
    with threads(2):
        with torch.inference_mode(inference):
            total = torch.zeros(4)
            assert list(side_by_side(lambda i: total[i : i + 1].add_(i) is None, range(4))) == [False] * 4
    assert total.tolist() == [0, 1, 2, 3]


def test_threads_do_not_start_threads() -> None:
    """What is done side by side on a thread that is one of several is done on it alone."""

    def outer(_: int) -> set[int]:
        time.sleep(0.01)
        return {threading.get_ident(), *side_by_side(lambda _: threading.get_ident(), range(4))}

    with threads(3):
        seen = list(side_by_side(outer, range(6)))
    assert all(len(own) == 1 for own in seen)
    assert len(set.union(*seen)) > 1
