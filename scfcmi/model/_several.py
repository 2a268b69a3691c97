"""Several runs that differ in their seed: which one to keep, and how far the others agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix

from ._estimator import FCMI


@dataclass(frozen=True)
class Several:
    """The run that agrees most with all others.

    Parameters
    ----------
    model
        That run.
    stability
        Share of the runs that put a cell into the cluster that corresponds to its own, shape (n_cells,).
    mean_ari
        Mean ARI between two runs.
    """

    model: FCMI
    stability: NDArray[np.float32]
    mean_ari: float


def fit_several(fit: Callable[[int | None, int], FCMI], n_clusters: int | None, seeds: Sequence[int]) -> Several:
    """Fit once per seed; a number of clusters that is not given is chosen by the first run, for all of them.

    Parameters
    ----------
    fit
        Makes a fitted model of a number of clusters and a seed.
    n_clusters
        Number of clusters, or `None`.
    seeds
        At least two seeds.
    """
    first = fit(n_clusters, seeds[0])
    models = [first, *(fit(first.n_clusters_, seed) for seed in seeds[1:])]
    labels = [model.assignment_.labels for model in models]
    ari = np.array([[adjusted_rand_score(a, b) for b in labels] for a in labels])
    # Runs that agree equally well with all others are told apart by their order.
    kept = int(ari.sum(axis=1).argmax())
    model = models[kept]
    model.n_clusters, model.n_clusters_evidence_ = n_clusters, first.n_clusters_evidence_
    stability = np.mean([agrees(labels[kept], other) for other in labels], axis=0)
    return Several(model, stability.astype(np.float32), float(ari[np.triu_indices(len(ari), 1)].mean()))


def agrees(labels: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether another clustering has a cell in the cluster that corresponds to its own, one to one."""
    names, codes = np.unique(labels, return_inverse=True)
    other_codes = np.unique(other, return_inverse=True)[1]
    rows, columns = linear_sum_assignment(contingency_matrix(codes, other_codes), maximize=True)
    partner = np.full(len(names), -1)
    partner[rows] = columns
    return partner[codes] == other_codes
