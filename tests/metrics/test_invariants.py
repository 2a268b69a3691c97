"""What holds of the metrics whatever the clustering: bounds, what must not matter, merging, brute force, other code."""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, mutual_info_score, normalized_mutual_info_score

from scfcmi.metrics import (
    balance,
    cluster_composition,
    clustering_accuracy,
    clustering_scores,
    conditional_fairness,
    continuous_dependence,
    group_leakage,
    mnce,
    nce,
)

# Where there is time, more of everything is tried.
TIMES = 20 if "SCFCMI_LONG" in os.environ else 1
Partition = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def partitions(draw: st.DrawFn, largest: int = 5) -> Partition:
    """Clusters, groups and labels of some cells, of two or more groups."""
    n = draw(st.integers(2, 40))
    codes = st.lists(st.integers(0, largest - 1), min_size=n, max_size=n).map(np.array)
    clusters, groups, labels = draw(codes), draw(codes), draw(codes)
    assume(len(set(groups)) > 1)
    return clusters, groups, labels


@given(partitions(), st.floats(0.01, 100))
@settings(max_examples=60 * TIMES, deadline=None)
def test_bounds_and_agreement_with_other_code(cells: Partition, beta: float) -> None:
    clusters, groups, labels = cells
    scores = clustering_scores(clusters, groups, labels, beta=beta)
    assert all(0 <= value <= 1 for name, value in scores.items() if name != "ari")
    assert scores["mnce"] <= scores["nce"] + 1e-12
    assert min(scores["nmi"], scores["mnce"]) - 1e-9 <= scores["f_beta"] <= max(scores["nmi"], scores["mnce"]) + 1e-9
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-9)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)
    information = mutual_info_score(groups, clusters) / entropy(np.bincount(groups))
    assert scores["nce"] == pytest.approx(1 - information, abs=1e-9)


@given(partitions())
@settings(max_examples=40 * TIMES, deadline=None)
def test_brute_force(cells: Partition) -> None:
    clusters, groups, labels = cells
    counts = np.array([[np.sum((clusters == k) & (groups == g)) for g in set(groups)] for k in set(clusters)])
    assert balance(clusters, groups) == pytest.approx(min(row.min() / row.max() for row in counts))
    lowest = min(entropy(row) for row in counts) / entropy(counts.sum(axis=0))
    assert mnce(clusters, groups) == pytest.approx(min(1, lowest), abs=1e-12)
    best = max(np.mean(np.array(names)[clusters] == labels) for names in permutations(range(5)))
    assert clustering_accuracy(labels, clusters) == pytest.approx(best)
    table = cluster_composition(clusters, groups)
    assert table["size"].sum() == len(clusters)
    assert table["entropy_ratio"].min() == pytest.approx(lowest, abs=1e-12)


NAMES: dict[str, Any] = {
    "strings": lambda codes: np.array(["z", "10", "9", "ä", ""])[codes],
    "categories": lambda codes: pd.Categorical.from_codes(codes, list("edcbaxyz")),
    "nullable": lambda codes: pd.array(codes - 2, "Int64"),
    "floats": lambda codes: codes * 0.5 - 7,
    "numpy strings": lambda codes: np.array(list("abcde"), np.dtypes.StringDType())[codes],
    "tuples": lambda codes: pd.Series([(int(code), "x") for code in codes]),
}


@given(partitions(), st.randoms(use_true_random=False), st.sampled_from(sorted(NAMES)), st.integers(2, 4))
@settings(max_examples=60 * TIMES, deadline=None)
def test_what_must_not_matter(cells: Partition, random: Any, kind: str, times: int) -> None:
    """The order of cells, what levels are called, and how often every cell stands there."""
    clusters, groups, labels = cells
    order = np.array(random.sample(range(len(clusters)), len(clusters)))
    other = [NAMES[kind](np.tile(codes[order], times)) for codes in cells]
    found, want = clustering_scores(*other), clustering_scores(clusters, groups, labels)
    del found["ari"], want["ari"]  # corrected for chance, which is not the same for more cells
    assert found == pytest.approx(want, abs=1e-9)


