"""Devices and precisions, given as strings."""

from __future__ import annotations

import pytest
import torch

from scfcmi.train import make_fabric, one_thread, resolve_device


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


def test_fabric() -> None:
    fabric = make_fabric("cpu", "bf16-mixed")
    assert fabric.device == torch.device("cpu")
    assert fabric.world_size == 1
    with pytest.raises(ValueError, match="precision='32' is unknown: use one of"):
        make_fabric("cpu", "32")


def test_one_thread_for_a_while() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before
