"""The mixture with coherent displacements: parameters, E step with its sums, M step, free energy.

Cell i of group g, in the front layer's coordinates, comes from one of M components:
z ~ N(μ_c + D_gc + Σ_p φ_p B_pc, s_c² I), with proportions π_gc of each group's own. Displacements are sums of what the
levels of the attributes contribute, and each contribution is a Gaussian process over the components' centres: a common
shift, and what varies smoothly from centre to centre, so that neighbouring types move alike. See the method page for
the derivation, and for its relation to the objective of Zeng et al., CVPR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from scfcmi._device import smaller_when_full, world_size

from ._design import Design
from ._positions import Positions

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
# Directions in which displacements may vary over components.
RANK = 64
# Of what a cell is displaced by, no more than this share counts as its own.
MOST_LEVERAGE = 0.99
# Up to so many products of cells, components and dimensions for every group, and in all, groups are passed over at
# once: calls cost more then.
AT_ONCE_EACH, AT_ONCE = 2**17, 2**23


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture.

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
        return len(self.means)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Mixture:
        """The same on another device or in another precision."""
        return Mixture(**{field.name: getattr(self, field.name).to(device, dtype) for field in fields(self)})

    def log_shares(self, fairness: float) -> Tensor:
        """Logarithms of π_gc^(1−β) π_c^β, shape (n_groups, n_components)."""
        common = self.sizes @ self.shares
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
    if p == 0 and cells.n_cells * m * d <= min(AT_ONCE_EACH * n_groups, AT_ONCE):
        return _e_step_at_once(mixture, cells, fairness, temperature)
    new = mixture.means.new_zeros
    mass, first, second = new(n_groups, m), new(n_groups, m, d), new(m)
    smooth_mass, smooth_first, smooth_second = new(n_groups, m, p), new(p, m, d), new(p, p, m)
    totals = torch.zeros(2, dtype=torch.float32 if new(0).device.type == "mps" else torch.float64, device=new(0).device)
    log_shares = mixture.log_shares(fairness)
    for group, rows in cells.chunks(m):
        z, smooth = cells.z[rows], cells.smooth[rows]
        joint = mixture.log_joint(group, z, smooth, log_shares)
        r, evidence = responsibilities(joint, temperature)
        mass[group] += r.sum(0)
        first[group] += r.T @ z
        second += z.square().sum(1) @ r
        total = evidence.sum(dtype=totals.dtype)
        totals[0] += total
        totals[1] += (total - torch.dot(r.reshape(-1), joint.reshape(-1))) / temperature
        for i in range(p):
            weighted = r * smooth[:, i : i + 1]
            smooth_mass[group, :, i] += weighted.sum(0)
            smooth_first[i] += weighted.T @ z
            smooth_second[i] += smooth.T @ weighted
    return Sums(mass, first, second, smooth_mass, smooth_first, smooth_second, totals)


def _e_step_at_once(mixture: Mixture, cells: Positions, fairness: float, temperature: float) -> Sums:
    """The same for a few cells without smooth functions: every cell with the centres of its own group."""
    n_groups, m, d = mixture.moves.shape
    z, variances = cells.z, mixture.variances
    group = torch.from_numpy(cells.codes).to(z.device)
    away = z[:, None] - (mixture.means + mixture.moves)[group]
    constant = mixture.log_shares(fairness) - d / 2 * torch.log(2 * math.pi * variances)
    joint = constant[group] - away.square().sum(2) / (2 * variances)
    r, evidence = responsibilities(joint, temperature)
    total = evidence.double().sum()
    entropy = (total - torch.dot(r.reshape(-1), joint.reshape(-1))) / temperature
    new = z.new_zeros
    return Sums(
        mass=new(n_groups, m).index_add_(0, group, r),
        first=new(n_groups, m, d).index_add_(0, group, r[:, :, None] * z[:, None]),
        second=z.square().sum(1) @ r,
        smooth_mass=new(n_groups, m, 0),
        smooth_first=new(0, m, d),
        smooth_second=new(0, 0, m),
        totals=torch.stack([total, entropy.double()]),
    )


def annealed(rounds: int) -> list[tuple[int, float]]:
    """Rounds of EM, hot at first: how many have been cold before each, and the temperature."""
    first_cold = round(ANNEALED * rounds)
    return [(turn - first_cold, HOTTEST ** (1 - min(1.0, turn / first_cold))) for turn in range(rounds)]


def cooling(fairness: float, temperature: float) -> float:
    """β at a temperature, where it begins at 1: proportions common to all groups when it is hottest."""
    return fairness + (1 - fairness) * math.log(temperature, HOTTEST)


def responsibilities(log_joint: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """p(c | z) at a temperature, and T log Σ_c p(z, c)^(1/T), shapes (n_cells, n_components) and (n_cells,)."""
    highest = log_joint.amax(1, keepdim=True)
    # Smaller ones say nothing, and as denormal numbers take a hundred times longer to add up.
    r = (log_joint - highest).div_(temperature).clamp_min_(LOWEST).exp_()
    total = r.sum(1, keepdim=True)
    return r.div_(total), highest[:, 0] + temperature * torch.log(total[:, 0])


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

    common: float
    local: float
    length: float = 1.0

    @classmethod
    def wide(cls, means: Tensor) -> Prior:
        """Where to start: shifts as large as the distances between types, deviations half as large."""
        per_dim = _spread(means) ** 2 / means.shape[1]
        return cls(per_dim, per_dim / 4)

    def refined(self, gain: tuple[float, float], means: Tensor) -> Prior:
        """One step of EM for the scales, given the coefficients' posterior second moments in units of the prior."""
        least = (LEAST_SCALE * _spread(means)) ** 2 / means.shape[1]
        common, local = (min(max(value, 0.1), 10.0) for value in gain)
        return replace(self, common=max(self.common * common, least), local=max(self.local * local, least))

    def halfway(self, other: Prior) -> Prior:
        """Scales between these and others, by their logarithms."""
        return replace(self, common=math.sqrt(self.common * other.common), local=math.sqrt(self.local * other.local))

    def features(self, means: Tensor) -> Tensor:
        """Φ with K ≈ Φ Φᵀ over the components, shape (n_components, 1 + rank), in double precision."""
        spread = max(_spread(means), 1e-12)
        kernel = torch.exp(-_squared_distances(means.double()) / (2 * (self.length * spread) ** 2))
        values, vectors = torch.linalg.eigh(kernel)
        kept = vectors[:, -RANK:] * values[-RANK:].clamp_min(0).sqrt()
        ones = torch.ones_like(kept[:, :1])
        return torch.cat([math.sqrt(self.common) * ones, math.sqrt(self.local) * kept], 1)


