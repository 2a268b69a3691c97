"""Rows on the device, in the range of the output; all from the start where they are few, otherwise batch by batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi.source import MatrixSource

# Rows that would take no more than this when dense are kept on the device.
RESIDENT_BYTES = {"cpu": 512 * 2**20, "cuda": 8 * 2**30}
# Rows that go through the network at once outside of training: few, where they have to stay in the cache.
PIECE = {"cpu": 512}
PIECE_ELSEWHERE = 8192
# Chunks of a matrix on disk whose number of rows is read ahead.
AHEAD = 4


@dataclass(frozen=True)
class Scaling:
    """How columns are brought to [−1, 1], the range of Tanh, at which the published network ends.

    Every column is mapped linearly, its smallest value in the cells of the fit to −1 and its largest to 1: the authors
    do so with pixels, whose range is known, and squeeze features, whose range is not, through a Tanh, which cannot be
    undone where it saturates. A line can: what is decoded comes back in the units of the input. A matrix whose values
    lie within [−1, 1] already is taken as it is, so that one can scale in another way before. Later cells may go
    beyond.

    Parameters
    ----------
    low, span
        What becomes −1, and how much becomes 2, shape (n_columns,).
    """

    low: Tensor
    span: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Bring rows to [−1, 1], shape (n_rows, n_columns)."""
        return (x - self.low.to(x)) * (2 / self.span.to(x)) - 1

    def undo(self, x: Tensor) -> Tensor:
        """Bring rows back to the units of the input, shape (n_rows, n_columns)."""
        return (x + 1) * (self.span.to(x) / 2) + self.low.to(x)


def measure(source: MatrixSource) -> tuple[Scaling, str]:
    """Find the scaling in one walk, together with a digest by which the matrix is known again."""
    n = source.shape[1]
    low, high, sums = np.full(n, np.inf, np.float32), np.full(n, -np.inf, np.float32), np.zeros(n)
    for _, block in source.chunks():
        low = np.minimum(low, _flat(block.min(axis=0)))
        high = np.maximum(high, _flat(block.max(axis=0)))
        sums += _flat(block.sum(axis=0, dtype=np.float64))
    digest = hashlib.blake2b(repr(source.shape).encode(), digest_size=16)
    for part in (low, high, sums):
        digest.update(part.tobytes())
    if low.min() >= -1 and high.max() <= 1:
        low, high = np.full_like(low, -1), np.ones_like(high)
    span = high - low
    return Scaling(torch.from_numpy(low), torch.from_numpy(np.where(span > 0, span, 1))), digest.hexdigest()


def dense(block: Any, device: torch.device | str) -> Tensor:
    """A block of rows as a dense tensor, shape (n_rows, n_columns); sparse ones are filled in on the device."""
    if not sp.issparse(block):
        block = np.ascontiguousarray(block, np.float32)
        return torch.from_numpy(block if block.flags.writeable else block.copy()).to(device)
    block = sp.csr_matrix(block, dtype=np.float32)
    block.sum_duplicates()
    out = torch.zeros(block.shape, dtype=torch.float32, device=device)
    rows = torch.from_numpy(np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))).to(device)
    columns = torch.from_numpy(block.indices.astype(np.int64)).to(device)
    out[rows, columns] = torch.from_numpy(block.data).to(device)
    return out


def piece(device: torch.device) -> int:
    """Rows that go through the network at once outside of training."""
    return PIECE.get(device.type, PIECE_ELSEWHERE)


class Rows:
    """The scaled rows of a source.

    Parameters
    ----------
    source, scaling
        Where they are, and how they are brought to [−1, 1].
    device, dtype
        Where they go, and as what.
    """

    def __init__(self, source: MatrixSource, scaling: Scaling, device: torch.device, dtype: torch.dtype) -> None:
        self._source, self.device, self.dtype = source, device, dtype
        self._scaling = Scaling(scaling.low.to(device), scaling.span.to(device))
        self._all: Tensor | None = None
        limit = RESIDENT_BYTES.get(device.type, RESIDENT_BYTES["cpu"])
        if source.in_memory and dtype.itemsize * math.prod(source.shape) <= limit:
            self._all = torch.empty(source.shape, dtype=dtype, device=device)
            for rows, block in source.chunks():
                self._all[rows] = self._scaled(block)

    @property
    def resident(self) -> Tensor | None:
        """All rows on the device, shape (n_rows, n_columns), if that is where they are."""
        return self._all

    def batches(self, order: NDArray[np.int64]) -> Iterator[Tensor]:
        """Rows of every batch, in the order given, shape (n_batches, batch_size) to (batch_size, n_columns) each."""
        if self._all is not None:
            index = torch.from_numpy(order).to(self.device)
            yield from (self._all[rows] for rows in index)
            return
        # To find random rows of a file one by one can take longer than to read all: those of many batches go together.
        together = 1 if self._source.in_memory else max(1, AHEAD * self._source.chunk_size // order.shape[1])
        for start in range(0, len(order), together):
            some = order[start : start + together]
            block = self._source.rows(some.ravel())
            for i in range(len(some)):
                yield self._scaled(block[i * order.shape[1] : (i + 1) * order.shape[1]])

    def pieces(self, first: int, last: int) -> Iterator[tuple[slice, Tensor]]:
        """Walk through consecutive rows."""
        step = piece(self.device)
        for start in range(first, last, step):
            rows = slice(start, min(start + step, last))
            yield rows, self._scaled(self._source.rows(rows)) if self._all is None else self._all[rows]

    def _scaled(self, block: Any) -> Tensor:
        return self._scaling.apply(dense(block, self.device).to(self.dtype))


def _flat(row: Any) -> NDArray[Any]:
    return np.asarray(row.toarray() if sp.issparse(row) else row).ravel()
