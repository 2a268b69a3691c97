"""Dependence of clusters on a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scfcmi.metrics import continuous_dependence


def test_between_independence_and_identity() -> None:
    rng = np.random.default_rng(0)
    depth, clusters = rng.lognormal(size=2000), rng.integers(0, 7, 2000)
    assert continuous_dependence(clusters, depth) < 0.01
    halves = depth > np.median(depth)
    assert continuous_dependence(halves, depth) == pytest.approx(1)
    mixed = np.where(rng.random(2000) < 0.5, halves, rng.random(2000) < 0.5)
    assert 0.1 < continuous_dependence(mixed, depth) < 0.4


def test_chance_does_not_count() -> None:
    rng = np.random.default_rng(0)
    found = [continuous_dependence(rng.integers(0, 10, 100), rng.normal(size=100)) for _ in range(20)]
    assert np.mean(found) < 0.03  # without correction about 0.2


def test_only_the_order_of_values_counts() -> None:
    rng = np.random.default_rng(0)
    values = rng.permutation(300) / 100
    clusters = np.digitize(values + rng.normal(size=300), [1, 2, 3])
    assert continuous_dependence(clusters, values) == pytest.approx(continuous_dependence(clusters, values**3))


def test_ties() -> None:
    assert continuous_dependence([0] * 97 + [1] * 3, [0.0] * 97 + [5.0] * 3) == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        ([1.0, 1.0, 1.0], {}, "constant"),
        ([1.0, np.nan, 2.0], {}, "missing"),
        ([1.0, np.inf, 2.0], {}, "infinite"),
        ([1.0, 2.0], {}, "one value per cell"),
        ([1.0, 2.0, 3.0], {"n_bins": 1}, "n_bins"),
    ],
)
def test_refused(values: list[float], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        continuous_dependence([0, 1, 0], values, **options)
