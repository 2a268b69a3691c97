"""The options of a fit, each of them once: estimator, functions on AnnData, files and the command line read them here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

Preset = Literal["default", "paper"]
PRESETS: tuple[Preset, ...] = ("default", "paper")


@dataclass(frozen=True)
class Option:
    """One option.

    Parameters
    ----------
    name
        Argument of the estimator.
    default
        Its default.
    help
        One line for the command line.
    kind
        Type of a value that is not `None`.
    check
        Raises if a value cannot be; gets the name and the value.
    choices
        Allowed values, if there are few.
    stored
        Whether files and `uns` hold it.
    """

    name: str
    default: Any
    help: str
    kind: type
    check: Callable[[str, Any], None]
    choices: tuple[str, ...] | None = None
    stored: bool = True


def count(least: int, *, optional: bool = False) -> Callable[[str, Any], None]:
    """A check for integers from `least` on."""

    def check(name: str, value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, Integral):
            msg = f"{name}={value!r} must be an integer, not {type(value).__name__}."
            raise TypeError(msg)
        if value < least:
            msg = f"{name}={value} must be at least {least}."
            raise ValueError(msg)

    return check


def _seed(name: str, value: Any) -> None:
    count(0)(name, value)
    if value >= 2**32:
        msg = f"{name}={value} must be below 2**32."
        raise ValueError(msg)


def _choice(choices: tuple[str, ...]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            msg = f"{name}={value!r} is unknown: use one of {sorted(choices)}."
            raise ValueError(msg)

    return check


def _number(low: float, high: float, meaning: str, *, optional: bool = False) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, Real):
            msg = f"{name}={value!r} must be a number, not {type(value).__name__}."
            raise TypeError(msg)
        if not low <= value <= high:
            msg = f"{name}={value} must be {meaning}."
            raise ValueError(msg)

    return check


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        msg = f"{name}={value!r} must be True or False."
        raise TypeError(msg)


def _anything(name: str, value: Any) -> None:
    """Checked where it is used."""


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("n_clusters", None, "number of clusters; found from the data when absent", int, count(1, optional=True)),
        Option(
            "resolution",
            1.0,
            "where the tree is cut when the number of clusters is not given; larger gives more clusters",
            float,
            _number(0.0, 1e6, "a number from 0"),
        ),
        Option("preset", "default", "default, or paper for the published network", str, _choice(PRESETS), PRESETS),
        Option(
            "fairness",
            None,
            "weight of the information that clusters carry about groups, from 0 to 1",
            float,
            _number(0.0, 1.0, "between 0 (proportions of each group's own) and 1 (independence)", optional=True),
        ),
        Option("network", None, "options of the published network", object, _anything, stored=False),
        Option("standardize", True, "whether columns are brought to unit variance first", bool, _flag),
        Option("random_state", 0, "seed", int, _seed),
        Option("device", "auto", "auto, cpu, cuda, cuda:<index> or mps", str, _anything),
        Option("devices", 1, "processes that share the work", int, count(1)),
        Option("progress_bar", None, "show progress", bool, _anything, stored=False),
    )
}


def check_options(values: dict[str, Any]) -> None:
    """Refuse values that no fit can have."""
    for name, value in values.items():
        OPTIONS[name].check(name, value)
