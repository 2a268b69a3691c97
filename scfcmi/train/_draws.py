"""Which of several k-means runs to build on: small clusters depend on chance, what they merge to should not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from ._centres import kmeans_centres
from ._merge import merge_tree, suggest_n_clusters

N_DRAWS = 8


class Draw(NamedTuple):
    """Small clusters, and what they merge to.

    Parameters
    ----------
    centres
        Centres of the small clusters, unit length, shape (n_fine, n_dims).
    labels
        Merged cluster of each cell, shape (n_cells,).
    n_clusters
        Number of merged clusters.
    evidence
        How this number was chosen.
    """

    centres: NDArray[np.float32]
    labels: NDArray[np.int64]
    n_clusters: int
    evidence: dict[str, Any]


def representative_draw(
    position: NDArray[np.float32],
    affinity: sp.csr_matrix,
    n_fine: int,
    n_clusters: int | None,
    *,
    random_state: int,
) -> Draw:
    """Run k-means a few times, merge each, and keep the run whose merged clusters agree most with the others'.

    Parameters
    ----------
    position
        Aligned rows of unit length, shape (n_cells, n_dims).
    affinity
        Symmetric weights between cells by which small clusters are joined, shape (n_cells, n_cells).
    n_fine
        Small clusters.
    n_clusters
        Merged clusters; chosen from the data when absent.
    random_state
        Seed.
    """
    seeds = np.random.default_rng(random_state).integers(2**31, size=N_DRAWS)
    draws = [_draw(position, affinity, n_fine, n_clusters, int(seed)) for seed in seeds]
    agreement = [sum(adjusted_rand_score(one.labels, other.labels) for other in draws) for one in draws]
    return draws[int(np.argmax(agreement))]


def _draw(
    position: NDArray[np.float32], affinity: sp.csr_matrix, n_fine: int, n_clusters: int | None, seed: int
) -> Draw:
    centres = kmeans_centres(position, n_fine, random_state=seed, n_init=1)
    live, fine = np.unique((position @ centres.T).argmax(axis=1), return_inverse=True)
    tree = merge_tree(fine, affinity)
    evidence: dict[str, Any] = {"method": "given"}
    if n_clusters is None:
        n_clusters, evidence = suggest_n_clusters(tree)
    return Draw(centres[live], tree.cut(n_clusters)[fine], n_clusters, evidence)
