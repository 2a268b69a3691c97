"""Sensitive attributes: one integer code per cell, and the names behind the codes.

Several attributes are one grouping by the combinations that occur; every attribute says which level each has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scfcmi._levels import as_column, level_names, meet, named_levels, natural_order
from scfcmi._warn import warn

# A numeric column with more distinct values than this is a measurement (depth, age), not a grouping.
MAX_NUMERIC_LEVELS = 50
# Stands between the levels of several attributes in the name of a combination.
BETWEEN = " | "


@dataclass(frozen=True)
class Factor:
    """One attribute, as the groups see it.

    Parameters
    ----------
    name
        What it is called.
    levels
        Names of its levels in natural order.
    of_group
        Level of every group, shape (n_groups,).
    """

    name: str
    levels: tuple[str, ...]
    of_group: NDArray[np.int64]

    @property
    def indicators(self) -> NDArray[np.float32]:
        """Which level each group has, shape (n_groups, n_levels)."""
        return np.eye(len(self.levels), dtype=np.float32)[self.of_group]


@dataclass(frozen=True)
class Groups:
    """Sensitive attribute of every cell, or the combination of several.

    Parameters
    ----------
    codes
        Position in `levels` for each cell, shape (n_cells,).
    levels
        Names of the groups in natural order; with several attributes, of the combinations that occur.
    factors
        The attributes; a single one whose levels are the groups when none is given.
    """

    codes: NDArray[np.int64]
    levels: tuple[str, ...]
    factors: tuple[Factor, ...] = ()

    def __post_init__(self) -> None:
        if not self.factors:
            object.__setattr__(self, "factors", (Factor("groups", self.levels, np.arange(self.n)),))

    @property
    def n(self) -> int:
        """Number of groups."""
        return len(self.levels)

    @property
    def level_codes(self) -> NDArray[np.int64]:
        """Level of each cell in every attribute, shape (n_cells, n_factors)."""
        return np.stack([factor.of_group for factor in self.factors], axis=1)[self.codes]

    @property
    def level_index(self) -> NDArray[np.int64]:
        """Level of each group in every attribute, counted over all attributes, shape (n_groups, n_factors)."""
        first = np.cumsum([0, *(len(factor.levels) for factor in self.factors[:-1])])
        return np.stack([factor.of_group for factor in self.factors], axis=1) + first

    def take(self, rows: NDArray[np.int64]) -> Groups:
        """The groups of some cells; levels stay, also those that none of them has."""
        return replace(self, codes=self.codes[rows])

    @property
    def values(self) -> pd.Categorical[str]:
        """Name of each cell's group, shape (n_cells,)."""
        return pd.Categorical.from_codes(self.codes, categories=pd.Index(self.levels, dtype=object))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Cells per group, shape (n_groups,)."""
        return np.bincount(self.codes, minlength=self.n)

    def encode_all(self, values: ArrayLike | Mapping[str, ArrayLike], n_cells: int) -> NDArray[np.int64]:
        """Code other cells by these groups, from one value per cell or, by name, one for every attribute."""
        if isinstance(values, Mapping):
            named = [(factor, values.get(factor.name)) for factor in self.factors]
            lost = [factor.name for factor, column in named if column is None]
            if lost:
                msg = f"groups lacks the attributes {lost}; the model was fitted with {[f.name for f, _ in named]}."
                raise ValueError(msg)
            columns = [meet(level_names(column), factor.levels) for factor, column in named if column is not None]
            values = np.array([BETWEEN.join(levels) for levels in zip(*columns, strict=True)], dtype=object)
        codes = self.encode(values)
        if len(codes) != n_cells:
            msg = f"groups has {len(codes)} values, but there are {n_cells} cells."
            raise ValueError(msg)
        return codes

    def encode(self, values: ArrayLike, name: str = "groups") -> NDArray[np.int64]:
        """Code other cells' values by these levels; an unknown value is an error."""
        names = meet(level_names(values), self.levels)
        codes = pd.Index(self.levels, dtype=object).get_indexer(pd.Index(names, dtype=object))
        if (codes < 0).any():
            unknown = natural_order(set(names[codes < 0]))
            msg = f"{name} has values that the model was not fitted with: {unknown}; known are {list(self.levels)}."
            raise ValueError(msg)
        return codes.astype(np.int64)


def one_group(n_cells: int) -> Groups:
    """All cells in one group, where nothing is to be fair to."""
    return Groups(np.zeros(n_cells, np.int64), ("all",))


def read_groups(values: ArrayLike | Mapping[str, ArrayLike] | Groups, name: str = "groups") -> Groups:
    """Validate and encode sensitive attributes.

    Parameters
    ----------
    values
        One value per cell, shape (n_cells,): categorical, strings, booleans or few-valued numbers. For several
        attributes, such values by name. Groups that were read before are returned as they are.
    name
        What messages call a single attribute.

    Returns
    -------
    Codes and levels. Unused categories are dropped.

    Raises
    ------
    ValueError
        If values are missing, if an attribute has only one level, is a continuous measurement, or has another number of
        cells than the others.
    """
    if isinstance(values, Groups):
        return values
    if isinstance(values, Mapping | pd.DataFrame):
        return combine_groups({str(key): read_groups(column, str(key)) for key, column in values.items()})
    codes, levels = _encoded(values, name)
    groups = Groups(codes, levels, (Factor(name, levels, np.arange(len(levels))),))
    lonely = [level for level, count in zip(groups.levels, groups.counts, strict=True) if count == 1]
    if lonely:
        msg = f"{name} has groups of a single cell: {lonely}. They are kept, but nothing can be learned about them."
        warn(msg)
    return groups


def combine_groups(attributes: Mapping[str, Groups]) -> Groups:
    """One grouping by the combinations of levels that occur, in the order of the levels.

    Parameters
    ----------
    attributes
        Single attributes by name. Of one alone the groups are the same, under this name.
    """
    if not attributes:
        msg = "No sensitive attribute is given."
        raise ValueError(msg)
    lengths = {name: len(groups.codes) for name, groups in attributes.items()}
    if len(set(lengths.values())) > 1:
        msg = f"All attributes need one value per cell, but they have {lengths} values."
        raise ValueError(msg)
    each = np.stack([groups.codes for groups in attributes.values()], axis=1)
    # Whole rows are compared far more slowly than numbers.
    found, codes = np.unique(each if each.shape[1] > 1 else each[:, 0], axis=0, return_inverse=True)
    found = found.reshape(-1, each.shape[1])
    factors = tuple(
        Factor(name, groups.levels, np.ascontiguousarray(column))
        for (name, groups), column in zip(attributes.items(), found.T, strict=True)
    )
    names = [[factor.levels[level] for level in factor.of_group] for factor in factors]
    levels = tuple(BETWEEN.join(parts) for parts in zip(*names, strict=True))
    if len(set(levels)) < len(levels):
        msg = f"Levels of {list(attributes)} contain {BETWEEN!r}, so that combinations get the same name. Rename them."
        raise ValueError(msg)
    return Groups(codes.ravel().astype(np.int64), levels, factors)


def _encoded(values: ArrayLike, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    column = as_column(values)
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
    codes, levels = named_levels(column)
    if len(levels) < 2:
        msg = (
            f"{name} has a single group, {levels}: there is nothing to be fair about. "
            "Choose a column with two or more groups, or use ordinary clustering (e.g. `scanpy.tl.leiden`)."
        )
        raise ValueError(msg)
    return codes, tuple(levels)
