"""From positions to a fitted mixture: starts on a sketch, the choice among them, and passes over all cells."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from scfcmi._device import one_openmp_thread, pieces, rows_at_once, side_by_side, smaller_when_full
from scfcmi.source import stratified_sketch

from ._design import Design
from ._matching import align
from ._mixture import (
    TOGETHER,
    Blocks,
    Displacements,
    FreeEnergy,
    Mixture,
    Prior,
    Sums,
    annealed,
    cooling,
    e_step,
    e_steps,
    free_energy,
    joints,
    leverage,
    m_step,
    responsibilities,
)
from ._positions import Positions
from ._stack import picked, stacked

# Rounds on the sketch, and passes over all cells.
ROUNDS, PASSES = 30, 5
# Rounds between estimates of the prior's scales.
REFINED_EVERY = 4
# Largest number of cells that starts are tried on, and that are matched.
SKETCH, MATCHED = 8_000, 4_000
# Rounds of matching; numbers, whose first and last quantiles meet late, take more.
MATCHING_ROUNDS, MATCHING_ROUNDS_NUMBERS = 5, 10
# From so many components on, their number in a part of the cells is rounded to one of a series with this ratio.
FEW_COMPONENTS, STEP = 8, 1.2
# Length scales of the prior that are compared.
LENGTHS = (0.5, 1.0, 2.0)
# A cell is far from all components when its likelihood is below that of so many standard deviations of a typical cell.
FAR = 5.0
FEWEST = 5
# While scikit-learn's k-means works, it changes a number of threads that the whole process shares.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Registration:
    """A fitted mixture, and what was learned on the way.

    Parameters
    ----------
    mixture
        Parameters.
    prior
        Scales of the displacements.
    own
        What share of the displacement of a cell of the fit comes from its own position, shape (n_groups, n_components).
    fairness
        β of the proportions.
    typical
        Median log-likelihood of a cell, and its scatter (a robust standard deviation), by which cells unlike all others
        are told.
    history
        Terms of the free energy, one value per round on the sketch of the start that was kept, and per pass.
    starts
        Free energy per cell of each start, by name.
    """

    mixture: Mixture
    prior: Prior
    own: Tensor
    fairness: float
    typical: tuple[float, float]
    history: dict[str, NDArray[np.float64]]
    starts: dict[str, float]


def n_components(n_cells: int) -> int:
    """Components to start with: more for more cells, and no more than the cells can tell apart."""
    return max(1, min(round(2 * n_cells**0.4), n_cells // 15))


def n_components_again(n_cells: int) -> int:
    """The same for a part of the cells, in steps: parts with as many components are fitted at once."""
    m = n_components(min(n_cells, SKETCH))
    return m if m < FEW_COMPONENTS else round(FEW_COMPONENTS * STEP ** round(math.log(m / FEW_COMPONENTS, STEP)))


def register(
    cells: Positions,
    design: Design,
    *,
    fairness: float = 0.0,
    starts: tuple[str, ...] = ("none", "centred", "matched", "matched_fair"),
    bins: NDArray[np.int64] | None = None,
    random_state: int = 0,
    rounds: int = ROUNDS,
    tell: Callable[[str], None] | None = None,
) -> Registration:
    """Fit the mixture to all cells.

    Parameters
    ----------
    cells
        Positions, sorted by group; several processes share the passes over them.
    design
        What displaces cells.
    fairness
        β, the weight of I(G;C) in the free energy.
    starts
        Where to begin: `"none"`, no displacement; `"centred"`, what levels and numbers explain on average is taken out;
        `"matched"`, mutual neighbours of different groups. With `"matched_fair"`, proportions are common to all groups
        at first. Of several, the one that is ahead once they are cold goes on (:func:`_leading`).
    bins
        Quantiles of the numbers, which matching sees as levels, shape (n_cells, n_numbers), in the order of the cells.
    random_state
        Seed.
    rounds
        Rounds on the sketch.
    tell
        Called with a few words at every step.
    """
    rng = np.random.default_rng(random_state)
    rows = sketch(cells, SKETCH, rng)
    # The sketch does not grow with the cells, and its many small steps are quicker where they need not be launched.
    some = (cells if rows is None else cells.take(rows)).to("cpu")
    turns = annealed(rounds)
    starts = starts if design.n_groups > 1 or design.n_smooth else ("none",)
    n_turns = sum(cold < 0 for cold, _ in turns) + 1 if len(starts) > 1 else rounds
    own_bins = bins if bins is None or rows is None else bins[rows]
    places = dict.fromkeys(name.removesuffix("_fair") for name in starts)
    begun = {place: _start(place, some, design, own_bins, rng) for place in places}
    mixtures, priors = zip(*(begun[name.removesuffix("_fair")] for name in starts), strict=True)
    course = _Course(stacked(mixtures), stacked(priors))
    fair_first = [name.endswith("_fair") for name in starts]
    course = _anneal(course, [some] * len(starts), design, fairness, turns[:n_turns], fair_first)
    energies = dict(zip(starts, course.evidence.tolist(), strict=True))
    if tell is not None:
        for name, energy in energies.items():
            tell(f"start {name}: free energy {energy:.4f}")
    course = course.alone(_leading(starts, course, design, fairness))
    if n_turns < rounds:
        course = _anneal(course, [some], design, fairness, turns[n_turns:], [False])
    mixture, prior, sums = picked(course.mixture, 0), picked(course.prior, 0), picked(course.sums, 0)
    displacements, history = picked(course.known, 0), [picked(terms, 0) for terms in course.history]
    if rows is not None:
        there = cells.z.device
        mixture = with_new_components(mixture.to(there), cells, fairness, rng).to("cpu")
        mine = cells.share()
        for _ in range(PASSES):
            sums = e_step(mixture.to(there), mine, fairness).over_processes().to("cpu")
            history.append(free_energy(sums, displacements.penalty, mixture.log_shares(fairness)))
            mixture, displacements = m_step(sums, mixture, design, prior, before=displacements)
    typical, own = _typical(mixture, some, fairness), leverage(sums.mass, mixture, design, prior)
    own = own.to(cells.z.device)
    mixture = mixture.to(cells.z.device)
    columns = {name: values.numpy() for name, values in vars(stacked(history)).items()}
    return Registration(mixture, prior, own, fairness, typical, columns, energies)


def register_again(
    cells: Sequence[Positions],
    before: Sequence[Tensor],
    design: Design,
    *,
    fairness: float,
    rounds: int,
    random_state: int,
) -> list[tuple[Mixture, Tensor]]:
    """Register parts of the cells once more, each in directions of its own, from where they were registered before.

    Proportions are common to all groups at first. The parts are small, and what is done for each is done for many at
    once; all of it is on the CPU.

    Parameters
    ----------
    cells
        Positions of each part.
    before
        Positions of its cells that are registered already, in the order of the cells, each of shape (n_cells, any
        number): cells that are close there start in one component.
    design, fairness, rounds, random_state
        See :func:`register`.

    Returns
    -------
    Of each part, the mixture, and what share of the displacement of a cell comes from its own position.
    """
    found: list[tuple[Mixture, Tensor] | None] = [None] * len(cells)
    for some in _alike(cells, design.n_groups):
        parts = [cells[i] for i in some]
        m = n_components_again(parts[0].n_cells)
        labels = []
        for i, part in zip(some, parts, strict=True):
            where = before[i][torch.from_numpy(part.order)]
            labels.append(_labels(_kmeans(where, m, np.random.default_rng(random_state)), where))
        course = _Course(*_of_labels(labels, m, parts, parts, design))
        course = _anneal(course, parts, design, fairness, annealed(rounds), [True] * len(some))
        own = leverage(course.sums.mass, course.mixture, design, course.prior)
        for place, i in enumerate(some):
            found[i] = picked(course.mixture, place), own[place]
    return [one for one in found if one is not None]


def _alike(cells: Sequence[Positions], n_groups: int) -> list[list[int]]:
    """Parts that can be fitted at once, largest first: of as many components and directions, and not too many."""
    batches: dict[tuple[int, int], list[list[int]]] = {}
    for i in np.argsort([-part.n_cells for part in cells], kind="stable").tolist():
        d, m = kind = cells[i].z.shape[1], n_components_again(cells[i].n_cells)
        held = batches.setdefault(kind, [[]])
        # Tables of cells and components, and displacements of groups.
        if held[-1] and sum(max(cells[j].n_cells, n_groups * d) * m for j in [*held[-1], i]) > TOGETHER:
            held.append([])
        held[-1].append(i)
    return [batch for held in batches.values() for batch in held]


def sketch(cells: Positions, size: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Some of the cells, of every group at least a few; nothing if there are no more than that."""
    if cells.n_cells <= size:
        return None
    return stratified_sketch(cells.codes[cells.slot], size, rng)


