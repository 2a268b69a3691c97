"""All scores of one clustering."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scfcmi._encode import encode

from ._agreement import clustering_accuracy, f_beta
from ._fairness import balance, conditional_fairness, mnce, nce


def clustering_scores(
    clusters: ArrayLike, groups: ArrayLike, labels: ArrayLike | None = None, *, beta: float = 1.0
) -> dict[str, float]:
    """Fairness of a clustering and, where reference labels are known, its agreement with them.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,). Clusters without cells count for nothing.
    groups
        Sensitive attribute of each cell, shape (n_cells,), in the same order of cells.
    labels
        Reference label of each cell, shape (n_cells,). Agreement and `conditional_fairness` are those of the cells that
        have one, fairness without regard to labels is that of all cells.
    beta
        Weight of fairness in :func:`scfcmi.metrics.f_beta`.

    Returns
    -------
    `mnce`, `balance` and `nce`. With `labels` also `nmi` (arithmetic normalisation), `ari`, `acc`, `f_beta` and
    `conditional_fairness`, and `n_labelled` where some cells have no label. Higher is better; all but `ari` lie between
    0 and 1.

    Raises
    ------
    ValueError
        If clusters, groups or all labels are missing, lengths differ, there is only one group, or `beta` is not a
        positive number.

    Examples
    --------
    >>> from scfcmi.metrics import clustering_scores
    >>> clustering_scores([0, 0, 1, 1], ["a", "b", "a", "b"])
    {'mnce': 1.0, 'balance': 1.0, 'nce': 1.0}
    """
    scores = {"mnce": mnce(clusters, groups), "balance": balance(clusters, groups), "nce": nce(clusters, groups)}
    if labels is None:
        return scores
    clusters_, labels_ = encode(partial="labels", clusters=clusters, labels=labels)
    if len(labels_.codes) < len(encode(clusters=clusters)[0].codes):
        scores["n_labelled"] = len(labels_.codes)
    scores["nmi"] = min(1.0, float(normalized_mutual_info_score(labels_.codes, clusters_.codes)))
    scores["ari"] = float(adjusted_rand_score(labels_.codes, clusters_.codes))
    scores["acc"] = clustering_accuracy(labels, clusters)
    scores["f_beta"] = f_beta(scores["nmi"], scores["mnce"], beta)
    scores["conditional_fairness"] = conditional_fairness(clusters, groups, labels)
    return scores
