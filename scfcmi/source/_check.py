"""Whether values can be clustered: looked at block by block, in the walk that reads them anyway."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from scfcmi._warn import warn

from ._storage import Block

# Beyond this, squares summed over cells no longer fit single precision, and nobody has measured such numbers.
LARGEST = 1e15


class FiniteCheck:
    """Nothing is missing, infinite, or beyond what can be computed with.

    Parameters
    ----------
    where
        What messages call the matrix.
    names
        Names of all its columns, where they have any.
    columns
        Positions of the columns that are looked at; all of them when absent.
    """

    def __init__(
        self, where: str, names: Sequence[str] | None = None, columns: NDArray[np.int64] | None = None
    ) -> None:
        self.where, self.names, self.columns = where, names, columns

    @property
    def empty(self) -> NDArray[np.int64]:
        """Positions of the cells seen that have no values to tell them by."""
        return np.empty(0, np.int64)

    def see(self, rows: slice, block: Block) -> None:
        """Look at some rows; wrong values are an error."""
        values = _values(block)
        # NaN if any value is, and then it is not within the bounds.
        if values.size and not (-LARGEST <= values.min() and values.max() <= LARGEST):
            values = block.toarray() if sp.issparse(block) else block
            wrong = ~np.isfinite(values)
            what, instead = "NaN or infinite values", "Remove or impute them"
            if not wrong.any():
                wrong = np.abs(values) > LARGEST
                what, instead = f"values beyond {LARGEST:.0e}", "Rescale or remove them"
            row, column = np.argwhere(wrong)[0].tolist()
            value = values[row, column]
            column = column if self.columns is None else int(self.columns[column])
            msg = (
                f"{self.where} has {what} (first {value:.3g} in the cell at position {row + rows.start}, column "
                f"{column if self.names is None else self.names[column]!r}; what single precision cannot hold counts "
                f"as infinite). {instead} before clustering."
            )
            raise ValueError(msg)

    def finish(self) -> None:
        """Say what can only be said after the last row."""


class ExpressionCheck(FiniteCheck):
    """Finite, non-negative, and not raw counts; cells without any value are counted.

    Parameters
    ----------
    where, names, columns
        As for finite values.
    instead
        What to do if the matrix turns out to be scaled, as a sentence.
    """

    def __init__(
        self,
        where: str,
        names: Sequence[str] | None = None,
        columns: NDArray[np.int64] | None = None,
        instead: str = "",
    ) -> None:
        super().__init__(where, names, columns)
        self._instead = instead
        self._all_integer, self._largest, self._n_cells = True, 0.0, 0
        self._empty: list[NDArray[np.int64]] = []

    @property
    def empty(self) -> NDArray[np.int64]:
        """Positions of the cells seen that have no values to tell them by."""
        return np.concatenate([super().empty, *self._empty])

    def see(self, rows: slice, block: Block) -> None:
        """Look at some rows; wrong values are an error."""
        super().see(rows, block)
        values = _values(block)
        if values.size:
            lowest = float(values.min())
            if lowest < 0:
                msg = (
                    f"{self.where} has negative values (smallest {lowest:.3g}), so it is not log-normalised "
                    f"expression. {self._instead}"
                )
                raise ValueError(msg)
            self._largest = max(self._largest, float(values.max()))
            self._all_integer = self._all_integer and bool((values == np.rint(values)).all())
        self._n_cells += block.shape[0]
        self._empty.append(np.flatnonzero(np.asarray(block.sum(axis=1)).ravel() == 0) + rows.start)

    def finish(self) -> None:
        """Say what can only be said after the last row."""
        n_empty = len(self.empty)
        if n_empty == self._n_cells:
            msg = f"{self.where} has no value other than 0 in the genes in use: there is nothing to cluster by."
            raise ValueError(msg)
        if n_empty:
            msg = (
                f"{self.where} has {n_empty} cells without counts in the genes in use (first at position "
                f"{int(self.empty[0])}): nothing is known about them, and their cluster says nothing. Select more "
                "genes, or remove them with `sc.pp.filter_cells(adata, min_counts=1)`."
            )
            warn(msg)
        if self._all_integer and self._largest > 1:
            msg = (
                f"{self.where} holds integers, probably raw counts, where log-normalised values are expected. "
                "Run `sc.pp.normalize_total(adata)` and `sc.pp.log1p(adata)` first, or choose a log-normalised `layer`."
            )
            warn(msg)


def _values(block: Block) -> NDArray[np.float32]:
    return block.data if sp.issparse(block) else block