def _start(
    name: str, cells: Positions, design: Design, bins: NDArray[np.int64] | None, rng: np.random.Generator
) -> tuple[Mixture, Prior]:
    """Components by k-means: where cells stand, or centred or matched ones would."""
    where, some = cells.z, cells
    if name == "matched":
        rows, positions = _matched(cells, design, bins, rng)
        where, some = torch.from_numpy(positions).to(cells.z), cells.rows(rows)
    elif name == "centred":
        where = _centred(cells, design)
    m = n_components(cells.n_cells)
    kmeans = _kmeans(where, m, rng)
    if name == "none":
        means = torch.from_numpy(kmeans.cluster_centers_).to(where)
        return _first(means, float(kmeans.inertia_) / where.numel(), cells, design), Prior.wide(means)
    mixture, prior = _of_labels([_labels(kmeans, where)], m, [some], [cells], design)
    return picked(mixture, 0), picked(prior, 0)


def _centred(cells: Positions, design: Design) -> Tensor:
    """Positions without what levels and numbers explain of them, by least squares."""
    parts = [torch.nn.functional.one_hot(torch.from_numpy(column[cells.codes])) for column in design.levels.T]
    known = torch.cat([*(part.to(cells.z) for part in parts), cells.smooth.to(cells.z)], 1).double()
    explained = torch.linalg.pinv(known.T @ known, hermitian=True) @ (known.T @ cells.z.double())
    return cells.z - (known @ explained).to(cells.z)


