"""From many small clusters to the number that is asked for, or that the data support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

# Exponent of the larger cluster's weight in the mean: 0.5 would be the geometric mean, 0 the smaller one's weight.
LEAN = 0.4


@dataclass(frozen=True)
class MergeTree:
    """Order in which small clusters are joined.

    Parameters
    ----------
    live
        Small clusters that hold any cell.
    steps
        Pairs joined, the second into the first, in order, shape (n_live − 1, 2).
    linkage
        How closely each joined pair was linked, shape (n_live − 1,).
    n_fine
        Number of small clusters, empty ones included.
    """

    live: NDArray[np.int64]
    steps: NDArray[np.int64]
    linkage: NDArray[np.float64]
    n_fine: int

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """Map from small cluster to one of `n_clusters`, shape (n_fine,); empty ones go to the first."""
        owner = np.arange(self.n_fine)
        for keep, gone in self.steps[: max(0, len(self.live) - n_clusters)]:
            owner[owner == gone] = keep
        final = np.unique(owner[self.live])
        out = np.zeros(self.n_fine, np.int64)
        out[self.live] = np.searchsorted(final, owner[self.live])
        return out


def merge_tree(labels: NDArray[np.int64], n_fine: int, affinity: sp.csr_matrix) -> MergeTree:
    """Join the two most closely linked clusters until one is left.

    The linkage of two clusters is the weight between them over a mean of their total weights that leans a little
    towards the smaller: a small cluster is not swallowed because it is small, and two large ones do not join because
    they are large.

    Parameters
    ----------
    labels
        Small cluster of each cell, shape (n_cells,).
    n_fine
        Number of small clusters.
    affinity
        Symmetric weights between cells, shape (n_cells, n_cells).
    """
    onehot = sp.csr_matrix((np.ones(len(labels)), labels, np.arange(len(labels) + 1)), shape=(len(labels), n_fine))
    weight = np.asarray((onehot.T @ affinity @ onehot).todense(), dtype=np.float64)
    weight = (weight + weight.T) / 2
    live = np.flatnonzero(np.bincount(labels, minlength=n_fine))
    left = list(live)
    steps, linkage = [], []
    while len(left) > 1:
        block = weight[np.ix_(left, left)]
        volume = np.maximum(block.sum(axis=1), 1e-12)
        small, large = np.minimum.outer(volume, volume), np.maximum.outer(volume, volume)
        link = block / (small ** (1 - LEAN) * large**LEAN)
        np.fill_diagonal(link, -1)
        i, j = sorted(np.unravel_index(int(link.argmax()), link.shape))
        keep, gone = left[i], left[j]
        steps.append((keep, gone))
        linkage.append(link[i, j])
        weight[keep] += weight[gone]
        weight[:, keep] += weight[:, gone]
        left.pop(j)
    return MergeTree(live, np.array(steps, np.int64).reshape(-1, 2), np.array(linkage), n_fine)


def suggest_n_clusters(tree: MergeTree) -> tuple[int, dict[str, object]]:
    """Choose the number of clusters at the widest gap of the linkage."""
    candidates = np.arange(len(tree.linkage) + 1, 1, -1)
    gap = np.diff(np.log(np.maximum(tree.linkage, 1e-9)), prepend=np.nan)
    chosen = int(candidates[int(np.nanargmin(gap))]) if len(gap) > 1 else 2
    return chosen, {"method": "linkage", "candidates": candidates, "score": tree.linkage}
