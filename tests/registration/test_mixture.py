"""E and M steps: what never rises, what adds up, and what sums hold."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from scfcmi.registration import (
    Design,
    Displacements,
    Mixture,
    Positions,
    Prior,
    e_step,
    free_energy,
    m_step,
    responsibilities,
)
from scfcmi.registration import _mixture as mixture_module
from scfcmi.registration import _positions as positions
from scfcmi.registration._mixture import LEAST_VARIANCE, Sums, leverage
from scfcmi.source import read_continuous, read_groups

TERMS = ("mass", "first", "second", "smooth_mass", "smooth_first", "smooth_second", "totals")


def problem(
    n: int = 500, m: int = 7, d: int = 4, *, numbers: int = 1, seed: int = 0
) -> tuple[Positions, Design, Mixture, Prior]:
    """Cells of two crossed attributes and a number, and a mixture that fits them badly, in double precision."""
    rng = np.random.default_rng(seed)
    groups = read_groups({"a": rng.choice(["x", "y"], n), "b": rng.choice(["p", "q", "r"], n)})
    values = read_continuous({f"v{i}": rng.normal(size=n) for i in range(numbers)}, n)
    design = Design.of(groups, values)
    centres = 3 * rng.normal(size=(5, d))
    z = centres[rng.integers(0, 5, n)] + rng.normal(size=(n, d)) + rng.normal(size=(groups.n, d))[groups.codes]
    cells = Positions.of(torch.from_numpy(z), groups.codes, groups.n, design.smooth(values.values))
    new = torch.zeros((), dtype=torch.float64).new_zeros
    means = torch.from_numpy(z[rng.choice(n, m, replace=False)])
    mixture = Mixture(
        means=means,
        variances=new(m) + 2.0,
        shares=new(groups.n, m) + 1 / m,
        moves=new(groups.n, m, d),
        slopes=new(design.n_smooth, m, d),
        sizes=torch.from_numpy(np.bincount(groups.codes) / n),
    )
    return cells, design, mixture, Prior.wide(means)


def fitted(turns: int, fairness: float = 0.0) -> tuple[Positions, Design, Mixture, Prior, Displacements]:
    cells, design, mixture, prior = problem()
    for _ in range(turns):
        mixture, displacements = m_step(e_step(mixture, cells, fairness), mixture, design, prior)
    return cells, design, mixture, prior, displacements


def log_likelihood(mixture: Mixture, cells: Positions, fairness: float = 0.0) -> float:
    """The sum over cells, one at a time."""
    table = mixture.log_shares(fairness)
    total = 0.0
    for row, group in enumerate(cells.codes.tolist()):
        terms = []
        for c in range(mixture.n_components):
            centre = mixture.means[c] + mixture.moves[group, c]
            for p, slope in enumerate(mixture.slopes):
                centre = centre + cells.smooth[row, p] * slope[c]
            normal = torch.distributions.Normal(centre, mixture.variances[c].sqrt())
            terms.append(table[group, c] + normal.log_prob(cells.z[row]).sum())
        total += float(torch.logsumexp(torch.stack(terms), 0))
    return total


def test_likelihood_is_that_of_the_mixture() -> None:
    cells, _, mixture, _, _ = fitted(3)
    sums = e_step(mixture, cells, 0.0)
    assert float(sums.totals[0]) == pytest.approx(log_likelihood(mixture, cells), rel=1e-9)


def energies(turns: int, numbers: int, *, crossed: bool) -> list[float]:
    """Free energy after each round of EM; `crossed` has two attributes, otherwise their combinations are one."""
    cells, design, mixture, prior = problem(numbers=numbers)
    if not crossed:
        design = Design(np.arange(design.n_groups)[:, None], design.knots)
    found = []
    displacements = None
    for _ in range(turns):
        mixture, displacements = m_step(e_step(mixture, cells, 0.0), mixture, design, prior, before=displacements)
        after = e_step(mixture, cells, 0.0)
        found.append(free_energy(after, displacements.penalty, mixture.log_shares(0.0)).free_energy)
    return found


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prior whose features stay where they are, and neither cells of no weight nor a floor: EM to the letter."""
    cells, _, mixture, prior = problem()
    features = prior.features(mixture.means)
    monkeypatch.setattr(Prior, "features", lambda *_: features)
    monkeypatch.setattr("scfcmi.registration._mixture.PSEUDO_COUNT", 0.0)
    monkeypatch.setattr("scfcmi.registration._mixture.PSEUDO_CELLS", 0.0)
    monkeypatch.setattr("scfcmi.registration._mixture.LEAST_VARIANCE", 0.0)


@pytest.mark.parametrize("numbers", [0, 1])
@pytest.mark.parametrize("crossed", [False, True])
def test_free_energy_never_rises(exact: None, numbers: int, crossed: bool) -> None:
    found = energies(40, numbers, crossed=crossed)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(found))
    assert found[-1] < found[0] - 0.5