def _kmeans(points: Tensor, k: int, rng: np.random.Generator) -> KMeans:
    seed = int(rng.integers(2**31))
    with _LOCK, one_openmp_thread():
        # scikit-learn is quicker in double precision.
        return KMeans(k, n_init=1, random_state=seed).fit(points.cpu().double().numpy())


def _labels(kmeans: KMeans, where: Tensor) -> Tensor:
    return torch.from_numpy(kmeans.labels_.astype(np.int64)).to(where.device)


def _first(means: Tensor, variance: float, cells: Positions, design: Design) -> Mixture:
    """Centres, and nothing that displaces cells."""
    m, d = means.shape
    sizes = torch.from_numpy(np.diff(cells.edges)).to(means)
    return Mixture(
        means=means,
        variances=torch.full_like(means[:, 0], max(variance, 1e-8)),
        shares=means.new_full((design.n_groups, m), 1 / m),
        moves=means.new_zeros(design.n_groups, m, d),
        slopes=means.new_zeros(design.n_smooth, m, d),
        sizes=sizes / cells.n_cells,
    )


def _of_labels(
    labels: Sequence[Tensor], m: int, some: Sequence[Positions], cells: Sequence[Positions], design: Design
) -> tuple[Mixture, Prior]:
    """A stack of mixtures, each of some of its cells whose components are known."""
    mixtures, sums = [], []
    for own, known, everyone in zip(labels, some, cells, strict=True):
        means = known.z.new_zeros(m, known.z.shape[1]).index_add_(0, own, known.z)
        means /= torch.bincount(own, minlength=m).clamp_min(1).to(means)[:, None]
        mixtures.append(_first(means, float((known.z - means[own]).square().mean()), everyone, design))
        sums.append(Sums.of_labels(own, mixtures[-1], known))
    mixture, total = stacked(mixtures), stacked(sums)
    prior = Prior.wide(mixture.means)
    for _ in range(2):
        mixture, _ = m_step(total, mixture, design, prior)
    return mixture, prior


