"""Which cells are looked at closely when there are too many to look at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_sketch(codes: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a sorted sample of about `size` rows in which no group vanishes.

    Half of the budget is shared in proportion to the groups' sizes, so that the composition is kept; the other half is
    shared equally, so that small groups keep enough cells for neighbours to be found among them.

    Parameters
    ----------
    codes
        Group of each cell, shape (n_cells,).
    size
        Cells wanted; all are returned when there are no more than that.
    rng
        Source of randomness.
    """
    if size >= len(codes):
        return np.arange(len(codes))
    counts = np.bincount(codes)
    share = 0.5 * counts / counts.sum() + 0.5 * (counts > 0) / (counts > 0).sum()
    quota = np.minimum(counts, np.ceil(size * share).astype(np.int64))
    room = counts - quota
    quota += np.floor(max(size - quota.sum(), 0) * room / max(room.sum(), 1)).astype(np.int64)
    picks = [rng.choice(np.flatnonzero(codes == g), size=quota[g], replace=False) for g in np.flatnonzero(counts)]
    return np.sort(np.concatenate(picks))
