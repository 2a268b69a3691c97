"""What a run leaves behind, without the run: cells of a simulation, a tree of clusters, and two numbers for the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

import scfcmi as sf

THRESHOLD = 0.04


def make_run(
    n_cells: int = 600,
    n_clusters: int = 6,
    n_groups: int = 2,
    *,
    leaves_per_type: int = 2,
    type_names: Sequence[str] | None = None,
    group_names: Sequence[str] | None = None,
    method: str = "tree",
    seed: int = 0,
) -> AnnData:
    """Simulated cells with the results of a run: one cluster per type, each of some leaves of the tree."""
    rng = np.random.default_rng(seed)
    adata = sf.datasets.simulated_atlas(
        n_cells, 30, n_clusters, n_groups=n_groups, unevenness=0.6, size_ratio=20, random_state=seed
    )
    for column, names in (("cell_type", type_names), ("tech", group_names)):
        if names is not None:
            adata.obs[column] = adata.obs[column].cat.rename_categories(list(names))
    types = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    n_leaves = n_clusters * leaves_per_type
    leaf = types * leaves_per_type + rng.integers(0, leaves_per_type, n_cells)
    sure = rng.beta(12, 1.2, n_cells)
    doubt = rng.integers(0, n_leaves, n_cells)
    rows = np.arange(n_cells)
    proba = sparse.coo_matrix(
        (np.r_[sure, 1 - sure].astype(np.float32), (np.r_[rows, rows], np.r_[leaf, doubt])), shape=(n_cells, n_leaves)
    ).tocsr()
    proba.sum_duplicates()

    merges = _merges(n_clusters, leaves_per_type, rng)
    n_within = n_leaves - n_clusters
    link = np.r_[np.sort(rng.uniform(0.08, 0.6, n_within))[::-1], np.geomspace(0.03, 0.0006, n_clusters - 1)]

    size = np.bincount(types, minlength=n_clusters)
    rank = np.empty(n_clusters, np.int64)
    rank[np.argsort(-size, kind="stable")] = np.arange(n_clusters)
    of_leaf = rank[np.arange(n_leaves) // leaves_per_type]
    soft = proba @ sparse.csr_matrix((np.ones(n_leaves), (np.arange(n_leaves), of_leaf)), shape=(n_leaves, n_clusters))
    soft = np.asarray(soft.todense(), np.float32)
    labels = soft.argmax(axis=1)

    centre = 9 * np.sqrt(np.arange(n_clusters) / n_clusters)[:, None]
    angle = 2.4 * np.arange(n_clusters)[:, None]
    places = centre * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    adata.obs["fair_cluster"] = pd.Categorical.from_codes(labels, [str(k) for k in range(n_clusters)])
    adata.obs["fair_cluster_confidence"] = soft.max(axis=1)
    adata.obs["fair_cluster_unlike"] = rng.random(n_cells) < 0.02
    adata.obs["depth"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obsm["fair_cluster_proba"] = soft
    adata.obsm["fair_cluster_leaves"] = proba
    adata.obsm["X_fair_cluster"] = rng.normal(size=(n_cells, 5)).astype(np.float32)
    adata.obsm["X_fair_cluster_umap"] = (places[types] + 0.45 * rng.normal(size=(n_cells, 2))).astype(np.float32)
    candidates = np.arange(n_leaves, 1, -1)
    adata.uns["fair_cluster"] = {
        "params": {"sensitive_key": "tech", "label_key": "cell_type", "fairness": 1.0, "random_state": 0},
        "history": {"round": np.arange(1.0, 6), "free_energy": 1 / np.arange(1.0, 6)},
        "stopped": {"epoch": 5, "reason": "the free energy settled"},
        "metrics": sf.metrics.clustering_scores(adata.obs["fair_cluster"], adata.obs["tech"], adata.obs["cell_type"]),
        "n_clusters": {
            "method": method,
            "chosen": n_clusters,
            "candidates": candidates,
            "link": link,
            "threshold": THRESHOLD,
            "resolution": 1.0,
        },
        "tree": {"merges": merges, "link": link, "threshold": THRESHOLD},
    }
    return adata


def _merges(n_types: int, leaves_per_type: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Leaves of a type first, then types with each other, in SciPy's numbering."""
    n_leaves, steps = n_types * leaves_per_type, []
    roots = [k * leaves_per_type for k in range(n_types)]
    for j in range(1, leaves_per_type):
        for k in range(n_types):
            steps.append((roots[k], k * leaves_per_type + j))
            roots[k] = n_leaves + len(steps) - 1
    while len(roots) > 1:
        i = int(rng.integers(0, len(roots) - 1))
        steps.append((roots.pop(i), roots.pop(i)))
        roots.append(n_leaves + len(steps) - 1)
    return np.array(steps, np.int64)


STATUS = ["shared", "own", "absent", "split", "forced", "unclear"]


def add_diagnosis(adata: AnnData, key: str = "fair_cluster", sensitive_key: str = "tech", seed: int = 0) -> AnnData:
    """A diagnosis in which every status occurs."""
    rng = np.random.default_rng(seed)
    counts = pd.crosstab(adata.obs[key], adata.obs[sensitive_key])
    n_clusters, n_groups = counts.shape
    status = rng.choice(STATUS, size=counts.shape, p=[0.6, 0.05, 0.1, 0.05, 0.1, 0.1]).astype(object)
    other = rng.integers(0, n_clusters, counts.shape)
    kinds = np.array(["specific" if "absent" in row else "shared" for row in status], dtype=object)
    names = np.array([str(one) for one in counts.index], dtype=object)
    adata.uns[f"{key}_diagnosis"] = {
        "overall": f"{int((kinds == 'shared').sum())} of {n_clusters} clusters are shared.",
        "sensitive_key": sensitive_key,
        "clusters": names,
        "groups": np.array([str(one) for one in counts.columns], dtype=object),
        "cluster_status": kinds,
        "verdict": np.array([f"{kind}: in words" for kind in kinds], dtype=object),
        "n_cells": counts.to_numpy(),
        "expected": counts.to_numpy().astype(float),
        "supported": np.ones(counts.shape),
        "status": status,
        "counterpart": np.where(status == "split", names[other], "").astype(object),
    }
    return adata


@pytest.fixture
def run() -> AnnData:
    """Six clusters of two technologies, with a diagnosis."""
    return add_diagnosis(make_run())


@pytest.fixture
def make() -> Callable[..., AnnData]:
    """Runs of other sizes and names."""

    def made(*sizes: int, **options: Any) -> AnnData:
        return add_diagnosis(make_run(*sizes, **options))

    return made
