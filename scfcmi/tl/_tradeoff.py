"""What fairness costs: one clustering per value of the knob."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scfcmi._keys import DEFAULT_MASK
from scfcmi.metrics import clustering_scores
from scfcmi.model import FCMI
from scfcmi.source import select_source

from ._adata import check_adata, obs_groups, obs_labels

WITH_LABELS = ("nmi", "ari", "conditional_fairness")


def tradeoff(
    adata: AnnData,
    sensitive_key: str | Sequence[str],
    n_clusters: int | None = None,
    *,
    fairness: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    label_key: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    mask_var: str | NDArray[np.bool_] | None = DEFAULT_MASK,
    random_state: int = 0,
    device: str = "auto",
    max_epochs: int | None = None,
    progress_bar: bool | None = None,
) -> pd.DataFrame:
    """Cluster with several values of `fairness`, and score what is gained and what changes.

    At 0 groups play no role: what agrees with that clustering less is what fairness has moved, for better where it was
    a technical effect and for worse where it was biology. Labels, where there are any, tell which. Nothing is written
    to `adata`.

    Parameters
    ----------
    adata
        Annotated data with log-normalised expression.
    sensitive_key
        Column of `obs` with the technology, batch or donor, or several, scored by the combinations of their levels.
    n_clusters
        Number of clusters. When absent it is chosen once, with the preset's own fairness, and the same for all runs.
    fairness
        Values between 0 and 1.
    label_key
        Column of `obs` with curated labels, for scoring alone.
    use_rep
        Entry of `obsm` to cluster instead of expression.
    layer
        Layer with log-normalised expression, used instead of `X`.
    mask_var
        Column of `var` or boolean array with the genes to use. The default column is used if it exists; `None` takes
        all genes.
    random_state
        Seed, the same for all runs.
    device
        `"auto"`, `"cpu"`, `"cuda"`, `"cuda:<index>"` or `"mps"`.
    max_epochs
        Passes over the training cells; the preset's rule when absent.
    progress_bar
        Show one per run; when absent, only in a terminal or notebook.

    Returns
    -------
    One row per value, in increasing order: `fairness`; `agreement_ari` and `agreement_nmi` with the clustering at
    fairness 0; `nce` and `mnce`, see :func:`scfcmi.metrics.nce`; `n_clusters` that hold cells; with `label_key` also
    `nmi`, `ari` and `conditional_fairness`.

    Raises
    ------
    KeyError
        If a column, layer or representation does not exist.
    ValueError
        If `fairness` is empty or holds a value that is not between 0 and 1, or the data are not valid.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> frame = sf.tl.tradeoff(adata, "tech", 4, fairness=(0, 0.5), max_epochs=5, progress_bar=False)
    >>> frame["agreement_ari"].iloc[0]
    np.float64(1.0)
    """
    check_adata(adata, copy=False)
    values = sorted({float(value) for value in fairness})
    if not values or not all(0 <= value <= 1 for value in values):
        msg = f"fairness={tuple(fairness)} must name values between 0 (cluster only) and 1 (independence)."
        raise ValueError(msg)
    groups = obs_groups(adata, sensitive_key)
    labels = None if label_key is None else obs_labels(adata, label_key)
    source, _ = select_source(adata, use_rep=use_rep, layer=layer, mask_var=mask_var, deferred=True)

    def fit(n_clusters: int | None, value: float | None) -> FCMI:
        return FCMI(
            n_clusters,
            fairness=value,
            random_state=random_state,
            device=device,
            max_epochs=max_epochs,
            standardize=use_rep is None or use_rep == "X",
            progress_bar=progress_bar,
        ).fit(source, groups)

    if n_clusters is None:
        n_clusters = fit(None, None).n_clusters_
    found = {value: fit(n_clusters, value).assignment_.labels for value in sorted({0.0, *values})}
    rows = []
    for value in values:
        clusters = found[value]
        scores = clustering_scores(clusters, groups.values, labels)
        row = {
            "fairness": value,
            "agreement_ari": adjusted_rand_score(found[0.0], clusters),
            "agreement_nmi": normalized_mutual_info_score(found[0.0], clusters),
            "nce": scores["nce"],
            "mnce": scores["mnce"],
            "n_clusters": len(np.unique(clusters)),
        }
        rows.append(row | {name: scores[name] for name in WITH_LABELS if name in scores})
    return pd.DataFrame(rows)
