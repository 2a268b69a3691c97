"""Who should agree with whom: neighbours within a group, mutual nearest neighbours across groups."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class Graph:
    """Partners of every cell.

    Parameters
    ----------
    neighbours
        Nearest cells of the same group, shape (n_cells, n_neighbors). A cell alone in its group is its own neighbour.
    matches
        Symmetric matrix of trust between cells of different groups, shape (n_cells, n_cells).
    """

    neighbours: NDArray[np.int64]
    matches: sp.csr_matrix

    @classmethod
    def build(cls, z: NDArray[np.float32], codes: NDArray[np.int64], n_neighbors: int, n_matches: int) -> Graph:
        """Find neighbours and matches among the rows of `z`, shape (n_cells, n_dims)."""
        return cls(_neighbours_within(z, codes, n_neighbors), _mutual_matches(z, codes, n_matches))

    def with_matches_from(self, z: NDArray[np.float32], codes: NDArray[np.int64], n_matches: int) -> Graph:
        """Keep the neighbours and find the matches anew among the rows of `z`."""
        return Graph(self.neighbours, _mutual_matches(z, codes, n_matches))

    def draw_neighbours(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """One random neighbour of each row."""
        return self.neighbours[rows, rng.integers(0, self.neighbours.shape[1], len(rows))]

    def draw_matches(
        self, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One random match of each row and 1, or the row itself and 0 where there is none."""
        start = self.matches.indptr[rows]
        degree = self.matches.indptr[rows + 1] - start
        position = start + np.floor(rng.random(len(rows)) * degree).astype(np.int64)
        found = degree > 0
        match = rows.copy()
        match[found] = self.matches.indices[position[found]]
        return match, found.astype(np.float32)

    def affinity(self) -> sp.csr_matrix:
        """Symmetric weights in which every cell gives its neighbours and its matches one unit each."""
        n, k = self.neighbours.shape
        near = sp.csr_matrix((np.full(n * k, 1 / k), self.neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
        degree = np.asarray(self.matches.sum(axis=1)).ravel()
        match = sp.diags(1 / np.maximum(degree, 1)) @ self.matches
        total = near + match
        return ((total + total.T) / 2).tocsr()


def _neighbours_within(z: NDArray[np.float32], codes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    out = np.repeat(np.arange(len(z))[:, None], k, axis=1)
    for group in np.unique(codes):
        members = np.flatnonzero(codes == group)
        if len(members) == 1:
            continue
        near = _nearest(z[members], z[members], min(k + 1, len(members)))[:, 1:]
        out[members] = members[near[:, np.arange(k) % near.shape[1]]]
    return out


def _mutual_matches(z: NDArray[np.float32], codes: NDArray[np.int64], k: int) -> sp.csr_matrix:
    n = len(z)
    members = {group: np.flatnonzero(codes == group) for group in np.unique(codes)}
    left, right = [], []
    for a, b in combinations(members, 2):
        ab = _membership(_nearest(z[members[a]], z[members[b]], min(k, len(members[b]))), len(members[b]))
        ba = _membership(_nearest(z[members[b]], z[members[a]], min(k, len(members[a]))), len(members[a]))
        mutual = ab.multiply(ba.T).tocoo()
        left.append(members[a][mutual.row])
        right.append(members[b][mutual.col])
    i, j = np.concatenate(left), np.concatenate(right)
    half = sp.csr_matrix((np.ones(len(i), np.float32), (i, j)), shape=(n, n))
    return (half + half.T).tocsr()


def _nearest(queries: NDArray[np.float32], points: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    return NearestNeighbors(n_neighbors=k).fit(points).kneighbors(queries, return_distance=False)


def _membership(near: NDArray[np.int64], n_points: int) -> sp.csr_matrix:
    n, k = near.shape
    return sp.csr_matrix((np.ones(n * k), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n_points))
