"""Scores that a run has recorded in `uns`, or words on what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recorded_scores(run: Mapping[str, Any], key: str) -> dict[str, float]:
    """`uns[key]["metrics"]` as numbers, not a number where a score is undefined; none if the run was not scored.

    Raises
    ------
    ValueError
        If something else stands there.
    """
    found = run.get("metrics")
    if not isinstance(found, Mapping):
        return {}
    scores = {}
    for name, value in found.items():
        try:
            scores[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            msg = (
                f"adata.uns[{key!r}]['metrics'] is damaged: {name!r} is {value!r}, no number. "
                "Run `scfcmi.tl.evaluate` or `scfcmi.tl.fair_cluster` again."
            )
            raise ValueError(msg) from error
    return scores