@pytest.mark.parametrize("numbers", [0, 1])
@pytest.mark.parametrize("crossed", [False, True])
def test_free_energy_hardly_rises_as_it_is_run(numbers: int, crossed: bool) -> None:
    """Features follow the centres, cells of no weight are added, and variances have a floor."""
    found = energies(40, numbers, crossed=crossed)
    assert all(later <= earlier + 2e-3 for earlier, later in pairwise(found))
    assert found[-1] < found[0] - 0.5


@pytest.mark.parametrize("fairness", [0.0, 0.4, 1.0])
def test_free_energy_is_the_objective_at_the_proportions_of_the_pass(fairness: float) -> None:
    """−log-likelihood = reconstruction + H(C|G) − H(C|X) + β I(G;C), when shares are those of the responsibilities."""
    cells, design, mixture, prior = problem()
    for _ in range(300):
        sums = e_step(mixture, cells, fairness)
        # Proportions alone: exactly those of the pass, without pseudo counts.
        shares = sums.mass / sums.mass.sum(1, keepdim=True)
        done = torch.allclose(shares, mixture.shares, atol=1e-13)
        mixture = replace(mixture, shares=shares)
        if done:
            break
    _, displacements = m_step(sums, mixture, design, prior)
    terms = free_energy(e_step(mixture, cells, fairness), displacements.penalty, mixture.log_shares(fairness))
    by_hand = terms.reconstruction + terms.h_c_given_g - terms.h_c_given_x + fairness * terms.i_gc + terms.prior
    assert float(terms.free_energy) == pytest.approx(float(by_hand), abs=1e-6)
    assert float(terms.free_energy) == pytest.approx(float(terms.prior - terms.log_likelihood))


def test_reconstruction_is_the_squared_distance_from_the_branch() -> None:
    cells, _, mixture, _, displacements = fitted(4)
    table = mixture.log_shares(0.0)
    total = 0.0
    for group, rows in cells.chunks(mixture.n_components):
        z, smooth = cells.z[rows], cells.smooth[rows]
        r, _ = responsibilities(mixture.log_joint(group, z, smooth, table))
        centres = (mixture.means + mixture.moves[group])[None] + torch.einsum("np,pmd->nmd", smooth, mixture.slopes)
        squares = (z[:, None] - centres).square().sum(2) / mixture.variances
        total += float((r * (squares + z.shape[1] * torch.log(2 * torch.pi * mixture.variances))).sum()) / 2
    terms = free_energy(e_step(mixture, cells, 0.0), displacements.penalty, table)
    assert terms.reconstruction == pytest.approx(total / cells.n_cells, rel=1e-9)


def test_stale_proportions_cost_little_at_the_end_of_a_run() -> None:
    cells, design, mixture, prior, _ = fitted(60)
    sums = e_step(mixture, cells, 0.0)
    stale = mixture.log_shares(0.0)
    _, displacements = m_step(sums, mixture, design, prior)
    terms = free_energy(sums, displacements.penalty, stale)
    by_hand = terms.reconstruction + terms.h_c_given_g - terms.h_c_given_x + terms.prior
    assert float(terms.free_energy) == pytest.approx(float(by_hand), abs=1e-3)


def test_entropies_are_those_of_the_joint_table() -> None:
    cells, _, mixture, _, _ = fitted(3)
    sums = e_step(mixture, cells, 0.0)
    terms = free_energy(sums, torch.tensor(0.0), mixture.log_shares(0.0))
    joint = (sums.mass / sums.mass.sum()).numpy()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    assert terms.i_gc == pytest.approx((joint * np.log(joint / independent)).sum(), rel=1e-6)
    assert 0 <= terms.h_c_given_x <= terms.h_c_given_g <= np.log(mixture.n_components)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    cells, _, mixture, _, _ = fitted(2)
    whole = e_step(mixture, cells, 0.3, temperature)
    monkeypatch.setitem(positions.CHUNK_ENTRIES, "cpu", 1)
    assert len(list(cells.chunks(mixture.n_components))) == design_groups(cells)
    # At least 256 rows are taken at once, so the pieces here are the halves of the cells.
    parts = [cells.take(np.arange(start, cells.n_cells, 2)) for start in (0, 1)]
    halves = [e_step(mixture, part, 0.3, temperature) for part in parts]
    for name in TERMS:
        both = getattr(halves[0], name) + getattr(halves[1], name)
        torch.testing.assert_close(both, getattr(whole, name), rtol=1e-9, atol=1e-9)


def design_groups(cells: Positions) -> int:
    return int((np.diff(cells.edges) > 0).sum())


def test_order_of_cells_does_not_matter() -> None:
    cells, _, mixture, _, _ = fitted(2)
    shuffled = cells.take(np.random.default_rng(0).permutation(cells.n_cells))
    a, b = e_step(mixture, cells, 0.0), e_step(mixture, shuffled, 0.0)
    for name in TERMS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9)


