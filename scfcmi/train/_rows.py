"""Training rows on the device: all of them from the start where they are few, otherwise batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi.source import MatrixSource
from scfcmi.source._storage import Block
from scfcmi.source._tensors import as_tensor, dense_tensor

# Rows that would take no more than this when dense are kept on the device.
RESIDENT_BYTES = 64 * 2**20
# Chunks of a matrix on disk whose number of rows is read ahead.
AHEAD = 4

Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


class DeviceRows:
    """The rows of a source, by batches.

    Parameters
    ----------
    source
        Where they are.
    device, dtype
        Where they go, and as what.
    """

    def __init__(self, source: MatrixSource, device: torch.device, dtype: torch.dtype) -> None:
        self._source, self._device, self._dtype = source, device, dtype
        self._all: Tensor | None = None
        if source.in_memory and 4 * math.prod(source.shape) <= RESIDENT_BYTES:
            self._all = self._dense(source.rows(slice(None)))

    def walk(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Positions, weights and dense rows of every batch, shape (n,), (n,) and (n, n_columns)."""
        for rows, weights, block in self._read(iter(batches)):
            index = as_tensor(rows, self._device)
            x = self._dense(block) if self._all is None else self._all[index]
            yield index, as_tensor(weights, self._device).to(self._dtype), x

    def _read(self, batches: Iterator[Batch]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], Block]]:
        if self._source.in_memory:
            for rows, weights in batches:
                yield rows, weights, None if self._all is not None else self._source.rows(rows)
            return
        # To find random rows of a file one by one can take longer than to read all: those of many batches go together.
        while some := list(_up_to(batches, AHEAD * self._source.chunk_size)):
            block, start = self._source.rows(np.concatenate([rows for rows, _ in some])), 0
            for rows, weights in some:
                yield rows, weights, block[start : start + len(rows)]
                start += len(rows)

    def _dense(self, block: Block) -> Tensor:
        return dense_tensor(block, self._device).to(self._dtype)


def _up_to(batches: Iterator[Batch], n_rows: int) -> Iterator[Batch]:
    """Batches until they have so many rows together."""
    n = 0
    while n < n_rows and (batch := next(batches, None)) is not None:
        n += len(batch[0])
        yield batch
