"""How well clusters agree with reference labels, alone and together with fairness."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from scfcmi._encode import encode, table

ROUND_OFF = 1e-9


def clustering_accuracy(labels: ArrayLike, clusters: ArrayLike) -> float:
    r"""Share of cells that are right under the best one-to-one matching of clusters and labels.

    .. math::

        \mathrm{ACC} = \frac{1}{n} \max_{\sigma} \sum_k n_{k, \sigma(k)}

    where :math:`n_{ky}` counts the cells of cluster :math:`k` with label :math:`y`, and :math:`\sigma` gives every
    cluster a label of its own (Hungarian algorithm). Clusters beyond the number of labels are wrong altogether.

    Parameters
    ----------
    labels
        Reference label of each cell, shape (n_cells,). Cells without one do not count.
    clusters
        Cluster of each cell, shape (n_cells,), in the same order of cells.

    Returns
    -------
    Accuracy, above 0 and at most 1.

    Raises
    ------
    ValueError
        If clusters or all labels are missing, or lengths differ.

    Examples
    --------
    >>> from scfcmi.metrics import clustering_accuracy
    >>> clustering_accuracy(["T", "T", "B", "B"], [1, 1, 0, 1])
    0.75
    """
    labels_, clusters_ = encode(partial="labels", labels=labels, clusters=clusters)
    counts = table(labels_, clusters_)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def f_beta(nmi: float, mnce: float, beta: float = 1.0) -> float:
    r"""Weighted harmonic mean of agreement with the labels and fairness.

    .. math::

        F_\beta = \frac{(1 + \beta^2) \, \mathrm{NMI} \cdot \mathrm{MNCE}}{\beta^2 \, \mathrm{NMI} + \mathrm{MNCE}}

    Parameters
    ----------
    nmi
        Normalised mutual information of clusters and labels, between 0 and 1.
    mnce
        Fairness, between 0 and 1; see :func:`scfcmi.metrics.mnce`.
    beta
        Weight of fairness: above 1 it counts more than agreement, below 1 less.

    Returns
    -------
    The score, between 0 and 1; 0 if either part is 0.

    Raises
    ------
    ValueError
        If a part is outside [0, 1] or `beta` is not a positive number.

    Examples
    --------
    >>> from scfcmi.metrics import f_beta
    >>> round(f_beta(nmi=0.654, mnce=0.881), 3)
    0.751
    """
    for name, value in {"nmi": nmi, "mnce": mnce}.items():
        if not -ROUND_OFF <= value <= 1 + ROUND_OFF:
            msg = f"{name}={value} must be between 0 and 1."
            raise ValueError(msg)
    if not (beta > 0 and math.isfinite(beta)):
        msg = f"beta={beta} must be a positive number."
        raise ValueError(msg)
    nmi, mnce = min(max(nmi, 0.0), 1.0), min(max(mnce, 0.0), 1.0)
    if nmi == 0 or mnce == 0:
        return 0.0
    return float((1 + beta**2) * nmi * mnce / (beta**2 * nmi + mnce))
