"""Who is whose neighbour: within a group, across groups, and among all cells."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

# Distances held at once, in entries; more groups than this are matched against all other cells together.
BLOCK = 2**25
MAX_PAIRED_GROUPS = 16


def nearest(
    queries: NDArray[np.float32], points: NDArray[np.float32], k: int, *, skip_self: bool = False
) -> NDArray[np.int64]:
    """Positions of the `k` nearest points of every query, nearest first, by brute force in blocks.

    Parameters
    ----------
    queries, points
        Rows, shape (n_queries, n_dims) and (n_points, n_dims).
    k
        Neighbours; fewer when there are fewer points.
    skip_self
        Whether queries are the points, and a point is not its own neighbour.
    """
    k = min(k, len(points) - skip_self)
    target = torch.from_numpy(np.ascontiguousarray(points))
    half_norm = target.square().sum(1) / 2
    out = np.empty((len(queries), k), np.int64)
    step = max(1, BLOCK // max(len(points), 1))
    for start in range(0, len(queries), step):
        block = torch.from_numpy(np.ascontiguousarray(queries[start : start + step]))
        closeness = torch.addmm(-half_norm, block, target.T)
        if skip_self:
            rows = torch.arange(len(block))
            closeness[rows, rows + start] = -torch.inf
        out[start : start + step] = closeness.topk(k, dim=1).indices.numpy()
    return out


def neighbours_within(z: NDArray[np.float32], codes: NDArray[np.int64], k: int) -> sp.csr_matrix:
    """Nearest cells of the same group, each row summing to one; a cell alone in its group has none.

    Parameters
    ----------
    z
        Rows to search in, shape (n_cells, n_dims).
    codes
        Group of each cell, shape (n_cells,).
    k
        Neighbours per cell.
    """
    rows, cols, values = [], [], []
    for group in np.unique(codes):
        members = np.flatnonzero(codes == group)
        if len(members) > 1:
            near = nearest(z[members], z[members], k, skip_self=True)
            rows.append(np.repeat(members, near.shape[1]))
            cols.append(members[near].ravel())
            values.append(np.full(near.size, 1 / near.shape[1], np.float32))
    return _assemble(rows, cols, values, len(z))


def mutual_matches(z: NDArray[np.float32], codes: NDArray[np.int64], k: int) -> sp.csr_matrix:
    """Mutual nearest neighbours between groups, a symmetric matrix of ones.

    With many groups, a cell looks for its neighbours among all cells of other groups at once, so that the cost does not
    grow with the number of pairs of groups.

    Parameters
    ----------
    z
        Rows to search in, shape (n_cells, n_dims).
    codes
        Group of each cell, shape (n_cells,).
    k
        Candidates per cell and other group.
    """
    members = [np.flatnonzero(codes == group) for group in np.unique(codes)]
    if len(members) > MAX_PAIRED_GROUPS:
        everyone = np.arange(len(z))
        rows, cols = [], []
        for own in members:
            others = np.setdiff1d(everyone, own, assume_unique=True)
            near = nearest(z[own], z[others], 2 * k)
            rows.append(np.repeat(own, near.shape[1]))
            cols.append(others[near].ravel())
        one_way = _assemble(rows, cols, None, len(z))
        return one_way.multiply(one_way.T).tocsr()
    rows, cols = [], []
    half = (z**2).sum(axis=1) / 2
    for a, b in combinations(members, 2):
        closeness = z[a] @ z[b].T - half[a, None] - half[b]
        i, j = np.nonzero(_closest(closeness, k) & _closest(np.ascontiguousarray(closeness.T), k).T)
        rows.append(a[i])
        cols.append(b[j])
    one_way = _assemble(rows, cols, None, len(z))
    return (one_way + one_way.T).tocsr()


def _closest(closeness: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Which `k` entries of every row are the largest."""
    k = min(k, closeness.shape[1])
    # Only the k-th has to be known, and that takes a fraction of the time that finding all of them does.
    found: NDArray[np.bool_] = closeness >= np.partition(closeness, -k, axis=1)[:, -k, None]
    tied = np.flatnonzero(np.count_nonzero(found, axis=1) > k)
    first = np.argsort(-closeness[tied], axis=1, kind="stable")[:, :k]
    found[tied] = False
    found[tied[:, None], first] = True
    return found


def _assemble(
    rows: list[NDArray[np.int64]], cols: list[NDArray[np.int64]], values: list[NDArray[np.float32]] | None, n: int
) -> sp.csr_matrix:
    if not rows:
        return sp.csr_matrix((n, n), dtype=np.float32)
    i, j = np.concatenate(rows), np.concatenate(cols)
    data = np.ones(len(i), np.float32) if values is None else np.concatenate(values)
    return sp.csr_matrix((data, (i, j)), shape=(n, n))


def unit_rows(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; those of no length stay at zero."""
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)).astype(np.float32)
