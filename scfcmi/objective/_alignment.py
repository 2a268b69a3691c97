"""Where a cell would be, had it been measured like the others: the target of the fair embedding."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ._graph import mutual_matches, neighbours_within

N_ITERATIONS = 5
N_SMOOTHING = 8
# Support, as a share of the median, at which a cell follows its neighbours' and its group's displacement half and half.
PRIOR_SUPPORT = 0.1
# Fewer matched cells than this say nothing about a group as a whole.
MIN_MATCHED = 5


def align(
    z: NDArray[np.float32], codes: NDArray[np.int64], *, n_neighbors: int, n_matches: int, strength: float = 1.0
) -> NDArray[np.float32]:
    """Move cells along a field of displacements towards their matches in other groups.

    A technical effect moves neighbouring cells of a group alike, so the displacement of a cell is an average over its
    neighbourhood of where matched cells would have to go; a cell whose neighbourhood has no match inherits the
    displacement of those around it and, in the end, of its group. It keeps its distance to other cells of its group,
    so a type that no other group has is carried along and not forced onto another type. Matches are found anew among
    the moved cells, but displacements are always measured from where cells started: nothing contracts over iterations.

    Mutual nearest neighbours as matches follow Haghverdi et al., Nature Biotechnology 2018.

    Parameters
    ----------
    z
        Rows of equal length, shape (n_cells, n_dims).
    codes
        Group of each cell, shape (n_cells,).
    n_neighbors
        Neighbours within the group over which displacements are smoothed.
    n_matches
        Candidates for mutual neighbours per other group.
    strength
        Share of the displacement that is applied, 0 to 1.

    Returns
    -------
    Aligned rows of unit length, shape (n_cells, n_dims).
    """
    start = _unit(z)
    if strength == 0:
        return start
    n = len(z)
    n_groups = int(codes.max()) + 1
    spread = (neighbours_within(start, codes, n_neighbors) + sp.eye(n, dtype=np.float32, format="csr")).tocsr()
    membership = sp.csr_matrix((np.ones(n, np.float32), codes, np.arange(n + 1)), shape=(n, n_groups))
    aligned = start
    for _ in range(N_ITERATIONS):
        matches = mutual_matches(aligned, codes, n_matches)
        if matches.nnz == 0:
            break
        field = _displacements(start, codes, matches, membership, spread)
        aligned = _unit(start + strength * field)
    return aligned


def _displacements(
    z: NDArray[np.float32],
    codes: NDArray[np.int64],
    matches: sp.csr_matrix,
    membership: sp.csr_matrix,
    spread: sp.csr_matrix,
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
        pull, support = spread @ pull, spread @ support
    prior = PRIOR_SUPPORT * np.median(support[support > 0])
    return ((pull + prior * of_group) / (support + prior)[:, None]).astype(np.float32)


def _unit(z: NDArray[np.float32]) -> NDArray[np.float32]:
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)).astype(np.float32)
