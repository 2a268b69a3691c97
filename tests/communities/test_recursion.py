"""Looks from afar and from close by, votes, and how often what is one is split."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from scfcmi.communities import Index, Landmarks, Look, Tree, Votes, find_communities, vote, with_leaves
from scfcmi.communities._leiden import connectivities, small_clusters
from scfcmi.communities._neighbours import local_dimension
from scfcmi.communities._tree import Links, merge_tree
from scfcmi.front import Front
from scfcmi.registration import Design, Positions, register, registered

Draw = Callable[[np.random.Generator, int], np.ndarray]


def look_at(x: np.ndarray, n_comps: int = 10, *, seed: int = 0) -> tuple[Tree, Look]:
    """A whole look at cells of two groups that do not differ."""
    n = len(x)
    codes = np.random.default_rng(seed).integers(0, 2, n)
    design = Design(np.array([[0], [1]]), np.empty((0, 65)))
    x = x.astype(np.float32)
    front = Front.fit(x, codes, n_comps, standardize=False, height=0.7)
    cells = Positions.of(front.transform(x), codes, 2)
    fit = register(cells, design, random_state=seed)
    position, component, _ = registered(fit.mixture, cells, 0.0)
    chosen = Landmarks(x, codes, np.empty((n, 0)), design, 0.0, False, 0.7, seed)
    return find_communities(chosen, front, fit.mixture, cells.in_order, position, component)


def types(n: int, n_types: int, spread: float = 6.0, d: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % n_types
    return spread * rng.normal(size=(n_types, d))[label] + rng.normal(size=(n, d)), label


def islands(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four far types; one of them has two kinds, which differ in directions that say little about all cells."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 4
    x = np.zeros((n, 60))
    # What tells the four apart fills all directions that are looked at from afar.
    x[:, :20] = 9 * rng.normal(size=(4, 20))[label] + rng.normal(size=(n, 20))
    x[:, 20:] = 0.5 * rng.normal(size=(n, 40))
    fine = np.where(label == 0, np.arange(n) // 4 % 2, 0)
    x[:, 20:26] += 2.5 * fine[:, None]
    return x, label + 4 * fine


@cache
def islands_seen() -> tuple[Tree, Look]:
    """The look at them that several tests look into, and none changes."""
    return look_at(islands()[0], n_comps=3)


@cache
def types_seen() -> tuple[Tree, Look]:
    return look_at(types(900, 6)[0])


def gaussian(d: int) -> Draw:
    return lambda rng, n: rng.normal(size=(n, d))


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=(n, 8)) / np.sqrt(rng.chisquare(4, size=(n, 1)) / 4)


def counts(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.log1p(rng.poisson(rng.lognormal(0, 0.3, size=(n, 1)) * rng.gamma(0.5, 1, size=100)))


HOMOGENEOUS: dict[str, Draw] = {
    "2 directions": gaussian(2),
    "5 directions": gaussian(5),
    "20 directions": gaussian(20),
    "decaying spectrum": lambda rng, n: rng.normal(size=(n, 20)) / np.arange(1, 21),
    "uniform": lambda rng, n: rng.random((n, 4)),
    "heavy tails": heavy,
    "counts": counts,
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_what_is_one_is_rarely_split_by_links(name: str) -> None:
    """Points alone: of samples of each kind, at most one in ten falls apart."""
    split = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        z = torch.from_numpy(HOMOGENEOUS[name](rng, int(rng.choice([60, 200, 600]))))
        index = Index(z, torch.zeros(len(z), dtype=torch.int64), z[:1])
        index_of, distance = index.search(z, 15, None, skip_self=True)
        graph = connectivities(index_of, distance)
        tree = merge_tree(Links.between(small_clusters(graph, seed), graph, local_dimension(distance).numpy()))
        split.append(tree.n_clusters() > 1)
    assert np.mean(split) <= 0.1


@pytest.mark.parametrize("name", ["5 directions", "20 directions", "counts"])
def test_what_is_one_is_not_split_by_a_whole_look(name: str) -> None:
    found = [
        look_at(HOMOGENEOUS[name](np.random.default_rng(seed), 300), seed=seed)[0].n_clusters() for seed in range(2)
    ]
    assert found == [1, 1]


def test_types_are_found_from_afar() -> None:
    label, (tree, look) = types(900, 6)[1], types_seen()
    assert tree.n_clusters() == 6
    cluster = tree.cut(6)[look.leaf]
    assert len(set(zip(cluster.tolist(), label.tolist(), strict=True))) == 6


def test_a_closer_look_finds_what_is_lost_from_afar() -> None:
    label, (tree, look) = islands()[1], islands_seen()
    assert len(set(look.branch.tolist())) < 5
    assert look.closer
    cluster = tree.cut(tree.n_clusters())[look.leaf]
    # Every cluster is of one kind, and the two kinds are apart.
    pairs = set(zip(cluster.tolist(), label.tolist(), strict=True))
    assert len({c for c, _ in pairs}) == len(pairs)
    assert not set(cluster[label == 0]) & set(cluster[label == 4])


def test_leaves_of_all_looks_are_leaves_of_the_tree() -> None:
    tree, look = islands_seen()
    assert set(look.leaf.tolist()) == set(range(tree.n_leaves))
    assert (np.diff(tree.link) <= 0).all()
    for branch, closer in look.closer.items():
        inside = look.branch == branch
        np.testing.assert_array_equal(look.leaf[inside], closer.leaf)
        # A leaf is inside of one branch alone.
        assert not set(look.leaf[inside].tolist()) & set(look.leaf[~inside].tolist())


def test_the_same_again() -> None:
    (a, first), (b, second) = islands_seen(), look_at(islands()[0], n_comps=3)
    np.testing.assert_array_equal(a.merges, b.merges)
    np.testing.assert_array_equal(a.link, b.link)
    np.testing.assert_array_equal(first.leaf, second.leaf)


@pytest.mark.parametrize("n_leaves", [1, 150])
def test_more_leaves_on_demand(n_leaves: int) -> None:
    tree, look = islands_seen()
    n_leaves += tree.n_leaves
    more, finer = with_leaves(tree, look, n_leaves)
    assert more.n_leaves == n_leaves
    assert sorted(more.merges.ravel().tolist()) == list(range(2 * n_leaves - 2))
    assert (np.diff(more.link) <= 0).all()
    counts = np.bincount(finer.leaf, minlength=n_leaves)
    assert (counts > 0).all()
    # No leaf of before is now in two: a cut into as many as there were gives the same clusters.
    before, after = tree.cut(tree.n_leaves)[look.leaf], more.cut(tree.n_leaves)[finer.leaf]
    assert len(set(zip(before.tolist(), after.tolist(), strict=True))) == tree.n_leaves
    for branch, closer in finer.closer.items():
        np.testing.assert_array_equal(finer.leaf[finer.branch == branch], closer.leaf)


def test_more_leaves_than_landmarks() -> None:
    tree, look = look_at(types(60, 2)[0])
    assert with_leaves(tree, look, 60)[0].n_leaves == 60
    with pytest.raises(ValueError, match="n_clusters=61 is more than the"):
        with_leaves(tree, look, 61)


def test_votes_of_landmarks_are_for_their_own_leaves() -> None:
    tree, look = types_seen()
    votes, branch = vote(look, look.position, look.component)
    np.testing.assert_allclose(votes.proba.sum(1), 1, rtol=1e-5)
    leaves = votes.matrix(tree.n_leaves)
    np.testing.assert_allclose(leaves.sum(1), 1, rtol=1e-5)
    cluster = tree.cut(tree.n_clusters())
    assert (cluster[np.asarray(leaves.argmax(1)).ravel()] == cluster[look.leaf]).mean() > 0.98
    assert (branch == look.branch).mean() > 0.98


def test_votes_of_a_cell_between_two_clusters_are_shared() -> None:
    x, label = types(400, 2, spread=4.0)
    tree, look = look_at(x)
    middle = (look.position[label == 0].mean(0) + look.position[label == 1].mean(0))[None] / 2
    votes, _ = vote(look, middle, look.component[:1])
    assert 0 < votes.proba.max() < 1


class TestRefined:
    """Votes of a closer look stand in place of those for the leaves inside it."""

    votes = Votes(torch.tensor([[0, 1, 2], [2, 2, 3]]), torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]))
    finer = Votes(torch.tensor([[2, 4]]), torch.tensor([[0.25, 0.75]]))

    def test_with_the_same_total(self) -> None:
        found = self.votes.refined([(np.array([1]), self.finer, np.array([2, 4]))]).matrix(5).toarray()
        np.testing.assert_allclose(found[0], [0.5, 0.3, 0.2, 0, 0], rtol=1e-6)
        np.testing.assert_allclose(found[1], [0, 0, 0.9 * 0.25, 0.1, 0.9 * 0.75], rtol=1e-6)

    def test_others_are_left(self) -> None:
        found = self.votes.refined([(np.array([1]), self.finer, np.array([4]))]).matrix(5).toarray()
        np.testing.assert_allclose(found[1], [0, 0, 0.9, 0.1, 0], rtol=1e-6)

    def test_what_is_refined_is_not_changed(self) -> None:
        before = self.votes.proba.clone()
        self.votes.refined([(np.array([0]), self.finer, np.array([0, 1, 2]))])
        self.votes.matrix(5)
        assert torch.equal(self.votes.proba, before)