@dataclass(frozen=True)
class Coefficients:
    """Displacements in the features of the prior, where their prior is standard normal.

    Parameters
    ----------
    levels
        Of every level of every attribute, each of shape (n_levels, n_features, n_dims).
    smooth
        Of the smooth functions, shape (n_smooth, n_features, n_dims).
    log_det
        Σ log det(I + Φᵀ W Φ) over all of them, times n_dims: what the posterior has gained in precision.
    gain
        Mean posterior second moment of the coefficients of the common shift, and of the local ones.
    misfit
        Σ r ‖z − centre‖² / 2s², with the variances from before.
    parts
        What each attribute contributes to the displacement of a group, each of shape (n_groups, n_components, n_dims).
    """

    levels: tuple[Tensor, ...]
    smooth: Tensor
    log_det: float
    gain: tuple[float, float]
    misfit: float
    parts: tuple[Tensor, ...]

    @property
    def penalty(self) -> float:
        """Negative logarithm of the prior, up to a constant."""
        return sum(float(part.square().sum()) for part in (*self.levels, self.smooth)) / 2


def m_step(
    sums: Sums,
    mixture: Mixture,
    design: Design,
    prior: Prior,
    n_rounds: int = 3,
    before: Coefficients | None = None,
) -> tuple[Mixture, Coefficients]:
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
    n_groups, m, d = mixture.moves.shape
    mass, first = sums.mass.double(), sums.first.double()
    precision = 1 / mixture.variances.double()
    weight, per_cell = mass * precision, mass[..., None]
    features = prior.features(mixture.means)
    means, moves, slopes = (part.double() for part in (mixture.means, mixture.moves, mixture.slopes))
    n_factors = design.levels.shape[1]
    if before is not None and before.parts[0].shape == moves.shape:
        parts = list(before.parts)
    else:
        parts = [moves if i == 0 else torch.zeros_like(moves) for i in range(n_factors)]
    level, has_level, factors = zip(*_by_attribute(design, features, weight), strict=True)
    smooth_mass = sums.smooth_mass.double()
    levels: list[Tensor] = []
    smooth = slopes.new_zeros(len(slopes), features.shape[1], d)
    log_det, second, count = 0.0, [0.0, 0.0], 0
    total = mass.sum(0)[:, None]
    held = total * precision[:, None] > 1e-6
    weighted = features * precision[:, None]
    own = [np.array_equal(column, np.arange(n_groups)) for column in design.levels.T]
    for turn in range(n_rounds):
        # Σ r (z − what numbers explain), per group and component.
        rest = first - torch.einsum("gmp,pmd->gmd", smooth_mass, slopes) if len(slopes) else first
        pulled = rest.sum(0) - torch.einsum("gm,gmd->md", mass, moves)
        means = torch.where(held, pulled / total.clamp_min(1e-300), means)
        last = turn == n_rounds - 1
        levels = []
        for i in range(n_factors):
            others = moves - parts[i] if n_factors > 1 else None
            wanted = torch.addcmul(rest, per_cell, means if others is None else means + others, value=-1)
            # With a group for every level the sum is that group's own.
            if not own[i]:
                wanted = (has_level[i].T @ wanted.reshape(n_groups, -1)).reshape(-1, m, d)
            solved = torch.cholesky_solve(weighted.T @ wanted, factors[i])
            # Shifting centres by what all levels share leaves every cell where it is and brings the levels nearer to 0.
            shared = solved.mean(0, keepdim=True)
            solved = solved - shared
            means = means + features @ shared[0]
            parts[i] = features @ solved if own[i] else (features @ solved)[level[i]]
            moves = parts[i] if others is None else others + parts[i]
            levels.append(solved)
            if last:
                log_det += _gain(solved, factors[i], second) * d
                count += len(solved) * d
        if len(slopes):
            slopes, smooth, factor = _smooth_part(sums, mixture, features, means, moves)
            if last:
                log_det += _gain(smooth, factor, second) * d
                count += len(slopes) * d
    local = max(features.shape[1] - 1, 1)
    gain = (second[0] / max(count, 1), second[1] / max(count * local, 1))
    kept = mixture.means.dtype
    shares = sums.mass + PSEUDO_COUNT
    updated = replace(
        mixture,
        means=means.to(kept),
        moves=moves.to(kept),
        slopes=slopes.to(kept),
        shares=shares / shares.sum(1, keepdim=True),
    )
    squares = _squares(sums, means, moves, slopes)
    misfit = float((squares / mixture.variances.double()).sum()) / 2
    coefficients = Coefficients(tuple(levels), smooth, log_det, gain, misfit, tuple(parts))
    return replace(updated, variances=_variances(squares, sums.mass, d).to(kept)), coefficients


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
    features, variances = prior.features(mixture.means), mixture.variances.double()
    weight = mass.double() / variances
    total = torch.zeros_like(weight)
    for level, _, factor in _by_attribute(design, features, weight):
        half = torch.linalg.solve_triangular(factor, features.T.expand(len(factor), -1, -1), upper=False)
        total += (half.square().sum(1) / variances)[level]
    return total.clamp_max(MOST_LEVERAGE).to(mixture.means.dtype)


