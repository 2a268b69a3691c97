"""How rows come out of every kind of storage: in memory, in files by rows or by columns, lazy, in several pieces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata.io import sparse_dataset
from numpy.typing import NDArray

# A float32 array or `csr_matrix`; SciPy has no types that say so.
Block: TypeAlias = Any

# Entries of a matrix stored by columns that are turned into rows at once, and that are looked at in one piece.
STRIP_ENTRIES, PIECE_ENTRIES = 2**24, 2**22
# Rows of a file are read with all rows between them, unless fewer than one in so many is wanted.
GAP = 64


class Storage:
    """Rows of a matrix, restricted to some columns: the part of a source that depends on where the values are.

    Parameters
    ----------
    matrix
        What is stored, shape (n_cells, n_columns).
    columns
        Positions of the columns to keep, in this order; all of them when absent.
    """

    in_memory = False

    def __init__(self, matrix: Any, columns: NDArray[np.int64] | None) -> None:
        self.matrix, self.columns = matrix, columns
        self.n_rows = int(matrix.shape[0])
        self.n_columns = int(matrix.shape[1]) if columns is None else len(columns)

    def read(self, first: int, last: int) -> Block:
        """Consecutive rows, from `first` up to `last`."""
        return self._cut(self.matrix[first:last])

    def pick(self, index: NDArray[np.int64], step: int) -> Block:
        """Rows in increasing order, read `step` or fewer at a time, together with what lies between them."""
        parts = []
        for near in np.split(index, np.flatnonzero(np.diff(index // step)) + 1):
            first, last = int(near[0]), int(near[-1]) + 1
            few = len(near) * GAP < last - first
            parts.append(self._cut(self.matrix[near]) if few else self.read(first, last)[near - first])
        return stack(parts)

    def strips(self, step: int) -> Iterator[tuple[int, int]]:
        """Bounds between which rows are read together when all are walked through; `step` rows unless more are due."""
        return pairwise([*range(0, self.n_rows, step), self.n_rows])

    def _cut(self, block: Any) -> Block:
        block = as_block(block)
        return block if self.columns is None else as_block(block[:, self.columns])


class InMemory(Storage):
    """Arrays and CSR matrices."""

    in_memory = True

    def pick(self, index: NDArray[np.int64], step: int) -> Block:
        """Rows in any order."""
        return self._cut(self.matrix[index])


class ByColumns(Storage):
    """CSC matrices, in memory or on disk, of which a row cannot be cut without going through all columns.

    Rows are cut in strips of a fixed number of entries, one walk over the columns per strip, so that memory is bounded;
    a matrix that is one strip is kept as rows once it has been read. Columns that are not wanted are not read.
    """

    def __init__(self, matrix: Any, columns: NDArray[np.int64] | None) -> None:
        super().__init__(matrix, columns)
        self.in_memory = sp.issparse(matrix)
        indptr = np.asarray(matrix.indptr if sp.issparse(matrix) else matrix.group["indptr"][:]).astype(np.int64)
        wanted = np.arange(matrix.shape[1]) if columns is None else columns
        self._wanted, self._order = np.unique(wanted, return_inverse=True)
        self._sizes = np.diff(indptr)[self._wanted]
        self.n_strips = max(1, int(-(-self._sizes.sum() // STRIP_ENTRIES)))
        self._kept: sp.csr_matrix | None = None

    def read(self, first: int, last: int) -> Block:
        if self.n_strips > 1:
            return self._rows(slice(first, last))
        if self._kept is None:
            self._kept = self._rows(slice(None))
        return self._kept[first:last]

    def pick(self, index: NDArray[np.int64], step: int) -> Block:
        return self._rows(index) if self.n_strips > 1 else self.read(0, self.n_rows)[index]

    def strips(self, step: int) -> Iterator[tuple[int, int]]:
        return super().strips(step if self.n_strips == 1 else -(-self.n_rows // self.n_strips))

    def _rows(self, index: NDArray[np.int64] | slice) -> sp.csr_matrix:
        pieces = [single(canonical(sp.csc_matrix(piece[index]))) for piece in self._pieces()]
        rows = sp.csr_matrix(sp.hstack(pieces, format="csr"))
        return as_block(rows if np.array_equal(self._order, np.arange(rows.shape[1])) else rows[:, self._order])

    def _pieces(self) -> Iterator[sp.csc_matrix]:
        """Runs of neighbouring columns that are wanted, none of them large."""
        piece = np.cumsum(self._sizes) // PIECE_ENTRIES
        for run in np.split(self._wanted, np.flatnonzero((np.diff(self._wanted) > 1) | (np.diff(piece) > 0)) + 1):
            yield self.matrix[:, int(run[0]) : int(run[-1]) + 1]


class Lazy(Storage):
    """Dask arrays, with dense or sparse chunks; chunks are computed whole, so they are walked through whole."""

    def __init__(self, matrix: Any, columns: NDArray[np.int64] | None) -> None:
        if not all(np.isfinite(size) for size in matrix.shape):
            msg = f"The dask array has the unknown shape {matrix.shape}. Run its `compute_chunk_sizes()` first."
            raise ValueError(msg)
        super().__init__(matrix if columns is None else matrix[:, columns], None)
        self._edges = np.concatenate([[0], np.cumsum(matrix.chunks[0])])

    def read(self, first: int, last: int) -> Block:
        return as_block(self.matrix[first:last].compute())

    def pick(self, index: NDArray[np.int64], step: int) -> Block:
        return as_block(self.matrix[index].compute())

    def strips(self, step: int) -> Iterator[tuple[int, int]]:
        if self.matrix.numblocks[0] == 1:  # stored by columns: rows cannot be had without computing every chunk
            # Of sparse chunks, about one value in sixteen is taken to be there.
            entries = STRIP_ENTRIES * (16 if sp.issparse(self.matrix._meta) else 1)
            return super().strips(max(step, entries // max(1, self.n_columns)))
        bounds = [0]  # whole chunks, as many as make up a step
        for edge in self._edges[1:].tolist():
            if edge - bounds[-1] >= step or edge == self.n_rows:
                bounds.append(edge)
        return pairwise(bounds)


class Pieces(Storage):
    """Several storages, one below the other."""

    def __init__(self, pieces: list[Storage]) -> None:
        self.pieces = pieces
        self._edges = np.concatenate([[0], np.cumsum([piece.n_rows for piece in pieces])])
        self.n_rows, self.n_columns = int(self._edges[-1]), pieces[0].n_columns

    def read(self, first: int, last: int) -> Block:
        return stack(
            [
                piece.read(max(first - start, 0), min(last, stop) - start)
                for piece, (start, stop) in zip(self.pieces, pairwise(self._edges.tolist()), strict=True)
                if start < last and first < stop
            ]
        )

    def pick(self, index: NDArray[np.int64], step: int) -> Block:
        parts = np.split(index, np.searchsorted(index, self._edges[1:-1]))
        return stack(
            [
                piece.pick(part - start, step)
                for piece, part, start in zip(self.pieces, parts, self._edges[:-1], strict=True)
                if len(part)
            ]
        )

    def strips(self, step: int) -> Iterator[tuple[int, int]]:
        for piece, start in zip(self.pieces, self._edges[:-1].tolist(), strict=True):
            yield from ((start + first, start + last) for first, last in piece.strips(step))


def storage_of(matrix: Any, columns: NDArray[np.int64] | None) -> Storage:
    """Find out what a matrix is stored in."""
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    if getattr(matrix, "format", None) == "csc":
        return ByColumns(matrix, columns)
    if sp.issparse(matrix) or isinstance(matrix, np.ndarray):
        return InMemory(matrix, columns)
    if comes_from(matrix, "annbatch"):
        return Pieces([storage_of(element(group["X"]), columns) for group in matrix])
    return (Lazy if comes_from(matrix, "dask") else Storage)(matrix, columns)


def comes_from(value: Any, library: str) -> bool:
    """Whether a value is of a class of this library, which need not be installed."""
    return any(base.__module__.partition(".")[0] == library for base in type(value).__mro__)


def element(stored: Any) -> Any:
    """A matrix as it lies in a store, `h5py` or `zarr`, as something that slices by rows."""
    return stored if hasattr(stored, "shape") else sparse_dataset(stored)


def as_block(rows: Any) -> Block:
    """Rows as float32, sparse ones as CSR, in which every value stands once."""
    if isinstance(rows, np.ma.MaskedArray):
        rows = np.ma.filled(single(rows), np.nan)
    rows = canonical(sp.csr_matrix(rows)) if sp.issparse(rows) else np.asarray(rows)
    return single(rows)


def single(rows: Any) -> Any:
    """Rows in single precision; what that has no room for becomes infinite, which is found and said."""
    with np.errstate(over="ignore"):
        return rows.astype(np.float32, copy=False)


def canonical(matrix: Any) -> Any:
    """A compressed matrix without two entries in one place, whose values are one value: their sum."""
    if matrix.has_canonical_format:
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    return matrix


def check_numeric(matrix: Any, where: str) -> None:
    """Refuse what is not a matrix of numbers."""
    if not hasattr(matrix, "shape"):
        msg = f"{where} is not a matrix but {type(matrix).__name__}."
        raise TypeError(msg)
    if len(matrix.shape) != 2:
        msg = f"{where} must be a matrix with two dimensions (cells × features), not shape {tuple(matrix.shape)}."
        raise ValueError(msg)
    if matrix.shape[1] == 0:
        msg = f"{where} has no columns."
        raise ValueError(msg)
    dtype = getattr(matrix, "dtype", np.float32)
    if np.dtype(dtype).kind not in "biuf":
        msg = f"{where} must hold numbers, not {dtype}."
        raise TypeError(msg)


def stack(parts: list[Block]) -> Block:
    """Blocks one below the other."""
    if len(parts) == 1:
        return parts[0]
    return sp.csr_matrix(sp.vstack(parts, format="csr")) if sp.issparse(parts[0]) else np.concatenate(parts)
