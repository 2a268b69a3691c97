"""Nearest neighbours on the device: by brute force among few points, and in nearby components among many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import rows_at_once, smaller_when_full, threads_for

# Up to so many points, all are candidates; beyond, those of the nearest components, at least so many.
ALL, CANDIDATES = {"cpu": 6_000, "mps": 20_000, "cuda": 60_000}, 1_500
# Distances held at once.
BLOCK = {"cpu": 2**23, "mps": 2**25, "cuda": 2**28}


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
        with threads_for(len(queries)):
            for rows, candidates in self._candidates(component, k):
                self._among(queries, rows, candidates, k, skip_self, index, distance)
        return index, distance

    def _candidates(self, component: Tensor | None, k: int) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Queries, all of them if none are named, and the points among which their neighbours are looked for."""
        device = self.points.device
        if component is None or len(self.points) <= ALL[device.type]:
            yield None, torch.arange(len(self.points), device=device)
            return
        members = _by_component(self.component, len(self.centres))
        asking = _by_component(component, len(self.centres))
        near = torch.cdist(self.centres, self.centres).argsort(1).cpu().numpy()
        sizes = np.array([len(rows) for rows in members])
        wanted = max(CANDIDATES, 4 * k)
        for c, rows in enumerate(asking):
            if not len(rows):
                continue
            few = int(np.searchsorted(np.cumsum(sizes[near[c]]), wanted)) + 1
            yield rows, torch.cat([members[other] for other in near[c][:few]])

    def _among(
        self,
        queries: Tensor,
        rows: Tensor | None,
        candidates: Tensor,
        k: int,
        skip_self: bool,
        index: Tensor,
        distance: Tensor,
    ) -> None:
        points = self.points if len(candidates) == len(self.points) else self.points[candidates]
        half = points.square().sum(1) / 2
        step = rows_at_once(max(1, BLOCK[queries.device.type] // max(len(points), 1)))
        total = len(queries) if rows is None else len(rows)
        for start in range(0, total, step):
            some = torch.arange(start, min(start + step, total), device=queries.device)
            if rows is not None:
                some = rows[some]
            q = queries[some]
            closeness = torch.addmm(-half, q, points.T)
            if skip_self:
                closeness[candidates[None] == some[:, None]] = -torch.inf
            best = closeness.topk(k, dim=1)
            index[some] = candidates[best.indices]
            distance[some] = (q.square().sum(1, keepdim=True) - 2 * best.values).clamp_min(0).sqrt()


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
