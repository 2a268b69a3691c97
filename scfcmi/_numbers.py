"""Numbers that users give: seeds and counts, checked before they reach a library.

NumPy's truth values are no numbers to `numbers`; without it, this module is there in no time for the command line.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

# What NumPy, scikit-learn and igraph all take.
N_SEEDS = 2**32


def check_count(value: Any, name: str, *, least: int = 1, most: int | None = None) -> int:
    """An integer that counts something.

    Parameters
    ----------
    value
        What was given.
    name
        What messages call it.
    least, most
        The range that it has to be in, both included.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is out of range.

    Examples
    --------
    >>> from scfcmi._numbers import check_count
    >>> check_count(3, "n_init")
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"{name}={value!r} must be an integer, not {type(value).__name__}."
        raise TypeError(msg)
    number = int(value)
    if number < least or (most is not None and number > most):
        msg = f"{name}={number} must be " + (f"at least {least}." if most is None else f"between {least} and {most}.")
        raise ValueError(msg)
    return number


def check_seed(value: Any, name: str = "random_state", *, n: int = 1) -> int:
    """A seed that every library takes, and with it the `n` − 1 that follow."""
    return check_count(value, name, least=0, most=N_SEEDS - n)


def check_real(value: Any, name: str, low: float, high: float) -> float:
    """A number from `low` to `high`, both included; NaN is none, and infinite only where `high` is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        msg = f"{name}={value!r} must be a number, not {type(value).__name__}."
        raise TypeError(msg)
    number = float(value)
    if not low <= number <= high:
        msg = f"{name}={value} must be between {low:g} and {high:g}."
        raise ValueError(msg)
    return number
