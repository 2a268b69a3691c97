"""What a fit of the default keeps: everything that later cells need, and what files hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi.communities import Look, Tree, Votes, vote
from scfcmi.registration import Design, Positions, registered, registered_without_group
from scfcmi.source import Block

RowsOf = Callable[[NDArray[np.int64]], Block]
# A cell is unlike all others when its log-likelihood is so many robust standard deviations below the median.
UNLIKE = 6.0
# Cells whose probabilities are summed up at once.
SUMMED = 2**14


@dataclass(frozen=True)
class Assignment:
    """Where cells go.

    Parameters
    ----------
    labels
        Cluster of each cell, 0 the largest of the fit, shape (n_cells,).
    proba
        p(cluster | cell), rows sum to one, shape (n_cells, n_clusters).
    embedding
        Registered position, shape (n_cells, n_dims); with the published network its embedding.
    leaves
        p(leaf | cell), sparse, shape (n_cells, n_leaves); nothing with the published network.
    unlike
        Whether a cell is unlike all that was fitted, shape (n_cells,); nothing with the published network.
    """

    labels: NDArray[np.int64]
    proba: NDArray[np.float32]
    embedding: NDArray[np.float32]
    leaves: sp.csr_matrix | None = None
    unlike: NDArray[np.bool_] | None = None

    @property
    def confidence(self) -> NDArray[np.float32]:
        """p(its cluster | cell), shape (n_cells,)."""
        return self.proba[np.arange(len(self.labels)), self.labels]

    @classmethod
    def stacked(cls, parts: Sequence[Assignment]) -> Assignment:
        """Assignments of consecutive cells as one.

        Parameters
        ----------
        parts
            At least one.

        Returns
        -------
        Of all cells.
        """
        if len(parts) == 1:
            return parts[0]
        labels, proba, embedding = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "proba", "embedding")
        )
        if parts[0].leaves is None:
            return cls(labels, proba, embedding)
        leaves = sp.vstack([part.leaves for part in parts], format="csr")
        return cls(labels, proba, embedding, leaves, np.concatenate([part.unlike for part in parts]))


@dataclass(frozen=True)
class Registered:
    """A fit of the default preset.

    Parameters
    ----------
    look
        Landmarks, seen from afar and from closer by, with the front layers and mixtures of every look.
    tree
        Over the leaves that landmarks belong to.
    cluster_of_leaf
        The cut: cluster of every leaf, shape (n_leaves,).
    design
        What displaces cells.
    fairness
        β of the mixtures' proportions.
    typical
        Median and robust standard deviation of the log-likelihood of a cell.
    """

    look: Look
    tree: Tree
    cluster_of_leaf: NDArray[np.int64]
    design: Design
    fairness: float
    typical: tuple[float, float]

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster_of_leaf.max()) + 1

    @property
    def device(self) -> torch.device:
        """Where the fit works."""
        return self.look.position.device

    def assign(
        self, block: Block, codes: NDArray[np.int64] | None, values: NDArray[np.float64] | None = None
    ) -> Assignment:
        """Clusters of some cells.

        Parameters
        ----------
        block
            The cells, shape (n_cells, n_columns).
        codes
            Their groups; when absent, every cell is placed by what each group would make of it, as likely as it is.
        values
            Their numbers, shape (n_cells, n_numbers); typical ones when absent.
        """
        n = block.shape[0]
        smooth = self._smooth(values, n)
        z = self.look.front.transform_on(self.device, block)
        position, component, likelihood = self.place(self.look, z, codes, smooth)
        votes = self.votes(position, component, lambda rows: block[rows], codes, smooth)
        leaves = votes.matrix(self.tree.n_leaves)
        return self.assignment(leaves, self.cluster_of_leaf[best_leaf(leaves)], position, likelihood)

    def place(
        self, look: Look, z: Tensor, codes: NDArray[np.int64] | None, smooth: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Registered positions, likeliest components and log-likelihoods of cells at the positions `z` of a look."""
        if codes is None:
            return registered_without_group(look.mixture, z, torch.from_numpy(smooth).to(z), self.fairness)
        cells = Positions.of(z, codes, self.design.n_groups, smooth, z.device)
        return registered(look.mixture, cells, self.fairness)

    def votes(
        self,
        position: Tensor,
        component: Tensor,
        rows_of: RowsOf,
        codes: NDArray[np.int64] | None,
        smooth: NDArray[np.float32],
        look: Look | None = None,
    ) -> Votes:
        """p(leaf | cell) of registered cells; those in a branch with a closer look are looked at again.

        Parameters
        ----------
        position, component
            Of the cells, in the look.
        rows_of
            Gives some of the cells as they were measured.
        codes, smooth
            Their groups and smooth functions.
        look
            The first one when absent.
        """
        look = self.look if look is None else look
        votes, branch = vote(look, position, component)
        closer = []
        for which, part in look.closer.items():
            inside = np.flatnonzero(branch == which)
            if not len(inside):
                continue
            z = part.front.transform_on(self.device, rows_of(inside))
            own_codes = None if codes is None else codes[inside]
            place = self.place(part, z, own_codes, smooth[inside])
            finer = self.votes(*place[:2], _inside(rows_of, inside), own_codes, smooth[inside], part)
            closer.append((inside, finer, part.leaf))
        return votes.refined(closer)

    def assignment(
        self, leaves: sp.csr_matrix, labels: NDArray[np.int64], position: Tensor, likelihood: Tensor
    ) -> Assignment:
        """What is told of cells, from p(leaf | cell) and the clusters of their likeliest leaves."""
        proba = proba_of_clusters(leaves, self.cluster_of_leaf, self.n_clusters, self.device)
        middle, scatter = self.typical
        unlike = (likelihood < middle - UNLIKE * scatter).cpu().numpy()
        return Assignment(labels, proba, position.float().cpu().numpy(), leaves, unlike)

    def recut(self, n_clusters: int) -> Registered:
        """The same tree, cut into another number of clusters."""
        return replace(self, cluster_of_leaf=self.tree.cut(n_clusters))

    def decode(self, embedding: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Columns of cells at registered positions, as their groups would have measured them."""
        h, mixture = torch.from_numpy(embedding).to(self.device), self.look.mixture
        log_joint = -torch.cdist(h, mixture.means).square() / (2 * mixture.variances)
        r = torch.softmax(log_joint + torch.log(mixture.sizes @ mixture.shares + 1e-12), 1)
        moved = h.clone()
        for group in np.unique(codes):
            rows = torch.from_numpy(np.flatnonzero(codes == group)).to(h.device)
            moved[rows] += r[rows] @ mixture.moves[int(group)]
        return self.look.front.inverse(moved.cpu().numpy())

    def _smooth(self, values: NDArray[np.float64] | None, n: int) -> NDArray[np.float32]:
        if values is None:
            return np.zeros((n, self.design.n_smooth), np.float32)
        return self.design.smooth(values)


def _inside(rows_of: RowsOf, inside: NDArray[np.int64]) -> RowsOf:
    return lambda rows: rows_of(inside[rows])


def largest_first(leaf: NDArray[np.int64], cluster_of_leaf: NDArray[np.int64], n_clusters: int) -> NDArray[np.int64]:
    """Cluster of every leaf, numbered so that the one with most cells, whose leaves are given, is 0."""
    size = np.bincount(cluster_of_leaf[leaf], minlength=n_clusters)
    rank = np.empty(n_clusters, np.int64)
    rank[np.argsort(-size, kind="stable")] = np.arange(n_clusters)
    return rank[cluster_of_leaf]


def proba_of_clusters(
    leaves: sp.csr_matrix,
    cluster_of_leaf: NDArray[np.int64],
    n_clusters: int,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """p(cluster | cell), the sum over the leaves of each cluster, shape (n_cells, n_clusters)."""
    proba = np.empty((leaves.shape[0], n_clusters), np.float32)
    for start in range(0, len(proba), SUMMED):
        some, part = leaves[start : start + SUMMED], proba[start : start + SUMMED]
        rows = np.repeat(np.arange(len(part)), np.diff(some.indptr))
        where = torch.from_numpy(rows * n_clusters + cluster_of_leaf[some.indices]).to(device)
        weight = torch.from_numpy(some.data.astype(np.float32)).to(device)
        total = weight.new_zeros(part.size).scatter_add_(0, where, weight)
        part[:] = total.reshape(part.shape).cpu().numpy()
    return proba


def best_leaf(leaves: sp.csr_matrix) -> NDArray[np.int64]:
    """The likeliest leaf of every cell, shape (n_cells,): of equals, the first that is stored."""
    if not leaves.nnz:
        return np.empty(0, np.int64)
    highest = np.maximum.reduceat(leaves.data, leaves.indptr[:-1])
    at = np.flatnonzero(leaves.data == np.repeat(highest, np.diff(leaves.indptr)))
    first = np.searchsorted(at, leaves.indptr[:-1])
    return leaves.indices[at[first]].astype(np.int64)
