"""Labels of any kind to integer codes and the names behind them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scfcmi._levels import as_column, natural_order


class Coded(NamedTuple):
    """One partition of the cells: `levels[codes]` are the values, and every level occurs."""

    codes: NDArray[np.int64]
    levels: list[Hashable]


def encode(*, partial: str | None = None, **named: ArrayLike) -> tuple[Coded, ...]:
    """Check that the arrays describe the same cells, and code them.

    Parameters
    ----------
    partial
        Name of an array that may have missing values; cells without one are left out of all arrays.
    **named
        One-dimensional arrays of equal length, under the names that messages call them.

    Returns
    -------
    Codes and levels of each. Categories keep their order, everything else is in natural order; categories without
    cells are dropped.
    """
    columns = {name: _column(values, name, complete=name != partial) for name, values in named.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        msg = f"All arrays need one value per cell, in the same order of cells, but {listed}."
        raise ValueError(msg)
    if partial is not None:
        known = columns[partial].notna()
        columns = {name: column[known] for name, column in columns.items()}
    return tuple(_encode(column) for column in columns.values())


def table(rows: Coded, columns: Coded) -> NDArray[np.int64]:
    """Cells per row level and column level."""
    # scikit-learn's sorts all cells once more, which takes most of the time of a cut of a million.
    n_rows, n_columns = len(rows.levels), len(columns.levels)
    return np.bincount(rows.codes * n_columns + columns.codes, minlength=n_rows * n_columns).reshape(n_rows, n_columns)


def _column(values: ArrayLike, name: str, *, complete: bool) -> pd.Series:
    if isinstance(values, list | tuple) and not any(np.ndim(value) for value in values):
        values = pd.Series(values)  # numpy would turn a missing value among strings into the string "nan"
    elif not isinstance(values, pd.Series | pd.Categorical | pd.Index):
        values = np.asarray(values)
    if np.ndim(values) != 1:
        msg = f"{name} needs one value per cell, shape (n_cells,), but it has shape {np.shape(values)}."
        raise ValueError(msg)
    column = as_column(values)
    if column.empty:
        msg = f"{name} is empty."
        raise ValueError(msg)
    missing = column.isna().to_numpy()
    if missing.all() and not complete:
        msg = f"{name} has no values."
        raise ValueError(msg)
    if missing.any() and complete:
        msg = (
            f"{name} has {int(missing.sum())} missing values, the first at position {int(missing.argmax())}. "
            "Leave these cells out of all arrays."
        )
        raise ValueError(msg)
    return column


def _encode(column: pd.Series) -> Coded:
    if isinstance(column.dtype, pd.CategoricalDtype):
        stored, categories = column.cat.codes.to_numpy().astype(np.int64), column.cat.categories
        used = np.bincount(stored, minlength=len(categories)) > 0
        return Coded((np.cumsum(used) - 1)[stored], list(categories[used]))
    codes, found = pd.factorize(column)
    levels = natural_order(found)
    rank = {level: position for position, level in enumerate(levels)}
    return Coded(np.array([rank[level] for level in found], np.int64)[codes].astype(np.int64), levels)
