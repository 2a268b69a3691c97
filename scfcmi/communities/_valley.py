"""Whether there is a valley between two clusters: fewer cells in the middle than on either side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ._tree import UNDECIDED

# Cells of a cluster that the direction is found from, and the fewest that tell something.
MOST, FEWEST = 500, 10
# The direction from one cluster to the other is found without the cells that are measured along it, a part at a time.
PARTS = 5
# What is added to the covariance, in mean variances.
RIDGE = 0.1
# Places at which the density is measured.
GRID = 512


@dataclass(frozen=True)
class Valleys:
    """How deep valleys are between unions of small clusters.

    Parameters
    ----------
    points
        Positions of all cells, shape (n_cells, n_dims).
    small
        Small cluster of every cell, counted from 0 without gaps, shape (n_cells,).
    random_state
        Seed.
    """

    points: NDArray[np.floating]
    small: NDArray[np.int64]
    random_state: int

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        return np.split(np.argsort(self.small, kind="stable"), np.cumsum(np.bincount(self.small))[:-1])

    def __call__(self, first: Sequence[int], second: Sequence[int]) -> float:
        """Between two unions; of a few cells nothing is known."""
        parts = [[self._rows[cluster] for cluster in side] for side in (first, second)]
        # Before anything is copied: most of what is asked about is as small as that.
        if min(sum(map(len, part)) for part in parts) < FEWEST:
            return UNDECIDED
        low, high = (self.points[np.concatenate(part)] for part in parts)
        return valley(low, high, np.random.default_rng(self.random_state))


def valley(first: NDArray[np.floating], second: NDArray[np.floating], rng: np.random.Generator) -> float:
    """Density of cells at the lowest place between two clusters, over that of the lower one of the two tops beside it.

    It is measured along the direction that separates the two best (Fisher's linear discriminant). Clusters were found
    from the very positions that are measured, and in many directions few cells lie apart along *some* direction by
    chance; so every cell is placed along a direction found without it. Parts of one homogeneous cluster, however long
    it is, have a valley of about one; clusters with nothing between them of zero.

    Parameters
    ----------
    first, second
        Positions of the cells of each, shapes (n_first, n_dims) and (n_second, n_dims).
    rng
        Source of randomness.
    """
    points, upper = np.vstack([first, second]), np.repeat([False, True], [len(first), len(second)])
    part = np.concatenate([rng.permutation(len(side)) % PARTS for side in (first, second)])
    along = np.empty(len(points))
    for own in range(PARTS):
        low, high = (_some(points, np.flatnonzero((part != own) & (upper == side)), rng) for side in (False, True))
        between = high.mean(0) - low.mean(0)
        spread = (low - low.mean(0)).T @ (low - low.mean(0)) + (high - high.mean(0)).T @ (high - high.mean(0))
        spread[np.diag_indices(len(spread))] += RIDGE * np.trace(spread) / len(spread) + 1e-12
        direction = np.linalg.solve(spread, between)
        # The means of the cells that the direction was found from are at 0 and 1.
        length = max(float(between @ direction), 1e-300)
        along[part == own] = (points[part == own] @ direction - low.mean(0) @ direction) / length
    return _lowest(along, upper)


def _some(points: NDArray[np.floating], rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    kept = rows if len(rows) <= MOST else rng.choice(rows, MOST, replace=False)
    return points[kept].astype(np.float64)


def _lowest(along: NDArray[np.float64], upper: NDArray[np.bool_]) -> float:
    low, high = along[~upper], along[upper]
    start, stop = np.median(low), np.median(high)
    width = 1.06 * min(low.std(), high.std()) * min(len(low), len(high)) ** -0.2  # Silverman's rule
    if stop <= start or width <= 0:
        return float(stop <= start)
    first, last = along.min() - 3 * width, along.max() + 3 * width
    count, edges = np.histogram(along, GRID, (first, last))
    density = gaussian_filter1d(count.astype(np.float64), width / (edges[1] - edges[0]), mode="constant")
    middle = (edges[1:] + edges[:-1]) / 2
    between = np.flatnonzero((middle >= start) & (middle <= stop))
    if not len(between):
        return 1.0
    lowest = between[density[between].argmin()]
    return float(density[lowest] / min(density[: lowest + 1].max(), density[lowest:].max()))
