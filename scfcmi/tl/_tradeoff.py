"""What fairness costs: one clustering per value of the knob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scfcmi._adata import check_adata, obs_groups, obs_labels
from scfcmi._keys import DEFAULT_MASK
from scfcmi._numbers import check_real
from scfcmi._options import OPTIONS, Preset
from scfcmi.metrics import clustering_scores
from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions
from scfcmi.source import select_source

WITH_LABELS = ("nmi", "ari", "conditional_fairness")
DEFAULT_VALUES = (0, 0.25, 0.5, 0.75, 1)


def tradeoff(
    adata: AnnData,
    sensitive_key: str | Sequence[str],
    n_clusters: int | None = None,
    *,
    preset: Preset = "default",
    fairness: Sequence[float] | None = None,
    alpha: Sequence[float] | None = None,
    beta: Sequence[float] | None = None,
    network: NetworkOptions | None = None,
    label_key: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    mask_var: str | Sequence[str] | NDArray[np.bool_] | None = DEFAULT_MASK,
    random_state: int = 0,
    device: str = "auto",
    progress_bar: bool | None = None,
) -> pd.DataFrame:
    """Cluster with several values of one knob, and score what is gained and what changes.

    With the default preset, proportions are each group's own at `fairness` 0, and the same for all groups at 1. What
    agrees less with the clustering at the smallest value is what the knob has moved, for better where it was a
    technical effect and for worse where it was biology. Labels, where there are any, tell which. Nothing is written to
    `adata`.

    Parameters
    ----------
    adata
        Annotated data with log-normalised expression.
    sensitive_key
        Column of `obs` with the technology, batch or donor, or several, scored by the combinations of their levels.
    n_clusters
        Number of clusters. When absent it is chosen once, by the default preset, and the same for all runs.
    preset
        `"default"`, or `"paper"` for the published network.
    fairness
        Values between 0 and 1; 0, .25, .5, .75 and 1 when no knob is named. With `preset="paper"` they scale β.
    alpha, beta
        Instead, values of α, the weight of H(C) − H(C|X), or β, that of I(G;C), in the published loss.
    network
        All other options of the published network.
    label_key
        Column of `obs` with curated labels, for scoring alone.
    use_rep
        Entry of `obsm` to cluster instead of expression.
    layer
        Layer with log-normalised expression, used instead of `X`.
    use_raw
        Whether to use `adata.raw`.
    mask_var
        Column of `var`, boolean array, or names of the genes to use. The default column is used if it exists; `None`
        takes all genes.
    random_state
        Seed, the same for all runs.
    device
        `"auto"`, `"cpu"`, `"cuda"`, `"cuda:<index>"` or `"mps"`.
    progress_bar
        Show one per run; when absent, only in a terminal or notebook.

    Returns
    -------
    One row per value, in increasing order: the knob, `fairness`, `alpha` or `beta`; `agreement_ari` and `agreement_nmi`
    with the clustering at the smallest value; `nce` and `mnce`, see :func:`scfcmi.metrics.nce`; `n_clusters` that hold
    cells; with `label_key` also `nmi`, `ari` and `conditional_fairness`.

    Raises
    ------
    KeyError
        If a column, layer or representation does not exist.
    TypeError
        If a value is no number.
    ValueError
        If more than one knob is named, it has no values or one out of range, α or β is asked of the default preset, or
        the data are not valid.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> frame = sf.tl.tradeoff(adata, "tech", 4, fairness=(0, 0.5), progress_bar=False)
    >>> frame["agreement_ari"].iloc[0]
    np.float64(1.0)
    """
    check_adata(adata, copy=False)
    OPTIONS["preset"].check("preset", preset)
    knob, values = _knob(preset, {"fairness": fairness, "alpha": alpha, "beta": beta})
    groups = obs_groups(adata, sensitive_key)
    labels = None if label_key is None else obs_labels(adata, label_key)
    source, _ = select_source(adata, use_rep=use_rep, layer=layer, use_raw=use_raw, mask_var=mask_var, deferred=True)

    def fit(n_clusters: int | None, preset: Preset, value: float | None) -> FCMI:
        options = network
        if value is not None and knob != "fairness":
            weight: dict[str, Any] = {knob: value}
            options = replace(network or NetworkOptions(), **weight)
        return FCMI(
            n_clusters,
            preset=preset,
            fairness=value if knob == "fairness" else None,
            network=options if preset == "paper" else None,
            random_state=random_state,
            device=device,
            standardize=use_rep is None or use_rep == "X",
            progress_bar=progress_bar,
        ).fit(source, groups)

    if n_clusters is None:
        n_clusters = fit(None, "default", None).n_clusters_
    rows = []
    first = None
    for value in values:
        clusters = fit(n_clusters, preset, value).labels_
        first = clusters if first is None else first
        scores = clustering_scores(clusters, groups.values, labels)
        row = {
            knob: value,
            "agreement_ari": adjusted_rand_score(first, clusters),
            "agreement_nmi": normalized_mutual_info_score(first, clusters),
            "nce": scores["nce"],
            "mnce": scores["mnce"],
            "n_clusters": len(np.unique(clusters)),
        }
        rows.append(row | {name: scores[name] for name in WITH_LABELS if name in scores})
    return pd.DataFrame(rows)


def _knob(preset: Preset, given: dict[str, Sequence[float] | None]) -> tuple[str, list[float]]:
    """Which knob is turned, and through which values."""
    named = {name: values for name, values in given.items() if values is not None}
    if len(named) > 1:
        msg = f"Turn one knob at a time: give either {' or '.join(named)}."
        raise ValueError(msg)
    knob, values = next(iter(named.items()), ("fairness", DEFAULT_VALUES))
    if knob != "fairness" and preset != "paper":
        msg = f"{knob} is a weight of the published loss: pass preset='paper' with it, or turn fairness."
        raise ValueError(msg)
    most = 1 if knob == "fairness" else 1e6
    found = sorted({check_real(value, knob, 0, most) for value in values})
    if not found:
        msg = f"{knob} has no values. Name some, for example (0, 0.5, 1)."
        raise ValueError(msg)
    return knob, found