def test_sums_of_known_labels_are_those_of_certain_responsibilities() -> None:
    cells, _, mixture, _, _ = fitted(2)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, mixture.n_components, cells.n_cells))
    sums = Sums.of_labels(labels, mixture, cells)
    r = torch.nn.functional.one_hot(labels, mixture.n_components).double()
    member = torch.nn.functional.one_hot(torch.from_numpy(cells.codes), len(mixture.moves)).double()
    z, x = cells.z, cells.smooth
    torch.testing.assert_close(sums.mass, torch.einsum("ng,nm->gm", member, r))
    torch.testing.assert_close(sums.first, torch.einsum("ng,nm,nd->gmd", member, r, z))
    torch.testing.assert_close(sums.second, r.T @ z.square().sum(1))
    torch.testing.assert_close(sums.smooth_mass, torch.einsum("ng,nm,np->gmp", member, r, x))
    torch.testing.assert_close(sums.smooth_first, torch.einsum("nm,np,nd->pmd", r, x, z))
    torch.testing.assert_close(sums.smooth_second, torch.einsum("nm,np,nq->pqm", r, x, x))


def test_heat_makes_responsibilities_even() -> None:
    joint = torch.tensor([[0.0, -2.0, -4.0]], dtype=torch.float64)
    cold, evidence = responsibilities(joint, 1.0)
    hot, _ = responsibilities(joint, 4.0)
    torch.testing.assert_close(cold, torch.softmax(joint, 1))
    torch.testing.assert_close(hot, torch.softmax(joint / 4, 1))
    torch.testing.assert_close(evidence, torch.logsumexp(joint, 1))


def test_responsibilities_of_a_cell_far_from_everything() -> None:
    r, evidence = responsibilities(torch.tensor([[-1e30, -2e30]]))
    torch.testing.assert_close(r, torch.tensor([[1.0, 0.0]]))
    assert torch.isfinite(evidence).all()


def test_displacements_of_levels_sum_to_zero_and_leave_cells_where_they_are() -> None:
    _, _, _, _, displacements = fitted(10)
    for part in displacements.parts:  # every level is that of as many groups
        torch.testing.assert_close(part.sum(0), torch.zeros_like(part[0]), atol=1e-8, rtol=0)


def test_proportions_are_those_of_the_sums() -> None:
    cells, design, mixture, prior = problem()
    sums = e_step(mixture, cells, 0.0)
    updated, _ = m_step(sums, mixture, design, prior)
    torch.testing.assert_close(updated.shares.sum(1), torch.ones(len(sums.mass), dtype=torch.float64))
    torch.testing.assert_close(updated.shares, sums.mass / sums.mass.sum(1, keepdim=True), atol=1e-3, rtol=1e-2)


def test_fairness_draws_proportions_together() -> None:
    _, _, mixture, _, _ = fitted(5)
    table = mixture.log_shares(1.0)
    torch.testing.assert_close(table, table[:1].expand_as(table))
    assert float(mixture.log_shares(0.0).std(0).max()) > 0.01


@pytest.mark.parametrize("turns", [1, 10])
def test_variances_have_a_floor(turns: int) -> None:
    _, _, mixture, _, _ = fitted(turns)
    assert float(mixture.variances.min()) >= 1e-8
    assert float(mixture.variances.min()) > 0.5 * LEAST_VARIANCE * float(mixture.variances.mean())


def test_precision_and_device_travel_together() -> None:
    _, _, mixture, _, _ = fitted(1)
    single = mixture.to("cpu", torch.float32)
    assert {getattr(single, field.name).dtype for field in fields(single)} == {torch.float32}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_few_cells_are_passed_over_at_once_with_the_same_sums(
    monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    cells, design, mixture, prior = problem(numbers=0)
    mixture, _ = m_step(e_step(mixture, cells, 0.0), mixture, design, prior)
    at_once = e_step(mixture, cells, 0.3, temperature)
    monkeypatch.setattr(mixture_module, "TOGETHER", 0)
    by_group = e_step(mixture, cells, 0.3, temperature)
    for name in TERMS:
        torch.testing.assert_close(getattr(at_once, name), getattr(by_group, name), rtol=1e-9, atol=1e-9)


def test_leverage_of_one_component_by_hand() -> None:
    """n cells and a prior of variance v: a cell has the share (v/s²) / (1 + n v/s²) of what its group is moved by."""
    mixture = Mixture(
        means=torch.zeros(1, 3, dtype=torch.double),
        variances=torch.tensor([2.0], dtype=torch.double),
        shares=torch.ones(3, 1, dtype=torch.double),
        moves=torch.zeros(3, 1, 3, dtype=torch.double),
        slopes=torch.zeros(0, 1, 3, dtype=torch.double),
        sizes=torch.full((3,), 1 / 3, dtype=torch.double),
    )
    design, prior = Design(np.array([[0], [1], [2]]), np.empty((0, 65))), Prior.of(torch.tensor(3.0), torch.tensor(1.0))
    cells = torch.tensor([[1.0], [10.0], [0.0]], dtype=torch.double)
    ratio = (prior.common + prior.local) / 2.0
    torch.testing.assert_close(leverage(cells, mixture, design, prior), (ratio / (1 + cells * ratio)).clamp_max(0.99))
