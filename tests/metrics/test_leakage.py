"""How far an embedding gives the group away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scfcmi.metrics import group_leakage

RNG = np.random.default_rng(0)
GROUPS = np.array(list("abc"))[np.arange(300) % 3]
NOISE = RNG.normal(size=(300, 5))


def test_nothing_and_everything() -> None:
    assert group_leakage(NOISE, GROUPS) < 0.1
    assert group_leakage(NOISE + 20 * (GROUPS == "a")[:, None] - 20 * (GROUPS == "b")[:, None], GROUPS) == 1


def test_composition_is_no_leakage_within_types() -> None:
    types = np.where(RNG.random(300) < np.where(GROUPS == "a", 0.9, 0.1), "T", "B")
    embedding = NOISE + 10 * (types == "T")[:, None]
    assert group_leakage(embedding, GROUPS) > 0.3
    assert group_leakage(embedding, GROUPS, types) < 0.15


def test_rare_groups_do_not_count() -> None:
    groups = np.where(np.arange(300) < 3, "rare", GROUPS)
    assert group_leakage(NOISE + 9 * (groups == "rare")[:, None], groups) < 0.1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embedding": NOISE[:, 0]}, "embedding has shape"),
        ({"embedding": NOISE * np.nan}, "missing"),
        ({"groups": GROUPS[:9]}, "one value per cell"),
        ({"labels": np.arange(300)}, "No type has two groups"),
        ({"groups": ["a"] * 300}, "No type has two groups"),
        ({"n_splits": 1}, "n_splits"),
    ],
)
def test_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        group_leakage(**({"embedding": NOISE, "groups": GROUPS} | change))
