"""k-means on the device, as FCMI uses it: several random starts at once, the best of which is kept."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

N_STARTS, N_ITERATIONS, ROWS_PER_CENTRE = 10, 300, 1000
# Rounds between looks at whether anything still moves, each of which waits for a GPU.
LOOK = {"cpu": 1}
LOOK_ELSEWHERE = 10
EPS = 1e-12


def kmeans(
    points: Tensor,
    n_centres: int,
    rng: np.random.Generator,
    *,
    n_starts: int = N_STARTS,
    n_iterations: int = N_ITERATIONS,
    rows_per_centre: int = ROWS_PER_CENTRE,
) -> Tensor:
    """Centres of the best of several runs of Lloyd's algorithm, each from rows drawn at random.

    A run goes on until nothing moves or its rounds are used up. A centre that has lost all its rows is put on the row
    that lies farthest from its own centre, on a GPU at the next look. All runs see the same sample of the rows.

    Parameters
    ----------
    points
        Rows, shape (n_rows, n_columns).
    n_centres
        How many; there must be as many rows.
    rng
        Draws the sample and the starts, on the host, so that they are the same on every device.
    n_starts, n_iterations, rows_per_centre
        Runs, rounds of each at most, and rows in the sample for every centre at most.

    Returns
    -------
    Shape (n_centres, n_columns).

    Raises
    ------
    ValueError
        If there are fewer rows than centres.
    """
    n = len(points)
    if n < n_centres:
        msg = f"{n_centres} centres cannot be found among {n} cells. Ask for fewer clusters."
        raise ValueError(msg)
    if n > n_centres * rows_per_centre:
        sample = np.sort(rng.choice(n, n_centres * rows_per_centre, replace=False))
        points = points[torch.from_numpy(sample).to(points.device)]
    starts = np.stack([rng.choice(len(points), n_centres, replace=False) for _ in range(n_starts)])
    centres = points[torch.from_numpy(starts).to(points.device)]
    norms = points.square().sum(1)
    # With a column of ones, one product gives sums and numbers of rows.
    counted = torch.cat([points, points.new_ones(len(points), 1)], 1)
    which = torch.arange(n_centres, device=points.device)[:, None]
    look = LOOK.get(points.device.type, LOOK_ELSEWHERE)
    running = torch.arange(n_starts, device=points.device)
    final, cost = centres.clone(), points.new_full((n_starts,), torch.inf)
    for i in range(n_iterations):
        half = 0.5 * centres.square().sum(2, keepdim=True)
        lowest, nearest = torch.baddbmm(half, centres, points.T.expand(len(centres), -1, -1), alpha=-1).min(1)
        sums = (nearest[:, None] == which).to(points.dtype) @ counted
        count = sums[..., -1:]
        there, means = count > 0, sums[..., :-1] / count.clamp_min(1)
        if i % look and i + 1 < n_iterations:
            centres = torch.where(there, means, centres)
            continue
        near = (norms + 2 * lowest).clamp_min(0)
        means = torch.where(there, means, points[near.topk(n_centres, dim=1).indices])
        settled = (means == centres).flatten(1).all(1)
        final[running], cost[running] = centres, near.sum(1)
        running, centres = running[~settled], means[~settled]
        if not len(running):
            break
    return final[cost.argmin()]


def mixture_centres(points: Tensor, start: Tensor, temperature: float, n_iterations: int = 100) -> Tensor:
    """Centres of a mixture on the sphere whose proportions are free, so that clusters may differ in size.

    p(c|h) ∝ π_c exp(h·u_c / τ), by EM from the given centres; the concentration 1/τ is that of the soft assignments.

    Parameters
    ----------
    points
        Rows of unit length, shape (n_rows, n_columns).
    start
        Centres to begin with, shape (n_centres, n_columns).
    temperature
        τ.
    n_iterations
        Rounds of EM.

    Returns
    -------
    Unit-length centres, shape (n_centres, n_columns).
    """
    centres = F.normalize(start, dim=1)
    log_share = points.new_zeros(len(start))
    for _ in range(n_iterations):
        share = torch.softmax(points @ centres.T / temperature + log_share, dim=1)
        mass = share.sum(0)
        log_share = (mass / len(points)).clamp_min(EPS).log()
        # A component that nothing belongs to stays where it is.
        centres = torch.where(mass[:, None] > EPS, F.normalize(share.T @ points, dim=1), centres)
    return centres
