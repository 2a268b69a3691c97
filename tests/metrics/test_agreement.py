"""Agreement with reference labels, F_β, and all scores in one dict."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scfcmi.metrics import clustering_accuracy, clustering_scores, conditional_fairness, f_beta, mnce


@pytest.mark.parametrize(
    ("labels", "clusters", "expected"),
    [
        (["T", "T", "B", "B"], [1, 1, 0, 0], 1.0),
        (["T", "T", "B", "B"], [1, 1, 1, 0], 0.75),
        (["T", "T", "B", "B"], [0, 0, 0, 0], 0.5),
        (["T", "T", "T", "T"], [0, 1, 2, 2], 0.5),
        # the greedy choice, cluster 0 for T, leaves 3 + 0 right; the best leaves 2 + 2
        (["T"] * 5 + ["B"] * 2, [0, 0, 0, 1, 1, 0, 0], 4 / 7),
    ],
)
def test_accuracy_by_hand(labels: list[str], clusters: list[int], expected: float) -> None:
    assert clustering_accuracy(labels, clusters) == pytest.approx(expected)


def test_accuracy_is_symmetric_and_ignores_names() -> None:
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 4, 100), rng.integers(0, 6, 100)
    value = clustering_accuracy(labels, clusters)
    assert clustering_accuracy(clusters, labels) == value
    assert clustering_accuracy(labels, rng.permutation(6)[clusters].astype(str)) == value


@pytest.mark.parametrize(
    ("nmi", "fairness", "expected"),
    [(65.4, 88.1, 75.0), (80.7, 99.3, 89.0), (19.1, 99.8, 32.0), (58.5, 92.7, 71.7)],
)
def test_f_beta_of_published_results(nmi: float, fairness: float, expected: float) -> None:
    assert 100 * f_beta(nmi / 100, fairness / 100) == pytest.approx(expected, abs=0.1)


def test_f_beta_weighs_fairness_by_beta() -> None:
    assert f_beta(0.5, 0.5, beta=3) == pytest.approx(0.5)
    assert f_beta(0.9, 0.1, beta=10) == pytest.approx(0.1, abs=0.01)
    assert f_beta(0.9, 0.1, beta=0.1) == pytest.approx(0.9, abs=0.1)
    assert f_beta(0.9, 0.1, beta=0.5) > f_beta(0.9, 0.1, beta=2)


def test_f_beta_at_the_ends() -> None:
    assert f_beta(0.0, 0.0) == f_beta(0.0, 1.0) == f_beta(1.0, 0.0) == 0
    assert f_beta(1.0, 1.0) == 1
    assert f_beta(1 + 1e-12, 1.0) == 1


@pytest.mark.parametrize("beta", [0, -1, np.nan, np.inf])
def test_f_beta_refuses_beta(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta=.* must be a positive number"):
        f_beta(0.5, 0.5, beta)


def test_f_beta_refuses_percent() -> None:
    with pytest.raises(ValueError, match=r"nmi=65.4 must be between 0 and 1"):
        f_beta(65.4, 0.9)


def test_scores_without_labels() -> None:
    assert list(clustering_scores([0, 0, 1, 1], list("abab"))) == ["mnce", "balance", "nce"]


def test_scores_are_the_single_metrics() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 90)
    clusters, groups = np.where(rng.random(90) < 0.7, labels, 1), rng.integers(0, 2, 90)
    scores = clustering_scores(clusters, groups, labels, beta=2.0)
    assert list(scores) == ["mnce", "balance", "nce", "nmi", "ari", "acc", "f_beta", "conditional_fairness"]
    assert all(type(value) is float for value in scores.values())
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert scores["f_beta"] == pytest.approx(f_beta(scores["nmi"], mnce(clusters, groups), 2.0))
    assert scores["conditional_fairness"] == conditional_fairness(clusters, groups, labels)