@dataclass(frozen=True)
class _Course:
    """EM of a stack of mixtures, as far as it has gone; `evidence` is the negative log evidence per cell of each."""

    mixture: Mixture
    prior: Prior
    displacements: Displacements | None = None
    history: tuple[FreeEnergy, ...] = ()
    last: Sums | None = None

    @property
    def known(self) -> Displacements:
        assert self.displacements is not None
        return self.displacements

    @property
    def sums(self) -> Sums:
        assert self.last is not None
        return self.last

    @property
    def evidence(self) -> Tensor:
        return _evidence(self.sums, self.known)

    def alone(self, index: int) -> _Course:
        """A stack of one of them."""
        only = slice(index, index + 1)
        return _Course(
            picked(self.mixture, only),
            picked(self.prior, only),
            picked(self.known, only),
            tuple(picked(terms, only) for terms in self.history),
            picked(self.sums, only),
        )


def _anneal(
    course: _Course,
    cells: Sequence[Positions],
    design: Design,
    fairness: float,
    turns: Sequence[tuple[int, float]],
    fair_first: Sequence[bool],
) -> _Course:
    """Some rounds of EM: hot at first, then with the scales of the prior estimated as well.

    Proportions that are common to all groups at first have each group explained by all components: that finds types of
    which each is displaced by another vector, and keeps groups of one cluster together, but moves groups onto types
    that they lack.
    """
    mixture, prior, displacements, history = course.mixture, course.prior, course.displacements, list(course.history)
    steady = torch.full((len(cells),), fairness, dtype=torch.float64)
    fair = torch.tensor(fair_first)
    blocks = Blocks.maybe(cells, mixture.n_components)
    for cold, temperature in turns:
        beta = torch.where(fair, cooling(fairness, temperature), steady)
        sums = e_steps(mixture, blocks, beta, temperature)
        if cold >= 0 and cold % REFINED_EVERY == 0 and design.n_groups + design.n_smooth > 1:
            prior = _refined(prior, sums, mixture, design)
        log_shares = mixture.log_shares(beta)
        mixture, displacements = m_step(sums, mixture, design, prior, before=displacements)
        history.append(free_energy(sums, displacements.penalty, log_shares))
    return _Course(mixture, prior, displacements, tuple(history), e_steps(mixture, blocks, steady))


def _leading(starts: Sequence[str], course: _Course, design: Design, fairness: float) -> int:
    """The start that goes on: that of the lowest free energy.

    Centred groups, and groups that had the same proportions at first, look alike whatever they are made of; where one
    lacks a type, the cost of what sets groups apart, I(G;C), speaks for the mistake. So among groups, such starts have
    to outweigh what the best of the others has found them to have in common, H(G) − I(G;C), as far as it has done so
    with smaller displacements. Whoever asks for independence takes the risk.
    """
    energy = course.evidence.clone()
    bold = torch.tensor([name == "centred" or name.endswith("_fair") for name in starts])
    if fairness == 0 and bold.any() and not bold.all() and not design.n_smooth:
        best = int(energy.masked_fill(bold, torch.inf).argmin())
        share = course.mixture.sizes[best].double()
        in_common = -torch.xlogy(share, share).sum() - course.history[-1].i_gc[best]
        displaced = _displaced(course.mixture)
        energy[bold] += in_common * (1 - displaced[best] / displaced[bold].clamp_min(1e-12)).clamp_min(0)
    return int(energy.argmin())


def _displaced(mixture: Mixture) -> Tensor:
    """How far cells of a group are displaced from those of all, root mean square, of each of a stack."""
    share = (mixture.sizes.unsqueeze(-1) * mixture.shares).double()
    moves = mixture.moves.double()
    away = moves - torch.einsum("kgm,kgmd->kd", share, moves)[:, None, None]
    return torch.einsum("kgm,kgmd->k", share, away.square()).sqrt()


def _refined(prior: Prior, sums: Sums, mixture: Mixture, design: Design) -> Prior:
    """One step towards the most likely scales, at the length scale under which the sums are likeliest.

    They meet the wide prior halfway: a mixture explains a displaced type by a component of its own as well, and what is
    so explained would count as evidence against displacements.
    """
    energies, candidates = [], []
    for length in LENGTHS:
        candidate = replace(prior, length=torch.full_like(prior.length, length))
        _, displacements = m_step(sums, mixture, design, candidate, n_rounds=1)
        energies.append(displacements.misfit + displacements.penalty + displacements.log_det / 2)
        candidates.append(candidate.refined(displacements.gain, mixture.means))
    best = torch.stack(energies).argmin(0)
    chosen = picked(stacked(candidates), (best, torch.arange(len(best))))
    return chosen.halfway(Prior.wide(mixture.means))


