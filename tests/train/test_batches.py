"""Minibatches: every cell once, every group in every batch, composition kept."""

from __future__ import annotations

import numpy as np
import pytest

from scfcmi.train import default_epochs
from scfcmi.train._batches import count_batches, stratified_batches


def batches(codes: np.ndarray, size: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(stratified_batches(codes, size, np.random.default_rng(seed)))


UNEVEN = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [700, 280, 17, 3]))


@pytest.mark.parametrize("size", [1000, 512, 100, 64, 10_000])
def test_every_cell_once_and_every_group_in_every_batch(size: int) -> None:
    found = batches(UNEVEN, size)
    assert len(found) == count_batches(1000, size)
    seen = np.bincount(np.concatenate([rows for rows, _ in found]), minlength=1000)
    assert (seen[UNEVEN < 2] == 1).all()
    # Cells of small groups may be called in more than once, in batches that would lack their group.
    assert (seen >= 1).all()
    for rows, weights in found:
        assert set(UNEVEN[rows]) == {0, 1, 2, 3}
        assert len(np.unique(rows)) == len(rows)
        assert weights.shape == rows.shape
        assert weights.dtype == np.float32
        assert (weights > 0).all()


@pytest.mark.parametrize("size", [512, 100, 64])
def test_weights_keep_the_composition(size: int) -> None:
    total = np.zeros(4)
    for rows, weights in batches(UNEVEN, size):
        of_batch = np.bincount(UNEVEN[rows], weights, minlength=4)
        total += of_batch
        share = of_batch / of_batch.sum()
        np.testing.assert_allclose(share, [0.7, 0.28, 0.017, 0.003], atol=0.02)
    np.testing.assert_allclose(total, [700, 280, 17, 3], rtol=1e-4)


def test_small_groups_weigh_the_same_in_every_batch() -> None:
    n = count_batches(1000, 64)
    for rows, weights in batches(UNEVEN, 64):
        assert weights[UNEVEN[rows] == 3].sum() == pytest.approx(3 / n)


def test_every_cell_of_a_small_group_counts_the_same_in_expectation() -> None:
    codes = np.repeat([0, 1], [197, 3])
    weight = np.zeros(200)
    for seed in range(200):
        for rows, weights in batches(codes, 20, seed):
            np.add.at(weight, rows, weights)
    np.testing.assert_allclose(weight[-3:] / 200, 1, atol=0.12)
    np.testing.assert_allclose(weight[:-3] / 200, 1)


def test_shuffled_and_repeatable() -> None:
    first, again, other = (batches(UNEVEN, 100, seed) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(first[0][0], other[0][0])
    rng = np.random.default_rng(0)
    epochs = [next(stratified_batches(UNEVEN, 100, rng))[0].tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]


def test_no_batch_of_a_single_cell() -> None:
    for n in (65, 129, 513):
        assert min(len(rows) for rows, _ in batches(np.arange(n) % 2, 64)) > 32


def test_number_of_epochs() -> None:
    assert default_epochs(100, 512) == 150
    assert default_epochs(512 * 8, 512) == 50
    assert default_epochs(10**6, 512) == 20
