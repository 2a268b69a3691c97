"""One small interface over every kind of matrix: rows come out in float32 blocks, sparse ones stay sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from ._check import FiniteCheck
from ._storage import Block, check_numeric, comes_from, element, stack, storage_of

CHUNK_BYTES = 64 * 2**20


class MatrixSource:
    """Rows of a matrix in memory, on disk or yet to be computed, restricted to some columns.

    Reading is what takes time on disk, so everything that needs all rows, or a sample from all over the matrix, walks
    through them once (:meth:`chunks`, :meth:`gather`), and :meth:`rows` is for a few.

    Parameters
    ----------
    matrix
        Whatever slices by rows, shape (n_cells, n_columns): NumPy array, SciPy sparse matrix or array, `h5py.Dataset`,
        `zarr.Array`, AnnData's sparse dataset, dask array, or an annbatch collection. Those stored by columns are read
        once for every so many million entries per walk.
    columns
        Boolean mask or positions of the columns to keep; all of them when absent.
    check
        Makes something that looks at all values of such columns. It does so in the first complete walk.
    """

    def __init__(
        self,
        matrix: Any,
        columns: NDArray[Any] | None = None,
        check: Callable[[NDArray[np.int64] | None], FiniteCheck] | None = None,
    ) -> None:
        self._matrix, self._check = matrix, check
        self._columns = np.flatnonzero(columns) if columns is not None and columns.dtype == bool else columns
        self._empty = np.empty(0, np.int64)
        self._storage = storage_of(matrix, self._columns)
        self.shape: tuple[int, int] = (self._storage.n_rows, self._storage.n_columns)

    @property
    def in_memory(self) -> bool:
        """Whether rows can be cut without reading from disk."""
        return self._storage.in_memory

    @property
    def empty(self) -> NDArray[np.int64]:
        """Positions of the cells that have no value other than 0 where there should be one, in increasing order.

        They are known after the first walk; if there was none, this is it.
        """
        self.settle()
        return self._empty

    @property
    def chunk_size(self) -> int:
        """Rows of a chunk: as many as would fill some tens of MB if they were dense, the same for any storage."""
        return max(256, min(65_536, CHUNK_BYTES // (4 * max(self.shape[1], 1))))

    def restricted(self, columns: NDArray[Any]) -> MatrixSource:
        """The same matrix with other columns."""
        return MatrixSource(self._matrix, columns, self._check)

    def rows(self, index: NDArray[np.int64] | slice) -> Block:
        """Cut a few rows in the order asked for, as float32; sparse stays sparse."""
        if isinstance(index, slice):
            first, last, _ = index.indices(self.shape[0])
            return self._storage.read(first, last)
        if self.in_memory:
            return self._storage.pick(index, self.chunk_size)
        # Files want increasing positions, each once.
        increasing, back = np.unique(index, return_inverse=True)
        block = self._storage.pick(increasing, self.chunk_size)
        return block if np.array_equal(increasing, index) else block[back]

    def gather(self, index: NDArray[np.int64]) -> Block:
        """Cut rows in increasing order. If values are still to be checked, this walk does it."""
        if self._check is None:
            return self.rows(index)
        parts = []
        for where, block in self.chunks():
            first, last = np.searchsorted(index, [where.start, where.stop])
            if first < last:
                parts.append(block[index[first:last] - where.start])
        return stack(parts)

    def settle(self) -> None:
        """Check the values now, if that is still to be done."""
        if self._check is not None:
            for _ in self.chunks():
                pass

    def chunks(self, size: int | None = None) -> Iterator[tuple[slice, Block]]:
        """Walk through all rows in order, `size` at a time; storage is read in whatever strips suit it."""
        check = None if self._check is None else self._check(self._columns)
        for rows, block in self._cut_into(size or self.chunk_size):
            if check is not None:
                check.see(rows, block)
            yield rows, block
        if check is not None:
            check.finish()
            self._check, self._empty = None, check.empty

    def _cut_into(self, size: int) -> Iterator[tuple[slice, Block]]:
        start = 0
        rest: list[Block] = []  # read, but too few for a block
        for first, last in self._storage.strips(size):
            strip = self._storage.read(first, last)
            strip, rest = stack([*rest, strip]), []
            for at in range(0, strip.shape[0], size):
                block = strip if strip.shape[0] <= size else strip[at : at + size]
                n = block.shape[0]
                if n < size and last < self.shape[0]:
                    rest = [block]
                    break
                yield slice(start, start + n), block
                start += n


def as_source(data: Any, name: str = "X") -> MatrixSource:
    """Wrap an array, a table, a sparse, on-disk or lazy matrix, to be checked for finite values in its first walk.

    A source is returned as it is.
    """
    if isinstance(data, MatrixSource):
        return data
    names = None
    if hasattr(data, "columns"):
        names, data = numbers_of(data, name)
    elif hasattr(data, "to_numpy"):
        data = data.to_numpy()
    elif comes_from(data, "h5py") or comes_from(data, "zarr"):
        data = element(data)
    elif comes_from(data, "annbatch"):
        return MatrixSource(data, check=lambda columns: FiniteCheck(name, None, columns))
    elif not hasattr(data, "shape"):
        data = np.asarray(data)
    check_numeric(data, name)
    return MatrixSource(data, check=lambda columns: FiniteCheck(name, names, columns))


def numbers_of(table: pd.DataFrame, name: str) -> tuple[list[str], NDArray[np.float64]]:
    """Names and values of a table's columns, which are NaN where they are missing."""
    names = [str(column) for column in table.columns]
    values = np.empty(table.shape)
    for i, column in enumerate(names):
        series = table.iloc[:, i]
        if not pd.api.types.is_numeric_dtype(series):
            msg = f"Column {column!r} of {name} must hold numbers, not {series.dtype}."
            raise TypeError(msg)
        values[:, i] = series.to_numpy(np.float64, na_value=np.nan)
    return names, values


def dense(block: Block) -> NDArray[np.float32]:
    """Turn a small block into a plain array."""
    return block.toarray() if sp.issparse(block) else np.asarray(block)


def unit_rows(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; those of no length stay at zero."""
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def normalise_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Divide every row by its sum; empty rows stay empty."""
    return (sp.diags(1 / np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-12)) @ matrix).tocsr()