def _by_attribute(design: Design, features: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Per attribute the level of every group, the same as indicators, and the Cholesky factors of its regressions."""
    for column in design.levels.T:
        level = torch.from_numpy(column).to(weight.device)
        has_level = torch.nn.functional.one_hot(level).to(weight)
        yield level, has_level, _factor(features, has_level.T @ weight)


def _factor(features: Tensor, weight: Tensor) -> Tensor:
    """Cholesky factors of the precisions of coefficients with standard normal prior."""
    precision = (features.T * weight[:, None]) @ features
    precision.diagonal(dim1=1, dim2=2).add_(1.0)
    return torch.linalg.cholesky(precision)


def _gain(solved: Tensor, factor: Tensor, second: list[float]) -> float:
    """Half-log-determinants of all precisions; adds posterior second moments, common and local, to `second`."""
    variance = torch.diagonal(torch.cholesky_inverse(factor), dim1=-2, dim2=-1)
    if solved.ndim == 3 and variance.ndim == 2 and len(variance) != len(solved):
        variance = variance.reshape(len(solved), -1)
    moment = solved.square().sum(2) + solved.shape[2] * variance
    second[0] += float(moment[:, 0].sum())
    second[1] += float(moment[:, 1:].sum())
    return 2 * float(torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum())


def _smooth_part(
    sums: Sums, mixture: Mixture, features: Tensor, means: Tensor, moves: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Displacements per unit of the smooth functions, given all else: slopes, coefficients and Cholesky factor."""
    p, r = len(mixture.slopes), features.shape[1]
    precision = 1 / mixture.variances.double()
    centres = means + moves
    rest = sums.smooth_first.double() - torch.einsum("gmp,gmd->pmd", sums.smooth_mass.double(), centres)
    wanted = torch.einsum("mr,pmd,m->prd", features, rest, precision).reshape(1, p * r, -1)
    matrix = torch.einsum("mr,pqm,m,ms->prqs", features, sums.smooth_second.double(), precision, features)
    matrix = matrix.reshape(1, p * r, p * r)
    matrix.diagonal(dim1=1, dim2=2).add_(1.0)
    factor = torch.linalg.cholesky(matrix)
    solved = torch.cholesky_solve(wanted, factor).reshape(p, r, -1)
    return features @ solved, solved, factor


def _squares(sums: Sums, means: Tensor, moves: Tensor, slopes: Tensor) -> Tensor:
    """Σ r ‖z − centre‖² of every component."""
    centres = means + moves
    mass = sums.mass.double()
    squares = sums.second.double() + (mass * centres.square().sum(2)).sum(0)
    squares -= 2 * (sums.first.double() * centres).sum((0, 2))
    if len(slopes):
        rest = sums.smooth_first.double() - torch.einsum("gmp,gmd->pmd", sums.smooth_mass.double(), centres)
        squares -= 2 * torch.einsum("pmd,pmd->m", rest, slopes)
        squares += torch.einsum("pqm,pmd,qmd->m", sums.smooth_second.double(), slopes, slopes)
    return squares.clamp_min(0)


def _variances(squares: Tensor, mass: Tensor, d: int) -> Tensor:
    """Mean squared distance per dimension from the centres, drawn towards that of all components."""
    of_component = mass.double().sum(0)
    pooled = squares.sum() / of_component.sum() / d
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

    free_energy: float
    log_likelihood: float
    prior: float
    reconstruction: float
    h_c_given_g: float
    h_c_given_x: float
    i_gc: float


def free_energy(sums: Sums, penalty: float, log_shares: Tensor) -> FreeEnergy:
    """Terms of the objective, from the sums of one pass and the proportions that it was made with."""
    mass = sums.mass.double()
    n = float(mass.sum())
    joint = mass / n
    group, component = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    h_joint, h_g, h_c = (-float(torch.xlogy(table, table).sum()) for table in (joint, group, component))
    log_likelihood, h_c_given_x = (float(value) / n for value in sums.totals)
    cross = -float((joint * log_shares.double()).sum())
    prior = penalty / n
    return FreeEnergy(
        free_energy=prior - log_likelihood,
        log_likelihood=log_likelihood,
        prior=prior,
        reconstruction=-log_likelihood + h_c_given_x - cross,
        h_c_given_g=h_joint - h_g,
        h_c_given_x=h_c_given_x,
        i_gc=max(h_g + h_c - h_joint, 0.0),
    )


def _spread(means: Tensor) -> float:
    return float((means - means.mean(0)).square().sum(1).mean().sqrt())


def _squared_distances(points: Tensor) -> Tensor:
    norms = points.square().sum(1)
    return (norms[:, None] + norms[None] - 2 * points @ points.T).clamp_min(0)
