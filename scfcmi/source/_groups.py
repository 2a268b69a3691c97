"""The sensitive attribute: one integer code per cell, and the names behind the codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scfcmi._warn import warn

# A numeric column with more distinct values than this is a measurement (depth, age), not a grouping.
MAX_NUMERIC_LEVELS = 50


@dataclass(frozen=True)
class Groups:
    """Sensitive attribute of every cell.

    Parameters
    ----------
    codes
        Position in `levels` for each cell, shape (n_cells,).
    levels
        Names of the groups in sorted order.
    """

    codes: NDArray[np.int64]
    levels: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of groups."""
        return len(self.levels)

    @property
    def values(self) -> NDArray[np.str_]:
        """Name of each cell's group, shape (n_cells,)."""
        return np.array(self.levels)[self.codes]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Cells per group, shape (n_groups,)."""
        return np.bincount(self.codes, minlength=self.n)

    def encode(self, values: ArrayLike, name: str = "groups") -> NDArray[np.int64]:
        """Code other cells' values by these levels; an unknown value is an error."""
        values = pd.Series(np.asarray(values)).astype(str)
        codes = pd.Index(self.levels).get_indexer(pd.Index(values))
        if (codes < 0).any():
            unknown = sorted(set(values[codes < 0]))
            msg = f"{name} has values that the model was not fitted with: {unknown}; known are {list(self.levels)}."
            raise ValueError(msg)
        return codes.astype(np.int64)


def read_groups(values: ArrayLike | Groups, name: str = "groups") -> Groups:
    """Validate and encode a sensitive attribute.

    Parameters
    ----------
    values
        One value per cell, shape (n_cells,): categorical, strings, booleans or few-valued numbers. Groups that were
        read before are returned as they are.
    name
        What messages call it.

    Returns
    -------
    Codes and levels. Unused categories are dropped.

    Raises
    ------
    ValueError
        If values are missing, if there is only one group, or if the attribute is a continuous measurement.
    """
    if isinstance(values, Groups):
        return values
    column = pd.Series(values).reset_index(drop=True)
    n_missing = int(column.isna().sum())
    if n_missing:
        msg = (
            f"{name} has {n_missing} missing values (first at position {int(np.flatnonzero(column.isna())[0])}). "
            "Drop these cells, or give them a group of their own."
        )
        raise ValueError(msg)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        n_levels = column.nunique()
        if n_levels > MAX_NUMERIC_LEVELS:
            msg = (
                f"{name} is numeric with {n_levels} distinct values, so it looks like a measurement, not a grouping. "
                "Bin it first, e.g. with `pandas.qcut`, or convert it to strings if the numbers are names."
            )
            raise ValueError(msg)
    codes, levels = pd.factorize(column.astype(str), sort=True)
    if len(levels) < 2:
        msg = (
            f"{name} has a single group, {list(levels)}: there is nothing to be fair about. "
            "Choose a column with two or more groups, or use ordinary clustering (e.g. `scanpy.tl.leiden`)."
        )
        raise ValueError(msg)
    groups = Groups(codes.astype(np.int64), tuple(str(level) for level in levels))
    lonely = [level for level, count in zip(groups.levels, groups.counts, strict=True) if count == 1]
    if lonely:
        msg = f"{name} has groups of a single cell: {lonely}. They are kept, but nothing can be learned about them."
        warn(msg)
    return groups
