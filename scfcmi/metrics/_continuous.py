"""How much clusters say about a number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import adjusted_mutual_info_score

from scfcmi._encode import encode
from scfcmi._numbers import check_count


def continuous_dependence(clusters: ArrayLike, values: ArrayLike, *, n_bins: int = 10) -> float:
    r"""Mutual information of clusters and a continuous attribute, normalised and corrected for chance.

    .. math::

        \frac{I(C; V) - \mathrm{E}\,I(C; V)}{\min(H(C), H(V)) - \mathrm{E}\,I(C; V)}

    where :math:`V` is the bin that a value falls into, between quantiles, and the expectation is over permutations of
    cells. It is 0 where clusters are independent of the value, and 1 where one gives the other away.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape (n_cells,). Clusters without cells count for nothing.
    values
        A number for each cell, shape (n_cells,), in the same order of cells, for example its depth.
    n_bins
        Bins; fewer where values are tied.

    Returns
    -------
    Dependence, between 0 and 1.

    Raises
    ------
    ValueError
        If values are missing, infinite or constant, lengths differ, or there are fewer than 2 bins.

    Examples
    --------
    >>> import numpy as np
    >>> from scfcmi.metrics import continuous_dependence
    >>> depth = np.arange(200)
    >>> continuous_dependence(depth // 20, depth)
    1.0
    >>> continuous_dependence(depth % 2, depth)
    0.0
    """
    values_ = np.asarray(values, np.float64)
    check_count(n_bins, "n_bins", least=2)
    clusters_, _ = encode(clusters=clusters, values=values_)
    if not np.isfinite(values_).all():
        msg = f"values has {int((~np.isfinite(values_)).sum())} infinite values. Leave these cells out of all arrays."
        raise ValueError(msg)
    edges = np.unique(np.quantile(values_, np.linspace(0, 1, n_bins + 1)))
    if len(edges) < 2:
        msg = f"values is constant, {edges[0]:g}: nothing can depend on it."
        raise ValueError(msg)
    bins = np.searchsorted(edges[1:-1] if len(edges) > 2 else edges[1:], values_, side="right")
    return float(np.clip(adjusted_mutual_info_score(bins, clusters_.codes, average_method="min"), 0, 1))
