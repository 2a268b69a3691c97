"""One small interface over every kind of matrix: rows come out in float32 blocks, sparse ones stay sparse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

# A float32 array or `csr_matrix`; SciPy has no types that say so.
Block: TypeAlias = Any

CHUNK_BYTES = 64 * 2**20


class MatrixSource:
    """Rows of a dense, CSR, CSC or on-disk matrix, restricted to some columns.

    Parameters
    ----------
    matrix
        NumPy array, SciPy sparse matrix or array, or an object on disk that slices by rows (`h5py.Dataset`, AnnData's
        backed sparse dataset, `zarr.Array`), shape (n_cells, n_columns).
    columns
        Boolean mask or positions of the columns to keep; all of them when absent.
    """

    def __init__(self, matrix: Any, columns: NDArray[Any] | None = None) -> None:
        if sp.issparse(matrix) and matrix.format != "csr":
            matrix = matrix.tocsr()  # rows of a CSC matrix cannot be cut without walking all of it
        self._matrix = matrix
        self._columns = np.flatnonzero(columns) if columns is not None and columns.dtype == bool else columns
        n_columns = matrix.shape[1] if self._columns is None else len(self._columns)
        self.shape: tuple[int, int] = (int(matrix.shape[0]), int(n_columns))

    @property
    def in_memory(self) -> bool:
        """Whether rows can be cut without reading from disk."""
        return isinstance(self._matrix, np.ndarray) or sp.issparse(self._matrix)

    def rows(self, index: NDArray[np.int64] | slice) -> Block:
        """Cut rows in the order asked for, as float32; sparse stays sparse."""
        if self.in_memory or isinstance(index, slice):
            block = self._matrix[index]
        else:  # files want increasing positions, each once
            increasing, back = np.unique(index, return_inverse=True)
            block = self._matrix[increasing][back]
        return self._finish(block)

    def _finish(self, block: Any) -> Block:
        if sp.issparse(block):
            block = sp.csr_matrix(block)
        else:
            block = np.asarray(block)
        if self._columns is not None:
            block = block[:, self._columns]
        return block.astype(np.float32, copy=False)

    def chunks(self, size: int | None = None) -> Iterator[tuple[slice, Block]]:
        """Walk through all rows in order, `size` at a time (by default as many as fill some tens of MB)."""
        if size is None:
            size = max(256, min(65_536, CHUNK_BYTES // (4 * max(self.shape[1], 1))))
        for start in range(0, self.shape[0], size):
            where = slice(start, min(start + size, self.shape[0]))
            yield where, self.rows(where)


def as_source(data: Any) -> MatrixSource:
    """Wrap an array, a table, a sparse matrix or an on-disk matrix; a source is returned as it is."""
    if isinstance(data, MatrixSource):
        return data
    if hasattr(data, "to_numpy"):
        data = data.to_numpy()
    elif not (hasattr(data, "shape") and hasattr(data, "__getitem__")):
        data = np.asarray(data)
    if len(data.shape) != 2:
        msg = f"The matrix must have two dimensions (cells × features), not shape {tuple(data.shape)}."
        raise ValueError(msg)
    return MatrixSource(data)


def dense(block: Block) -> NDArray[np.float32]:
    """Turn a small block into a plain array."""
    return block.toarray() if sp.issparse(block) else np.asarray(block)


def normalise_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Divide every row by its sum; empty rows stay empty."""
    return (sp.diags(1 / np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-12)) @ matrix).tocsr()
