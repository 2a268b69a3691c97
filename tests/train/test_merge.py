"""From many small clusters to few."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scfcmi.train import merge_tree, suggest_n_clusters


def blocks(
    sizes: list[int], links: dict[tuple[int, int], float], per_cell: float = 10.0
) -> tuple[np.ndarray, sp.csr_matrix]:
    """Cells whose weight lies in their own cluster, but for a given share between some pairs of clusters."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    total = np.zeros((len(labels), len(labels)))
    for k, size in enumerate(sizes):
        own = labels == k
        total[np.ix_(own, own)] = per_cell / size
    for (a, b), share in links.items():
        one, two = labels == a, labels == b
        weight = share * per_cell * min(sizes[a], sizes[b]) / (sizes[a] * sizes[b])
        total[np.ix_(one, two)] += weight
        total[np.ix_(two, one)] += weight
    return labels, sp.csr_matrix(total)


def partition(owner: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(owner == k).tolist()) for k in np.unique(owner)}


CHAIN = blocks([40, 40, 40, 40, 40, 40], {(0, 1): 0.5, (2, 3): 0.4, (4, 5): 0.3, (1, 2): 0.02, (3, 4): 0.01})


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_cut_gives_the_number_asked_for(k: int) -> None:
    owner = merge_tree(CHAIN[0], CHAIN[1]).cut(k)
    assert sorted(set(owner.tolist())) == list(range(k))
    assert owner.dtype == np.int64


def test_cuts_are_nested() -> None:
    tree = merge_tree(CHAIN[0], CHAIN[1])
    for k in range(1, 6):
        coarse, fine = partition(tree.cut(k)), partition(tree.cut(k + 1))
        assert all(any(part <= whole for whole in coarse) for part in fine)
        assert len(coarse & fine) == k - 1


def test_what_belongs_together_is_joined_first() -> None:
    tree = merge_tree(CHAIN[0], CHAIN[1])
    assert partition(tree.cut(3)) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4, 5})}
    assert partition(tree.cut(2)) == {frozenset({0, 1, 2, 3}), frozenset({4, 5})}


def test_small_distinct_cluster_survives() -> None:
    labels, affinity = blocks([200, 200, 200, 8], {(0, 1): 0.35, (1, 2): 0.12, (2, 3): 0.02})
    tree = merge_tree(labels, affinity)
    assert frozenset({3}) in partition(tree.cut(3))
    assert frozenset({3}) in partition(tree.cut(2))


def test_small_cluster_that_is_part_of_a_large_one_does_not() -> None:
    labels, affinity = blocks([200, 200, 8], {(0, 1): 0.02, (1, 2): 0.6})
    assert partition(merge_tree(labels, affinity).cut(2)) == {frozenset({0}), frozenset({1, 2})}


def test_fewer_small_clusters_than_asked_for() -> None:
    labels, affinity = blocks([30, 30], {(0, 1): 0.1})
    tree = merge_tree(labels, affinity)
    assert tree.cut(5).tolist() == [0, 1]
    assert tree.cut(1).tolist() == [0, 0]


def test_the_number_of_clusters_is_where_nothing_is_linked() -> None:
    chosen, evidence = suggest_n_clusters(merge_tree(CHAIN[0], CHAIN[1]))
    assert chosen == 3
    assert evidence["candidates"].tolist() == [6, 5, 4, 3, 2]
    assert evidence["score"].shape == (5,)
    islands = blocks([30, 30, 30, 30], {})
    assert suggest_n_clusters(merge_tree(islands[0], islands[1]))[0] == 4


def test_at_least_two_clusters() -> None:
    one = blocks([30, 30, 30], {(0, 1): 0.5, (1, 2): 0.5, (0, 2): 0.5})
    assert suggest_n_clusters(merge_tree(one[0], one[1]))[0] == 2
    labels, affinity = blocks([30], {})
    assert suggest_n_clusters(merge_tree(labels, affinity))[0] == 2


def test_order_of_cells_does_not_matter() -> None:
    labels, affinity = CHAIN
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = merge_tree(labels[order], affinity[order][:, order])
    np.testing.assert_array_equal(shuffled.steps, merge_tree(labels, affinity).steps)
