"""The front layer: standardise, project on directions within groups, bring to one length."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scfcmi.source import Front


def make(n: int = 200, n_columns: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 2
    x = rng.gamma(1.0, 1.0, size=(n, n_columns)) * (rng.random((n, n_columns)) < 0.5)
    return x.astype(np.float32), codes


def fit(x: object, codes: np.ndarray, n_comps: int = 5, *, standardize: bool = True) -> Front:
    return Front.fit(x, codes, n_comps, standardize=standardize)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("n_columns", [30, 260])
def test_sparse_and_dense_agree(standardize: bool, n_columns: int) -> None:
    x, codes = make(260, n_columns)
    # Directions of clearly different variance, so that each is determined on its own.
    x[:, :5] *= np.array([40, 30, 20, 14, 10])
    if standardize:
        types = np.arange(260) // 2 % 4
        x[:, 5:25] += 6 * (types[:, None] == np.repeat(np.arange(4), 5))
    a = fit(x, codes, 3, standardize=standardize)
    b = fit(sparse.csr_matrix(x), codes, 3, standardize=standardize)
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-4)
    np.testing.assert_allclose(a.scale, b.scale, rtol=1e-4)
    np.testing.assert_allclose(a.loadings, b.loadings, atol=5e-3)
    np.testing.assert_allclose(a.transform(x), a.transform(sparse.csr_matrix(x)), atol=1e-3)


def test_loadings_are_orthonormal_and_rows_of_one_length() -> None:
    x, codes = make()
    front = fit(x, codes)
    assert front.n_comps == 5
    np.testing.assert_allclose(front.loadings.T @ front.loadings, np.eye(5), atol=1e-4)
    z = front.transform(x)
    assert z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.sqrt(5), rtol=1e-4)


def test_direction_that_separates_groups_alone_is_not_found() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(400) % 2
    types = np.arange(400) // 2 % 2
    x = 0.3 * rng.normal(size=(400, 20))
    x[:, 0] += 50.0 * codes
    x[:, 1] += 5.0 * types
    within = fit(x, codes, 1, standardize=False)
    assert abs(within.loadings[1, 0]) > 0.99
    assert abs(within.loadings[0, 0]) < 0.1
    # Without knowing the groups, the first direction is the one between them.
    blind = fit(x, np.zeros(400, int), 1, standardize=False)
    assert abs(blind.loadings[0, 0]) > 0.99


@pytest.mark.parametrize("n_columns", [20, 300])
def test_directions_are_those_of_the_covariance_within_groups(n_columns: int) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(300) % 3
    x = rng.normal(size=(300, n_columns)) * np.geomspace(20, 0.1, n_columns)
    x += rng.normal(size=(3, n_columns))[codes]
    front = fit(x.astype(np.float32), codes, 4, standardize=False)
    centred = x - np.stack([x[codes == g].mean(axis=0) for g in range(3)])[codes]
    want = np.linalg.svd(centred, full_matrices=False)[2][:4].T
    np.testing.assert_allclose(np.abs((want * front.loadings).sum(axis=0)), 1, atol=1e-3)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_outliers_are_capped(as_sparse: bool) -> None:
    x, codes = make(2000)
    x[0, 3] = 1e5
    block = sparse.csr_matrix(x) if as_sparse else x
    front = fit(block, codes)
    wild = x[:1].copy()
    wild[0, 3] = 1e9
    wild = sparse.csr_matrix(wild) if as_sparse else wild
    np.testing.assert_allclose(front.transform(wild), front.transform(block[:1]), atol=1e-3)
    assert (wild if as_sparse else sparse.csr_matrix(wild)).max() == pytest.approx(1e9)


def test_one_cell_does_not_own_a_direction() -> None:
    x, codes = make(2000)
    x[0, 3] = 1e5
    assert np.abs(fit(x, codes).loadings[3]).max() < 1
    unit = np.zeros(30)
    unit[3] = 1
    assert np.abs(fit(x, codes, standardize=False).loadings[:, 0] @ unit) > 0.99


def test_constant_columns() -> None:
    x, codes = make()
    x[:, 0], x[:, 1] = 0, 3
    front = fit(x, codes)
    assert np.isfinite(front.transform(x)).all()
    np.testing.assert_array_equal(front.scale[:2], 1)
    np.testing.assert_allclose(front.loadings[:2], 0, atol=1e-4)


@pytest.mark.parametrize(("n", "n_columns"), [(200, 3), (8, 30)])
def test_no_more_directions_than_there_can_be(n: int, n_columns: int) -> None:
    x, codes = make(n, n_columns)
    front = fit(x, codes, 50)
    assert front.n_comps <= min(n, n_columns)
    assert np.isfinite(front.transform(x)).all()


def test_signs_and_repeatability() -> None:
    x, codes = make(300, 280)
    a, b = fit(x, codes), fit(x, codes)
    np.testing.assert_array_equal(a.loadings, b.loadings)
    largest = np.abs(a.loadings).argmax(axis=0)
    assert (a.loadings[largest, np.arange(5)] > 0).all()


def test_cells_near_the_mean_meet_at_the_pole() -> None:
    """A type in the middle of others has no direction of its own, but a place."""
    rng = np.random.default_rng(0)
    kind = np.arange(300) % 3
    x = (rng.normal(size=(300, 20)) + 8 * np.eye(20)[0] * (kind - 1)[:, None]).astype(np.float32)
    codes = np.arange(300) // 3 % 2

    def spread(height: float) -> float:
        front = Front.fit(x, codes, 10, standardize=False, height=height)
        z = front.transform(x)
        assert z.shape[1] == front.n_comps
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.sqrt(front.n_comps), rtol=1e-4)
        middle = z[kind == 1]
        return float((middle - middle.mean(0)).var(axis=0).sum() / z.var(axis=0).sum())

    assert spread(1.0) < 0.4 * spread(0.0)
