"""Minibatches in which every group takes part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def count_batches(n_cells: int, batch_size: int) -> int:
    """Batches per epoch."""
    return max(1, round(n_cells / batch_size))


def stratified_batches(
    codes: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Walk once through all cells in shuffled batches that mirror the groups' proportions.

    Every group's cells are spread evenly over the epoch. A batch in which a group would still be absent, because it has
    fewer cells than there are batches, gets one of its cells more, with the weight that the group has in an average
    batch: so I(G;C) of a batch never misses a group and the weighted composition stays that of the data.

    Parameters
    ----------
    codes
        Group of each cell, shape (n_cells,).
    batch_size
        Cells per batch, before small groups are added.
    rng
        Source of randomness.

    Yields
    ------
    Rows and their weights.
    """
    n = len(codes)
    n_batches = count_batches(n, batch_size)
    shuffled = rng.permutation(n)
    shuffled = shuffled[np.argsort(codes[shuffled], kind="stable")]
    counts = np.bincount(codes)
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    phase = rng.random(len(counts))
    place = (rank + np.repeat(phase, counts)) / np.repeat(np.maximum(counts, 1), counts)
    order = shuffled[np.argsort(place, kind="stable")]
    small = np.flatnonzero((counts > 0) & (counts < n_batches))
    members = {g: np.flatnonzero(codes == g) for g in small}
    for rows in np.array_split(order, n_batches):
        weights = np.ones(len(rows), np.float32)
        if len(small):
            absent = np.setdiff1d(small, codes[rows])
            extra = np.array([rng.choice(members[g]) for g in absent], dtype=np.int64)
            for g in np.intersect1d(small, codes[rows]):
                here = codes[rows] == g
                weights[here] = counts[g] / n_batches / here.sum()
            rows = np.concatenate([rows, extra])
            weights = np.concatenate([weights, (counts[absent] / n_batches).astype(np.float32)])
        yield rows, weights
