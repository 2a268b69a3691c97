"""Between which clusters there is a valley, and which are one."""

import numpy as np
import pytest
import scanpy as sc
from sklearn.cluster import KMeans

import scfcmi
from scfcmi.communities._tree import NO_VALLEY, UNDECIDED, Links, merge_tree, weighed
from scfcmi.communities._valley import MOST, TELLING, Valleys


def gaussian(n: int, n_dims: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n_dims))


def between(first: np.ndarray, second: np.ndarray) -> float:
    points = np.vstack([first, second])
    return valleys(points, points, np.zeros(len(points), np.int64), np.repeat([0, 1], [len(first), len(second)]))


def valleys(points: np.ndarray, measured: np.ndarray, group: np.ndarray, side: np.ndarray) -> float:
    return Valleys(points, measured, group, side, 0)([0], [1])


@pytest.mark.parametrize("length", [1, 5, 20])
@pytest.mark.parametrize("n", [200, 4 * MOST])
def test_halves_of_one_cluster_have_no_valley(n: int, length: float) -> None:
    found = []
    for seed in range(5):
        points = gaussian(n, seed=seed)
        points[:, 0] *= length
        half = points[:, 0] > 0.3 * length
        found.append(between(points[half], points[~half]))
    assert np.median(found) > NO_VALLEY


@pytest.mark.parametrize(("n", "others"), [(200, 300), (30, 10 * MOST)])
def test_separate_clusters_have_one(n: int, others: int) -> None:
    apart = gaussian(n, seed=1)
    apart[:, 3] += 7
    assert between(apart, gaussian(others)) < 0.1


def test_few_cells_in_many_directions_are_not_apart_by_chance() -> None:
    """Halves that were chosen to lie apart: along the direction found from all of them there seems to be a valley."""
    found = []
    for seed in range(5):
        points = gaussian(60, 50, seed)
        upper = KMeans(2, n_init=3, random_state=0).fit_predict(points) == 1
        found.append(between(points[upper], points[~upper]))
    assert np.median(found) > UNDECIDED


def test_the_deeper_the_valley_the_weaker_the_link() -> None:
    strengths = [weighed(0.7, deep) for deep in (0.0, 0.1, 0.3, UNDECIDED, 0.7, NO_VALLEY, 1.0)]
    assert strengths == sorted(strengths)
    assert weighed(0.7, UNDECIDED) == pytest.approx(0.7)
    assert weighed(0.1, 1.0) == 1.0  # parts of one cluster, however few links there are across its middle
    assert weighed(1.7, 1.0) == 1.7


def test_parts_on_either_side_of_a_third_are_one_with_it() -> None:
    """0 and 2 are linked most, but there is a valley between them, and none between either and 1."""
    table = np.array([[5, 0.1, 0.2], [0.1, 5, 0.1], [0.2, 0.1, 5]])
    links = Links(table / table.sum(), np.full(3, 100.0), np.full(3, 20.0), np.full((3, 3), np.nan))
    between_ends = [{0}, {2}]
    tree = merge_tree(links, lambda first, second: 0.05 if [set(first), set(second)] == between_ends else 1.0)
    assert set(tree.merges[0]) != {0, 2}
    assert tree.n_clusters() == 1


def test_what_was_measured_elsewhere_is_not_measured_again() -> None:
    table = np.full((3, 3), 0.01) + np.diag([0.3, 0.3, 0.3])
    known = np.full((3, 3), np.nan)
    known[0, 1] = known[1, 0] = 0.05
    asked = []

    def look(first: list[int], second: list[int]) -> float:
        asked.append((sorted(first), sorted(second)))
        return 1.0

    tree = merge_tree(Links(table / table.sum(), np.full(3, 100.0), np.full(3, 20.0), known), look)
    assert ([0], [1]) not in asked and ([1], [0]) not in asked
    assert asked
    assert tree.link[-1] == pytest.approx(0.05)


def test_of_a_few_cells_nothing_is_known() -> None:
    points = gaussian(40)
    points[:5, 0] += 100
    assert between(points[:5], points[5:]) == UNDECIDED


def test_what_registration_tears_is_not_apart() -> None:
    """Two parts of one type, moved by different vectors: the gap between them is in no group."""
    for seed in range(3):
        measured = gaussian(600, seed=seed)
        side, group = (measured[:, 0] > 0).astype(np.int64), np.arange(600) % 2
        torn = measured.copy()
        torn[:, 0] += np.where(side, 0.35, -0.35)
        assert valleys(torn, torn, np.zeros(600, np.int64), side) < UNDECIDED
        assert valleys(torn, measured, group, side) > NO_VALLEY


def test_what_groups_measure_apart_stays_apart() -> None:
    """Two types that are displaced together: within groups the valley is as deep as it is after registration."""
    truth = gaussian(600)
    side, group = np.repeat([0, 1], 300), np.arange(600) % 2
    truth[:, 0] += 3.5 * side
    measured = truth.copy()
    measured[:, 1] += 20 * group
    alone = valleys(truth, truth, np.zeros(600, np.int64), side)
    assert 0.05 < alone < UNDECIDED
    assert valleys(truth, measured, group, side) < UNDECIDED


@pytest.mark.parametrize("n_shared", [0, 20])
def test_groups_with_one_side_alone_say_nothing(n_shared: int) -> None:
    truth = gaussian(600)
    side, group = np.repeat([0, 1], 300), np.repeat([0, 1], 300)
    truth[:, 0] += 3.5 * side
    group[:n_shared] = 1
    assert valleys(truth, truth * 0, group, side) == valleys(truth, truth, np.zeros(600, np.int64), side)


def test_few_cells_are_not_asked_about() -> None:
    """One of the three is too small until it is joined to another."""
    table = np.full((3, 3), 0.004) + np.diag([0.3, 0.3, 0.1])
    table[1, 2] = table[2, 1] = 0.006
    count = np.array([100.0, TELLING, TELLING - 1])
    asked = []

    def look(first: list[int], second: list[int]) -> float:
        asked.append({*first, *second})
        return UNDECIDED

    known = np.full((3, 3), np.nan)
    merge_tree(Links(table / table.sum(), count, np.full(3, 20.0), known), look, TELLING)
    assert {0, 2} not in asked and {1, 2} not in asked
    assert {0, 1, 2} in asked


@pytest.mark.parametrize("n_types", [1, 2])
def test_a_type_is_not_cut_along_depth(n_types: int) -> None:
    """Shallow counts brought to 10,000 molecules a cell vary along depth more than along anything else."""
    adata = scfcmi.datasets.simulated_atlas(3000, 600, n_types, n_groups=3, random_state=0)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    scfcmi.tl.fair_cluster(adata, sensitive_key="tech")
    assert adata.obs["fair_cluster"].nunique() == n_types
