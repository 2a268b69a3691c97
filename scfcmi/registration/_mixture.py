"""The mixture with coherent displacements: parameters, E step with its sums, M step, free energy.

Cell i of group g, in the front layer's coordinates, comes from one of M components:
z ~ N(μ_c + D_gc + Σ_p φ_p B_pc, s_c² I), with proportions π_gc of each group's own. Displacements are sums of what the
levels of the attributes contribute, and each contribution is a Gaussian process over the components' centres: a common
shift, and what varies smoothly from centre to centre, so that neighbouring types move alike. See the method page for
the derivation, and for its relation to the objective of Zeng et al., CVPR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import rows_at_once, side_by_side, smaller_when_full, world_size

from ._design import Design
from ._positions import Positions
from ._stack import picked, stacked

# Cells of no weight that every group adds to every component, and that every component adds to the pooled variance.
PSEUDO_COUNT, PSEUDO_CELLS = 1e-3, 20.0
# Logarithm of p(c | z), next to that of the likeliest component, below which none falls.
LOWEST = -50.0
# Variance of a component, as a share of the pooled one, below which none falls.
LEAST_VARIANCE = 0.2
# Scales of displacements, in typical distances between types, below which none falls.
LEAST_SCALE = 0.01
# Share of the rounds of EM in which temperature and fairness fall, and where the temperature starts.
ANNEALED, HOTTEST = 0.6, 2.0
# Directions in which displacements may vary over components; of many groups, each with few cells, in fewer, so that the
# covariances of all have no more entries than this.
RANK, LEAST_RANK, COVARIANCES = 64, 16, 2**18
# Of what a cell is displaced by, no more than this share counts as its own.
MOST_LEVERAGE = 0.99
# Entries of tables of cells × components up to which all groups, and several mixtures, are passed over together, and
# how many of them are held at once: about as many as the cache of a CPU has room for.
TOGETHER, AT_ONCE = 2**22, {"cpu": 2**17, "mps": 2**22, "cuda": 2**24}
# Entries of displacements of a stack from which the M step of each is done alone: it gains nothing from company then,
# and regressions of many groups would need the room of all at once.
LARGE = 2**19


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture, or a stack of them.

    Parameters
    ----------
    means
        Centres μ, shape (n_components, n_dims).
    variances
        s², shape (n_components,).
    shares
        Proportions π of each group, shape (n_groups, n_components).
    moves
        Displacement D of each group in each component, shape (n_groups, n_components, n_dims).
    slopes
        Displacement B per unit of each smooth function, shape (n_smooth, n_components, n_dims).
    sizes
        Share of all cells that each group has, shape (n_groups,).
    """

    means: Tensor
    variances: Tensor
    shares: Tensor
    moves: Tensor
    slopes: Tensor
    sizes: Tensor

    @property
    def n_components(self) -> int:
        """Number of components."""
        return self.means.shape[-2]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Mixture:
        """The same on another device or in another precision."""
        return Mixture(**{field.name: getattr(self, field.name).to(device, dtype) for field in fields(self)})

    def log_shares(self, fairness: float | Tensor) -> Tensor:
        """Logarithms of π_gc^(1−β) π_c^β, shape (n_groups, n_components); in a stack, β may have its shape."""
        common = self.sizes.unsqueeze(-2) @ self.shares
        fairness = torch.as_tensor(fairness).to(common)[..., None, None]
        return (1 - fairness) * torch.log(self.shares + 1e-12) + fairness * torch.log(common + 1e-12)

    def log_joint(self, group: int, z: Tensor, smooth: Tensor, log_shares: Tensor) -> Tensor:
        """Log p(z, c | g) of cells of one group, shape (n_cells, n_components)."""
        centres, precision = self.means + self.moves[group], 1 / self.variances
        half = z.square().sum(1, keepdim=True) / 2
        fit = z @ centres.T - half - centres.square().sum(1) / 2
        for p in range(len(self.slopes)):
            slope, x = self.slopes[p], smooth[:, p : p + 1]
            fit += x * (z @ slope.T - (centres * slope).sum(1))
            for q in range(len(self.slopes)):
                fit -= x * smooth[:, q : q + 1] * (slope * self.slopes[q]).sum(1) / 2
        return fit * precision + (log_shares[group] - z.shape[1] / 2 * torch.log(2 * math.pi * self.variances))

    def displacement(self, group: int, r: Tensor, smooth: Tensor) -> Tensor:
        """Expected displacement of cells of one group, given p(c | z), shape (n_cells, n_dims)."""
        total = r @ self.moves[group]
        for p in range(len(self.slopes)):
            total += smooth[:, p : p + 1] * (r @ self.slopes[p])
        return total


