"""Where cells would be if those that are mutual neighbours across groups met: a start for the mixture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ._matches import mutual_matches, neighbours_within, unit_rows

N_ITERATIONS = 5
N_SMOOTHING = 4
# Support, as a share of the median, at which a cell follows its neighbours' and its group's displacement half and half.
PRIOR_SUPPORT = 0.1
# Fewer matched cells than this say nothing about a group as a whole.
MIN_MATCHED = 5
# Distances between neighbourhoods, in radii: matches up to the first are believed, beyond the second never; in between
# a match must not be farther than so many times the best one around either end.
ALWAYS, NEVER, TIMES_BEST = 1.0, 2.5, 2.0


def align(
    z: NDArray[np.float32],
    codes: NDArray[np.int64],
    *,
    n_neighbors: int,
    n_candidates: int,
    n_rounds: int = N_ITERATIONS,
    strength: float | Sequence[float] | NDArray[np.float64] = 1.0,
) -> NDArray[np.float32]:
    """Move cells along a field of displacements towards their matches in other groups.

    A technical effect moves neighbouring cells of a group alike, so the displacement of a cell is an average over its
    neighbourhood of where matched cells would have to go; a cell whose neighbourhood has no match inherits the
    displacement of those around it and, in the end, of its group. Matches whose neighbourhoods lie far apart although
    there are better ones nearby are not believed, so that a type that no other group has is carried along and not
    forced onto another type. Matches are found anew among the moved cells, but displacements are always measured from
    where cells started: nothing contracts over iterations.

    With several attributes there is one field for each. They take turns: matches between the levels of an attribute are
    found among cells that all fields have moved, and its displacements are measured from where the other fields have
    taken the cells. So what two attributes explain alike is moved once, and a level that occurs in few combinations is
    compared across all of them.

    Mutual nearest neighbours as matches follow Haghverdi et al., Nature Biotechnology 2018.

    Parameters
    ----------
    z
        Rows to align, shape (n_cells, n_dims).
    codes
        Group of each cell, shape (n_cells,), or its level in each attribute, shape (n_cells, n_attributes).
    n_neighbors
        Neighbours within the group over which displacements are smoothed.
    n_candidates
        Candidates for mutual neighbours per other group.
    n_rounds
        How often matches are found anew.
    strength
        Share of the displacement that is applied, 0 to 1, one for all attributes or one for each.

    Returns
    -------
    Aligned rows of unit length, shape (n_cells, n_dims).
    """
    start = unit_rows(z)
    columns = codes.reshape(len(z), -1).T
    shares = np.broadcast_to(strength, len(columns))
    active = np.flatnonzero(shares > 0)
    fields = [_Field(start, columns[i], n_neighbors, float(shares[i])) for i in active]
    aligned = start
    for _ in range(n_rounds):
        found = False
        for field in fields:
            matches = field.matches(aligned, n_candidates)
            if matches.nnz:
                found = True
                others = sum((other.moves for other in fields if other is not field), start)
                field.update(others, matches)
                aligned = unit_rows(others + field.moves)
        if not found:
            break
    return aligned


class _Field:
    """Displacements that make the levels of one attribute meet."""

    def __init__(self, start: NDArray[np.float32], codes: NDArray[np.int64], n_neighbors: int, strength: float) -> None:
        n = len(start)
        self._codes, self._strength = codes, strength
        self._near = neighbours_within(start, codes, n_neighbors)
        self._membership = sp.csr_matrix((np.ones(n, np.float32), codes, np.arange(n + 1)))
        self.moves: NDArray[np.float32] = np.zeros_like(start)

    def matches(self, z: NDArray[np.float32], k: int) -> sp.csr_matrix:
        return believable(mutual_matches(z, self._codes, k), z, self._codes, self._near)

    def update(self, z: NDArray[np.float32], matches: sp.csr_matrix) -> None:
        self.moves = self._strength * _displacements(z, self._codes, matches, self._membership, self._near)


def believable(
    matches: sp.csr_matrix, z: NDArray[np.float32], codes: NDArray[np.int64], near: sp.csr_matrix
) -> sp.csr_matrix:
    """Keep the matches whose neighbourhoods are close, or about as close as any around.

    Parameters
    ----------
    matches
        Symmetric matrix of matches, shape (n_cells, n_cells).
    z
        Positions, shape (n_cells, n_dims).
    codes
        Group of each cell, shape (n_cells,).
    near
        Row-normalised neighbours within the group, shape (n_cells, n_cells).
    """
    pairs = sp.triu(matches, format="coo")
    i, j = pairs.row, pairs.col
    distance = neighbourhood_distance(z, near, i, j)
    best = np.full((len(z), int(codes.max()) + 1), np.inf)
    for here, there in ((i, j), (j, i)):
        np.minimum.at(best, (here, codes[there]), distance)
    known = np.isfinite(best)
    best = np.where(known, best, 0)
    count = near @ known.astype(np.float32) + known
    best = np.where(count > 0, (near @ best + best) / np.maximum(count, 1e-12), np.inf)
    limit = np.maximum(ALWAYS, TIMES_BEST * np.minimum(best[i, codes[j]], best[j, codes[i]]))
    keep = (distance <= limit) & (distance <= NEVER)
    upper = sp.csr_matrix((np.ones(keep.sum(), np.float32), (i[keep], j[keep])), shape=matches.shape)
    return (upper + upper.T).tocsr()


def neighbourhood_distance(
    z: NDArray[np.float32], near: sp.csr_matrix, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Distance between the mean neighbourhoods of two cells, in units of the neighbourhoods' radius, per pair."""
    z = z.astype(np.float64)
    centre = near @ z
    norm = (z**2).sum(axis=1)
    radius2 = np.maximum(near @ norm - 2 * (z * centre).sum(axis=1) + norm, 1e-12)
    away = centre[i] - centre[j]
    return np.sqrt(np.einsum("ij,ij->i", away, away) / np.sqrt(radius2[i] * radius2[j]))


def _displacements(
    z: NDArray[np.float32],
    codes: NDArray[np.int64],
    matches: sp.csr_matrix,
    membership: sp.csr_matrix,
    near: sp.csr_matrix,
) -> NDArray[np.float32]:
    per_group = np.asarray((matches @ membership).todense())
    pairs = matches.tocoo()
    weight = 1 / per_group[pairs.row, codes[pairs.col]]
    towards = sp.csr_matrix((weight, (pairs.row, pairs.col)), shape=matches.shape)
    n_matched_groups = (per_group > 0).sum(axis=1).astype(np.float32)
    matched = n_matched_groups > 0
    # The cell itself counts as one of the places to average over: all groups meet halfway.
    pull = towards @ z - n_matched_groups[:, None] * z
    support = n_matched_groups + matched
    of_group = np.zeros_like(z)
    for group in range(membership.shape[1]):
        members = codes == group
        known = members & matched
        if known.sum() > MIN_MATCHED:
            of_group[members] = np.median(pull[known] / support[known, None], axis=0)
    for _ in range(N_SMOOTHING):
        pull, support = pull + near @ pull, support + near @ support
    prior = PRIOR_SUPPORT * np.median(support[support > 0])
    return ((pull + prior * of_group) / (support + prior)[:, None]).astype(np.float32)
