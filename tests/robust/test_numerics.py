"""Numbers at the edge: a finite result, or an error that names the value; never what a library says of its input."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse

from scfcmi.model import FCMI
from scfcmi.source._check import LARGEST

N, M = 120, 20
GROUPS = ["a", "b"] * (N // 2)


def example() -> np.ndarray:
    return np.random.default_rng(0).gamma(1.0, 1.0, (N, M))


def one_value(value: float) -> np.ndarray:
    x = example()
    x[3, 4] = value
    return x


RESULT: dict[str, Callable[[], np.ndarray]] = {
    **{f"all times 1e{e}": lambda e=e: example() * 10.0**e for e in (-45, -38, -20, -6, 6, 13)},
    **{f"one value of 1e{e}": lambda e=e: one_value(10.0**e) for e in (6, 10, 15)},
    "a far offset": lambda: example() + 1e6,
    "identical cells": lambda: np.ones((N, M)),
    "two kinds of cells": lambda: np.repeat(np.eye(M)[:2], N // 2, axis=0),
    "constant genes": lambda: np.hstack([example(), np.full((N, 5), 7.0)]),
    "one-hot": lambda: np.eye(M)[np.arange(N) % M],
    "one-hot of the group": lambda: np.eye(2)[np.arange(N) % 2],
    "one direction": lambda: np.outer(example()[:, 0], np.ones(M)),
    "one gene": lambda: example()[:, :1],
}


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("name", RESULT)
def test_odd_numbers_give_a_finite_result(name: str, standardize: bool) -> None:
    x = RESULT[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # That clusters have no cells, as where all are the same, is ours to say.
        warnings.filterwarnings("ignore", r"Only \d of \d clusters hold cells")
        model = FCMI(3, standardize=standardize, progress_bar=False, device="cpu").fit(x, GROUPS)
        again = model.assign(x, GROUPS)
    for found in (model.assignment_, again):
        np.testing.assert_allclose(found.proba.sum(1), 1, atol=1e-4)
        assert np.isfinite(found.embedding).all()
    np.testing.assert_array_equal(again.labels, model.labels_)
    for name, values in model.history_.items():
        assert np.isfinite(values).all(), name


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e20, r"values beyond 1e\+15 \(first 1e\+20 in the cell at position 3, column 4"),
        (-1e16, r"values beyond 1e\+15 \(first -1e\+16"),
        (1e30, r"values beyond 1e\+15 \(first 1e\+30"),
        (1e39, r"NaN or infinite values \(first inf .*what single precision cannot hold counts as infinite"),
        (float("nan"), r"NaN or infinite values \(first nan"),
        (float("-inf"), r"NaN or infinite values \(first -inf"),
    ],
)
def test_numbers_that_cannot_be_computed_with_are_named(
    value: float, said: str, form: Callable[[np.ndarray], object]
) -> None:
    x = form(one_value(value))
    model = FCMI(3, progress_bar=False, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=f"X has {said}"):
            model.fit(x, GROUPS)
        model.fit(example(), GROUPS)
        with pytest.raises(ValueError, match=f"X has {said}"):
            model.assign(x, GROUPS)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_largest_numbers_allowed_do_not_overflow(preset: str) -> None:
    from scfcmi.published import NetworkOptions

    network = NetworkOptions(hidden=(8, 4), max_epochs=2, warmup_epochs=1, batch_size=60)
    given = {"preset": "paper", "network": network} if preset == "paper" else {}
    x = np.random.default_rng(0).choice([-1, 1], (N, M)) * LARGEST
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FCMI(2, progress_bar=False, device="cpu", standardize=False, **given).fit(x, GROUPS)
    assert np.isfinite(model.assignment_.proba).all() and np.isfinite(model.assignment_.embedding).all()
