"""The device has no memory for what is held at once: smaller pieces, a warning, the same result."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scfcmi import _device
from scfcmi._device import HALVINGS, pieces, rows_at_once, smaller_when_full
from scfcmi.model import FCMI
from scfcmi.registration import Mixture, Positions, _matches, _mixture, e_step


class SmallDevice(TorchDispatchMode):
    """A device on which no array has room that is larger than so many entries."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries, self.refused = entries, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found._base is None and found.numel() > self.entries:
            self.refused += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {found.nbytes} bytes. GPU 0 has none.")
        return found


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was found out about the device stays within a test."""
    monkeypatch.setattr(_device, "_room", _device._Room())
    yield


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    n, types = 3000, rng.integers(0, 6, 3000)
    groups = rng.choice(["a", "b", "c"], n)
    x = rng.poisson(np.exp(0.3 * rng.normal(size=(6, 40)))[types] * (1 + 0.2 * (groups == "a"))[:, None])
    return np.log1p(x).astype(np.float32), groups


def fit(cells: tuple[np.ndarray, np.ndarray]) -> FCMI:
    return FCMI(6, progress_bar=False, device="cpu").fit(*cells)


def test_a_fit_on_a_small_device_is_that_on_a_large_one(
    cells: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    # These tables are on the CPU wherever the rest is.
    monkeypatch.setattr(_matches, "BLOCK", 2**16)
    monkeypatch.setattr(_mixture, "TOGETHER", 2**14)
    large = fit(cells)
    # The positions of all cells have to be there; tables of cells and components are ten times as large.
    small = SmallDevice(int(1.05 * large.assignment_.embedding.size))
    with small, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = fit(cells)
        unknown = found.assign(cells[0])
    messages = [str(warning.message) for warning in said]
    assert small.refused
    assert messages and all("The device has no memory left (CUDA out of memory): going on" in m for m in messages)
    assert len(messages) == len(set(messages)), "what was found out is remembered"
    np.testing.assert_array_equal(found.labels_, large.labels_)
    np.testing.assert_allclose(found.assignment_.proba, large.assignment_.proba, atol=1e-4)
    np.testing.assert_allclose(found.assignment_.embedding, large.assignment_.embedding, atol=1e-3)
    np.testing.assert_allclose(unknown.proba, large.assign(cells[0]).proba, atol=1e-4)


def test_what_does_not_fit_together_is_passed_over_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    z, codes = torch.from_numpy(rng.normal(size=(2000, 6))), rng.integers(0, 3, 2000)
    positions = Positions.of(z, codes, 3)
    mixture = Mixture(
        means=z[:40],
        variances=torch.ones(40, dtype=torch.double),
        shares=torch.full((3, 40), 1 / 40, dtype=torch.double),
        moves=torch.zeros(3, 40, 6, dtype=torch.double),
        slopes=torch.zeros(0, 40, 6, dtype=torch.double),
        sizes=torch.full((3,), 1 / 3, dtype=torch.double),
    )
    together = e_step(mixture, positions, 0.0)
    with SmallDevice(13_000) as small, pytest.warns(UserWarning, match="going on with 1/"):
        in_chunks = e_step(mixture, positions, 0.0)
    assert small.refused
    for field in ("mass", "first", "second", "totals"):
        torch.testing.assert_close(getattr(together, field), getattr(in_chunks, field))


def test_no_room_for_the_cells_themselves_is_said(cells: tuple[np.ndarray, np.ndarray]) -> None:
    with (
        SmallDevice(3000),
        pytest.raises(MemoryError, match="no memory for the positions of 900 cells"),
    ):
        fit((cells[0][:900], cells[1][:900]))


def test_no_room_at_all_is_an_error_and_not_an_endless_loop() -> None:
    @smaller_when_full
    def work() -> None:
        raise torch.OutOfMemoryError("full")

    with pytest.warns(UserWarning) as said, pytest.raises(MemoryError, match="not even for 16 cells at once"):
        work()
    assert len(said) == HALVINGS
    assert rows_at_once(10**6) == 10**6, "the next call begins anew"


def test_work_is_done_again_in_smaller_pieces() -> None:
    seen: list[int] = []

    @smaller_when_full
    def work(n: int) -> list[slice]:
        seen.append(rows_at_once(n))
        if seen[-1] > 3000:
            raise torch.OutOfMemoryError("full")
        return pieces(n)

    with pytest.warns(UserWarning, match="no memory left"):
        found = work(20_000)
    assert seen == [20_000, 10_000, 5_000, 2_500]
    assert [piece.stop - piece.start for piece in found] == [2_500] * 8
    assert found[0].start == 0 and all(a.stop == b.start for a, b in zip(found, found[1:], strict=False))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 100_000])
def test_pieces_cover_all_rows(n: int) -> None:
    assert pieces(n) == [slice(0, n)]
    with pytest.warns(UserWarning, match="no memory left"):
        for _ in range(HALVINGS):
            _device._room.halve("full")
    found = pieces(n)
    assert found[0].start == 0 and found[-1].stop == n
    assert all(piece.stop - piece.start <= max(16, n >> HALVINGS) for piece in found)


def test_other_errors_are_not_tried_again() -> None:
    calls: list[int] = []

    @smaller_when_full
    def work() -> None:
        calls.append(1)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        work()
    assert calls == [1]
