"""Neighbours within groups, matches across groups, and the weights by which clusters are joined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scfcmi.objective import _graph, merge_affinity, mutual_matches, nearest, neighbours_within

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(120, 6)).astype(np.float32)
CODES = np.arange(120) % 3


@pytest.mark.parametrize("block", [2**25, 500])
def test_nearest_agrees_with_a_search_tree(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(_graph, "BLOCK", block)
    queries = RNG.normal(size=(30, 6)).astype(np.float32)
    want = NearestNeighbors(n_neighbors=5).fit(Z).kneighbors(queries, return_distance=False)
    np.testing.assert_array_equal(nearest(queries, Z, 5), want)
    own = NearestNeighbors(n_neighbors=5).fit(Z).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest(Z, Z, 5, skip_self=True), own)


def test_nearest_gives_what_there_is() -> None:
    assert nearest(Z, Z[:3], 10).shape == (120, 3)
    assert nearest(Z[:3], Z[:3], 10, skip_self=True).shape == (3, 2)
    assert nearest(Z[:1], Z[:1], 10, skip_self=True).shape == (1, 0)


def test_neighbours_within_groups() -> None:
    near = neighbours_within(Z, CODES, 4)
    rows, cols = near.nonzero()
    assert (CODES[rows] == CODES[cols]).all()
    assert (rows != cols).all()
    np.testing.assert_array_equal(np.diff(near.indptr), 4)
    np.testing.assert_allclose(near.sum(axis=1), 1, rtol=1e-6)


def test_a_cell_alone_in_its_group_has_no_neighbours() -> None:
    codes = np.array([0, 0, 0, 1, 2, 2])
    near = neighbours_within(Z[:6], codes, 4)
    assert np.diff(near.indptr).tolist() == [2, 2, 2, 0, 1, 1]
    assert neighbours_within(Z[:2], np.array([0, 1]), 3).nnz == 0


@pytest.mark.parametrize("paired", [16, 1])
def test_matches_are_symmetric_ones_across_groups(monkeypatch: pytest.MonkeyPatch, paired: int) -> None:
    monkeypatch.setattr(_graph, "MAX_PAIRED_GROUPS", paired)
    matches = mutual_matches(Z, CODES, 4)
    assert matches.nnz > 0
    assert (matches != matches.T).nnz == 0
    assert set(matches.data) == {1.0}
    rows, cols = matches.nonzero()
    assert (CODES[rows] != CODES[cols]).all()


def test_matches_by_hand() -> None:
    line = np.array([[0.0], [10.0], [1.0], [2.0], [11.0]], np.float32)
    matches = mutual_matches(line, np.array([0, 0, 1, 1, 1]), 1)
    want = np.zeros((5, 5))
    want[0, 2] = want[2, 0] = want[1, 4] = want[4, 1] = 1
    np.testing.assert_array_equal(matches.toarray(), want)


def test_matches_agree_with_their_definition() -> None:
    matches = mutual_matches(Z, CODES, 3).toarray()
    distance = ((Z[:, None] - Z[None]) ** 2).sum(axis=2)
    want = np.zeros((120, 120))
    for a in range(3):
        for b in range(3):
            if a != b:
                block = np.ix_(CODES == a, CODES == b)
                d = distance[block]
                among_b = d <= np.sort(d, axis=1)[:, [2]]
                among_a = d <= np.sort(d, axis=0)[[2]]
                want[block] = among_a & among_b
    np.testing.assert_array_equal(matches, want)


def test_many_groups() -> None:
    codes = np.arange(120) % 40
    matches = mutual_matches(Z, codes, 4)
    rows, cols = matches.nonzero()
    assert (codes[rows] != codes[cols]).all()
    assert (matches != matches.T).nnz == 0
    # Candidates are twice as many as per pair of groups, but not more.
    assert 0 < np.diff(matches.indptr).max() <= 8


def test_affinity() -> None:
    matches = mutual_matches(Z, CODES, 3)
    affinity = merge_affinity(Z, CODES, matches, 5, 6)
    assert abs(affinity - affinity.T).max() < 1e-6
    matched = np.asarray(matches.sum(axis=1)).ravel() > 0
    # One unit to neighbours in the group, one to all cells, one to matches if there are any.
    assert affinity.sum() == pytest.approx(2 * 120 + matched.sum(), rel=1e-5)
    assert affinity.diagonal().max() == 0
    alone = merge_affinity(Z, CODES, sparse.csr_matrix((120, 120), dtype=np.float32), 5, 6)
    assert alone.sum() == pytest.approx(240, rel=1e-5)
