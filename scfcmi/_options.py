"""The options of a fit, each once: estimator, functions on AnnData, files and the command line read them here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ._numbers import check_count, check_real, check_seed

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


def _optional(check: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    return lambda name, value: None if value is None else check(name, value)


def _count(name: str, value: Any) -> None:
    check_count(value, name)


def _seed(name: str, value: Any) -> None:
    check_seed(value, name)


def _choice(choices: tuple[str, ...]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            msg = f"{name}={value!r} is unknown: use one of {sorted(choices)}."
            raise ValueError(msg)

    return check


def _between(low: float, high: float) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        check_real(value, name, low, high)

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
        Option("n_clusters", None, "number of clusters; found from the data when absent", int, _optional(_count)),
        Option(
            "resolution",
            1.0,
            "where the tree is cut when the number of clusters is not given; larger gives more clusters",
            float,
            _between(0.0, float("inf")),
        ),
        Option("preset", "default", "default, or paper for the published network", str, _choice(PRESETS), PRESETS),
        Option(
            "fairness",
            None,
            "weight of the information that clusters carry about groups, from 0 to 1",
            float,
            _optional(_between(0.0, 1.0)),
        ),
        Option("network", None, "options of the published network", object, _anything, stored=False),
        Option("standardize", True, "whether columns are brought to unit variance first", bool, _flag),
        Option("random_state", 0, "seed", int, _seed),
        Option("device", "auto", "auto, cpu, cuda, cuda:<index> or mps", str, _anything),
        Option("devices", 1, "processes that share the work", int, _count),
        Option("progress_bar", None, "show progress", bool, _anything, stored=False),
    )
}


def check_options(values: dict[str, Any]) -> None:
    """Refuse values that no fit can have."""
    for name, value in values.items():
        OPTIONS[name].check(name, value)
