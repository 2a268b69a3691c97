"""How the labels of one run are scored against curated types, beside the package's own metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scfcmi.metrics import conditional_fairness

SCORES = ["nmi", "ari", "balanced_ari", "f1", "f1_rare", "cf", "k", "log2_k"]


def scores(labels: ArrayLike, groups: ArrayLike, types: ArrayLike, *, rare: float = 0.01) -> dict[str, float]:
    """All that the tables show of one run; types with less than the share `rare` of the cells are the rare ones."""
    labels, types = np.asarray(labels).astype(str), np.asarray(types).astype(str)
    per_type = f1_per_type(labels, types)
    share = pd.Series(types).value_counts(normalize=True)
    n_clusters = len(np.unique(labels))
    return {
        "nmi": normalized_mutual_info_score(types, labels),
        "ari": adjusted_rand_score(types, labels),
        "balanced_ari": balanced_ari(labels, types),
        "f1": per_type.mean(),
        "f1_rare": per_type[share[share < rare].index].mean(),
        "cf": conditional_fairness(labels, np.asarray(groups).astype(str), types)
        if len(np.unique(groups)) > 1
        else 1.0,
        "k": n_clusters,
        "log2_k": float(np.log2(n_clusters / len(per_type))),
    }


def f1_per_type(labels: ArrayLike, types: ArrayLike) -> pd.Series:
    """F1 of each type in the cluster where it is largest."""
    table = pd.crosstab(np.asarray(types), np.asarray(labels))
    counts = table.to_numpy()
    f1 = 2 * counts / (counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True))
    return pd.Series(f1.max(axis=1), index=table.index)


def balanced_ari(labels: ArrayLike, types: ArrayLike) -> float:
    """Adjusted Rand index of a sample in which every type is equally frequent, however rare it is here."""
    counts = pd.crosstab(np.asarray(types), np.asarray(labels)).to_numpy(dtype=float)
    joint = counts / counts.sum(axis=1, keepdims=True) / len(counts)

    def together(shares: NDArray[np.float64]) -> float:
        return float((shares**2).sum())

    in_types, in_clusters = together(joint.sum(axis=1)), together(joint.sum(axis=0))
    expected, largest = in_types * in_clusters, (in_types + in_clusters) / 2
    return 1.0 if largest == expected else (together(joint) - expected) / (largest - expected)


def calibration(confidence: ArrayLike, right: ArrayLike, n_bins: int = 10) -> tuple[pd.DataFrame, float]:
    """Reliability table in bins of equal width, and the expected calibration error."""
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    which = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    table = pd.DataFrame({"bin": which, "confidence": confidence, "accuracy": right}).groupby("bin").mean()
    table.insert(0, "share", np.bincount(which, minlength=n_bins)[table.index] / len(which))
    return table, float((table["share"] * (table["confidence"] - table["accuracy"]).abs()).sum())
