"""The merge tree: which clusters are joined, in which order, and how strongly they were linked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

# Exponent of the larger share in the mean of two clusters' shares: 0.5 would be the geometric mean, 0 the smaller one.
LEAN = 0.4
# Exponent of the smaller share by which, among clusters that are apart, small ones are joined to others first.
SIZE = 0.4
# Two clusters are one when the link between them is at least this share of what it would be inside a homogeneous one.
THRESHOLD = 0.6
# Smallest link found between parts of homogeneous Gaussian samples of 1,000 points, by the sample's local dimension,
# and the exponent by which it falls with the number of points (`benchmarks/homogeneous.py`).
DIMENSION = np.array([1.0, 2.0, 3.0, 4.5, 6.0])
LOG_LINK = np.log([0.00012, 0.0155, 0.033, 0.046, 0.053])
EXPONENT = np.array([1.5, 0.55, 0.4, 0.27, 0.25])
LARGEST_LINK = 0.2
# From the one link on two clusters are one, whatever lies between them; below the other it is looked at for the
# strongest link of a cluster alone.
CERTAIN, LEAST = 1.5, 0.05
# A valley of this depth says neither that clusters are apart nor that they are one; from the second on there is none.
UNDECIDED, NO_VALLEY, DEEPEST = 0.5, 0.8, 0.05
# Up to so many cells of the smaller cluster the root of a valley's odds counts, from so many on the odds themselves.
ROOT_UP_TO, ODDS_FROM = 50, 300


def homogeneous_link(n_points: NDArray[np.float64], dimension: NDArray[np.float64]) -> NDArray[np.float64]:
    """The link to expect between parts of one homogeneous cluster of so many points and such a local dimension."""
    dimension = np.clip(dimension, DIMENSION[0], DIMENSION[-1])
    at_1000 = np.exp(np.interp(dimension, DIMENSION, LOG_LINK))
    return np.minimum(at_1000 * (n_points / 1000) ** -np.interp(dimension, DIMENSION, EXPONENT), LARGEST_LINK)


@dataclass(frozen=True)
class Tree:
    """Order in which clusters are joined.

    Parameters
    ----------
    merges
        Nodes joined by each step, shape (n_leaves − 1, 2): leaves are 0 … n_leaves − 1, step `i` makes n_leaves + `i`.
    link
        How strongly they were linked, in units of the link inside a homogeneous cluster, shape (n_leaves − 1,); never
        larger than at the step before.
    """

    merges: NDArray[np.int64]
    link: NDArray[np.float64]

    @property
    def n_leaves(self) -> int:
        """Number of leaves."""
        return len(self.merges) + 1

    def fault(self) -> str | None:
        """What is wrong with a tree that was read from somewhere; nothing if it can be cut."""
        n_steps = len(self.merges)
        made = n_steps + 1 + np.arange(n_steps)
        if self.merges.shape != (n_steps, 2) or self.link.shape != (n_steps,):
            return "its steps and links do not go together"
        if (self.merges < 0).any() or (self.merges >= made[:, None]).any() or np.unique(self.merges).size < 2 * n_steps:
            return "a step joins a branch that does not exist yet, or joins it twice"
        return None if (np.diff(self.link) <= 1e-9).all() else "links rise from one step to the next"

    def n_clusters(self, resolution: float = 1.0) -> int:
        """Number of clusters at a resolution."""
        return self.n_leaves - int((self.link >= THRESHOLD * resolution).sum())

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """Cluster of every leaf, shape (n_leaves,), numbered in the order of their first leaves."""
        n = self.n_leaves
        owner = np.arange(n + len(self.merges))
        for step in range(max(0, n - n_clusters)):
            owner[self.merges[step]] = n + step
        for node in range(len(owner) - 1, -1, -1):
            owner[node] = owner[owner[node]]
        _, first, inverse = np.unique(owner[:n], return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[inverse]


@dataclass
class Links:
    """Weights between clusters, with what is needed to compare them with those inside a homogeneous cluster.

    Parameters
    ----------
    table
        Weight between clusters, symmetric, sums to one, shape (n_clusters, n_clusters).
    count
        Points of each, shape (n_clusters,).
    inverse_dimension
        Sum over its points of one over the local dimension, shape (n_clusters,).
    known
        Links that were measured elsewhere, not a number where there are none, shape (n_clusters, n_clusters).
    """

    table: NDArray[np.float64]
    count: NDArray[np.float64]
    inverse_dimension: NDArray[np.float64]
    known: NDArray[np.float64]

    @classmethod
    def between(cls, labels: NDArray[np.int64], graph: sp.csr_matrix, inverse_dimension: NDArray[np.float64]) -> Links:
        """Sum up a graph of points, whose clusters are counted from 0 without gaps."""
        n = int(labels.max()) + 1
        member = sp.csr_matrix((np.ones(len(labels)), labels, np.arange(len(labels) + 1)), shape=(len(labels), n))
        table = np.asarray((member.T @ graph @ member).todense(), np.float64)
        table = (table + table.T) / max(2 * table.sum(), 1e-300)
        count = np.bincount(labels, minlength=n).astype(np.float64)
        inverse = np.bincount(labels, inverse_dimension, n).astype(np.float64)
        return cls(table, count, inverse, np.full((n, n), np.nan))

    def of(self, some: NDArray[np.int64]) -> NDArray[np.float64]:
        """Links of some clusters to all, in units of the link inside a homogeneous cluster of both; −1 to itself."""
        share, count, inverse = np.maximum(self.table.sum(axis=1), 1e-300), self.count, self.inverse_dimension
        own = share[some, None]
        mean = np.minimum(share, own) ** (1 - LEAN) * np.maximum(share, own) ** LEAN
        points = count + count[some, None]
        dimension = points / np.maximum(inverse + inverse[some, None], 1e-12)
        link = self.table[some] / mean / homogeneous_link(points, dimension)
        link = np.where(np.isnan(self.known[some]), link, self.known[some])
        link[np.arange(len(some)), some] = -1.0
        return link

    def join(self, i: int, j: int) -> None:
        """Make `i` the union of both; `j` is left empty."""
        self.table[i] += self.table[j]
        self.table[:, i] += self.table[:, j]
        self.table[j] = self.table[:, j] = 0
        self.count[i] += self.count[j]
        self.inverse_dimension[i] += self.inverse_dimension[j]
        self.known[i] = self.known[:, i] = np.fmax(self.known[i], self.known[j])


def weighed(link: float, valley: float, n_cells: float = np.inf) -> float:
    """The link of two clusters between which there is a valley, or none.

    A deep valley makes it weaker, by the odds of its height, and by their root where few cells say so. There, no link
    counts for more than that inside one cluster: in many directions neighbours are found across a valley as well.
    Without any, clusters are parts of one, and linked at least as those are: one that is long in one direction has few
    links across its middle.

    Parameters
    ----------
    link
        In units of the link inside a homogeneous cluster.
    valley
        Density at the lowest place between the two, over the lower one of their tops.
    n_cells
        Of the smaller one.
    """
    if valley < UNDECIDED:
        height = max(valley, DEEPEST)
        sure = min(max((n_cells - ROOT_UP_TO) / (ODDS_FROM - ROOT_UP_TO), 0.0), 1.0)
        odds = height / (1 - height) * (1 - UNDECIDED) / UNDECIDED
        return float(min(link, 1.0) * odds ** ((1 + sure) / 2))
    none = min((valley - UNDECIDED) / (NO_VALLEY - UNDECIDED), 1.0)
    return float(link ** (1 - none) * max(link, 1.0) ** none)


def merge_tree(links: Links, valley: Callable[[list[int], list[int]], float] | None = None, fewest: int = 0) -> Tree:
    """Join the two clusters that are linked most, until one is left.

    A pair's link is the weight between the two over a mean of their shares that leans towards the smaller one, in units
    of what it would be if both were parts of one homogeneous cluster (:func:`homogeneous_link`). Where no link reaches
    the threshold any more, the clusters that are left are apart, and the order in which they are joined prefers small
    ones. What lies between the two sides of a step counts as well (:func:`weighed`).

    Parameters
    ----------
    links
        Of the leaves; used up.
    valley
        How deep the valley is between two unions of leaves; without it links alone count. Not asked where the link was
        measured elsewhere.
    fewest
        Points of a union below which nothing is known of its valleys, and they are not asked about.
    """
    n = len(links.count)
    link = links.of(np.arange(n))
    node, alive = np.arange(n), np.ones(n, bool)
    members: list[list[int]] = [[leaf] for leaf in range(n)]
    few = np.minimum.outer(links.count, links.count) < fewest
    final = ~np.isnan(links.known) | few if valley is not None else np.ones((n, n), bool)
    factor = np.ones((n, n))  # of what lies between, on the link

    def look(i: int, j: int) -> None:
        if valley is not None and not final[i, j]:
            n_cells = min(links.count[i], links.count[j])
            now = weighed(link[i, j], valley(members[i], members[j]), n_cells)
            factor[i, j] = factor[j, i] = now / max(link[i, j], 1e-300)
            link[i, j] = link[j, i] = now
            final[i, j] = final[j, i] = True

    merges, strength, apart = [], [], False
    for step in range(n - 1):
        i, j = divmod(int(link.argmax()), n) if apart else _strongest(link, final, look)
        if link[i, j] < THRESHOLD:
            apart = True
            share = np.maximum(links.table.sum(axis=1), 1e-300)
            favoured = np.where(link >= 0, np.maximum(link, 1e-9) * np.minimum.outer(share, share) ** -SIZE, -1)
            i, j = divmod(int(favoured.argmax()), n)
        i, j = min(i, j), max(i, j)
        merges.append((node[i], node[j]))
        strength.append(link[i, j])
        # Between what is apart from both of two clusters and their union lies what lies between it and each of them.
        both = np.maximum(links.table[i] + links.table[j], 1e-300)
        between = (links.table[i] * factor[i] + links.table[j] * factor[j]) / both
        links.join(i, j)
        factor[i] = factor[:, i] = np.where(apart & np.isnan(links.known[i]), between, 1.0)
        members[i] = members[i] + members[j]
        node[i], alive[j] = n + step, False
        link[j] = link[:, j] = -1
        row = np.where(alive, links.of(np.array([i]))[0] * factor[i], -1)
        link[i] = link[:, i] = row
        if valley is not None:
            few = np.minimum(links.count, links.count[i]) < fewest
            final[i] = final[:, i] = ~np.isnan(links.known[i]) | few
    # What is joined although it was linked less than what came later is no more apart than that.
    found = np.maximum.accumulate(np.array(strength)[::-1])[::-1] if strength else np.empty(0)
    return Tree(np.array(merges, np.int64).reshape(-1, 2), found)


def widest_first(tree: Tree, leaf: NDArray[np.int64], position: NDArray[np.floating]) -> Tree:
    """The tree with the steps within clusters in another order: what lies far apart is joined last, and cut first.

    Links from the threshold on are all those of one cluster, and say little alone: the squared distance between the
    middles of two parts over their link decides. Numbers of clusters at a resolution stay what they are.

    Parameters
    ----------
    tree
        As links made it.
    leaf, position
        Leaf and position of every point, shapes (n_points,) and (n_points, n_dims).
    """
    n, n_steps = tree.n_leaves, len(tree.merges)
    count, total = np.zeros(n + n_steps), np.zeros((n + n_steps, position.shape[1]))
    np.add.at(count, leaf, 1)
    np.add.at(total, leaf, position)
    apart = np.zeros(n + n_steps)
    for node, pair, link in zip(range(n, n + n_steps), tree.merges, tree.link, strict=True):
        count[node], total[node] = count[pair].sum(), total[pair].sum(axis=0)
        middle = total[pair] / np.maximum(count[pair], 1)[:, None]
        # What holds parts that are far apart is joined after them.
        apart[node] = max(np.square(middle[0] - middle[1]).sum() / max(link, THRESHOLD), *apart[pair])
    n_within = int((tree.link >= THRESHOLD).sum())
    order = np.concatenate([np.argsort(apart[n : n + n_within], kind="stable"), np.arange(n_within, n_steps)])
    number = np.arange(n + n_steps)
    number[n + order] = n + np.arange(n_steps)
    return Tree(number[tree.merges[order]], tree.link)


def _strongest(
    link: NDArray[np.float64], final: NDArray[np.bool_], look: Callable[[int, int], None]
) -> tuple[int, int]:
    """The pair that is linked most, once valleys are looked at: of those that could be it, and of no others."""
    n = len(link)
    while True:
        i, j = divmod(int(link.argmax()), n)
        if link[i, j] < THRESHOLD:
            # Weak links as well are those of one cluster where there is no valley.
            weak = ~final & ((link >= LEAST) | ((link == link.max(axis=1, keepdims=True)) & (link >= 0)))
            pairs = np.argwhere(np.triu(weak | weak.T, 1))
            if not len(pairs):
                return i, j
            for a, b in pairs[np.argsort(-link[tuple(pairs.T)], kind="stable")].tolist():
                look(a, b)
                if link[a, b] >= 1:  # none that is weak can be linked more
                    return a, b
        elif link[i, j] >= CERTAIN or final[i, j]:
            return i, j
        else:
            look(i, j)
