"""A fixed number of places for the rows of every group, so that batches of any composition have the same shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Places beyond the expected number of rows: standard deviations, and some more for groups of which few are expected.
DEVIATIONS, MORE = 5.0, 4
# Their number is a multiple, as products like it.
MULTIPLE = 16


class _Move(torch.autograd.Function):
    """Rows to other places, and gradients back: both are look-ups, which repeat themselves where sums would not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, mask)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        back, mask = ctx.saved_tensors
        (up,) = gradients
        out = up.index_select(0, back)
        if mask is not None:
            out = out * mask.to(out.dtype).view(-1, *[1] * (out.ndim - 1))
        return out, None, None, None


@dataclass(frozen=True)
class Slots:
    """Where the rows of one batch stand. Places that no row has repeat one of the rows, and count for nothing.

    Parameters
    ----------
    row
        Row of the batch in every place, shape (n_places,).
    mask
        Whether a place has a row of its own, 1 or 0, shape (n_places, 1).
    place
        Place of every row, shape (n_rows,).
    sizes
        Places of every group, one group after the other.
    """

    row: Tensor
    mask: Tensor
    place: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device) -> Slots:
        """Slots of one batch, ordered by group, as many for every group as the largest needs."""
        sizes = (max(counts),) * len(counts)
        parts = arrange(np.array([counts]), sizes)
        row, mask, place = (torch.from_numpy(part[0]).to(device) for part in parts)
        return cls(row, mask, place, sizes)

    def fill(self, x: Tensor) -> Tensor:
        """Rows in their places, shape (n_rows, …) to (n_places, …)."""
        return _Move.apply(x, self.row, self.place, None)

    def empty(self, y: Tensor) -> Tensor:
        """Rows out of their places, shape (n_places, …) to (n_rows, …)."""
        return _Move.apply(y, self.place, self.row, self.mask)


def arrange(
    counts: NDArray[np.int64], sizes: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """`row`, `mask` and `place` of several batches, ordered by group, shape (n_batches, …) each.

    Parameters
    ----------
    counts
        Rows of every group in every batch, shape (n_batches, n_groups).
    sizes
        Places of every group; no fewer than rows.
    """
    n_rows = int(counts[0].sum())
    first = np.cumsum(counts, 1) - counts
    start = np.cumsum(sizes) - sizes
    group = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(group)) - start[group]
    row = np.minimum(first[:, group] + within, n_rows - 1)
    mask = (within < counts[:, group]).astype(np.float32)[..., None]
    groups_of_rows = (np.arange(n_rows)[None, :, None] >= (first + counts)[:, None, :]).sum(2)
    batch = np.arange(len(counts))[:, None]
    place = start[groups_of_rows] + np.arange(n_rows) - first[batch, groups_of_rows]
    return row, mask, place


def enough(group_sizes: NDArray[np.int64], batch_size: int, *, equal: bool) -> tuple[int, ...]:
    """Places of every group that hardly any random batch exceeds; they follow from the data, not from the batches.

    Parameters
    ----------
    group_sizes
        Cells of every group.
    batch_size
        Cells of a batch.
    equal
        Whether all groups are to have as many.
    """
    share = group_sizes / group_sizes.sum()
    wanted = batch_size * share + DEVIATIONS * np.sqrt(batch_size * share * (1 - share)) + MORE
    most = np.minimum(np.minimum(MULTIPLE * np.ceil(wanted / MULTIPLE), batch_size), group_sizes)
    sizes = tuple(max(int(size), 1) for size in most)
    return (max(sizes),) * len(sizes) if equal else sizes
