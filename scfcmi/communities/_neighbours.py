"""Nearest neighbours on the device: by brute force among few points, and in nearby components among many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import rows_at_once, side_by_side, smaller_when_full

# Up to so many points, all are candidates; beyond, those of the nearest components, at least so many.
ALL, CANDIDATES = {"cpu": 6_000, "mps": 20_000, "cuda": 60_000}, 1_500
# Distances held at once.
BLOCK = {"cpu": 2**21, "mps": 2**25, "cuda": 2**28}


@dataclass(frozen=True)
class Index:
    """Points among which neighbours are looked for.

    Parameters
    ----------
    points
        Shape (n_points, n_dims).
    component
        Component of every point, shape (n_points,).
    centres
        Where components are, shape (n_components, n_dims).
    """

    points: Tensor
    component: Tensor
    centres: Tensor

    @smaller_when_full
    def search(
        self, queries: Tensor, k: int, component: Tensor | None = None, *, skip_self: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Nearest points of every query, nearest first.

        Parameters
        ----------
        queries
            Shape (n_queries, n_dims).
        k
            Neighbours; fewer come back when there are fewer points.
        component
            Component of every query, shape (n_queries,); of use among many points only.
        skip_self
            Whether queries are the points, and a point is not its own neighbour.

        Returns
        -------
        Positions among the points, and distances, shapes (n_queries, k).
        """
        k = min(k, len(self.points) - skip_self)
        device = self.points.device
        index = torch.empty((len(queries), k), dtype=torch.int64, device=device)
        distance = torch.empty((len(queries), k), dtype=queries.dtype, device=device)

        def among(part: tuple[Tensor, Tensor | None]) -> None:
            some, candidates = part
            index[some], distance[some] = self._among(queries, some, candidates, k, skip_self)

        for _ in side_by_side(among, self._parts(len(queries), component, k), device=device, n_rows=len(queries)):
            pass
        return index, distance

    def _parts(self, n: int, component: Tensor | None, k: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Some of the queries at a time, and the points among which their neighbours are looked for, if not all."""
        device = self.points.device
        for rows, candidates in self._candidates(n, component, k):
            n_candidates = len(self.points if candidates is None else candidates)
            step = rows_at_once(max(1, BLOCK[device.type] // max(n_candidates, 1)))
            yield from ((some, candidates) for some in rows.split(step))

    def _candidates(self, n: int, component: Tensor | None, k: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        device = self.points.device
        if component is None or len(self.points) <= ALL[device.type]:
            yield torch.arange(n, device=device), None
            return
        members = _by_component(self.component, len(self.centres))
        asking = _by_component(component, len(self.centres))
        # Its own component is the nearest of all, also where another has the same centre.
        near = torch.cdist(self.centres, self.centres).fill_diagonal_(-1).argsort(1).cpu().numpy()
        sizes = np.array([len(rows) for rows in members])
        wanted = max(CANDIDATES, 4 * k)
        for c, rows in enumerate(asking):
            if not len(rows):
                continue
            few = int(np.searchsorted(np.cumsum(sizes[near[c]]), wanted)) + 1
            yield rows, torch.cat([members[other] for other in near[c][:few]]).sort().values

    def _among(
        self, queries: Tensor, some: Tensor, candidates: Tensor | None, k: int, skip_self: bool
    ) -> tuple[Tensor, Tensor]:
        points = self.points if candidates is None else self.points[candidates]
        q = queries[some]
        closeness = torch.addmm(points.square().sum(1) / -2, q, points.T)
        if skip_self:
            own = some if candidates is None else torch.searchsorted(candidates, some)
            closeness[torch.arange(len(some), device=own.device), own] = -torch.inf
        best = closeness.topk(k, dim=1)
        found = best.indices if candidates is None else candidates[best.indices]
        return found, (q.square().sum(1, keepdim=True) - 2 * best.values).clamp_min(0).sqrt()


def _by_component(component: Tensor, n: int) -> list[Tensor]:
    order = torch.argsort(component, stable=True)
    sizes = torch.bincount(component, minlength=n).cpu().tolist()
    return list(torch.split(order, sizes))


def local_dimension(distance: Tensor) -> Tensor:
    """Reciprocal of the local dimension at every point, by the maximum likelihood estimate of Levina & Bickel 2004.

    Parameters
    ----------
    distance
        Distances to the nearest neighbours, increasing, shape (n_points, k).
    """
    if distance.shape[1] < 2:  # of two or three points nothing can be said
        return torch.ones(len(distance), dtype=torch.double, device=distance.device)
    d = distance.double().clamp_min(1e-12)
    return torch.log(d[:, -1:] / d[:, :-1]).mean(1)


def landmarks(component: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """About `size` cells, as evenly over components as the data allow, sorted: rare types keep all of theirs.

    Parameters
    ----------
    component
        Likeliest component of every cell, shape (n_cells,).
    size
        Cells wanted; all are returned when there are no more than that.
    rng
        Source of randomness.
    """
    n = len(component)
    if n <= size:
        return np.arange(n)
    counts = np.bincount(component)
    low, high = 1, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= size else (low, middle - 1)
    shuffled = rng.permutation(n)
    order = shuffled[np.argsort(component[shuffled], kind="stable")]
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(n) - np.repeat(first, counts)
    return np.sort(order[rank < low])
