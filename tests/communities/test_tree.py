"""Links, the order in which clusters are joined, and cuts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp

from scfcmi.communities import THRESHOLD, Tree
from scfcmi.communities import _tree as tree_module
from scfcmi.communities._tree import Links, homogeneous_link, merge_tree, widest_first


def links_of(table: np.ndarray, counts: np.ndarray, dimension: float = 4.0) -> Links:
    n = len(table)
    return Links(table / table.sum(), counts.astype(float), counts / dimension, np.full((n, n), np.nan))


def random_links(n: int, seed: int) -> Links:
    rng = np.random.default_rng(seed)
    table = rng.gamma(0.3, size=(n, n))
    table = table + table.T + np.diag(5 * rng.random(n))
    return links_of(table, rng.integers(5, 200, n))


def by_hand(links: Links) -> tuple[list[set[int]], list[float]]:
    """The same, from the definition: at every step the links of all pairs of unions are computed from the leaves."""
    table, inverse, count = links.table, links.inverse_dimension, links.count
    parts = [[i] for i in range(len(count))]
    joined, strength = [], []
    while len(parts) > 1:
        pairs = []
        for a, b in combinations(parts, 2):
            small, large = sorted([table[a].sum(), table[b].sum()])
            points = count[a + b].sum()
            link = table[np.ix_(a, b)].sum() / (small ** (1 - tree_module.LEAN) * large**tree_module.LEAN)
            link /= homogeneous_link(points, points / inverse[a + b].sum())
            pairs.append((link, max(link, 1e-9) * small**-tree_module.SIZE, a, b))
        link, _, a, b = max(pairs, key=lambda pair: pair[0])
        if link < THRESHOLD:
            link, _, a, b = max(pairs, key=lambda pair: pair[1])
        parts = [part for part in parts if part not in (a, b)] + [a + b]
        joined.append(set(a + b))
        strength.append(float(link))
    return joined, strength


def unions(tree: Tree) -> list[set[int]]:
    members = [{i} for i in range(tree.n_leaves)]
    for i, j in tree.merges.tolist():
        members.append(members[i] | members[j])
    return members[tree.n_leaves :]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [2, 5, 9])
def test_order_of_merges_is_that_of_the_definition(n: int, seed: int) -> None:
    want, strength = by_hand(random_links(n, seed))
    tree = merge_tree(random_links(n, seed))
    assert unions(tree) == want
    # A link is at least that of every later step.
    np.testing.assert_allclose(tree.link, np.maximum.accumulate(strength[::-1])[::-1], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_links_never_rise_and_cuts_are_nested(seed: int) -> None:
    tree = merge_tree(random_links(20, seed))
    assert (np.diff(tree.link) <= 0).all()
    finer = np.arange(20)
    for k in range(20, 0, -1):
        cut = tree.cut(k)
        assert len(set(cut.tolist())) == k
        assert cut[0] == 0
        # Whoever is together in the finer cut is in the coarser one.
        assert len({(a, b) for a, b in zip(finer.tolist(), cut.tolist(), strict=True)}) == len(set(finer.tolist()))
        finer = cut


@pytest.mark.parametrize("seed", range(4))
def test_more_resolution_more_clusters(seed: int) -> None:
    tree = merge_tree(random_links(15, seed))
    found = [tree.n_clusters(resolution) for resolution in (0.0, 0.1, 0.5, 1, 2, 10, 1e9)]
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] == 15


def test_every_node_is_joined_once() -> None:
    tree = merge_tree(random_links(12, 0))
    assert sorted(tree.merges.ravel().tolist()) == list(range(22))


def test_within_clusters_what_lies_far_apart_is_cut_first() -> None:
    # Two clusters of two parts each: those of the first are linked less, those of the second lie farther apart.
    tree = Tree(np.array([[2, 3], [0, 1], [4, 5]]), np.array([1.5, 1.0, 0.1]))
    position = np.array([[0.0], [1.0], [10.0], [15.0]])
    found = widest_first(tree, np.arange(4), position)
    assert [cut.tolist() for cut in map(found.cut, (1, 2, 3, 4))] == [[0] * 4, [0, 0, 1, 1], [0, 0, 1, 2], [0, 1, 2, 3]]
    np.testing.assert_array_equal(found.link, tree.link)
    # A link that is weaker by more than that is cut first after all.
    tree = Tree(tree.merges, np.array([50.0, 1.0, 0.1]))
    assert widest_first(tree, np.arange(4), position).cut(3).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("seed", range(4))
def test_order_within_clusters_leaves_clusters_as_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = merge_tree(random_links(20, seed))
    tree = Tree(tree.merges, tree.link * THRESHOLD / tree.link[9])  # ten steps within clusters, or more
    found = widest_first(tree, rng.integers(0, 20, 200), rng.normal(size=(200, 3)))
    assert found.fault() is None
    assert found.n_clusters() == tree.n_clusters() <= 10
    for k in range(1, tree.n_clusters() + 1):
        np.testing.assert_array_equal(found.cut(k), tree.cut(k))
    assert sorted(found.merges.ravel().tolist()) == list(range(38))


def test_one_leaf_and_none() -> None:
    tree = merge_tree(links_of(np.ones((1, 1)), np.array([5.0])))
    assert (tree.n_leaves, tree.n_clusters(), tree.cut(1).tolist()) == (1, 1, [0])
    assert widest_first(tree, np.zeros(3, np.int64), np.ones((3, 2))).n_leaves == 1


def test_clusters_without_links_are_joined_last() -> None:
    table = np.array([[4.0, 2, 0], [2, 4, 0], [0, 0, 9]])
    tree = merge_tree(links_of(table, np.array([50, 50, 60])))
    assert unions(tree)[0] == {0, 1}
    assert tree.link[-1] == 0
    assert tree.n_clusters() == 2


def test_known_links_stand_for_those_of_the_graph() -> None:
    links = random_links(4, 1)
    links.known[0, 3] = links.known[3, 0] = 1e6
    assert unions(merge_tree(links))[0] == {0, 3}


def test_links_between_clusters_of_a_graph() -> None:
    graph = sp.csr_matrix(np.array([[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, 0, 2], [0.5, 0, 2, 0]]))
    links = Links.between(np.array([0, 0, 1, 1]), graph, np.array([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(links.table, np.array([[2, 0.5], [0.5, 4]]) / 7)
    np.testing.assert_array_equal(links.count, [2, 2])
    np.testing.assert_allclose(links.inverse_dimension, [0.3, 0.7])


def test_homogeneous_link_falls_with_points_and_rises_with_dimension() -> None:
    points, dimension = np.array([100.0, 1000, 10_000]), np.array([1.0, 2, 3, 5, 10])
    table = homogeneous_link(points[:, None], dimension[None])
    assert (np.diff(table, axis=0) <= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    assert (table > 0).all()