def _evidence(sums: Sums, displacements: Displacements) -> Tensor:
    """Negative log evidence per cell of the groups as displaced copies of each other.

    Displacements are integrated out by Laplace's approximation, and proportions count as the same for all groups, which
    adds I(G;C): groups that have components of their own are explained no worse than groups that are displaced, and
    cheaper, so that without it what groups share would be decided by the number of parameters.
    """
    mass = sums.mass.double()
    n = mass.sum((-2, -1))
    joint = mass / n[..., None, None]
    independent = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    shared = (torch.xlogy(joint, joint) - torch.xlogy(joint, independent.clamp_min(1e-300))).sum((-2, -1))
    return (-sums.totals[..., 0] + displacements.penalty + displacements.log_det / 2) / n + shared


def _matched(
    cells: Positions, design: Design, bins: NDArray[np.int64] | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of some cells, and where matching takes them."""
    codes = cells.codes
    rows = stratified_sketch(codes, MATCHED, rng)
    levels = design.levels[codes[rows]]
    if bins is not None and bins.shape[1]:
        levels = np.hstack([levels, bins[cells.order[rows]]])
    z = cells.z[torch.from_numpy(rows).to(cells.z.device)].cpu().float().numpy()
    rounds = MATCHING_ROUNDS_NUMBERS if design.n_smooth else MATCHING_ROUNDS
    length = np.median(np.linalg.norm(z, axis=1))
    aligned = align(z, levels, n_neighbors=15, n_candidates=10, n_rounds=rounds)
    return rows, aligned * length


@smaller_when_full
def with_new_components(mixture: Mixture, cells: Positions, fairness: float, rng: np.random.Generator) -> Mixture:
    """Add components where the likelihood is low: a rare type may have no cell in the sketch."""
    log_shares = mixture.log_shares(fairness)
    parts = []
    for group, rows in cells.chunks(mixture.n_components):
        joint = mixture.log_joint(group, cells.z[rows], cells.smooth[rows], log_shares)
        best = joint.argmax(1)
        z = cells.z[rows] - mixture.moves[group][best]
        d = z.shape[1]
        distance = (z - mixture.means[best]).square().sum(1) / mixture.variances[best]
        far = distance > d + FAR * np.sqrt(2 * d)
        parts.append(z[far])
    lonely = torch.cat(parts)
    if len(lonely) < FEWEST:
        return mixture
    if len(lonely) > SKETCH:
        lonely = lonely[torch.from_numpy(np.sort(rng.choice(len(lonely), SKETCH, replace=False))).to(lonely.device)]
    k = max(1, min(len(lonely) // FEWEST, n_components(len(lonely)) * 2, mixture.n_components))
    kmeans = _kmeans(lonely, k, rng)
    kept = np.bincount(kmeans.labels_, minlength=k) >= FEWEST
    means = torch.from_numpy(kmeans.cluster_centers_[kept]).to(mixture.means)
    if not len(means):
        return mixture
    # They start with the displacement of the component they are nearest to, and a small share in every group.
    near = torch.cdist(means, mixture.means).argmin(1)
    share = len(lonely) / cells.n_cells / len(means)
    shares = torch.cat([mixture.shares, torch.full_like(mixture.shares[:, : len(means)], share)], 1)
    return Mixture(
        means=torch.cat([mixture.means, means]),
        variances=torch.cat([mixture.variances, mixture.variances[near]]),
        shares=shares / shares.sum(1, keepdim=True),
        moves=torch.cat([mixture.moves, mixture.moves[:, near]], 1),
        slopes=torch.cat([mixture.slopes, mixture.slopes[:, near]], 1),
        sizes=mixture.sizes,
    )


def _typical(mixture: Mixture, cells: Positions, fairness: float) -> tuple[float, float]:
    """Median log-likelihood of a cell, and a robust standard deviation of it."""
    values = registered(mixture, cells, fairness)[2].cpu().double().numpy()
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(middle), float(max((high - low) / 1.349, 1e-9))


@smaller_when_full
def registered(
    mixture: Mixture, cells: Positions, fairness: float, own: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Registered positions z − E[displacement], likeliest components, and log-likelihoods.

    All in the order of the cells, shapes (n_cells, n_dims), (n_cells,) and (n_cells,).

    Parameters
    ----------
    mixture, cells, fairness
        What was fitted, and to which cells it is applied.
    own
        For cells of the fit, what share of their displacement comes from their own position, shape (n_groups,
        n_components): it is taken out again, as if each had been left out. Otherwise cells of small groups are drawn
        onto the components, and what is one type falls into as many clusters as it has components.
    """
    if not len(mixture.slopes) and cells.n_cells * mixture.n_components <= rows_at_once(TOGETHER):
        return _registered_in_blocks(mixture, cells, fairness, own)
    log_shares = mixture.log_shares(fairness)
    position, likelihood = torch.empty_like(cells.z), torch.empty_like(cells.z[:, 0])
    component = torch.empty(len(cells.z), dtype=torch.int64, device=cells.z.device)
    place = torch.from_numpy(cells.order).to(cells.z.device)

    def put(part: tuple[int, slice]) -> None:
        group, rows = part
        z, smooth, there = cells.z[rows], cells.smooth[rows], place[rows]
        r, likelihood[there] = responsibilities(mixture.log_joint(group, z, smooth, log_shares))
        found = z - mixture.displacement(group, r, smooth)
        position[there] = found if own is None else _left_out(found, r, own[group], mixture.means)
        component[there] = r.argmax(1)

    for _ in side_by_side(put, cells.chunks(mixture.n_components), device=cells.z.device, n_rows=cells.n_cells):
        pass
    return position, component, likelihood


def _registered_in_blocks(
    mixture: Mixture, cells: Positions, fairness: float, own: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for all groups together, without smooth functions: many groups of few cells are as many small steps."""
    one, blocks = stacked([mixture]), Blocks.of([cells], mixture.n_components)
    found = []
    for part, joint in joints(one, blocks, one.log_shares(fairness)):
        r, likelihood = responsibilities(joint)
        position = part.z - r @ mixture.moves[part.group]
        if own is not None:
            position = _left_out(position, r, own[part.group].unsqueeze(1), mixture.means)
        found.append((part.rows(position), part.rows(r.argmax(2)), part.rows(likelihood)))
    slot = torch.from_numpy(cells.slot).to(cells.z.device)
    position, component, likelihood = (torch.cat(parts)[slot] for parts in zip(*found, strict=True))
    return position, component, likelihood


def _left_out(position: Tensor, r: Tensor, own: Tensor, means: Tensor) -> Tensor:
    """Positions as if cells had no say in how they are displaced, given p(c | z) and their shares in it."""
    again = r * (own / (1 - own))
    return position + again.sum(-1, keepdim=True) * position - again @ means


@smaller_when_full
def registered_without_group(
    mixture: Mixture, z: Tensor, smooth: Tensor, fairness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for cells whose group is not known: each group counts as much as it is likely to have made the cell."""
    parts = [_without_group(mixture, z[rows], smooth[rows], fairness) for rows in pieces(len(z))]
    position, component, likelihood = (torch.cat(column) for column in zip(*parts, strict=True))
    return position, component, likelihood


def _without_group(mixture: Mixture, z: Tensor, smooth: Tensor, fairness: float) -> tuple[Tensor, Tensor, Tensor]:
    log_shares = mixture.log_shares(fairness)
    log_sizes = torch.log(mixture.sizes.clamp_min(1e-12))
    total = torch.full_like(z[:, 0], -torch.inf)
    moved, mass = torch.zeros_like(z), torch.zeros((len(z), mixture.n_components), dtype=z.dtype, device=z.device)
    for group in range(len(mixture.moves)):
        r, evidence = responsibilities(mixture.log_joint(group, z, smooth, log_shares))
        evidence = evidence + log_sizes[group]
        new = torch.logaddexp(total, evidence)
        old, own = torch.exp(total - new)[:, None], torch.exp(evidence - new)[:, None]
        moved = old * moved + own * mixture.displacement(group, r, smooth)
        mass, total = old * mass + own * r, new
    return z - moved, mass.argmax(1), total
