"""Scores of a clustering that stands in `obs`, whatever made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from anndata import AnnData

from scfcmi._adata import attribute_keys, obs_column, obs_labels
from scfcmi._levels import level_names
from scfcmi.metrics import cluster_composition, clustering_scores
from scfcmi.source import BETWEEN


class Evaluation(NamedTuple):
    """What :func:`scfcmi.tl.evaluate` returns.

    Parameters
    ----------
    summary
        The scores of the whole clustering, one row; of several attributes one row for their combinations and one for
        each.
    per_cluster
        One row per cluster; see :func:`scfcmi.metrics.cluster_composition`.
    """

    summary: pd.DataFrame
    per_cluster: pd.DataFrame


def evaluate(
    adata: AnnData,
    cluster_key: str,
    sensitive_key: str | Sequence[str],
    label_key: str | None = None,
    *,
    beta: float = 1.0,
) -> Evaluation:
    """Score any clustering for fairness and, where reference labels are known, for agreement with them.

    Only `obs` is read, and nothing is written, so that views and backed data work as well. Clusters may come from any
    method. To compare several, concatenate their summaries.

    Parameters
    ----------
    adata
        Annotated data.
    cluster_key
        Column of `obs` with the clusters.
    sensitive_key
        Column of `obs` with the technology, batch or donor, or several.
    label_key
        Column of `obs` with reference labels, for example curated cell types. Where some cells have none, agreement is
        that of the others, and `n_labelled` says how many they are.
    beta
        Weight of fairness in :func:`scfcmi.metrics.f_beta`.

    Returns
    -------
    A named tuple `(summary, per_cluster)` of :class:`pandas.DataFrame`. `summary` has one row, named `cluster_key`,
    with `n_cells`, `n_clusters` and the scores of :func:`scfcmi.metrics.clustering_scores`. `per_cluster` is
    :func:`scfcmi.metrics.cluster_composition`: size, group shares and entropy ratio of every cluster. With several
    attributes, `per_cluster` is on the combinations of their levels, and `summary` has a row for these and one for
    each attribute, told apart by the column `attribute`.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If clusters, groups or all labels are missing, or the sensitive attribute a single value.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"leiden": list("001122"), "tech": list("abaabb"), "type": list("TTBBKK")})
    >>> result = sf.tl.evaluate(ad.AnnData(obs=obs.set_index("c" + obs.index.astype(str))), "leiden", "tech")
    >>> result.summary
            n_cells  n_clusters  mnce  balance       nce
    leiden        6           3   0.0      0.0  0.333333
    >>> result.per_cluster["entropy_ratio"].round(2).tolist()
    [1.0, 0.0, 0.0]
    """
    clusters = _column(adata, cluster_key, "cluster_key")
    names = attribute_keys(sensitive_key)
    columns = {name: _column(adata, name, "sensitive_key") for name in names}
    labels = None if label_key is None else obs_labels(adata, label_key)
    for name, column in columns.items():
        if column.nunique() < 2:
            msg = (
                f"sensitive_key={name!r} has a single value, {column.iloc[0]!r}: fairness towards a single group "
                "is not defined. Choose a column with two or more groups."
            )
            raise ValueError(msg)
    if len(names) > 1:
        joint = [BETWEEN.join(levels) for levels in zip(*map(level_names, columns.values()), strict=True)]
        columns = {BETWEEN.join(names): pd.Series(joint, index=clusters.index)} | columns
    per_cluster = cluster_composition(clusters, next(iter(columns.values())))
    counts = {"n_cells": len(clusters), "n_clusters": len(per_cluster)}
    rows = [counts | clustering_scores(clusters, column, labels, beta=beta) for column in columns.values()]
    summary = pd.DataFrame(rows, index=pd.Index([cluster_key] * len(rows)))
    if len(names) > 1:
        summary.insert(0, "attribute", list(columns))
    return Evaluation(summary, per_cluster)


def _column(adata: AnnData, key: str, argument: str) -> pd.Series:
    column = obs_column(adata, key, argument)
    if column.empty:
        msg = "adata has no cells."
        raise ValueError(msg)
    missing = column.isna().to_numpy()
    if missing.any():
        msg = (
            f"{argument}={key!r} has {int(missing.sum())} missing values, the first in cell "
            f"{column.index[int(missing.argmax())]!r}. Score the other cells: adata[adata.obs[{key!r}].notna()]."
        )
        raise ValueError(msg)
    return column
