"""A group that comes later, on a mixture that stays as it is: its displacement and proportions alone are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi.source import stratified_sketch

from ._design import Design
from ._matching import align
from ._mixture import LEAST_SCALE, PSEUDO_COUNT, Mixture, Prior, Sums, annealed, e_step, posterior, spread
from ._positions import Positions

# Rounds of EM.
ROUNDS = 20
# Largest numbers of cells, and of points of the reference, that are matched.
MATCHED = 4_000
# Nearest points of the reference, after matching, by which a cell's component is guessed.
N_NEAREST = 5
# In the mixture that the group is found with, what there was stands for one group, and the new one is the other.
OLD, NEW = 0, 1


def typical_prior(mixture: Mixture) -> Prior:
    """Scales of the displacements that a fitted mixture has, by which those of another group are judged beforehand."""
    n_groups, _, d = mixture.moves.shape
    if n_groups < 2:
        return Prior.wide(mixture.means)
    shares = mixture.shares[..., None].double()
    moves = mixture.moves.double()
    common = (shares * moves).sum(1, keepdim=True)
    # Displacements of the levels sum to zero: one of them is not free.
    free = (n_groups - 1) * d
    of_common = common.square().sum() / free
    of_local = (shares * (moves - common).square()).sum() / free
    least = (LEAST_SCALE * spread(mixture.means)).square() / d
    return Prior.of(torch.maximum(of_common, least), torch.maximum(of_local, least))


def expected_moves(mixture: Mixture, design: Design, levels: NDArray[np.int64]) -> Tensor:
    """Displacement of a group by the levels that are known already, shape (n_components, n_dims).

    Parameters
    ----------
    mixture, design
        What was fitted.
    levels
        Level of the group in each attribute, −1 where it is new, shape (n_factors,).
    """
    known = np.flatnonzero(levels >= 0)
    if not len(known):
        return torch.zeros_like(mixture.means)
    sizes = design.levels.max(axis=0) + 1
    first = np.concatenate([[0], np.cumsum(sizes)])
    indicators = np.zeros((design.n_groups, int(first[-1])))
    for factor in range(design.levels.shape[1]):
        indicators[np.arange(design.n_groups), first[factor] + design.levels[:, factor]] = 1
    of_level = np.linalg.pinv(indicators)[first[known] + levels[known]].sum(axis=0)
    return torch.einsum("g,gmd->md", torch.from_numpy(of_level).to(mixture.moves), mixture.moves)


def with_group(
    mixture: Mixture,
    z: Tensor,
    smooth: Tensor,
    expected: Tensor,
    fairness: float,
    *,
    points: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
    random_state: int = 0,
) -> Mixture:
    """The same mixture with one more group, the last, at no weight among all.

    EM over the cells of the group, with centres, variances and all other groups fixed. It starts from several places,
    and the one is kept under which the cells are likeliest, displacements integrated out. Where there are few cells,
    the prior holds the group at what was expected of it.

    Parameters
    ----------
    mixture
        What was fitted.
    z, smooth
        Positions of the group's cells and smooth functions of their numbers, shapes (n_cells, n_dims) and
        (n_cells, n_smooth).
    expected
        Displacement that the group has before its cells are seen, shape (n_components, n_dims).
    fairness
        β of the proportions.
    points
        Registered positions of points of the reference, and their components: cells are matched with them for a start.
    labels
        Component of each cell, for a start, shape (n_cells,).
    random_state
        Seed.
    """
    common = mixture.sizes @ mixture.shares
    start = Mixture(
        means=mixture.means,
        variances=mixture.variances,
        shares=torch.stack([common, common]),
        moves=torch.stack([torch.zeros_like(expected), expected]),
        slopes=mixture.slopes,
        sizes=torch.tensor([1.0, 0.0]).to(common),
    )
    found = start
    if len(z):
        cells = Positions(z, np.array([0, 0, len(z)]), np.arange(len(z)), smooth)
        features = typical_prior(mixture).features(mixture.means)
        starts = [start, *_of_groups(mixture, start, cells, fairness)]
        guesses = [labels] if labels is not None else []
        if points is not None:
            guesses.append(_matched(z, *points, np.random.default_rng(random_state)))
        for guess in guesses:
            sums = Sums.of_labels(guess, start, cells)
            starts.append(_step(sums, start, features, expected)[0])
        found = min((_fitted(one, cells, features, expected, fairness) for one in starts), key=lambda pair: pair[0])[1]
    return replace(
        mixture,
        shares=torch.cat([mixture.shares, found.shares[NEW:]]),
        moves=torch.cat([mixture.moves, found.moves[NEW:]]),
        sizes=torch.cat([mixture.sizes, torch.zeros_like(mixture.sizes[:1])]),
    )


def _of_groups(mixture: Mixture, start: Mixture, cells: Positions, fairness: float) -> list[Mixture]:
    """The displacement of the known group under which the cells are likeliest."""
    best, chosen = -np.inf, []
    for moves in mixture.moves if len(mixture.moves) > 1 else ():
        candidate = replace(start, moves=torch.stack([start.moves[OLD], moves]))
        likelihood = float(e_step(candidate, cells, fairness).totals[0])
        if likelihood > best:
            best, chosen = likelihood, [candidate]
    return chosen


def _matched(z: Tensor, position: Tensor, component: Tensor, rng: np.random.Generator) -> Tensor:
    """Component of each cell, by the points that are nearest once mutual neighbours have met."""
    picked = stratified_sketch(component.cpu().numpy(), MATCHED, rng)
    chosen = torch.from_numpy(picked).to(position.device)
    some = np.arange(len(z)) if len(z) <= MATCHED else np.sort(rng.choice(len(z), MATCHED, replace=False))
    own = z[torch.from_numpy(some).to(z.device)]
    both = torch.cat([position[chosen].to(z), own]).cpu().float().numpy()
    codes = np.repeat([0, 1], [len(picked), len(some)])
    aligned = torch.from_numpy(align(both, codes, n_neighbors=15, n_candidates=10))
    there, here = aligned[: len(picked)], aligned[len(picked) :]
    near = torch.cdist(here, there).topk(min(N_NEAREST, len(there)), largest=False).indices
    labels = component[chosen].cpu()[near].mode(dim=1).values.to(component.device)
    if len(some) == len(z):
        return labels
    # What was not matched goes with the nearest cell that was.
    nearest = torch.cat([torch.cdist(part, own).argmin(1) for part in z.split(1024)])
    return labels[nearest]


def _step(sums: Sums, mixture: Mixture, features: Tensor, expected: Tensor) -> tuple[Mixture, float]:
    """Displacement and proportions of the new group given the sums, and half its penalty and gain in precision."""
    mass, means, variances = sums.mass[NEW].double(), mixture.means.double(), mixture.variances.double()
    slopes, before = mixture.slopes.double(), expected.double()
    rest = sums.first[NEW].double() - torch.einsum("mp,pmd->md", sums.smooth_mass[NEW].double(), slopes)
    wanted = (rest - mass[:, None] * (means + before)) / variances[:, None]
    covariance, log_det = posterior((features.T * (mass / variances)) @ features)
    solved = covariance @ (features.T @ wanted)
    moves = before + features @ solved
    shares = mass + PSEUDO_COUNT
    kept = mixture.means.dtype
    updated = replace(
        mixture,
        moves=torch.stack([mixture.moves[OLD], moves.to(kept)]),
        shares=torch.stack([mixture.shares[OLD], (shares / shares.sum()).to(kept)]),
    )
    return updated, float(solved.square().sum() + means.shape[1] * log_det) / 2


def _fitted(
    mixture: Mixture, cells: Positions, features: Tensor, expected: Tensor, fairness: float
) -> tuple[float, Mixture]:
    """EM, hot at first; the negative log evidence and the mixture."""
    cost = 0.0
    for _, temperature in annealed(ROUNDS):
        sums = e_step(mixture, cells, fairness, temperature)
        mixture, cost = _step(sums, mixture, features, expected)
    return cost - float(e_step(mixture, cells, fairness).totals[0]), mixture
