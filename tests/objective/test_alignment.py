"""Matched types move together, unmatched ones stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from scfcmi.objective import align

HOW = {"n_neighbors": 15, "n_candidates": 10, "n_matches": 5}


def make(types_per_group: list[list[int]], *, shift: float = 1.0, n: int = 60, seed: int = 0):
    """Groups of types on the axes of a space, each group moved by its own constant."""
    rng = np.random.default_rng(seed)
    z, codes, types = [], [], []
    for g, present in enumerate(types_per_group):
        moved = shift * rng.normal(size=12) / np.sqrt(12) * 3
        for k in present:
            centre = np.zeros(12)
            centre[k] = 8
            z.append(centre + moved + rng.normal(size=(n, 12)) * 0.6)
            codes += [g] * n
            types += [k] * n
    return np.concatenate(z).astype(np.float32), np.array(codes), np.array(types)


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def gap(z: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(z[a].mean(axis=0) - z[b].mean(axis=0)))


def test_matched_types_meet() -> None:
    z, codes, types = make([[0, 1, 2], [0, 1, 2]])
    moved = align(z, codes, **HOW).position
    assert moved.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-4)
    start = unit(z)
    for k in range(3):
        a, b = (types == k) & (codes == 0), (types == k) & (codes == 1)
        assert gap(moved, a, b) < 0.15 * gap(start, a, b)
    assert gap(moved, types == 0, types == 1) > 0.8 * gap(start, types == 0, types == 1)


def test_type_of_one_group_stays_apart() -> None:
    z, codes, types = make([[0, 1, 2], [0, 1, 3]])
    moved = align(z, codes, **HOW).position
    for k in (0, 1):
        assert gap(moved, (types == k) & (codes == 0), (types == k) & (codes == 1)) < 0.2
    for a, b in [(2, 3), (2, 0), (2, 1), (3, 0), (3, 1)]:
        assert gap(moved, types == a, types == b) > 0.8


def test_unmatched_type_is_carried_along() -> None:
    z, codes, types = make([[0, 1, 2], [0, 1]], shift=0.8)
    reference, _, _ = make([[0, 1, 2], [0, 1]], shift=0.0)
    own = types == 2
    start, target = unit(z), unit(reference)
    moved = align(z, codes, **HOW).position
    # Its position relative to its own group's types is that of the data without a shift.
    mine = [gap(moved, own, (types == k) & (codes == 0)) for k in (0, 1)]
    want = [gap(target, own, (types == k) & (codes == 0)) for k in (0, 1)]
    np.testing.assert_allclose(mine, want, rtol=0.35)
    assert gap(start, own, types == 0) > 0


def test_no_strength_returns_unit_rows() -> None:
    z, codes, _ = make([[0, 1], [0, 1]])
    result = align(z, codes, strength=0, **HOW)
    np.testing.assert_allclose(result.position, unit(z), atol=1e-6)
    assert result.matches.nnz == 0


def test_half_the_strength_moves_less() -> None:
    z, codes, _ = make([[0, 1], [0, 1]])
    start = unit(z)
    half, full = (align(z, codes, strength=s, **HOW).position for s in (0.5, 1.0))
    moves = [np.linalg.norm(moved - start, axis=1).mean() for moved in (half, full)]
    assert 0.3 * moves[1] < moves[0] < 0.8 * moves[1]


def test_data_without_an_effect_hardly_move() -> None:
    z, codes, types = make([[0, 1, 2], [0, 1, 2]], shift=0.0)
    moved = align(z, codes, **HOW).position
    assert np.linalg.norm(moved - unit(z), axis=1).mean() < 0.1
    shifted, _, _ = make([[0, 1, 2], [0, 1, 2]])
    assert np.linalg.norm(align(shifted, codes, **HOW).position - unit(shifted), axis=1).mean() > 0.1


def test_matches_join_cells_of_one_type() -> None:
    z, codes, types = make([[0, 1, 2], [0, 1, 2], [0, 1]])
    matches = align(z, codes, **HOW).matches
    rows, cols = matches.nonzero()
    assert len(rows) > 100
    assert (codes[rows] != codes[cols]).all()
    assert (types[rows] == types[cols]).mean() > 0.99
    assert (matches != matches.T).nnz == 0


@pytest.mark.parametrize("n_groups", [2, 3, 20])
def test_more_groups_and_tiny_ones(n_groups: int) -> None:
    z, codes, types = make([[0, 1]] * n_groups, n=12)
    codes[0] = n_groups
    moved = align(z, codes, **HOW).position
    assert np.isfinite(moved).all()
    many = [gap(moved, (types == 0) & (codes == g), (types == 0) & (codes == 0)) for g in range(1, n_groups)]
    start = [gap(unit(z), (types == 0) & (codes == g), (types == 0) & (codes == 0)) for g in range(1, n_groups)]
    assert np.mean(many) < np.mean(start)


def test_repeatable() -> None:
    z, codes, _ = make([[0, 1], [0, 1]])
    np.testing.assert_array_equal(align(z, codes, **HOW).position, align(z, codes, **HOW).position)
    order = np.random.default_rng(1).permutation(len(z))
    np.testing.assert_allclose(
        align(z[order], codes[order], **HOW).position, align(z, codes, **HOW).position[order], atol=1e-3
    )


def crossed(nested: bool = False):
    """Three types, two technologies and three donors, each of which moves its cells; the donors by less."""
    rng = np.random.default_rng(0)
    n = 540
    types, donor = np.arange(n) % 3, np.arange(n) // 3 % 3
    tech = (donor == 2).astype(int) if nested else np.arange(n) // 9 % 2
    of_tech, of_donor = rng.normal(size=(2, 12)), 0.7 * rng.normal(size=(3, 12))
    z = 8 * np.eye(12)[types] + of_tech[tech] + of_donor[donor] + 0.6 * rng.normal(size=(n, 12))
    return z.astype(np.float32), np.stack([tech, donor], axis=1), types


@pytest.mark.parametrize("nested", [False, True])
def test_several_attributes_meet(nested: bool) -> None:
    z, codes, types = crossed(nested)
    start, moved = unit(z), align(z, codes, **HOW).position
    for k in range(3):
        for column in codes.T:
            for level in range(1, column.max() + 1):
                a, b = (types == k) & (column == 0), (types == k) & (column == level)
                assert gap(moved, a, b) < 0.3 * gap(start, a, b)
    assert gap(moved, types == 0, types == 1) > 0.8 * gap(start, types == 0, types == 1)


def test_an_attribute_without_weight_stays() -> None:
    z, codes, types = crossed()
    result = align(z, codes, strength=[1, 0], **HOW)
    np.testing.assert_array_equal(result.position, align(z, codes[:, 0], **HOW).position)
    assert result.matched[:, 0].any()
    assert not result.matched[:, 1].any()
    a, b = ((types == 0) & (codes[:, 1] == d) for d in (0, 1))
    assert gap(result.position, a, b) > 0.6 * gap(unit(z), a, b)


def test_an_attribute_given_twice_moves_once() -> None:
    z, codes, _ = crossed()
    once, twice = (align(z, codes[:, columns], **HOW).position for columns in ([0], [0, 0]))
    np.testing.assert_allclose(twice, once, atol=0.1)