@dataclass(frozen=True)
class Sums:
    """What a pass over the cells leaves: all that the M step needs, whatever the number of cells.

    Parameters
    ----------
    mass, first
        Σ r and Σ r z per group and component, shapes (n_groups, n_components) and (…, n_dims).
    second
        Σ r ‖z‖² per component, shape (n_components,).
    smooth_mass, smooth_first, smooth_second
        Σ r φ, Σ r φ z and Σ r φ φᵀ, shapes (n_groups, n_components, n_smooth), (n_smooth, n_components, n_dims) and
        (n_smooth, n_smooth, n_components).
    totals
        Σ log-likelihood and Σ entropy of p(c | z), shape (2,), in double precision.
    """

    mass: Tensor
    first: Tensor
    second: Tensor
    smooth_mass: Tensor
    smooth_first: Tensor
    smooth_second: Tensor
    totals: Tensor

    @classmethod
    def of_labels(cls, labels: Tensor, mixture: Mixture, cells: Positions) -> Sums:
        """Sums of cells whose component is known, in the order of the rows of `cells.z`, shape (n_cells,)."""
        n_groups, m, d = mixture.moves.shape
        z, x = cells.z, cells.smooth
        p = x.shape[1]
        pair = torch.from_numpy(cells.codes).to(z.device) * m + labels
        new = z.new_zeros
        by_pair = new(n_groups * m, d).index_add_(0, pair, z)
        smooth_first = new(p, m, d)
        smooth_second = new(m, p, p).index_add_(0, labels, x[:, :, None] * x[:, None, :])
        for i in range(p):
            smooth_first[i].index_add_(0, labels, x[:, i : i + 1] * z)
        return cls(
            mass=torch.bincount(pair, minlength=n_groups * m).to(z).reshape(n_groups, m),
            first=by_pair.reshape(n_groups, m, d),
            second=new(m).index_add_(0, labels, z.square().sum(1)),
            smooth_mass=new(n_groups * m, p).index_add_(0, pair, x).reshape(n_groups, m, p),
            smooth_first=smooth_first,
            smooth_second=smooth_second.permute(1, 2, 0),
            totals=torch.zeros(2, dtype=torch.float64),
        )

    def to(self, device: torch.device | str) -> Sums:
        """The same on another device."""
        return Sums(*(getattr(self, field.name).to(device) for field in fields(self)))

    def over_processes(self) -> Sums:
        """The sums over all processes of a launched program: one all-reduce."""
        if world_size() == 1:
            return self
        parts = [getattr(self, field.name) for field in fields(self)]
        flat = torch.cat([part.double().reshape(-1) for part in parts])
        dist.all_reduce(flat)
        split = torch.split(flat, [part.numel() for part in parts])
        return Sums(*(new.reshape(part.shape).to(part.dtype) for new, part in zip(split, parts, strict=True)))


