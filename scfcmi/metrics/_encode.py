"""Labels of any kind to integer codes and the names behind them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics.cluster import contingency_matrix


class Coded(NamedTuple):
    """One partition of the cells: `levels[codes]` are the values, and every level occurs."""

    codes: NDArray[np.int64]
    levels: list[Hashable]


def natural_order(values: Iterable[Hashable]) -> list[Hashable]:
    """Sort numbers by size and strings as people count: `"2"` before `"10"`."""
    return sorted(values, key=_natural_key)


def encode(**named: ArrayLike) -> tuple[Coded, ...]:
    """Check that the arrays describe the same cells, and code them.

    Parameters
    ----------
    **named
        One-dimensional arrays of equal length, under the names that messages call them.

    Returns
    -------
    Codes and levels of each. Categories keep their order, everything else is in natural order; categories without
    cells are dropped.
    """
    columns = {name: _column(values, name) for name, values in named.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        msg = f"All arrays need one value per cell, in the same order of cells, but {listed}."
        raise ValueError(msg)
    return tuple(_encode(column) for column in columns.values())


def table(rows: Coded, columns: Coded) -> NDArray[np.int64]:
    """Cells per row level and column level."""
    return contingency_matrix(rows.codes, columns.codes)


def _column(values: ArrayLike, name: str) -> pd.Series:
    if isinstance(values, list | tuple) and not any(np.ndim(value) for value in values):
        values = pd.Series(values)  # numpy would turn a missing value among strings into the string "nan"
    elif not isinstance(values, pd.Series | pd.Categorical | pd.Index):
        values = np.asarray(values)
    if np.ndim(values) != 1:
        msg = f"{name} needs one value per cell, shape (n_cells,), but it has shape {np.shape(values)}."
        raise ValueError(msg)
    column = pd.Series(values).reset_index(drop=True)
    if column.empty:
        msg = f"{name} is empty."
        raise ValueError(msg)
    missing = column.isna().to_numpy()
    if missing.any():
        msg = (
            f"{name} has {int(missing.sum())} missing values, the first at position {int(missing.argmax())}. "
            "Leave these cells out of all arrays."
        )
        raise ValueError(msg)
    return column


def _encode(column: pd.Series) -> Coded:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        return Coded(column.cat.codes.to_numpy().astype(np.int64), list(column.cat.categories))
    codes, found = pd.factorize(column)
    levels = natural_order(found)
    rank = {level: position for position, level in enumerate(levels)}
    return Coded(np.array([rank[level] for level in found], np.int64)[codes].astype(np.int64), levels)


def _natural_key(value: Hashable) -> tuple[tuple[int, float, str], ...]:
    if isinstance(value, int | float | np.number):
        return ((0, float(value), ""),)
    pieces = re.split(r"(\d+)", str(value))
    return tuple((0, float(piece), piece) if piece.isdigit() else (1, 0.0, piece) for piece in pieces if piece)
