"""The front layer: standardise, project on directions within groups, bring to one length."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scfcmi.front import Front, _front
from scfcmi.source import as_source


def make(n: int = 200, n_columns: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 2
    x = rng.gamma(1.0, 1.0, size=(n, n_columns)) * (rng.random((n, n_columns)) < 0.5)
    return x.astype(np.float32), codes


def fit(x: object, codes: np.ndarray, n_comps: int = 5, *, standardize: bool = True) -> Front:
    return Front.fit(x, codes, n_comps, standardize=standardize)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("n_columns", [30, 260])
def test_sparse_and_dense_agree(standardize: bool, n_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, codes = make(260, n_columns)
    # Directions of clearly different variance, so that each is determined on its own.
    x[:, :5] *= np.array([40, 30, 20, 14, 10])
    if standardize:
        types = np.arange(260) // 2 % 4
        x[:, 5:25] += 6 * (types[:, None] == np.repeat(np.arange(4), 5))
    a = fit(x, codes, 3, standardize=standardize)
    monkeypatch.setattr(_front, "DENSE_ENTRIES", 0)  # as if there were too many cells to be held dense
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
    # Where variances are close, directions may turn into each other: what counts is the variance that they hold.
    held, best = (np.square(centred @ some).sum() for some in (front.loadings, want))
    assert 0.995 * best < held <= best * (1 + 1e-5)


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


def counts(n: int, n_columns: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of unit variance, and three types that differ along two directions by `shift`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_columns))
    x[:, :10] += shift * rng.normal(size=(3, 10))[np.arange(n) % 3]
    return x.astype(np.float32), np.arange(n) // 3 % 2


def test_of_noise_alone_no_direction_keeps_its_weight() -> None:
    x, codes = counts(1500, 300, 0.0)
    weights = fit(x, codes, 30, standardize=False).weights
    assert weights.max() < 0.5
    assert np.median(weights) < 0.2
    # None is given up: what is shrunk can be undone.
    assert weights.min() > 0


def test_strong_signal_keeps_its_weight_and_noise_beside_it_does_not() -> None:
    x, codes = counts(1500, 300, 4.0)
    weights = fit(x, codes, 30, standardize=False).weights
    assert (weights[:2] > 0.95).all()
    assert weights[2:].max() < 0.5


def test_directions_that_span_everything_are_not_shrunk() -> None:
    x, codes = make(200, 12)
    np.testing.assert_array_equal(fit(x, codes, 12, standardize=False).weights, 1)


@pytest.mark.parametrize("height", [0.7, 0.0])
@pytest.mark.parametrize("standardize", [False, True])
def test_inverse_goes_back_to_what_the_directions_span(height: float, standardize: bool) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 4)) @ rng.normal(size=(4, 20)) + rng.normal(size=20)).astype(np.float32)
    front = Front.fit(x, np.zeros(200, int), 4, standardize=standardize, height=height)
    back = front.inverse(front.transform(x))
    if height:
        np.testing.assert_allclose(back, x, atol=2e-3 * np.abs(x).max())
    else:
        # The length is lost, the direction from the mean is not.
        away, found = (x - front.mean) / front.scale, (back - front.mean) / front.scale
        cosine = (away * found).sum(1) / np.linalg.norm(away, axis=1) / np.linalg.norm(found, axis=1)
        assert cosine.min() > 0.999


@pytest.mark.parametrize("as_sparse", [False, True])
def test_rows_in_pieces_are_the_rows_at_once(as_sparse: bool) -> None:
    x, codes = make(200, 30)
    block = sparse.csr_matrix(x) if as_sparse else x
    front = fit(block, codes)
    whole = front.transform(block)
    pieces = np.concatenate([front.transform(block[start : start + 33]) for start in range(0, 200, 33)])
    np.testing.assert_allclose(pieces, whole, atol=2e-5)


def test_rows_that_stay_on_disk(tmp_path: Path) -> None:
    x, codes = make(200, 30)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_elem(file, "m", sparse.csr_matrix(x))
        source = as_source(sparse_dataset(file["m"]))
        front = fit(source.gather(np.arange(200)), codes)
        pieces = [front.transform(block) for _, block in source.chunks(64)]
    np.testing.assert_allclose(np.concatenate(pieces), fit(sparse.csr_matrix(x), codes).transform(x), atol=1e-4)


def test_levels_of_several_attributes_add_up() -> None:
    """What two crossed attributes do, each on its own, is in no direction."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [2, 3], size=(600, 2))
    x = 0.3 * rng.normal(size=(600, 20))
    x[:, 0] += 50.0 * codes[:, 0]
    x[:, 1] += 40.0 * codes[:, 1]
    x[:, 2] += 5.0 * (np.arange(600) % 2)
    front = Front.fit(x.astype(np.float32), codes, 1, standardize=False)
    assert abs(front.loadings[2, 0]) > 0.99


def test_identical_cells_have_a_place() -> None:
    front = Front.fit(np.ones((50, 5), np.float32), np.arange(50) % 2, 3, standardize=True, height=0.7)
    z = front.transform(np.ones((4, 5), np.float32))
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(z, z[:1].repeat(4, 0))