@given(partitions(), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=60 * TIMES, deadline=None)
def test_merging_clusters_never_makes_them_less_fair(cells: Partition, one: int, other: int) -> None:
    clusters, groups, labels = cells
    merged = np.where(clusters == one, other, clusters)
    for metric in (mnce, nce, balance):
        assert metric(merged, groups) >= metric(clusters, groups) - 1e-12
    fairness = conditional_fairness(clusters, groups, labels)
    assert conditional_fairness(merged, groups, labels) >= fairness - 1e-12
    assert mnce(np.zeros(len(groups)), groups) == nce(np.zeros(len(groups)), groups) == 1


@given(partitions())
@settings(max_examples=30 * TIMES, deadline=None)
def test_splitting_by_the_group_is_as_unfair_as_can_be(cells: Partition) -> None:
    clusters, groups, labels = cells
    split = clusters * 5 + groups
    assert nce(split, groups) == mnce(split, groups) == balance(split, groups) == 0
    given_label = sum(np.mean(labels == y) * entropy(np.bincount(groups[labels == y])) for y in set(labels))
    assert conditional_fairness(split, groups, labels) == (1 if given_label == 0 else 0)
    assert conditional_fairness(labels, groups, labels) == 1


@given(partitions(), st.integers(0, 39))
@settings(max_examples=40 * TIMES, deadline=None)
def test_cells_without_a_label_do_not_count(cells: Partition, n_missing: int) -> None:
    clusters, groups, labels = cells
    known = np.arange(len(labels)) >= min(n_missing, len(labels) - 1)
    partly = pd.Series(labels, dtype="Int64").where(known)
    assert clustering_accuracy(partly, clusters) == clustering_accuracy(labels[known], clusters[known])
    found = clustering_scores(clusters, groups, partly)
    assert found.get("n_labelled", len(labels)) == known.sum()
    assert ("n_labelled" in found) == (not known.all())
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels[known], clusters[known]))
    assert found["nce"] == nce(clusters, groups)
    if len(set(groups[known])) > 1:
        want = conditional_fairness(clusters[known], groups[known], labels[known])
        assert found["conditional_fairness"] == pytest.approx(want)


def test_leakage_of_labelled_cells() -> None:
    rng = np.random.default_rng(0)
    groups, labels = rng.choice(["a", "b"], 120), pd.Series(rng.choice(["T", "B"], 120))
    embedding = rng.normal(size=(120, 3)) + 9 * (groups == "a")[:, None]
    known = np.arange(120) % 3 > 0
    want = group_leakage(embedding[known], groups[known], labels[known])
    assert group_leakage(embedding, groups, labels.where(known)) == want
    with pytest.raises(ValueError, match="labels has no values"):
        group_leakage(embedding, groups, np.full(120, np.nan))
    with pytest.raises(ValueError, match="random_state=-1 must be between 0"):
        group_leakage(embedding, groups, random_state=-1)
    with pytest.raises(TypeError, match=r"n_bins=2\.5 must be an integer"):
        continuous_dependence(groups, embedding[:, 0], n_bins=2.5)  # type: ignore[arg-type]


@given(partitions(), st.floats(0.1, 50))
@settings(max_examples=30 * TIMES, deadline=None)
def test_dependence_does_not_change_with_the_unit(cells: Partition, factor: float) -> None:
    clusters, values, _ = cells
    found = continuous_dependence(clusters, values)
    assert 0 <= found <= 1
    assert continuous_dependence(clusters, -factor * values[::1] + 3) == pytest.approx(
        continuous_dependence(clusters, -values), abs=1e-9
    )


def test_the_published_mouse_atlas(data_dir: Path) -> None:
    """The curated types themselves, by the published counts of cells per type and technology."""
    counts = pd.read_csv(data_dir / "mouse_atlas_composition.csv", index_col=0)
    n = counts.to_numpy().ravel()
    types, technologies = np.repeat(counts.index, len(counts.columns)), np.tile(counts.columns, len(counts))
    labels, groups = np.repeat(types, n), np.repeat(technologies, n)
    assert len(labels) == 6954
    scores = clustering_scores(labels, groups, labels)
    assert scores["balance"] == pytest.approx(0.089, abs=5e-4)
    assert scores["mnce"] == pytest.approx(0.423, abs=5e-4)
    assert scores["f_beta"] == pytest.approx(0.595, abs=5e-4)
    assert scores["conditional_fairness"] == scores["nmi"] == scores["ari"] == 1
