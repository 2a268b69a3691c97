"""How much clusters say about the group: entropies of the group within clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from scfcmi._encode import Coded, encode, table


def mnce(clusters: ArrayLike, groups: ArrayLike) -> float:
    r"""Minimal normalised conditional entropy: the fairness of the least mixed cluster.

    .. math::

        \mathrm{MNCE} = \min_k \frac{H(G \mid C = k)}{H(G)}

    It lies between 0, some cluster holds a single group, and 1, every cluster mirrors the overall group proportions.
    One small cluster is enough to lower it; :func:`scfcmi.metrics.nce` is the mean over cells instead, and
    :func:`scfcmi.metrics.cluster_composition` shows every cluster.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,): categorical, strings, integers or booleans. Clusters without cells
        count for nothing.
    groups
        Sensitive attribute of each cell, shape (n_cells,), in the same order of cells.

    Returns
    -------
    MNCE, between 0 and 1.

    Raises
    ------
    ValueError
        If values are missing, lengths differ, or there is only one group, for then :math:`H(G) = 0`.

    Examples
    --------
    >>> from scfcmi.metrics import mnce
    >>> mnce([0, 0, 1, 1], ["a", "b", "a", "b"])
    1.0
    >>> mnce([0, 0, 1, 1], ["a", "a", "a", "b"])
    0.0
    """
    return float(min(1.0, _entropy_ratios(*_clusters_and_groups(clusters, groups)).min()))


def nce(clusters: ArrayLike, groups: ArrayLike) -> float:
    r"""Normalised conditional entropy: what is left to know about the group when the cluster is known.

    .. math::

        \mathrm{NCE} = 1 - \frac{I(G; C)}{H(G)} = \frac{H(G \mid C)}{H(G)}
                     = \sum_k \frac{n_k}{n} \frac{H(G \mid C = k)}{H(G)}

    It lies between 0, the cluster gives the group away, and 1, cluster and group are independent.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,). Clusters without cells count for nothing.
    groups
        Sensitive attribute of each cell, shape (n_cells,), in the same order of cells.

    Returns
    -------
    NCE, between 0 and 1, and never below MNCE.

    Raises
    ------
    ValueError
        If values are missing, lengths differ, or there is only one group.

    Examples
    --------
    >>> from scfcmi.metrics import nce
    >>> nce([0, 0, 1, 1], ["a", "b", "a", "b"])
    1.0
    >>> nce([0, 0, 1, 1], ["a", "a", "b", "b"])
    0.0
    """
    clusters_, groups_ = _clusters_and_groups(clusters, groups)
    share = np.bincount(clusters_.codes) / len(clusters_.codes)
    return float(np.clip(share @ _entropy_ratios(clusters_, groups_), 0, 1))


def balance(clusters: ArrayLike, groups: ArrayLike) -> float:
    r"""Smallest ratio of the rarest to the commonest group within a cluster.

    .. math::

        \mathrm{Balance} = \min_k \frac{\min_g n_{kg}}{\max_g n_{kg}}

    It lies between 0, some group is absent from some cluster, and 1, every cluster holds equally many cells of every
    group. Unlike MNCE it asks for equal numbers even where the groups themselves differ in size, so that perfect
    mixing scores the ratio of the smallest to the largest group.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,). Clusters without cells count for nothing.
    groups
        Sensitive attribute of each cell, shape (n_cells,), in the same order of cells.

    Returns
    -------
    Balance, between 0 and 1.

    Raises
    ------
    ValueError
        If values are missing, lengths differ, or there is only one group.

    Examples
    --------
    >>> from scfcmi.metrics import balance
    >>> balance([0, 0, 0, 1, 1], ["a", "a", "b", "a", "b"])
    0.5
    """
    counts = table(*_clusters_and_groups(clusters, groups))
    return float((counts.min(axis=1) / counts.max(axis=1)).min())


def conditional_fairness(clusters: ArrayLike, groups: ArrayLike, labels: ArrayLike) -> float:
    r"""Share of the group's entropy, given the true label, that clusters do not give away.

    .. math::

        \mathrm{CF} = 1 - \frac{I(G; C \mid Y)}{H(G \mid Y)} = \frac{H(G \mid C, Y)}{H(G \mid Y)}

    Where cell types differ in how they are spread over the groups, a correct clustering depends on the group, and
    :func:`scfcmi.metrics.mnce` holds that against it. Here only what a cluster says about the group *beyond* what the
    label already says counts, so that the labels themselves score 1.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,). Clusters without cells count for nothing.
    groups
        Sensitive attribute of each cell, shape (n_cells,), in the same order of cells.
    labels
        Reference label of each cell, shape (n_cells,), for example its curated type. Cells without one do not count.

    Returns
    -------
    Conditional fairness, between 0 and 1. It is 1 where every label occurs in one group only,
    :math:`H(G \mid Y) = 0`: there is nothing left that a cluster could give away.

    Raises
    ------
    ValueError
        If values are missing, lengths differ, or there is only one group.

    Examples
    --------
    >>> from scfcmi.metrics import conditional_fairness, nce
    >>> labels = ["T", "T", "T", "B", "B", "B"]
    >>> groups = ["a", "a", "b", "b", "b", "a"]
    >>> round(nce(labels, groups), 2)
    0.92
    >>> conditional_fairness(labels, groups, labels)
    1.0
    """
    _clusters_and_groups(clusters, groups)
    clusters_, groups_, labels_ = encode(partial="labels", clusters=clusters, groups=groups, labels=labels)
    given_label = _conditional_entropy(table(labels_, groups_))
    if given_label == 0:
        return 1.0
    pairs, codes = np.unique(labels_.codes * len(clusters_.levels) + clusters_.codes, return_inverse=True)
    given_both = _conditional_entropy(table(Coded(codes, list(pairs)), groups_))
    return float(np.clip(given_both / given_label, 0, 1))


def cluster_composition(clusters: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    r"""Group shares and entropy ratio of every cluster.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,). Clusters without cells are left out.
    groups
        Sensitive attribute of each cell, shape (n_cells,), in the same order of cells.

    Returns
    -------
    One row per cluster, in the order of the categories, otherwise in natural order. Columns: `size`, the number of
    cells; the share of each group, which sum to 1 and are named after the groups; and `entropy_ratio`,
    :math:`H(G \mid C = k) / H(G)`. MNCE is the smallest ratio and NCE their mean weighted by size. A single ratio
    exceeds 1 where a cluster mixes groups more evenly than the data do.

    Raises
    ------
    ValueError
        If values are missing, lengths differ, there is only one group, or a group is called `size` or
        `entropy_ratio`.

    Examples
    --------
    >>> from scfcmi.metrics import cluster_composition
    >>> cluster_composition(["x", "x", "x", "x", "y", "y"], ["a", "b", "b", "b", "a", "a"])
             size     a     b  entropy_ratio
    cluster
    x           4  0.25  0.75       0.811278
    y           2  1.00  0.00       0.000000
    """
    clusters_, groups_ = _clusters_and_groups(clusters, groups)
    clash = {"size", "entropy_ratio"} & set(groups_.levels)
    if clash:
        msg = f"groups has a group called {sorted(map(str, clash))[0]!r}, the name of another column. Rename it."
        raise ValueError(msg)
    counts = table(clusters_, groups_)
    size = counts.sum(axis=1)
    index = pd.Index(clusters_.levels, name="cluster")
    shares = pd.DataFrame(counts / size[:, None], index=index, columns=pd.Index(groups_.levels))
    shares.insert(0, "size", size)
    shares["entropy_ratio"] = _entropy_ratios(clusters_, groups_)
    return shares


def _clusters_and_groups(clusters: ArrayLike, groups: ArrayLike) -> tuple[Coded, Coded]:
    clusters_, groups_ = encode(clusters=clusters, groups=groups)
    _check_two_groups(groups_)
    return clusters_, groups_


def _check_two_groups(groups: Coded) -> None:
    if len(groups.levels) < 2:
        msg = (
            f"groups has a single group, {groups.levels[0]!r}, and fairness towards a single group is not defined. "
            "Choose an attribute with two or more groups, or use NMI and ARI of scikit-learn alone."
        )
        raise ValueError(msg)


def _row_entropies(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Entropy of the columns within each row, in nats; no row is empty."""
    return entr(counts / counts.sum(axis=1, keepdims=True)).sum(axis=1)


def _conditional_entropy(counts: NDArray[np.int64]) -> float:
    """H(column | row), in nats."""
    return float(counts.sum(axis=1) @ _row_entropies(counts) / counts.sum())


def _entropy_ratios(clusters: Coded, groups: Coded) -> NDArray[np.float64]:
    """H(G|C=k) / H(G) for every cluster."""
    overall = _row_entropies(np.bincount(groups.codes)[None, :])[0]
    return _row_entropies(table(clusters, groups)) / overall
