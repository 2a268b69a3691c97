"""Registration finds the displacements that were simulated, and leaves alone what none explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from scfcmi.registration import (
    Design,
    Positions,
    n_components,
    register,
    registered,
    registered_without_group,
)
from scfcmi.registration import _fit as fit_module
from scfcmi.source import read_continuous, read_groups


def position_of(cells: Positions, design: Design, **options: Any) -> np.ndarray:
    """Registered positions, in the order of the cells."""
    fit = register(cells, design, **options)
    return registered(fit.mixture, cells, fit.fairness)[0].numpy()


def error(position: np.ndarray, truth: np.ndarray, types: np.ndarray | None = None) -> float:
    """Root mean square distance from the truth, in standard deviations of a type.

    Up to a common shift of all cells, or of each type where displacements differ from type to type: where the middle of
    all groups lies is nobody's business.
    """
    away = position - truth
    for kind in [slice(None)] if types is None else [types == kind for kind in np.unique(types)]:
        away[kind] -= away[kind].mean(0)
    return float(np.sqrt(np.square(away).mean()))


def test_common_shift_is_taken_out(simulate: Any) -> None:
    data = simulate(shift=3.0)
    position = position_of(data.cells, data.design)
    assert error(data.z, data.truth) > 1.5
    assert error(position, data.truth) < 0.35


def test_coherent_displacement_is_taken_out(simulate: Any) -> None:
    """Each type of a group is moved by another vector, and neighbouring types by similar ones."""
    data = simulate(n=2000, n_types=10, shift=0.5, coherent=1.5)
    position = position_of(data.cells, data.design)
    assert error(data.z, data.truth, data.types) > 0.7
    assert error(position, data.truth, data.types) < 0.4


def test_without_displacement_cells_stay(simulate: Any) -> None:
    data = simulate(shift=0.0)
    assert error(position_of(data.cells, data.design), data.truth) < 0.15


def test_one_group_stays_where_it_is(simulate: Any) -> None:
    data = simulate(n_groups=1)
    np.testing.assert_allclose(position_of(data.cells, data.design), data.z, atol=1e-6)


def test_displacements_are_coherent(simulate: Any) -> None:
    """A type that one group alone has moves as the group does."""
    data = simulate(n=1500, n_types=6, n_groups=2, shift=3.0, missing={0: (5,)})
    position = position_of(data.cells, data.design)
    lonely = data.types == 5
    moved = (position - data.z)[lonely].mean(0)
    others = (position - data.z)[~lonely & (data.codes == 1)].mean(0)
    assert np.linalg.norm(moved - others) < 0.35 * np.linalg.norm(others)


def test_a_missing_type_is_not_forced_onto_another(simulate: Any) -> None:
    data = simulate(n=1500, n_types=6, n_groups=2, shift=1.0, missing={0: (5,), 1: (4,)})
    position = position_of(data.cells, data.design)
    near = NearestNeighbors(n_neighbors=11).fit(position).kneighbors(return_distance=False)
    same = (data.types[near] == data.types[:, None]).mean(1)
    assert same[np.isin(data.types, (4, 5))].mean() > 0.97


def test_groups_of_three_cells_are_hardly_moved_on_their_own(simulate: Any) -> None:
    """What three cells say of a displacement is little, so that the prior has its way."""
    data = simulate(n=603, n_groups=2, shift=0.0)
    codes = np.zeros(603, int)
    codes[:3] = 1
    design = Design(np.array([[0], [1]]), data.design.knots)
    cells = Positions.of(torch.from_numpy(data.z), codes, 2)
    fit = register(cells, design)
    position = registered(fit.mixture, cells, 0.0)[0].numpy()
    moved = np.linalg.norm(position - data.z, axis=1)[:3]
    # Three cells scatter around their type by √(d / 3) standard deviations.
    assert moved.max() < np.sqrt(5)
    assert np.isfinite(position).all()


def test_two_crossed_attributes_are_taken_apart() -> None:
    rng = np.random.default_rng(1)
    n, d = 2000, 6
    a, b = rng.integers(0, 2, n), rng.integers(0, 3, n)
    # One combination occurs nowhere.
    b[(a == 1) & (b == 2)] = 0
    centres = 6 * rng.normal(size=(6, d))
    truth = centres[rng.integers(0, 6, n)] + rng.normal(size=(n, d))
    of_a, of_b = 1.5 * rng.normal(size=(2, d)), 1.5 * rng.normal(size=(3, d))
    groups = read_groups({"a": [f"a{i}" for i in a], "b": [f"b{i}" for i in b]})
    design = Design.of(groups, read_continuous(None, n))
    cells = Positions.of(torch.from_numpy(truth + of_a[a] + of_b[b]), groups.codes, groups.n)
    fit = register(cells, design)
    position = registered(fit.mixture, cells, 0.0)[0].numpy()
    assert error(position, truth) < 0.4
    # Contributions add up: the difference between levels of one attribute is the same at each level of the other.
    moves = fit.mixture.moves.numpy()
    level = {tuple(pair): i for i, pair in enumerate(design.levels.tolist())}
    at = [moves[level[1, j]] - moves[level[0, j]] for j in (0, 1)]
    np.testing.assert_allclose(at[0], at[1], atol=1e-6)
    np.testing.assert_allclose(at[0].mean(0), of_a[1] - of_a[0], atol=0.6)


def test_what_a_number_does_is_taken_out() -> None:
    rng = np.random.default_rng(0)
    n, d = 1500, 5
    value = rng.gamma(2.0, size=n)
    rank = value.argsort().argsort() / n
    centres = 5 * rng.normal(size=(5, d))
    truth = centres[rng.integers(0, 5, n)] + rng.normal(size=(n, d))
    along = np.array([3.0, 0, 0, 0, 0])
    z = truth + along * (rank - 0.5)[:, None] * 2 + np.array([0, 2.0, 0, 0, 0]) * np.cos(np.pi * rank)[:, None]
    values = read_continuous({"depth": value}, n)
    groups = read_groups(["x", "y"] * (n // 2))
    design = Design.of(groups, values)
    cells = Positions.of(torch.from_numpy(z), groups.codes, 2, design.smooth(values.values))
    position = position_of(cells, design, bins=values.bins())
    assert error(position, truth) < 0.4 * error(z, truth)
    assert abs(np.corrcoef((position - truth)[:, 0], rank)[0, 1]) < 0.5
    assert error(position, truth) < 0.5


def test_smooth_functions_are_of_ranks_and_orthonormal() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(5000, 1))
    groups = read_groups(["x", "y"] * 2500)
    design = Design.of(groups, read_continuous({"v": values[:, 0]}, 5000))
    smooth = design.smooth(values)
    np.testing.assert_allclose(smooth.T @ smooth / 5000, np.eye(3), atol=0.05)
    logged = Design.of(groups, read_continuous({"v": np.log(values[:, 0])}, 5000)).smooth(np.log(values))
    assert np.sqrt(np.square(logged - smooth).mean()) < 0.02
    # What lies beyond what was seen counts as the nearest that was.
    np.testing.assert_array_equal(design.smooth(np.array([[1e9]])), design.smooth(values.max(0)[None]))


def test_tied_numbers_are_in_one_place() -> None:
    values = np.repeat([0.0, 5.0], [900, 100])
    design = Design.of(read_groups(["x", "y"] * 500), read_continuous({"v": values}, 1000))
    low, high = design.smooth(np.array([[0.0], [5.0]]))
    assert low[0] < high[0]
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize("left_out", [False, True])
def test_few_cells_are_placed_together_where_they_would_be_group_by_group(
    simulate: Any, monkeypatch: pytest.MonkeyPatch, left_out: bool
) -> None:
    cells = simulate(shift=3.0).cells
    groups = np.repeat(np.arange(30), -(-cells.n_cells // 30))[: cells.n_cells]
    cells = Positions.of(cells.z, np.random.default_rng(0).permutation(groups), 30)
    fit = register(cells, Design.of(read_groups(groups.astype(str)), read_continuous(None, len(groups))), rounds=6)
    own = fit.own if left_out else None
    position, component, likelihood = registered(fit.mixture, cells, 0.0, own)
    monkeypatch.setattr(fit_module, "TOGETHER", 0)
    alone = registered(fit.mixture, cells, 0.0, own)
    torch.testing.assert_close(position, alone[0], rtol=1e-4, atol=1e-4)
    assert (component == alone[1]).float().mean() > 0.999
    torch.testing.assert_close(likelihood, alone[2], rtol=1e-4, atol=1e-4)


def test_no_cells_are_placed_nowhere(simulate: Any) -> None:
    data = simulate(shift=3.0)
    fit = register(data.cells, data.design, rounds=6)
    none = Positions.of(data.cells.z[:0], np.empty(0, np.int64), data.design.n_groups)
    assert [len(part) for part in registered(fit.mixture, none, 0.0)] == [0, 0, 0]


@pytest.mark.parametrize("starts", [("none",), ("matched",), ("none", "matched")])
def test_the_same_again(simulate: Any, starts: tuple[str, ...]) -> None:
    data = simulate(n=400)
    a, b = (position_of(data.cells, data.design, starts=starts, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_order_of_cells_hardly_matters(simulate: Any) -> None:
    data = simulate(n=600, shift=2.0)
    order = np.random.default_rng(0).permutation(600)
    shuffled = Positions.of(torch.from_numpy(data.z[order]), data.codes[order], 3)
    position = position_of(shuffled, data.design)
    back = np.empty_like(position)
    back[order] = position
    # k-means starts elsewhere, and finds about the same.
    assert error(back, position_of(data.cells, data.design)) < 0.3


def test_fairness_mixes_more(simulate: Any) -> None:
    """With proportions of all groups alike, components carry less information on the group."""
    data = simulate(n=1200, n_groups=2, shift=1.0, missing={0: (0, 1)})
    found = {
        fairness: register(data.cells, data.design, fairness=fairness).history["i_gc"][-1] for fairness in (0.0, 1.0)
    }
    assert found[1.0] <= found[0.0] + 0.02


def test_best_start_is_kept(simulate: Any) -> None:
    data = simulate(shift=4.0)
    fit = register(data.cells, data.design)
    assert set(fit.starts) == {"none", "centred", "matched", "matched_fair"}
    alone = {name: register(data.cells, data.design, starts=(name,)) for name in fit.starts}
    best = min(fit.starts, key=lambda name: fit.starts[name])
    assert fit.history["free_energy"][-1] == pytest.approx(alone[best].history["free_energy"][-1], abs=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_a_group_of_one_type_is_not_centred_onto_another(seed: int) -> None:
    """Two types, of which one group has the rarer one only: centred, it would stand where the other group's mean is."""
    rng = np.random.default_rng(seed)
    types, codes = np.repeat([0, 1, 1], [350, 150, 260]), np.repeat([0, 0, 1], [350, 150, 260])
    direction = np.zeros(20)
    direction[:2] = 1.0
    z = rng.normal(size=(len(types), 20)) + 5 * np.outer(types, direction) + np.outer(codes, 0.6 * rng.normal(size=20))
    groups = read_groups(codes)
    cells = Positions.of(torch.from_numpy(z.astype(np.float32)), groups.codes, 2)
    fit = register(cells, Design.of(groups, read_continuous(None, len(z))), random_state=seed)
    found = registered(fit.mixture, cells, 0.0)[0].numpy()
    mean = {pair: found[(types == pair[0]) & (codes == pair[1])].mean(0) for pair in ((0, 0), (1, 0), (1, 1))}
    assert np.linalg.norm(mean[1, 1] - mean[1, 0]) < np.linalg.norm(mean[1, 1] - mean[0, 0]) / 2


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_not_taken_for_types(simulate: Any, seed: int) -> None:
    """One type in groups that lie farther apart than it is wide: components are those of all groups."""
    data = simulate(n=1200, n_types=1, n_dims=8, n_groups=4, shift=2.0, seed=seed)
    fit = register(data.cells, data.design)
    position = registered(fit.mixture, data.cells, 0.0, fit.own)[0].numpy()
    assert fit.history["i_gc"][-1] < 0.4 * np.log(4)
    assert error(position, data.truth) < 0.5


