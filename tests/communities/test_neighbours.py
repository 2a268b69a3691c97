"""Landmarks, neighbours and their weights."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.spatial.distance import cdist

from scfcmi.communities import Index, landmarks
from scfcmi.communities import _neighbours as neighbours
from scfcmi.communities._leiden import connectivities, small_clusters
from scfcmi.communities._neighbours import local_dimension


def test_landmarks_are_even_over_components_and_rare_ones_keep_all() -> None:
    component = np.repeat(np.arange(4), [10_000, 3000, 400, 7])
    rows = landmarks(component, 1500, np.random.default_rng(0))
    counts = np.bincount(component[rows])
    assert counts[3] == 7
    assert counts[2] == 400
    assert counts[0] == counts[1]
    assert 1490 <= len(rows) <= 1500
    assert (np.diff(rows) > 0).all()


def test_landmarks_of_few_cells_are_all() -> None:
    np.testing.assert_array_equal(landmarks(np.arange(30) % 3, 30, np.random.default_rng(0)), np.arange(30))


def test_landmarks_within_a_component_are_drawn_at_random() -> None:
    rows = landmarks(np.zeros(10_000, int), 1000, np.random.default_rng(0))
    assert abs(rows.mean() - 5000) < 400


def points(n: int, d: int = 6, m: int = 30, seed: int = 0) -> tuple[Index, torch.Tensor]:
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(m, d))
    z = centres[rng.integers(0, m, n)] + rng.normal(size=(n, d))
    component = cdist(z, centres).argmin(1)
    z, component, centres = (torch.from_numpy(a) for a in (z, component, centres))
    return Index(z, component, centres), component


@pytest.mark.parametrize("skip_self", [True, False])
def test_search_among_few_points_is_exact(skip_self: bool) -> None:
    index, component = points(500)
    found, distance = index.search(index.points, 7, component, skip_self=skip_self)
    full = cdist(index.points.numpy(), index.points.numpy())
    if skip_self:
        np.fill_diagonal(full, np.inf)
    np.testing.assert_array_equal(found.numpy(), np.argsort(full, axis=1)[:, :7])
    np.testing.assert_allclose(distance.numpy(), np.sort(full, axis=1)[:, :7], atol=1e-6)


def test_search_of_new_points() -> None:
    index, _ = points(300)
    queries = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 6)))
    found, _ = index.search(queries, 5)
    np.testing.assert_array_equal(
        found.numpy(), np.argsort(cdist(queries.numpy(), index.points.numpy()), axis=1)[:, :5]
    )


def test_search_among_many_points_finds_almost_all(monkeypatch: pytest.MonkeyPatch) -> None:
    index, component = points(8000)
    exact = index.search(index.points, 15, None, skip_self=True)[0].numpy()
    monkeypatch.setitem(neighbours.ALL, "cpu", 1000)
    found, distance = index.search(index.points, 15, component, skip_self=True)
    found = found.numpy()
    assert not (found == np.arange(8000)[:, None]).any()
    assert (distance.diff(dim=1) >= 0).all()
    recall = np.mean([len(np.intersect1d(a, b)) / 15 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.95


def test_search_for_more_than_there_are() -> None:
    index, component = points(6)
    assert index.search(index.points, 15, component, skip_self=True)[0].shape == (6, 5)


@pytest.mark.parametrize("k", [5, 15])
def test_connectivities_are_those_of_umap(k: int) -> None:
    """Against the definition (McInnes, Healy & Melville 2018): umap-learn itself takes a minute to compile."""
    index, component = points(60)
    found, distance = index.search(index.points, k, component, skip_self=True)
    directed = np.zeros((60, 60))
    for i, (near, away) in enumerate(zip(found.numpy(), distance.numpy(), strict=True)):
        beyond = away - away[0]

        def excess(width: float, beyond: np.ndarray = beyond) -> float:
            return float(np.exp(-beyond / width).sum() - np.log2(k))

        directed[i, near] = np.exp(-beyond / brentq(excess, 1e-6, 1e3))
    want = directed + directed.T - directed * directed.T
    np.testing.assert_allclose(connectivities(found, distance).toarray(), want, atol=1e-3)


def test_weights_are_symmetric_and_of_equal_total() -> None:
    index, component = points(400)
    found, distance = index.search(index.points, 15, component, skip_self=True)
    graph = connectivities(found, distance)
    assert abs(graph - graph.T).max() < 1e-12
    assert 0 < graph.data.min() and graph.data.max() <= 1 + 1e-12


def test_identical_points_have_weights() -> None:
    index = Index(torch.ones(40, 3), torch.zeros(40, dtype=torch.int64), torch.ones(1, 3))
    found, distance = index.search(index.points, 5, index.component, skip_self=True)
    graph = connectivities(found, distance)
    assert np.isfinite(graph.data).all()
    assert np.isfinite(local_dimension(distance).numpy()).all()


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_local_dimension(d: int) -> None:
    rng = np.random.default_rng(0)
    z = np.zeros((3000, 20))
    z[:, :d] = rng.random((3000, d))
    z = torch.from_numpy(z @ np.linalg.qr(rng.normal(size=(20, 20)))[0])
    index = Index(z, torch.zeros(3000, dtype=torch.int64), z[:1])
    distance = index.search(z, 15, None, skip_self=True)[1]
    # One nearest neighbour less in the mean makes it unbiased; large dimensions fall short by the edge.
    found = 1 / float(local_dimension(distance).mean())
    assert 0.75 * d < found < 1.2 * d


def test_small_clusters_keep_islands_apart_and_repeat() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(np.concatenate([rng.normal(size=(200, 4)), 30 + rng.normal(size=(100, 4))]))
    index = Index(z, torch.zeros(300, dtype=torch.int64), z[:1])
    graph = connectivities(*index.search(z, 15, None, skip_self=True))
    labels = small_clusters(graph, 0)
    assert not set(labels[:200]) & set(labels[200:])
    assert set(labels) == set(range(labels.max() + 1))
    assert 4 < labels.max() + 1 < 60
    np.testing.assert_array_equal(labels, small_clusters(graph, 0))


def test_global_generator_of_igraph_is_left_alone() -> None:
    state = random.getstate()
    index, component = points(200)
    small_clusters(connectivities(*index.search(index.points, 5, component, skip_self=True)), 0)
    assert random.getstate() == state
