"""Whether there is a valley between two clusters: fewer cells in the middle than on either side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ._tree import DEEPEST, NO_VALLEY, UNDECIDED

# Fewest cells of a cluster that tell something; most that the direction is found from, and that stand for its density.
TELLING, MOST, STAND = 10, 500, 2000
# The direction from one cluster to the other is found without the cells that are measured along it, a part at a time.
PARTS = 5
# Means are so many standard deviations of both sides apart where it goes without saying that there is nothing between.
FAR = 6.0
# What is added to the covariance, in mean variances.
RIDGE = 0.1
# Fewest cells on either side by which it is known where a group stands, and the share of the smaller side that such
# groups must hold.
WITHIN, COVERED = 50, 0.5
# Places at which the density is measured.
GRID = 512


@dataclass(frozen=True)
class Valleys:
    """How deep valleys are between unions of small clusters; between the same cells always the same.

    Parameters
    ----------
    points
        Registered positions of all cells, shape (n_cells, n_dims).
    measured
        Where they were measured, in the same directions, shape (n_cells, n_dims).
    group
        Group of every cell, shape (n_cells,).
    small
        Small cluster of every cell, counted from 0 without gaps, shape (n_cells,).
    random_state
        Seed.
    sides, known
        What was reckoned, by the cells of a side, and by those on both.
    """

    points: NDArray[np.floating]
    measured: NDArray[np.floating]
    group: NDArray[np.int64]
    small: NDArray[np.int64]
    random_state: int
    sides: dict[bytes, _Side] = field(default_factory=dict)
    known: dict[tuple[bytes, bytes], float] = field(default_factory=dict)

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        return by_label(self.small)

    def __call__(self, first: Sequence[int], second: Sequence[int]) -> float:
        """Density of cells at the lowest place between two unions, over the lower one of the two tops beside it.

        It is measured along the direction that separates the two best (Fisher's linear discriminant). Clusters were
        found from the very positions that are measured, and in many directions few cells lie apart along *some*
        direction by chance; so every cell is placed along a direction found without it. Parts of one homogeneous
        cluster, however long it is, have a valley of about one; clusters with nothing between them of zero. Of many
        cells a random choice stands for all; of a few nothing is known.

        Registration moves neighbours alike, but where parts of one type are moved by different vectors, it can tear a
        gap that no group has. A valley that is neither deep nor none is therefore no deeper than where groups are moved
        as a whole, if most cells of the smaller side are in groups that have cells on both.
        """
        sides = [np.sort(np.concatenate([self._rows[cluster] for cluster in side])) for side in (first, second)]
        if min(map(len, sides)) < TELLING:
            return UNDECIDED
        low, high = sorted(sides, key=lambda rows: rows[0])
        key = _digest(low), _digest(high)
        if key not in self.known:
            for name, rows in zip(key, (low, high), strict=True):
                if name not in self.sides:
                    self.sides[name] = self._side(self.points, rows)
            found = _between(self.points, self.sides[key[0]], self.sides[key[1]])
            if DEEPEST < found < NO_VALLEY:
                found = max(found, self._between_groups_as_they_are(low, high))
            self.known[key] = found
        return self.known[key]

    def _side(self, points: NDArray[np.floating], rows: NDArray[np.int64]) -> _Side:
        return _Side.of(points, rows, np.random.default_rng(self.random_state))

    def _between_groups_as_they_are(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> float:
        """The same where each group is only moved as a whole: to where the middle of its two sides is that of others.

        Zero where too few cells are in groups that have cells on both sides.
        """
        n_groups = int(self.group.max()) + 1
        count = np.stack([np.bincount(self.group[rows], minlength=n_groups) for rows in (low, high)])
        telling = count.min(axis=0) >= WITHIN
        kept = [rows[telling[self.group[rows]]] for rows in (low, high)]
        smaller = int(len(low) > len(high))
        if len(kept[smaller]) < COVERED * len((low, high)[smaller]):
            return 0.0
        middle = np.zeros((n_groups, self.measured.shape[1]))
        for rows, n in zip(kept, count, strict=True):
            np.add.at(middle, self.group[rows], self.measured[rows] / (2 * n[self.group[rows], None]))
        both = np.concatenate(kept)
        points = self.measured[both] - middle[self.group[both]]
        sides = np.split(np.arange(len(both)), [len(kept[0])])
        return _between(points, *(self._side(points, rows) for rows in sides))


def by_label(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cells of every cluster, in order, by labels that are counted from 0 without gaps."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])


def _digest(rows: NDArray[np.int64]) -> bytes:
    return blake2b(rows.tobytes(), digest_size=16).digest()


def _between(points: NDArray[np.floating], low: _Side, high: _Side) -> float:
    between = high.mean - low.mean
    distance = float(np.linalg.norm(between[0]))
    if distance > 0 and distance > FAR * sum(side.deviation(between[0] / distance) for side in (low, high)):
        return 0.0
    spread = low.scatter + high.scatter
    n_dims = between.shape[1]
    spread += np.eye(n_dims) * (RIDGE * spread.trace(axis1=1, axis2=2) / n_dims + 1e-12)[:, None, None]
    direction = np.linalg.solve(spread, between[:, :, None])[:, :, 0]
    # The means of the cells that the direction was found from are at 0 and 1.
    length = np.maximum((between * direction).sum(1), 1e-300)
    direction, start = direction / length[:, None], (low.mean * direction).sum(1) / length
    along = [(points[side.rows] @ direction.T - start)[np.arange(len(side.rows)), side.part] for side in (low, high)]
    return _lowest(along[0], along[1], low.stands_for, high.stands_for)


@dataclass(frozen=True)
class _Side:
    """Cells of one cluster, and what is left of them without each part, for parts of equal size.

    Parameters
    ----------
    rows
        Those that stand for all of them, in random order, shape (n_cells,).
    stands_for
        How many cells each of these stands for.
    n_telling
        Of how many cells there is a mean without each part, shape (n_parts, 1).
    mean, scatter
        Without each part, shapes (n_parts, n_dims) and (n_parts, n_dims, n_dims).
    """

    rows: NDArray[np.int64]
    stands_for: float
    n_telling: NDArray[np.int64]
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, points: NDArray[np.floating], rows: NDArray[np.int64], rng: np.random.Generator) -> _Side:
        """Parts at random; of many cells some tell the direction."""
        kept = rng.permutation(rows)[:STAND]
        some = points[kept[: MOST * PARTS // (PARTS - 1)]].astype(np.float64)
        centre = some.mean(0)
        split = [some[own::PARTS] - centre for own in range(PARTS)]
        total = np.stack([own.sum(0) for own in split])
        square = np.stack([own.T @ own for own in split])
        left = len(some) - np.array([len(own) for own in split])[:, None]
        mean = (total.sum(0) - total) / left
        scatter = square.sum(0) - square - left[:, :, None] * mean[:, :, None] * mean[:, None, :]
        return cls(kept, len(rows) / len(kept), left, centre + mean, scatter)

    def deviation(self, direction: NDArray[np.float64]) -> float:
        """Standard deviation along a direction of length one."""
        return math.sqrt(max(float(direction @ self.scatter[0] @ direction), 0.0) / float(self.n_telling[0, 0]))

    @property
    def part(self) -> NDArray[np.int64]:
        """Part of every cell, shape (n_cells,)."""
        return np.arange(len(self.rows)) % PARTS


def _lowest(low: NDArray[np.float64], high: NDArray[np.float64], of_low: float, of_high: float) -> float:
    """The same along a line, for cells that stand for so many each."""
    start, stop = np.median(low), np.median(high)
    width = 1.06 * min(low.std(), high.std()) * min(len(low), len(high)) ** -0.2  # Silverman's rule
    if stop <= start or width <= 0:
        return float(stop <= start)
    first = min(low.min(), high.min()) - 3 * width
    step = (max(low.max(), high.max()) + 3 * width - first) / GRID
    count = sum(
        weight * np.bincount(((side - first) / step).astype(np.int64), minlength=GRID)[:GRID]
        for side, weight in ((low, of_low), (high, of_high))
    )
    density = gaussian_filter1d(np.asarray(count, np.float64), width / step, mode="constant")
    middle = first + step * (np.arange(GRID) + 0.5)
    between = np.flatnonzero((middle >= start) & (middle <= stop))
    if not len(between):
        return 1.0
    lowest = between[density[between].argmin()]
    return float(density[lowest] / min(density[: lowest + 1].max(), density[lowest:].max()))
