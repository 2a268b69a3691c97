"""Levels of an attribute, labels, clusters: what they are called, and in which order they come."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from natsort import natsort_keygen
from numpy.typing import ArrayLike, NDArray

Name = TypeVar("Name", bound=Hashable)
# Text of a number; names with leading zeros are names.
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_natural = natsort_keygen()


def natural_order(values: Iterable[Name]) -> list[Name]:
    """Sort numbers by size and strings as people count: `"2"` before `"10"`."""
    return sorted(values, key=_key)


def named_levels(values: ArrayLike) -> tuple[NDArray[np.int64], list[str]]:
    """Code of each cell, and the levels behind the codes in natural order; values as :func:`level_names` has them."""
    codes, names = _named(values)
    levels = natural_order(set(names))
    return pd.Index(levels, dtype=object).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)[codes], levels


def level_names(values: ArrayLike) -> NDArray[np.object_]:
    """What the level of each cell is called, whatever type says so: 1, 1.0 and `"1"` are the same level.

    Parameters
    ----------
    values
        One value per cell, shape (n_cells,), none of them missing.

    Returns
    -------
    Strings, shape (n_cells,).

    Examples
    --------
    >>> from scfcmi._levels import level_names
    >>> level_names([0.0, 1.0, 2.5]).tolist()
    ['0', '1', '2.5']
    """
    codes, names = _named(values)
    return np.array([*names, None], dtype=object)[:-1][codes]


def meet(names: NDArray[np.object_], known: Iterable[str]) -> NDArray[np.object_]:
    """The names by which levels are known already.

    Truth values and 0 and 1 change into each other when tables are stored and read, and so do numbers and their text:
    a name that is not known stands for the one that is and says the same.

    Parameters
    ----------
    names
        Names of levels, shape (n_cells,).
    known
        Names of the levels that cells were fitted with.

    Examples
    --------
    >>> from scfcmi._levels import level_names, meet
    >>> meet(level_names([True, False]), ["0", "1"]).tolist()
    ['1', '0']
    """
    known = list(known)
    codes, found = pd.factorize(names)
    meanings = [_meaning(name) for name in known]
    n_of = Counter(meanings)
    by_meaning = {what: name for what, name in zip(meanings, known, strict=True) if n_of[what] == 1}
    taken = set(known)
    met = [name if name in taken else by_meaning.get(_meaning(name), name) for name in found]
    return np.array([*met, None], dtype=object)[:-1][codes]


def as_column(values: ArrayLike) -> pd.Series:
    """Values of an array or a table column, numbered from 0; those of a type that pandas does not know as objects."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "T":  # NumPy's own strings, which zarr reads
        values = values.astype(object)
    return pd.Series(values).reset_index(drop=True)


def _named(values: ArrayLike) -> tuple[NDArray[np.int64], list[str]]:
    """Code of each cell, and the name of every code, several of which may be the same."""
    codes, found = pd.factorize(as_column(values))
    return codes, [_level_name(value) for value in found]


def _key(value: Hashable) -> tuple[Any, str]:
    # Where people would count alike, "1" and "01", the text decides, so that no order depends on that of the input.
    return _natural(value if isinstance(value, str | int | float | np.number) else str(value)), str(value)


def _level_name(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _meaning(name: str) -> str | float:
    """The number that a name stands for, if it does for one."""
    if name.lower() in ("true", "false"):
        return float(name.lower() == "true")
    return float(name) if NUMBER.fullmatch(name) else name