@smaller_when_full
def e_step(mixture: Mixture, cells: Positions, fairness: float, temperature: float = 1.0) -> Sums:
    """Sums over some cells, or all.

    Parameters
    ----------
    mixture
        The present parameters.
    cells
        Positions.
    fairness
        β: proportions are π_gc^(1−β) π_c^β.
    temperature
        T: p(c | z) ∝ p(z, c)^(1/T).
    """
    n_groups, m, d = mixture.moves.shape
    p = len(mixture.slopes)
    if p == 0 and cells.n_cells * m <= rows_at_once(TOGETHER):
        one = stacked([mixture])
        return picked(_e_step_of_blocks(one, Blocks.of([cells], m), one.log_shares(fairness), temperature), 0)
    new, log_shares = mixture.means.new_zeros, mixture.log_shares(fairness)
    mass, first, second = new(n_groups, m), new(n_groups, m, d), new(m)
    smooth_mass, smooth_first, smooth_second = new(n_groups, m, p), new(p, m, d), new(p, p, m)
    totals = new(2, dtype=_exact(mixture.means.device))

    def of(part: tuple[int, slice]) -> tuple[int, tuple[Tensor, ...], tuple[Tensor, ...]]:
        group, rows = part
        z, smooth = cells.z[rows], cells.smooth[rows]
        joint = mixture.log_joint(group, z, smooth, log_shares)
        r, evidence = responsibilities(joint, temperature)
        total = evidence.sum(dtype=totals.dtype)
        entropy = (total - torch.dot(r.reshape(-1), joint.reshape(-1))) / temperature
        by_group = [r.sum(0), r.T @ z, r.new_empty(m, p)]
        of_all = [z.square().sum(1) @ r, torch.stack([total, entropy]), r.new_empty(p, m, d), r.new_empty(p, p, m)]
        for i in range(p):
            weighted = r * smooth[:, i : i + 1]
            by_group[2][:, i] = weighted.sum(0)
            of_all[2][i] = weighted.T @ z
            of_all[3][i] = smooth.T @ weighted
        return group, tuple(by_group), tuple(of_all)

    for group, by_group, of_all in side_by_side(of, cells.chunks(m), device=cells.z.device, n_rows=cells.n_cells):
        for total, part in zip((mass, first, smooth_mass), by_group, strict=True):
            total[group] += part
        for total, part in zip((second, totals, smooth_first, smooth_second), of_all, strict=True):
            total += part
    return Sums(mass, first, second, smooth_mass, smooth_first, smooth_second, totals)


def e_steps(mixtures: Mixture, cells: Sequence[Positions] | Blocks, fairness: Tensor, temperature: float = 1.0) -> Sums:
    """The sums of a stack of mixtures, each over cells of its own.

    Parameters
    ----------
    mixtures
        A stack.
    cells
        Positions, for each of them; see :meth:`Blocks.maybe`.
    fairness
        β of each, shape (n_mixtures,).
    temperature
        T of all.
    """
    if isinstance(cells, Blocks):
        return _e_step_of_blocks(mixtures, cells, mixtures.log_shares(fairness), temperature)
    return stacked([e_step(picked(mixtures, i), cells[i], float(fairness[i]), temperature) for i in range(len(cells))])


