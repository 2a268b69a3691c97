"""Continuous attributes: numbers per cell, and the soft bins in which their dependence on clusters is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

# Quantiles that a value is placed between. As many as alignment matches pair by pair, for among all other cells at once
# those of the next quantile would be the nearest to everyone.
N_BINS = 16


@dataclass(frozen=True)
class Continuous:
    """Continuous attributes of every cell.

    Parameters
    ----------
    names
        What they are called.
    values
        Their values, shape (n_cells, n_attributes).
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> Continuous:
        """The values of some cells."""
        return replace(self, values=self.values[rows])

    def named(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """The values of these attributes, in this order, shape (n_cells, n_names)."""
        if lost := [name for name in names if name not in self.names]:
            msg = f"continuous lacks {lost}; the model was fitted with {list(names)}."
            raise ValueError(msg)
        return self.values[:, [self.names.index(name) for name in names]]

    def soft_bins(self) -> dict[str, NDArray[np.float32]]:
        """How far each cell belongs to each quantile, by interpolation of ranks, shape (n_cells, n_bins) per attribute.

        Rows sum to one, and tied values are in the same place.
        """
        found = {}
        for name, values in zip(self.names, self.values.T, strict=True):
            place = np.clip((rankdata(values) - 0.5) / len(values) * N_BINS - 0.5, 0, N_BINS - 1)
            found[name] = np.maximum(1 - np.abs(place[:, None] - np.arange(N_BINS)), 0).astype(np.float32)
        return found

    def bins(self) -> NDArray[np.int64]:
        """Nearest quantile of each cell, shape (n_cells, n_attributes)."""
        nearest = [soft.argmax(axis=1) for soft in self.soft_bins().values()]
        return np.stack(nearest, axis=1) if nearest else np.empty((len(self.values), 0), np.int64)


def read_continuous(columns: Mapping[str, ArrayLike] | Continuous | None, n_cells: int) -> Continuous:
    """Validate continuous attributes.

    Parameters
    ----------
    columns
        Values of each cell by the name of the attribute, shape (n_cells,); none where there are none.
    n_cells
        Number of cells.

    Raises
    ------
    TypeError
        If values are not numbers.
    ValueError
        If values are missing, infinite, all the same, or not one per cell.
    """
    if isinstance(columns, Continuous):
        return columns
    values = np.empty((n_cells, len(columns or {})))
    for i, (name, given) in enumerate((columns or {}).items()):
        column = pd.Series(given).reset_index(drop=True)
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            msg = f"{name} is not numeric but {column.dtype}. A continuous attribute is a number; groups go elsewhere."
            raise TypeError(msg)
        if len(column) != n_cells:
            msg = f"{name} has {len(column)} values, but there are {n_cells} cells."
            raise ValueError(msg)
        values[:, i] = column.to_numpy(np.float64, na_value=np.nan)
        n_bad = int((~np.isfinite(values[:, i])).sum())
        if n_bad:
            first = int(np.flatnonzero(~np.isfinite(values[:, i]))[0])
            msg = f"{name} has {n_bad} missing or infinite values (first at position {first}). Drop or impute them."
            raise ValueError(msg)
        if np.ptp(values[:, i]) == 0:
            msg = f"{name} is constant, {values[0, i]:g}: nothing can depend on it. Leave it out."
            raise ValueError(msg)
    return Continuous(tuple(columns or ()), values)