def test_history_has_a_value_per_round_and_term(simulate: Any) -> None:
    fit = register((data := simulate(n=300)).cells, data.design, rounds=12)
    assert {len(column) for column in fit.history.values()} == {12}
    assert {"free_energy", "reconstruction", "h_c_given_g", "h_c_given_x", "i_gc", "prior"} <= set(fit.history)
    assert all(np.isfinite(column).all() for column in fit.history.values())


def test_cells_that_no_sketch_has_get_components(simulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare type far from all others, of which a sketch of a few hundred cells has next to none."""
    monkeypatch.setattr(fit_module, "SKETCH", 300)
    data = simulate(n=3000, n_types=4, n_groups=2, shift=1.0)
    rare = np.arange(12) * 250
    data.z[rare] = data.z[rare].mean(0) + 40 + 0.5 * np.random.default_rng(0).normal(size=(12, 5))
    fit = register(data.cells, data.design)
    position, component, _ = (part.numpy() for part in registered(fit.mixture, data.cells, 0.0))
    others = np.setdiff1d(np.arange(3000), rare)
    assert not set(component[rare]) & set(component[others])
    assert np.isfinite(position).all()


def test_unknown_group_counts_by_how_likely_it_is(simulate: Any) -> None:
    data = simulate(n=900, shift=6.0, spread=12.0, n_groups=2)
    cells = data.cells
    fit = register(cells, data.design)
    smooth = torch.zeros((900, 0), dtype=torch.float64)
    known = registered(fit.mixture, cells, 0.0)[0].numpy()
    unknown = registered_without_group(fit.mixture, torch.from_numpy(data.z), smooth, 0.0)[0].numpy()
    # Groups lie far apart, so that a cell's position tells its group.
    assert error(unknown, known) < 0.2


def identical(n: int = 60) -> np.ndarray:
    return np.ones((n, 4))


def constant_columns(n: int = 60) -> np.ndarray:
    z = np.random.default_rng(0).normal(size=(n, 4))
    z[:, 2:] = [0.0, 3.0]
    return z


@pytest.mark.parametrize("make", [identical, constant_columns])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_that_do_not_differ(make: Any, dtype: torch.dtype) -> None:
    z = torch.from_numpy(make()).to(dtype)
    codes = np.arange(60) % 2
    cells = Positions.of(z, codes, 2)
    fit = register(cells, Design(np.array([[0], [1]]), np.empty((0, 65))))
    position, component, likelihood = registered(fit.mixture, cells, 0.0)
    assert torch.isfinite(position).all() and torch.isfinite(likelihood).all()
    if make is identical:
        torch.testing.assert_close(position, z, atol=1e-3, rtol=0)


def test_few_cells_have_one_component() -> None:
    assert n_components(10) == 1
    cells = Positions.of(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), np.arange(10) % 2, 2)
    fit = register(cells, Design(np.array([[0], [1]]), np.empty((0, 65))))
    assert fit.mixture.n_components == 1
    assert torch.isfinite(registered(fit.mixture, cells, 0.0)[0]).all()


def test_a_group_without_cells(simulate: Any) -> None:
    data = simulate(n=300, n_groups=2)
    design = Design(np.array([[0], [1], [2]]), data.design.knots)
    with_none = Positions.of(torch.from_numpy(data.z), data.codes, 3)
    position = position_of(with_none, design)
    assert np.isfinite(position).all()
    assert error(position, data.truth) < 0.5


def test_components_grow_slowly_with_cells() -> None:
    sizes = [n_components(n) for n in (20, 200, 2000, 20_000, 200_000)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < 500


class TestPositions:
    def test_sorted_by_group_and_back(self) -> None:
        rng = np.random.default_rng(0)
        z, codes = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
        cells = Positions.of(z, codes, 5)
        assert (np.diff(cells.codes) >= 0).all()
        np.testing.assert_array_equal(cells.z.numpy(), z[cells.order])
        np.testing.assert_array_equal(cells.z[torch.from_numpy(cells.slot)].numpy(), z)
        np.testing.assert_array_equal(cells.codes[cells.slot], codes)

    def test_some_cells(self) -> None:
        rng = np.random.default_rng(0)
        z, codes = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
        some = Positions.of(z, codes, 4).take(index := np.array([30, 2, 2, 49]))
        np.testing.assert_array_equal(some.z.numpy(), z[index][some.order])
        assert len(some.edges) == 5

    def test_in_pieces(self) -> None:
        rng = np.random.default_rng(0)
        z, codes = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
        room = Positions.empty(codes, 4, 3, np.empty((50, 0), np.float32), "cpu", torch.float64)
        for start in range(0, 50, 7):
            rows = slice(start, min(start + 7, 50))
            room.put(rows, torch.from_numpy(z[rows]))
        torch.testing.assert_close(room.z, Positions.of(z, codes, 4).z)
