"""Cells of the fit that stay with the model, as places for later cells to be compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scfcmi.objective import believable, mutual_matches, nearest, neighbours_within
from scfcmi.objective._alignment import N_ITERATIONS, N_SMOOTHING, PRIOR_SUPPORT
from scfcmi.source._matrix import unit_rows

N_ANCHORS = 5000


@dataclass(frozen=True)
class Anchors:
    """A sample of the fitted cells, stratified by group, as the network sees them.

    Parameters
    ----------
    position
        Rows of the network's input, shape (n_anchors, n_input).
    codes
        Group of each of them, shape (n_anchors,).
    """

    position: NDArray[np.float32]
    codes: NDArray[np.int64]


def align_to_anchors(
    z: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    n_neighbors: int,
    n_candidates: int,
    max_cells: int,
    random_state: int,
) -> tuple[NDArray[np.float32], int]:
    """Move cells of one new group to where the reference is; the reference stays where it is.

    As in the fit, a cell is displaced by the average over its neighbourhood of where matched cells have to go, and
    matches are mutual nearest neighbours whose neighbourhoods are close.

    Parameters
    ----------
    z
        Rows of one group, as the network sees them, shape (n_cells, n_dims).
    reference
        Embedding of the anchors, unit length, shape (n_anchors, n_dims).
    n_neighbors
        Neighbours over which displacements are smoothed.
    n_candidates
        Candidates for mutual neighbours.
    max_cells
        Cells that are aligned themselves; more than these follow their nearest neighbours among them.
    random_state
        Seed of the choice among them.

    Returns
    -------
    Aligned rows of unit length, and the number of cells that had a match; at 0 the rows are where they were.
    """
    start = unit_rows(z)
    picked = np.arange(len(z))
    if len(z) > max_cells:
        picked = np.sort(np.random.default_rng(random_state).choice(len(z), max_cells, replace=False))
    shift, n_matched = _shift(start[picked], unit_rows(reference), n_neighbors, n_candidates)
    if len(picked) < len(z):
        shift = shift[nearest(start, start[picked], n_neighbors)].mean(axis=1)
    return unit_rows(start + shift), n_matched


def _shift(
    start: NDArray[np.float32], reference: NDArray[np.float32], n_neighbors: int, n_candidates: int
) -> tuple[NDArray[np.float32], int]:
    n = len(start)
    is_reference = np.repeat(np.array([0, 1]), [n, len(reference)])
    near = neighbours_within(np.vstack([start, reference]), is_reference, n_neighbors)
    near_start = near[:n, :n]
    shift, n_matched = np.zeros_like(start), 0
    for _ in range(N_ITERATIONS):
        places = np.vstack([unit_rows(start + shift), reference])
        candidates = mutual_matches(places, is_reference, n_candidates)
        matches = believable(candidates, places, is_reference, near)[:n, n:]
        count = np.asarray(matches.sum(axis=1)).ravel()
        matched = count > 0
        n_matched = int(matched.sum())
        if n_matched == 0:
            return np.zeros_like(start), 0
        pull = np.where(matched[:, None], (matches @ reference) / np.maximum(count, 1)[:, None] - start, 0)
        of_group = np.median(pull[matched], axis=0)
        support = matched.astype(np.float32)
        for _ in range(N_SMOOTHING):
            pull, support = pull + near_start @ pull, support + near_start @ support
        prior = PRIOR_SUPPORT * np.median(support[support > 0])
        shift = ((pull + prior * of_group) / (support + prior)[:, None]).astype(np.float32)
    return shift, n_matched


def remoteness(
    position: NDArray[np.float32], anchors: NDArray[np.float32], k: int, *, skip_self: bool = False
) -> NDArray[np.float32]:
    """Mean distance to the `k` nearest anchors, shape (n_cells,).

    Parameters
    ----------
    position, anchors
        Rows of unit length, shape (n_cells, n_dims) and (n_anchors, n_dims).
    k
        Anchors looked at.
    skip_self
        Whether row i of `position` is anchor i, which then does not count.
    """
    near = nearest(position, anchors, k + skip_self)
    cosine = np.einsum("nd,nkd->nk", position, anchors[near])
    distance = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    if skip_self:
        own = near == np.arange(len(near))[:, None]
        own[~own.any(axis=1), -1] = True
        return np.where(own, 0, distance).sum(axis=1) / max(near.shape[1] - 1, 1)
    return distance.mean(axis=1)
