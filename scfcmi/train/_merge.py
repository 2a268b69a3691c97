"""From many small clusters to the number that is asked for, or that the data support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import xlogy

# Two clusters are one when more of their weight than this lies between them.
SEPARATION = 0.04
# Exponent of the larger share in the mean of two clusters' shares: 0.5 would be the geometric mean, 0 the smaller one.
LEAN_LOSS, LEAN_LINK = 0.35, 0.4


@dataclass(frozen=True)
class MergeTree:
    """Order in which small clusters are joined.

    Parameters
    ----------
    steps
        Pairs joined, the second into the first, in order, shape (n_fine − 1, 2).
    linkage
        Before each of these steps, the closest link between any two clusters that are left, shape (n_fine − 1,).
    """

    steps: NDArray[np.int64]
    linkage: NDArray[np.float64]

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """Map from small cluster to one of `n_clusters`, or to itself if there are fewer, shape (n_fine,)."""
        n_fine = len(self.steps) + 1
        owner = np.arange(n_fine)
        for keep, gone in self.steps[: max(0, n_fine - n_clusters)]:
            owner[owner == gone] = keep
        return np.unique(owner, return_inverse=True)[1]


def merge_tree(labels: NDArray[np.int64], affinity: sp.csr_matrix) -> MergeTree:
    """Join the two clusters that can be told apart least, until one is left.

    What a cell's cluster says about its neighbours' clusters is I(C;C'), on the table of weights between clusters. The
    pair is joined whose union loses least of it for the cells concerned: loss over a mean of the two clusters' shares
    that leans towards the smaller one, so that a small cluster is not swallowed because little is lost with it, and two
    large ones do not stay apart because they are large.

    Parameters
    ----------
    labels
        Small cluster of each cell, counted from 0 without gaps, shape (n_cells,).
    affinity
        Symmetric weights between cells, shape (n_cells, n_cells).
    """
    onehot = sp.csr_matrix((np.ones(len(labels)), labels, np.arange(len(labels) + 1)))
    table = np.asarray((onehot.T @ affinity @ onehot).todense(), dtype=np.float64)
    table = (table + table.T) / max(2 * table.sum(), 1e-12)
    left = list(range(len(table)))
    steps, linkage = [], []
    while len(left) > 1:
        block = table[np.ix_(left, left)]
        share = np.maximum(block.sum(axis=1), 1e-12)
        link = block / _leaning_mean(share, LEAN_LINK)
        np.fill_diagonal(link, 0)
        linkage.append(link.max())
        loss = _information_lost(block) / _leaning_mean(share, LEAN_LOSS)
        np.fill_diagonal(loss, np.inf)
        i, j = sorted(np.unravel_index(int(loss.argmin()), loss.shape))
        keep, gone = left[i], left[j]
        steps.append((keep, gone))
        table[keep] += table[gone]
        table[:, keep] += table[:, gone]
        left.pop(j)
    return MergeTree(np.array(steps, np.int64).reshape(-1, 2), np.array(linkage))


def suggest_n_clusters(tree: MergeTree) -> tuple[int, dict[str, Any]]:
    """Stop joining where no two clusters that are left have more than a few percent of their weight between them.

    Returns
    -------
    The number of clusters, at least 2, and the evidence: for each number of clusters the closest link left.
    """
    candidates = np.arange(len(tree.linkage) + 1, 1, -1)
    apart = np.flatnonzero(tree.linkage < SEPARATION)
    chosen = int(candidates[apart[0]]) if len(apart) else 2
    evidence = {"method": "linkage", "candidates": candidates, "score": tree.linkage, "threshold": SEPARATION}
    return chosen, evidence


def _leaning_mean(share: NDArray[np.float64], lean: float) -> NDArray[np.float64]:
    small, large = np.minimum.outer(share, share), np.maximum.outer(share, share)
    return small ** (1 - lean) * large**lean


def _information_lost(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Loss of I(C;C') for the union of every pair of rows of a symmetric joint table, shape (n, n)."""
    plogp, diagonal, share = xlogy(table, table), np.diag(table), table.sum(axis=1)
    union = table[:, None, :] + table[None, :, :]
    gain = xlogy(union, union) - plogp[:, None, :] - plogp[None, :, :]
    n = len(table)
    rows = np.arange(n)
    # Columns of the pair itself form one cell of the new table and are counted apart.
    outside = gain.sum(axis=2) - gain[rows[:, None], rows[None, :], rows[:, None]] - gain[:, rows, rows]
    corner = diagonal[:, None] + diagonal[None, :] + 2 * table
    inside = xlogy(corner, corner) - xlogy(diagonal, diagonal)[:, None] - xlogy(diagonal, diagonal)[None, :] - 2 * plogp
    both = share[:, None] + share[None, :]
    marginal = xlogy(both, both) - xlogy(share, share)[:, None] - xlogy(share, share)[None, :]
    return 2 * marginal - 2 * outside - inside
