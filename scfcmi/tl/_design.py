"""How sensitive attributes relate to each other and to the labels, and which groups nothing can be compared with."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from scfcmi._warn import warn
from scfcmi.source import Factor, Groups

# Share of the smaller entropy that attribute and labels have in common, beyond chance, from which they are the same.
SAME = 0.9


def describe_design(groups: Groups, labels: pd.Series | None) -> dict[str, NDArray[np.str_]]:
    """Say in words what a design allows, and warn of what it does not.

    Parameters
    ----------
    groups
        The attributes of every cell.
    labels
        Curated labels, if there are any.

    Returns
    -------
    `attributes`, a sentence per pair of attributes and per attribute that is one with the labels, or nothing.
    """
    found = [_relation(a, b) for a, b in combinations(groups.factors, 2)]
    for factor, codes in zip(groups.factors, groups.level_codes.T, strict=True):
        shared = 0.0
        if labels is not None:
            known = labels.notna().to_numpy()
            shared = adjusted_mutual_info_score(codes[known], labels[known], average_method="min")
        if shared >= SAME:
            msg = (
                f"{factor.name!r} and the labels say nearly the same ({shared:.2f} of the smaller entropy is shared): "
                "what differs between its levels cannot be told from what differs between types."
            )
            warn(f"{msg} Fairness towards it merges types; leave it out unless that is intended.")
            found.append(msg)
    return {"attributes": np.array(found)} if found else {}


def _relation(a: Factor, b: Factor) -> str:
    """Whether two attributes are the same, nested or crossed."""
    n_pairs, n_a, n_b = len(set(zip(a.of_group, b.of_group, strict=True))), len(a.levels), len(b.levels)
    if n_pairs == n_a == n_b:
        msg = f"{a.name!r} and {b.name!r} are identical: each level of one is a level of the other."
        warn(f"{msg} What they do cannot be told apart; one of them is enough.")
        return msg
    for inner, outer, n_inner in ((a, b, n_a), (b, a, n_b)):
        if n_pairs == n_inner:
            return (
                f"{inner.name!r} is nested in {outer.name!r}: each level of {inner.name!r} occurs in one level of "
                f"{outer.name!r}, so fairness towards the first includes the second."
            )
    return f"{a.name!r} and {b.name!r} are crossed: {n_pairs} of {n_a * n_b} combinations of levels occur."
