"""Whether values can be clustered: looked at block by block, in the walk that reads them anyway."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from scfcmi._warn import warn

from ._storage import Block


class FiniteCheck:
    """Nothing is missing or infinite.

    Parameters
    ----------
    where
        What messages call the matrix.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def see(self, rows: slice, block: Block) -> None:
        """Look at some rows; wrong values are an error."""
        # The sum is finite if and only if every value is (float32 sums of expression do not overflow in float64).
        with np.errstate(invalid="ignore"):  # infinities of both signs
            total = _values(block).sum(dtype=np.float64)
        if not np.isfinite(total):
            bad = ~np.isfinite(block.toarray() if sp.issparse(block) else block)
            row = int(np.flatnonzero(bad.any(axis=1))[0]) + rows.start
            msg = (
                f"{self.where} has NaN or infinite values (first in the cell at position {row}). "
                "Remove or impute them before clustering."
            )
            raise ValueError(msg)

    def finish(self) -> None:
        """Say what can only be said after the last row."""


class ExpressionCheck(FiniteCheck):
    """Finite, non-negative, no empty cells, and not raw counts.

    Parameters
    ----------
    where
        What messages call the matrix.
    all_genes
        Cuts rows with all genes, of which only some are looked at; absent if these are all.
    """

    def __init__(self, where: str, all_genes: Callable[[NDArray[np.int64]], Block] | None) -> None:
        super().__init__(where)
        self.all_genes = all_genes
        self._all_integer, self._largest = True, 0.0
        self._empty: list[NDArray[np.int64]] = []

    def see(self, rows: slice, block: Block) -> None:
        """Look at some rows; wrong values are an error."""
        super().see(rows, block)
        values = _values(block)
        if values.size:
            lowest = float(values.min())
            if lowest < 0:
                msg = (
                    f"{self.where} has negative values (smallest {lowest:.3g}), so it is not log-normalised "
                    "expression. If it was scaled, keep the log-normalised matrix in a layer and pass `layer`, "
                    "or cluster principal components with use_rep='X_pca'."
                )
                raise ValueError(msg)
            self._largest = max(self._largest, float(values.max()))
            self._all_integer = self._all_integer and bool((values == np.rint(values)).all())
        self._empty.append(np.flatnonzero(np.asarray(block.sum(axis=1)).ravel() == 0) + rows.start)

    def finish(self) -> None:
        """Say what can only be said after the last row."""
        empty = np.concatenate(self._empty)
        if len(empty):
            self._refuse_empty(empty)
        if self._all_integer and self._largest > 1:
            msg = (
                f"{self.where} holds integers, probably raw counts, where log-normalised values are expected. "
                "Run `sc.pp.normalize_total(adata)` and `sc.pp.log1p(adata)` first, or choose a log-normalised `layer`."
            )
            warn(msg)

    def _refuse_empty(self, empty: NDArray[np.int64]) -> None:
        totals = np.zeros(len(empty)) if self.all_genes is None else self.all_genes(empty).sum(axis=1)
        totals = np.asarray(totals).ravel()
        if (totals == 0).any():
            first = int(empty[totals == 0][0])
            msg = (
                f"{self.where} has {int((totals == 0).sum())} all-zero cells (first at position {first}). "
                "Remove them first with `sc.pp.filter_cells(adata, min_counts=1)`."
            )
            raise ValueError(msg)
        msg = (
            f"{len(empty)} cells have no counts in the selected genes (first at position {int(empty[0])}); "
            "their cluster says nothing. Select more genes or remove these cells."
        )
        warn(msg)


def _values(block: Block) -> NDArray[np.float32]:
    return block.data if sp.issparse(block) else block
