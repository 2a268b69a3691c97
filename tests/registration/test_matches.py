"""Mutual nearest neighbours of different groups."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from scfcmi.registration._matches import mutual_matches


@pytest.mark.parametrize("k", [1, 5, 200])
def test_mutual_neighbours_are_those_of_a_search(k: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 150)
    z = (rng.normal(size=(150, 6)) + codes[:, None]).astype(np.float32)
    near = np.zeros((150, 150), bool)
    for a in range(3):
        for b in {0, 1, 2} - {a}:
            own, other = np.flatnonzero(codes == a), np.flatnonzero(codes == b)
            search = NearestNeighbors(n_neighbors=min(k, len(other))).fit(z[other])
            found = search.kneighbors(z[own], return_distance=False)
            near[own[:, None], other[found]] = True
    np.testing.assert_array_equal(mutual_matches(z, codes, k).toarray(), near & near.T)


def test_cells_in_one_place_have_no_more_matches_than_others() -> None:
    codes = np.repeat([0, 1], [40, 60])
    matches = mutual_matches(np.zeros((100, 3), np.float32), codes, 5)
    assert 0 < matches.getnnz(axis=1).max() <= 5
