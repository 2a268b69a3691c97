"""Numbers per cell: what is accepted, and the soft bins they fall into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scfcmi.source import read_continuous
from scfcmi.source._continuous import N_BINS


def test_soft_bins_lie_between_quantiles() -> None:
    values = np.random.default_rng(0).lognormal(size=500)
    found = read_continuous({"depth": values}, 500)
    (soft,) = found.soft_bins().values()
    assert soft.shape == (500, N_BINS)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-5)
    assert ((soft > 0).sum(axis=1) <= 2).all()
    order = np.argsort(values)
    assert (np.diff(soft[order] @ np.arange(N_BINS)) >= -1e-5).all()
    assert np.ptp(np.bincount(found.bins()[:, 0])) <= 2
    part = found.take(np.array([3, 7]))
    np.testing.assert_array_equal(part.values, values[[3, 7], None])


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_ties_stay_together(common: float) -> None:
    values = np.where(np.arange(200) < 3, 0.5, common)
    bins = read_continuous({"mito": values}, 200).bins()[:, 0]
    assert len(set(bins[:3])) == len(set(bins[3:])) == 1
    assert (bins[0] < bins[-1]) == (common == 1)
    assert bins[0] != bins[-1]


def test_none_is_none() -> None:
    found = read_continuous(None, 5)
    assert found.names == ()
    assert found.bins().shape == (5, 0)
    assert found.soft_bins() == {}


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ([1.0, np.nan, 2.0], ValueError, "depth has 1 missing or infinite values .*position 1"),
        ([1.0, np.inf, 2.0], ValueError, "missing or infinite"),
        (pd.array([1, None, 3], dtype="Int64"), ValueError, "missing"),
        ([2, 2, 2], ValueError, "depth is constant, 2"),
        ([1, 2], ValueError, "2 values, but there are 3 cells"),
        (["a", "b", "c"], TypeError, "depth is not numeric"),
        ([True, False, True], TypeError, "depth is not numeric"),
    ],
)
def test_values_that_are_no_measurement(values: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        read_continuous({"depth": values}, 3)
