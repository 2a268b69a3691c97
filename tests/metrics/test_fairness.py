"""Fairness of clusters: hand-computed values, what must not matter, and the degenerate cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from scfcmi.metrics import balance, cluster_composition, conditional_fairness, mnce, nce

FAIRNESS = [mnce, nce, balance]
# three clusters × two groups: 3:1, 2:2, 1:3
CLUSTERS = np.repeat([0, 1, 2], 4)
GROUPS = np.array(list("aaababab" + "abbb"))


def each_metric(metrics: list[Callable[..., float]] = FAIRNESS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("metric", metrics, ids=lambda metric: metric.__name__)


def random_partition(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 200))
    labels = rng.integers(0, 4, n)
    groups = rng.integers(0, 5, n) * (labels > 0)
    clusters = np.where(rng.random(n) < 0.6, labels, rng.integers(0, 6, n))
    return clusters, groups, labels


def test_mnce_by_hand() -> None:
    lowest = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert mnce(CLUSTERS, GROUPS) == pytest.approx(lowest / np.log(2))


def test_nce_by_hand() -> None:
    expected = 1 - mutual_info_score(CLUSTERS, GROUPS) / np.log(2)
    assert nce(CLUSTERS, GROUPS) == pytest.approx(expected)


def test_balance_by_hand() -> None:
    assert balance(CLUSTERS, GROUPS) == pytest.approx(1 / 3)
    assert balance([0, 0, 1], ["a", "b", "a"]) == 0


def test_published_labels_of_uneven_types_score_low() -> None:
    """Dendritic cells 202:18, macrophages 425:44: the truth itself is not independent of the technology."""
    clusters = np.repeat(["dendritic", "macrophage"], [220, 469])
    groups = np.repeat(["a", "b", "a", "b"], [202, 18, 425, 44])
    assert balance(clusters, groups) == pytest.approx(18 / 202)
    expected = entropy([202, 18]) / entropy([627, 62])
    assert mnce(clusters, groups) == pytest.approx(expected)


def test_conditional_fairness_by_hand() -> None:
    labels = np.array(["T"] * 4 + ["B"] * 4)
    groups = np.array(list("aabb" + "aabb"))
    split_by_group = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    assert conditional_fairness(split_by_group, groups, labels) == pytest.approx(0.5)
    assert conditional_fairness(groups, groups, labels) == pytest.approx(0)


@pytest.mark.parametrize("seed", range(10))
def test_conditional_fairness_is_one_minus_conditional_information(seed: int) -> None:
    clusters, groups, labels = random_partition(seed)
    information = left = 0.0
    for label in np.unique(labels):
        own = labels == label
        information += own.mean() * mutual_info_score(groups[own], clusters[own])
        left += own.mean() * entropy(np.bincount(groups[own]))
    assert conditional_fairness(clusters, groups, labels) == pytest.approx(1 - information / left)


@pytest.mark.parametrize("seed", range(10))
def test_bounds_and_order(seed: int) -> None:
    clusters, groups, labels = random_partition(seed)
    values = [mnce(clusters, groups), nce(clusters, groups), balance(clusters, groups)]
    values.append(conditional_fairness(clusters, groups, labels))
    assert all(0 <= value <= 1 for value in values)
    assert mnce(clusters, groups) <= nce(clusters, groups) + 1e-12


@pytest.mark.parametrize("shares", [(1, 1), (1, 9), (3, 2, 5)])
def test_perfect_mixing(shares: tuple[int, ...]) -> None:
    per_cluster = np.repeat(np.arange(len(shares)), shares)
    groups, clusters = np.tile(per_cluster, 4), np.repeat(np.arange(4), len(per_cluster))
    assert mnce(clusters, groups) == pytest.approx(1)
    assert nce(clusters, groups) == pytest.approx(1)
    assert balance(clusters, groups) == pytest.approx(min(shares) / max(shares))


@each_metric()
def test_clusters_that_are_groups_score_nothing(metric: Callable[..., float]) -> None:
    assert metric(GROUPS, GROUPS) == 0


def test_one_cluster_is_perfectly_fair() -> None:
    assert mnce(np.zeros(12), GROUPS) == 1
    assert nce(np.zeros(12), GROUPS) == 1


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_conditionally_fair_to_themselves(seed: int) -> None:
    _, groups, labels = random_partition(seed)
    assert conditional_fairness(labels, groups, labels) == 1


def test_conditional_fairness_where_every_label_has_its_own_group() -> None:
    assert conditional_fairness([0, 1, 0, 1], list("aabb"), list("TTBB")) == 1


def test_conditional_fairness_with_one_label_is_nce() -> None:
    assert conditional_fairness(CLUSTERS, GROUPS, np.zeros(12)) == pytest.approx(nce(CLUSTERS, GROUPS))


@each_metric()
@pytest.mark.parametrize("seed", range(3))
def test_names_and_order_do_not_matter(metric: Callable[..., float], seed: int) -> None:
    clusters, groups, _ = random_partition(seed)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    renamed = np.array(["z", "10", "9", "b", "a", "y"])[clusters]
    regrouped = np.array(list("vwxyz"))[::-1][groups]
    assert metric(renamed[shuffled], regrouped[shuffled]) == pytest.approx(metric(clusters, groups))


@each_metric()
@pytest.mark.parametrize(
    "kind", [list, tuple, pd.Series, pd.Index, pd.Categorical, lambda v: pd.Series(v, dtype="category", index=v)]
)
def test_any_array_like(metric: Callable[..., float], kind: Callable) -> None:
    assert metric(kind(CLUSTERS), kind(GROUPS)) == metric(CLUSTERS, GROUPS)


@each_metric()
def test_empty_clusters_and_groups_count_for_nothing(metric: Callable[..., float]) -> None:
    clusters = pd.Categorical(CLUSTERS, categories=[9, 2, 1, 0, 7])
    groups = pd.Categorical(GROUPS, categories=["never", "b", "a"])
    assert metric(clusters, groups) == metric(CLUSTERS, GROUPS)
    assert list(cluster_composition(clusters, groups).index) == [2, 1, 0]


def test_composition() -> None:
    found = cluster_composition(CLUSTERS, GROUPS)
    assert list(found.columns) == ["size", "a", "b", "entropy_ratio"]
    assert found["size"].tolist() == [4, 4, 4]
    np.testing.assert_allclose(found["a"], [0.75, 0.5, 0.25])
    assert found["entropy_ratio"].min() == pytest.approx(mnce(CLUSTERS, GROUPS))
    assert np.average(found["entropy_ratio"], weights=found["size"]) == pytest.approx(nce(CLUSTERS, GROUPS))


def test_composition_is_in_natural_order_and_sums_to_one() -> None:
    found = cluster_composition(["10", "9", "2", "a", "10", "9"], ["g10", "g2", "g2", "g10", "g2", "g2"])
    assert list(found.index) == ["2", "9", "10", "a"]
    assert list(found.columns) == ["size", "g2", "g10", "entropy_ratio"]
    np.testing.assert_allclose(found[["g2", "g10"]].sum(axis=1), 1)


def test_ratio_exceeds_one_where_a_cluster_is_more_even_than_the_data() -> None:
    found = cluster_composition([0, 0, 1, 1, 1, 1], list("abaaaa"))
    assert found.loc[0, "entropy_ratio"] > 1


def test_composition_refuses_a_group_named_like_a_column() -> None:
    with pytest.raises(ValueError, match=r"a group called 'size'.*Rename"):
        cluster_composition([0, 1], ["size", "b"])


@each_metric([*FAIRNESS, cluster_composition])
def test_single_group_is_refused(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match=r"single group, 'a'.*two or more groups"):
        metric([0, 1], ["a", "a"])
    with pytest.raises(ValueError, match="single group"):
        conditional_fairness([0, 1], ["a", "a"], [0, 1])


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_missing_values_are_refused(missing: object) -> None:
    with pytest.raises(ValueError, match=r"groups has 1 missing values, the first at position 2"):
        mnce([0, 1, 1], ["a", "b", missing])
    with pytest.raises(ValueError, match="clusters has 1 missing"):
        nce(pd.Categorical(["x", "y", None]), ["a", "b", "b"])


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="clusters has 3, groups has 2"):
        balance([0, 1, 1], ["a", "b"])


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"clusters needs one value per cell.*\(2, 2\)"):
        mnce([[0, 1], [1, 0]], ["a", "b"])
    with pytest.raises(ValueError, match="clusters is empty"):
        mnce([], [])