@dataclass(frozen=True)
class Blocks:
    """Cells of several mixtures in blocks of equal length, each of one mixture and group, for one pass over all.

    Parameters
    ----------
    z
        Positions, zeros where a block is longer than its cells, shape (n_blocks, length, n_dims).
    present
        One for a cell, zero where there is none, shape (n_blocks, length).
    group
        Group of each block, those of each mixture counted on from those of the one before, shape (n_blocks,).
    """

    z: Tensor
    present: Tensor
    group: Tensor

    @classmethod
    def of(cls, cells: Sequence[Positions], n_components: int) -> Blocks:
        """Blocks no longer than groups are large on average: no more room stays empty than is used."""
        sizes = np.concatenate([np.diff(some.edges) for some in cells])
        mean = -(-int(sizes.sum()) // max(int(np.count_nonzero(sizes)), 1))
        length = max(1, min(mean, AT_ONCE[cells[0].z.device.type] // n_components))
        n_blocks = -(-sizes // length)
        first = np.cumsum(n_blocks) - n_blocks
        rank = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        z = torch.cat([some.z for some in cells])
        place = torch.from_numpy(np.repeat(first * length, sizes) + rank).to(z.device)
        n, d = int(n_blocks.sum()), z.shape[1]
        return cls(
            z.new_zeros(n * length, d).index_copy_(0, place, z).reshape(n, length, d),
            z.new_zeros(n * length).index_fill_(0, place, 1.0).reshape(n, length),
            torch.from_numpy(np.repeat(np.arange(len(sizes)), n_blocks)).to(z.device),
        )

    def rows(self, values: Tensor) -> Tensor:
        """What cells have, shape (n_blocks, length, …), in the order of their rows."""
        return values.flatten(0, 1)[self.present.flatten() > 0]

    @classmethod
    def maybe(cls, cells: Sequence[Positions], n_components: int) -> Sequence[Positions] | Blocks:
        """Blocks for passes that follow one another, if there is room for them; the cells as they are otherwise."""
        small = sum(some.n_cells for some in cells) * n_components <= TOGETHER
        return cls.of(cells, n_components) if small and not cells[0].smooth.shape[1] else cells


def joints(mixtures: Mixture, cells: Blocks, log_shares: Tensor) -> Iterator[tuple[Blocks, Tensor]]:
    """Some blocks at a time, and log p(z, c | g) of their cells, shape (n_blocks, length, n_components).

    Parameters
    ----------
    mixtures
        A stack, without smooth functions.
    cells
        Blocks of all of them.
    log_shares
        Logarithms of proportions, shape (n_mixtures, n_groups, n_components).
    """
    m, d = mixtures.means.shape[-2:]
    centres = (mixtures.means[:, None] + mixtures.moves).reshape(-1, m, d)
    halves = centres.square().sum(2) / 2
    constant = (log_shares - d / 2 * torch.log(2 * math.pi * mixtures.variances[:, None])).reshape(-1, m)
    variances = mixtures.variances[:, None].expand_as(log_shares).reshape(-1, m)
    step = max(1, AT_ONCE[cells.z.device.type] // (cells.z.shape[1] * m))
    for group, z, present in zip(cells.group.split(step), cells.z.split(step), cells.present.split(step), strict=True):
        squares = z.square().sum(2, keepdim=True)
        joint = torch.baddbmm(squares / -2 - halves[group].unsqueeze(1), z, centres[group].mT)
        joint = torch.addcdiv(constant[group].unsqueeze(1), joint, variances[group].unsqueeze(1))
        yield Blocks(z, present, group), joint


def _e_step_of_blocks(mixtures: Mixture, cells: Blocks, log_shares: Tensor, temperature: float) -> Sums:
    """The same without smooth functions: every block with the centres of its group."""
    k, n_groups, m, d = mixtures.moves.shape
    new = cells.z.new_zeros
    mass, first, second = new(k * n_groups, m), new(k * n_groups, m, d), new(k, m)
    totals = new(k, 2, dtype=_exact(cells.z.device))
    for part, joint in joints(mixtures, cells, log_shares):
        r, evidence = responsibilities(joint, temperature)
        r *= part.present[..., None]
        mixture = torch.div(part.group, n_groups, rounding_mode="floor")
        mass.index_add_(0, part.group, r.sum(1))
        first.index_add_(0, part.group, r.mT @ part.z)
        second.index_add_(0, mixture, (r.mT @ part.z.square().sum(2, keepdim=True)).squeeze(2))
        total, expected = (evidence * part.present).sum(1), (r * joint).sum((1, 2))
        totals.index_add_(0, mixture, torch.stack([total, (total - expected) / temperature], 1).to(totals))
    return Sums(
        mass=mass.reshape(k, n_groups, m),
        first=first.reshape(k, n_groups, m, d),
        second=second,
        smooth_mass=new(k, n_groups, m, 0),
        smooth_first=new(k, 0, m, d),
        smooth_second=new(k, 0, 0, m),
        totals=totals,
    )


def _exact(device: torch.device) -> torch.dtype:
    """The most precise type that the device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def annealed(rounds: int) -> list[tuple[int, float]]:
    """Rounds of EM, hot at first: how many have been cold before each, and the temperature."""
    first_cold = round(ANNEALED * rounds)
    return [(turn - first_cold, HOTTEST ** (1 - min(1.0, turn / first_cold))) for turn in range(rounds)]


def cooling(fairness: float, temperature: float) -> float:
    """β at a temperature, where it begins at 1: proportions common to all groups when it is hottest."""
    return fairness + (1 - fairness) * math.log(temperature, HOTTEST)


def responsibilities(log_joint: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """p(c | z) at a temperature, and T log Σ_c p(z, c)^(1/T), shapes (…, n_components) and (…)."""
    highest = log_joint.amax(-1, keepdim=True)
    # Smaller ones say nothing, and as denormal numbers take a hundred times longer to add up.
    r = (log_joint - highest).div_(temperature).clamp_min_(LOWEST).exp_()
    total = r.sum(-1, keepdim=True)
    return r.div_(total), (highest + temperature * torch.log(total)).squeeze(-1)


@dataclass(frozen=True)
class Prior:
    """Scales of the Gaussian process over components, estimated from the data.

    Parameters
    ----------
    common
        Variance of a level's common shift, per dimension.
    local
        Variance of what a component adds to it, per dimension.
    length
        Distance over which it varies, in units of the typical distance of a centre from the middle.
    """

    common: Tensor
    local: Tensor
    length: Tensor

    @classmethod
    def of(cls, common: Tensor, local: Tensor, length: float = 1.0) -> Prior:
        """Some scales, at one length."""
        return cls(common, local, torch.full_like(common, length))

    @classmethod
    def wide(cls, means: Tensor) -> Prior:
        """Where to start: shifts as large as the distances between types, deviations half as large."""
        per_dim = spread(means).square() / means.shape[-1]
        return cls.of(per_dim, per_dim / 4)

    def refined(self, gain: Tensor, means: Tensor) -> Prior:
        """One step of EM for the scales, given the coefficients' posterior second moments in units of the prior."""
        least = (LEAST_SCALE * spread(means)).square() / means.shape[-1]
        common, local = gain.clamp(0.1, 10.0).unbind(-1)
        return replace(
            self, common=torch.maximum(self.common * common, least), local=torch.maximum(self.local * local, least)
        )

    def halfway(self, other: Prior) -> Prior:
        """Scales between these and others, by their logarithms."""
        return replace(self, common=(self.common * other.common).sqrt(), local=(self.local * other.local).sqrt())

    def features(self, means: Tensor, n_groups: int = 1) -> Tensor:
        """Φ with K ≈ Φ Φᵀ over the components, shape (n_components, 1 + rank), in double precision."""
        rank = min(RANK, max(LEAST_RANK, math.isqrt(COVARIANCES // n_groups)))
        length = self.length * spread(means).clamp_min(1e-12)
        kernel = torch.exp(-_squared_distances(means.double()) / (2 * length.square())[..., None, None])
        values, vectors = torch.linalg.eigh(kernel)
        kept = vectors[..., -rank:] * values[..., None, -rank:].clamp_min(0).sqrt()
        ones = torch.ones_like(kept[..., :1])
        return torch.cat([self.common.sqrt()[..., None, None] * ones, self.local.sqrt()[..., None, None] * kept], -1)


@dataclass(frozen=True)
class Displacements:
    """What an M step has found of the displacements, whose coefficients in the features have a standard normal prior.

    Parameters
    ----------
    parts
        What each attribute contributes to the displacement of a group, each of shape (n_groups, n_components, n_dims).
    penalty
        Negative logarithm of the prior, up to a constant.
    gain
        Mean posterior second moment of the coefficients of the common shift, and of the local ones, shape (2,).
    log_det
        Σ log det(I + Φᵀ W Φ) over all of them, times n_dims: what the posterior has gained in precision.
    misfit
        Σ r ‖z − centre‖² / 2s², with the variances from before.
    """

    parts: tuple[Tensor, ...]
    penalty: Tensor
    gain: Tensor
    log_det: Tensor
    misfit: Tensor


def _gain(solved: Sequence[Tensor], covariances: Sequence[Tensor]) -> Tensor:
    common, local, count = [], [], 0
    for mean, covariance in zip(solved, covariances, strict=True):
        variance = torch.diagonal(covariance, dim1=-2, dim2=-1)
        # Smooth functions have one covariance for all their coefficients.
        moment = mean.square().sum(-1) + mean.shape[-1] * variance.reshape(mean.shape[:-1])
        common.append(moment[..., 0].sum(-1))
        local.append(moment[..., 1:].sum((-2, -1)))
        count += mean.shape[-3] * mean.shape[-1]
    n_local = max(solved[0].shape[-2] - 1, 1)
    return torch.stack([torch.stack(common).sum(0), torch.stack(local).sum(0) / n_local], -1) / max(count, 1)


def m_step(
    sums: Sums,
    mixture: Mixture,
    design: Design,
    prior: Prior,
    n_rounds: int = 3,
    before: Displacements | None = None,
) -> tuple[Mixture, Displacements]:
    """The best parameters given the sums: proportions, then centres and displacements in turns, then variances.

    Every part is the exact maximum given the others, so the free energy never rises, with several attributes as long as
    each goes on from what it contributed before: from elsewhere, a few rounds can end higher than it was.

    Parameters
    ----------
    sums
        Of one pass.
    mixture
        The parameters before; centres and displacements start from here.
    design
        Which levels each group has.
    prior
        Scales of the displacements.
    n_rounds
        How often centres and displacements take turns.
    before
        What the step before has found; without it, or if it had other components, the first of several attributes
        starts with all of the displacements.
    """
    if mixture.means.ndim > 2 and mixture.moves.numel() > LARGE:
        alone = [
            m_step(
                picked(sums, i),
                picked(mixture, i),
                design,
                picked(prior, i),
                n_rounds,
                None if before is None else picked(before, i),
            )
            for i in range(len(mixture.means))
        ]
        return stacked([one for one, _ in alone]), stacked([one for _, one in alone])
    mass, first = sums.mass.double(), sums.first.double()
    precision = 1 / mixture.variances.double()[..., None]
    features = prior.features(mixture.means, design.n_groups)
    means, moves, slopes = (part.double() for part in (mixture.means, mixture.moves, mixture.slopes))
    n_factors, n_smooth, d = design.levels.shape[1], slopes.shape[-3], means.shape[-1]
    if before is not None and before.parts[0].shape == moves.shape:
        parts = list(before.parts)
    else:
        parts = [moves if i == 0 else torch.zeros_like(moves) for i in range(n_factors)]
    factors = [_Factor.of(column, features, mass, precision) for column in design.levels.T]
    weighted = (features * precision).mT.contiguous().unsqueeze(-3)
    smooth_mass = sums.smooth_mass.double()
    covariances = [factor.covariance for factor in factors]
    log_det = torch.stack([factor.log_det for factor in factors]).sum(0)
    levels: list[Tensor] = []
    total = mass.sum(-2)[..., None]
    held = total * precision > 1e-6
    # Σ r times displacements, over groups.
    moved = (mass[..., None] * moves).sum(-3)
    for turn in range(n_rounds):
        if n_smooth or not turn:
            # Σ r (z − what numbers explain), per group and component, and in features per level.
            rest = first - torch.einsum("...gmp,...pmd->...gmd", smooth_mass, slopes) if n_smooth else first
            wanted, rest_of_all = [weighted @ factor.per_level(rest) for factor in factors], rest.sum(-3)
        means = torch.where(held, (rest_of_all - moved) / total.clamp_min(1e-300), means)
        levels = []
        for i, factor in enumerate(factors):
            left = wanted[i] - factor.pull(means)
            if n_factors > 1:
                others = moves - parts[i]
                left = left - weighted @ factor.per_level(mass[..., None] * others)
            solved = factor.covariance @ left
            # Shifting centres by what all levels share leaves every cell where it is and brings the levels nearer to 0.
            shared = solved.mean(-3, keepdim=True)
            levels.append(solved.sub_(shared))
            means = means + features @ shared.squeeze(-3)
            if n_factors > 1:
                parts[i] = factor.per_group(features.unsqueeze(-3) @ levels[i])
                moves = others + parts[i]
        moved = sum(factor.push(solved) for factor, solved in zip(factors, levels, strict=True)) / precision
        if n_factors == 1 and (n_smooth or turn == n_rounds - 1):
            parts = [moves] = [factors[0].per_group(features.unsqueeze(-3) @ levels[0])]
        if n_smooth:
            slopes, smooth, covariance, gained = _smooth_part(sums, mixture, features, means, moves)
    if n_smooth:
        levels, covariances, log_det = [*levels, smooth], [*covariances, covariance], log_det + gained
    kept = mixture.means.dtype
    shares = sums.mass + PSEUDO_COUNT
    updated = replace(
        mixture,
        means=means.to(kept),
        moves=moves.to(kept),
        slopes=slopes.to(kept),
        shares=shares / shares.sum(-1, keepdim=True),
    )
    squares = _squares(sums, mass, first, means, moves, slopes)
    misfit = (squares / mixture.variances.double()).sum(-1) / 2
    penalty = torch.stack([solved.square().sum((-3, -2, -1)) / 2 for solved in levels]).sum(0)
    found = Displacements(tuple(parts), penalty, _gain(levels, covariances), log_det * d, misfit)
    return replace(updated, variances=_variances(squares, sums.mass, d).to(kept)), found


@dataclass(frozen=True)
class _Factor:
    """The regression on one attribute, in the features of the prior.

    Parameters
    ----------
    level
        Level of each group, shape (n_groups,); nothing if every group has one of its own, in the same order.
    n_levels
        How many there are.
    left
        Features times weights, per level, shape (n_levels, n_features, n_components).
    covariance
        Posterior covariance of the coefficients, per level, shape (n_levels, n_features, n_features).
    log_det
        Σ log det of the precisions.
    """

    level: Tensor | None
    n_levels: int
    left: Tensor
    covariance: Tensor
    log_det: Tensor

    @classmethod
    def of(cls, column: NDArray[np.int64], features: Tensor, mass: Tensor, precision: Tensor) -> _Factor:
        """Of an attribute whose level in each group is known."""
        level = None if np.array_equal(column, np.arange(len(column))) else torch.from_numpy(column).to(mass.device)
        n_levels = int(column.max()) + 1
        weight = (mass if level is None else _per_level(mass, level, n_levels, -2)) * precision.mT
        left = features.mT.contiguous().unsqueeze(-3) * weight.unsqueeze(-2)
        covariance, log_det = posterior((left.flatten(-3, -2) @ features).unflatten(-2, left.shape[-3:-1]))
        return cls(level, n_levels, left, covariance, log_det.sum(-1))

    def per_level(self, values: Tensor) -> Tensor:
        """Sums over groups, from (n_groups, …, …) to (n_levels, …, …)."""
        return values if self.level is None else _per_level(values, self.level, self.n_levels, -3)

    def per_group(self, values: Tensor) -> Tensor:
        """What each group has by its level."""
        return values if self.level is None else values.index_select(-3, self.level)

    def pull(self, means: Tensor) -> Tensor:
        """What centres alone explain of the weighted sums, in features, shape (n_levels, n_features, n_dims)."""
        return (self.left.flatten(-3, -2) @ means).unflatten(-2, self.left.shape[-3:-1])

    def push(self, solved: Tensor) -> Tensor:
        """Weights times displacements, over all levels, shape (n_components, n_dims)."""
        return self.left.flatten(-3, -2).mT @ solved.flatten(-3, -2)


def _per_level(values: Tensor, level: Tensor, n_levels: int, dim: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = n_levels
    return values.new_zeros(shape).index_add_(values.ndim + dim, level, values)


def leverage(mass: Tensor, mixture: Mixture, design: Design, prior: Prior) -> Tensor:
    """Share of a cell's own position in the displacement that it is given, shape (n_groups, n_components).

    The posterior variance of the displacement of its group in its component, in units of s²: next to nothing with many
    cells, and the more the fewer cells of a group there are near a component to learn a displacement from. What several
    attributes contribute is summed up.

    Parameters
    ----------
    mass
        Σ r per group and component, shape (n_groups, n_components).
    mixture, design, prior
        What was fitted.
    """
    features, variances = prior.features(mixture.means, design.n_groups), mixture.variances.double()[..., None]
    total = torch.zeros_like(mass, dtype=torch.double)
    for column in design.levels.T:
        factor = _Factor.of(column, features, mass.double(), 1 / variances)
        own = ((features.unsqueeze(-3) @ factor.covariance) * features.unsqueeze(-3)).sum(-1, keepdim=True)
        total += (factor.per_group(own) / variances.unsqueeze(-3)).squeeze(-1)
    return total.clamp_max(MOST_LEVERAGE).to(mixture.means.dtype)


def posterior(information: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances of coefficients with standard normal prior, and logarithms of the determinants of their precisions.

    Parameters
    ----------
    information
        What the data add to the precisions, shape (…, n_features, n_features); used up.
    """
    information.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factor = torch.linalg.cholesky(information)
    # With many matrices twice as quick as torch.cholesky_inverse.
    half = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1]).to(factor), upper=False)
    return half.mT @ half, 2 * torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(-1)


def _smooth_part(
    sums: Sums, mixture: Mixture, features: Tensor, means: Tensor, moves: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Displacements per unit of the smooth functions, given all else: slopes, coefficients, and as of an attribute."""
    p, r = mixture.slopes.shape[-3], features.shape[-1]
    precision = 1 / mixture.variances.double()
    centres = means.unsqueeze(-3) + moves
    rest = sums.smooth_first.double() - torch.einsum("...gmp,...gmd->...pmd", sums.smooth_mass.double(), centres)
    weighted = features * precision[..., None]
    wanted = (weighted.mT.unsqueeze(-3) @ rest).flatten(-3, -2)
    matrix = torch.einsum("...mr,...pqm,...ms->...prqs", weighted, sums.smooth_second.double(), features)
    covariance, log_det = posterior(matrix.flatten(-2).flatten(-3, -2))
    solved = (covariance @ wanted).unflatten(-2, (p, r))
    return features.unsqueeze(-3) @ solved, solved, covariance, log_det


def _squares(sums: Sums, mass: Tensor, first: Tensor, means: Tensor, moves: Tensor, slopes: Tensor) -> Tensor:
    """Σ r ‖z − centre‖² of every component, with masses and first sums in double precision."""
    centres = means.unsqueeze(-3) + moves
    squares = sums.second + (mass[..., None] * centres).sub_(first, alpha=2).mul_(centres).sum((-3, -1))
    if slopes.shape[-3]:
        rest = sums.smooth_first.double() - torch.einsum("...gmp,...gmd->...pmd", sums.smooth_mass.double(), centres)
        squares -= 2 * (rest * slopes).sum((-3, -1))
        squares += torch.einsum("...pqm,...pmd,...qmd->...m", sums.smooth_second.double(), slopes, slopes)
    return squares.clamp_min(0)


def _variances(squares: Tensor, mass: Tensor, d: int) -> Tensor:
    """Mean squared distance per dimension from the centres, drawn towards that of all components."""
    of_component = mass.double().sum(-2)
    pooled = squares.sum(-1, keepdim=True) / of_component.sum(-1, keepdim=True) / d
    own = (squares + PSEUDO_CELLS * d * pooled) / (d * (of_component + PSEUDO_CELLS))
    return torch.maximum(own, LEAST_VARIANCE * pooled).clamp_min(1e-8)


@dataclass(frozen=True)
class FreeEnergy:
    """Terms of the objective, means over cells, in nats.

    The first equals reconstruction + h_c_given_g − h_c_given_x + fairness · i_gc + prior, up to a constant, at the
    proportions that belong to the pass.

    Parameters
    ----------
    free_energy
        Negative log-likelihood (at the given fairness) plus the penalty on displacements.
    log_likelihood
        Mean over cells.
    prior
        Penalty on displacements.
    reconstruction
        ‖z − centre of its component and group‖² / 2s², with the logarithm of the normalising constant.
    h_c_given_g, h_c_given_x, i_gc
        H(C|G), H(C|X), I(G;C) of the components.
    """

    free_energy: Tensor
    log_likelihood: Tensor
    prior: Tensor
    reconstruction: Tensor
    h_c_given_g: Tensor
    h_c_given_x: Tensor
    i_gc: Tensor


def free_energy(sums: Sums, penalty: Tensor, log_shares: Tensor) -> FreeEnergy:
    """Terms of the objective, from the sums of one pass and the proportions that it was made with."""
    mass = sums.mass.double()
    n = mass.sum((-2, -1))
    joint = mass / n[..., None, None]
    group, component = joint.sum(-1, keepdim=True), joint.sum(-2, keepdim=True)
    h_joint, h_g, h_c = (-torch.xlogy(table, table).sum((-2, -1)) for table in (joint, group, component))
    log_likelihood, h_c_given_x = (sums.totals.to(n) / n[..., None]).unbind(-1)
    cross = -(joint * log_shares.double()).sum((-2, -1))
    prior = penalty / n
    return FreeEnergy(
        free_energy=prior - log_likelihood,
        log_likelihood=log_likelihood,
        prior=prior,
        reconstruction=-log_likelihood + h_c_given_x - cross,
        h_c_given_g=h_joint - h_g,
        h_c_given_x=h_c_given_x,
        i_gc=(h_g + h_c - h_joint).clamp_min(0.0),
    )


def spread(means: Tensor) -> Tensor:
    """Typical distance of a centre from the middle, in double precision."""
    means = means.double()
    return (means - means.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()


def _squared_distances(points: Tensor) -> Tensor:
    norms = points.square().sum(-1)
    return (norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * points @ points.mT).clamp_min(0)
