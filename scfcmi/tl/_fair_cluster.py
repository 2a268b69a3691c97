"""The main job: fair clusters of an AnnData."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, DEFAULT_MASK, Keys
from scfcmi.metrics import clustering_scores, continuous_dependence
from scfcmi.model import FCMI
from scfcmi.model._several import fit_several
from scfcmi.source import Continuous, Groups, select_source
from scfcmi.train import Preset, is_first_process, remove_checkpoint

from ._adata import (
    attribute_keys,
    check_adata,
    drop_column,
    obs_continuous,
    obs_groups,
    obs_labels,
    storable_keys,
    writable,
)
from ._design import describe_design


def fair_cluster(
    adata: AnnData,
    sensitive_key: str | Sequence[str],
    n_clusters: int | None = None,
    *,
    sensitive_weight: Sequence[float] | None = None,
    continuous_keys: str | Sequence[str] | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    mask_var: str | NDArray[np.bool_] | None = DEFAULT_MASK,
    label_key: str | None = None,
    preset: Preset = "default",
    fairness: float | None = None,
    key_added: str = DEFAULT_KEY,
    random_state: int = 0,
    n_init: int = 1,
    device: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    max_epochs: int | None = None,
    batch_size: int | None = None,
    early_stopping: bool = True,
    progress_bar: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    return_model: bool = False,
    copy: bool = False,
) -> AnnData | FCMI | tuple[AnnData, FCMI] | None:
    """Cluster cells by what they are, not by the group they were measured in.

    Trains an encoder, cluster centres and a decoder with one branch per group on the FCMI objective of Zeng et al.,
    CVPR 2023, ‖x − θ_g(φ(x))‖² − α [H(C) − H(C|X)] + β I(G;C). The default preset measures the dependence on the group
    only where groups overlap, and adds that neighbouring cells agree on their cluster; `preset="paper"` is the
    published network, loss and schedule.

    Parameters
    ----------
    adata
        Annotated data with log-normalised expression; dense or sparse, a view, backed, or lazy. What lies on disk is
        read twice from one end to the other, and never held in memory whole; matrices stored by rows are read fastest.
        Results for backed and lazy data are kept in memory, not written to the file.
    sensitive_key
        Column of `obs` with the technology, batch or donor, or several such columns, nested or crossed. Cells are then
        aligned attribute by attribute, and combinations of levels are named like `"10x | donor 1"`.
    n_clusters
        Number of clusters. When absent it is chosen from the data; `uns[key_added]["n_clusters"]` says how.
    sensitive_weight
        Share of `fairness` that each of several attributes gets, from 0 to 1; all of it when absent.
    continuous_keys
        Column of `obs` with numbers that clusters should not depend on either, for example the depth, or several.
    use_rep
        Entry of `obsm` to cluster instead of expression, for example `"X_pca"`.
    layer
        Layer with log-normalised expression, used instead of `X`.
    mask_var
        Column of `var` or boolean array with the genes to use. The default column is used if it exists; `None` takes
        all genes.
    label_key
        Column of `obs` with curated labels. They are used for scoring alone, never in training.
    preset
        `"default"`, or `"paper"`, whose 300 epochs end early unless `early_stopping=False`.
    fairness
        From 0, cluster only, to 1, independence of clusters and groups; the preset's own value when absent.
    key_added
        Name under which results are written.
    random_state
        Seed. The same seed, device and versions give the same labels.
    n_init
        Number of runs, with the seeds `random_state`, `random_state + 1`, … and the same number of clusters. The one
        that agrees most with the others is kept; its seed is in `uns[key_added]["params"]`.
    device
        `"auto"`, `"cpu"`, `"cuda"`, `"cuda:<index>"` or `"mps"`.
    devices
        Processes that share every batch, each on a GPU of its own or all on the CPU. They are started for the training
        and end with it; in a program that was started by `torchrun`, the processes that it started are used, and each
        of them gets the same result.
    precision
        Lightning Fabric's precision: `"32-true"`, `"bf16-mixed"`, `"16-mixed"`, or `"64-true"`, in which results do not
        depend on the number of processes.
    max_epochs
        Passes over the training cells; the preset's rule when absent.
    batch_size
        Cells per step; the preset's value when absent.
    early_stopping
        Whether they end before that once the loss has settled; with `preset="paper"`, once its information terms have.
    progress_bar
        Show one; when absent, only in a terminal.
    checkpoint
        A `.safetensors` file to which the state of the training is written after epochs, and from which the same call,
        repeated after it was cut off, goes on to the same result. With `n_init` > 1, every run has its own file, with
        its seed before the suffix. Removed once the results are in `adata`.
    return_model
        Whether to return the fitted :class:`scfcmi.model.FCMI`.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`, or the model if `return_model=True`, or both. Sets the following fields:

    `adata.obs[key_added]` : :class:`pandas.Series` (dtype `category`)
        Cluster labels, strings in natural order, `"0"` the largest.
    `adata.obs[key_added + "_confidence"]` : :class:`pandas.Series` (dtype `float32`)
        Largest soft assignment of the cell. Low between clusters; it orders cells, and is no calibrated probability.
    `adata.obs[key_added + "_stability"]` : :class:`pandas.Series` (dtype `float32`)
        Only if `n_init` > 1: share of the runs, the kept one included, that put the cell into the cluster that
        corresponds to its own.
    `adata.obsm["X_" + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Embedding, shape (n_cells, n_latent), rows of unit length.
    `adata.obsm[key_added + "_proba"]` : :class:`numpy.ndarray` (dtype `float32`)
        Soft assignments, shape (n_cells, n_clusters), rows sum to one.
    `adata.uns[key_added]` : :class:`dict`
        `params`; `history`, one array per loss term and for I(X;C|G) and I(G;C), per epoch; `metrics`, see
        :func:`scfcmi.metrics.clustering_scores`; `n_clusters`, how their number was chosen; `stopped`, when and why
        training ended; `stability`, the mean ARI between two runs, if `n_init` > 1; `design`, in words, where there is
        something to say: how attributes relate (`attributes`), and groups in which hardly a cell is like a cell of
        another group (`without_counterpart`). With several attributes, `metrics` is on their combinations, and
        `metrics_by_attribute` has the scores for each, `history` I(G;C) of each, as `i_gc_<name>`. For continuous
        attributes, `metrics_by_attribute` has :func:`scfcmi.metrics.continuous_dependence`, and `history` the mutual
        information of cluster and quantile, as `i_vc_<name>`.

    Raises
    ------
    KeyError
        If a column, layer or representation does not exist.
    TypeError
        If `adata` is no AnnData, a number that counts something is not an integer, or a continuous attribute no
        number.
    ValueError
        If an attribute has missing values, a single group or value, or is a continuous measurement where groups are
        asked for; if the matrix has NaN, infinite or negative values or empty cells; if `n_clusters` or another
        parameter is out of range; if the checkpoint is damaged or that of another run.

    Examples
    --------
    >>> import scanpy as sc, scfcmi
    >>> adata = scfcmi.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> scfcmi.tl.fair_cluster(adata, sensitive_key="tech", n_clusters=4, max_epochs=5, progress_bar=False)
    >>> adata.obsm["fair_cluster_proba"].shape
    (300, 4)
    """
    keys = Keys(key_added)
    check_adata(adata, copy=copy)
    groups = obs_groups(adata, sensitive_key).weighted(sensitive_weight)
    labels = None if label_key is None else obs_labels(adata, label_key)
    continuous = obs_continuous(adata, continuous_keys, attribute_keys(sensitive_key))
    check_key(keys, *attribute_keys(sensitive_key), *continuous.names, label_key)
    _check_n_init(n_init, random_state)
    source, names = select_source(adata, use_rep=use_rep, layer=layer, mask_var=mask_var, deferred=True)
    # Names that stand twice cannot tell the columns of later cells apart.
    feature_names = names if len(set(names)) == len(names) else None

    seeds = range(random_state, random_state + n_init)
    files = _checkpoint_files(checkpoint, seeds)

    def fit(n_clusters: int | None, seed: int) -> FCMI:
        model = FCMI(
            n_clusters,
            preset=preset,
            fairness=fairness,
            sensitive_weight=sensitive_weight,
            random_state=seed,
            device=device,
            devices=devices,
            precision=precision,
            max_epochs=max_epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            standardize=use_rep is None or use_rep == "X",
            progress_bar=progress_bar,
            checkpoint=files.get(seed),
        )
        model._fit(source, groups, continuous=continuous, feature_names=feature_names)
        return model

    several = None
    if n_init == 1:
        model = fit(n_clusters, random_state)
    else:
        several = fit_several(fit, n_clusters, seeds)
        model = several.model
    found = model.assignment_
    clusters = clusters_of(found.labels)
    given = {
        "sensitive_key": storable_keys(sensitive_key),
        "sensitive_weight": None if sensitive_weight is None else np.asarray(sensitive_weight, np.float64),
        "continuous_keys": np.array(continuous.names) if continuous.names else None,
        "label_key": label_key,
        "use_rep": use_rep,
        "layer": layer,
        "n_vars": source.shape[1],
        "n_init": n_init,
        "checkpoint": None,
    }
    uns = record_of(model, clusters, groups, labels, given, continuous)
    design = describe_design(groups, labels, model.unmatched_)
    if design:
        uns["design"] = design
    if several is not None:
        uns["stability"] = several.mean_ari
    target = writable(adata, copy=copy)
    # What was drawn from an earlier run under this name does not belong to this one.
    target.obsm.pop(keys.umap, None)
    for stale in (keys.colors, keys.diagnosis):
        target.uns.pop(stale, None)
    drop_column(target, keys.stability)
    target.obs[keys.labels] = pd.Series(clusters, index=target.obs_names)
    target.obs[keys.confidence] = found.proba.max(axis=1)
    if several is not None:
        target.obs[keys.stability] = several.stability
    target.obsm[keys.embedding] = found.embedding
    target.obsm[keys.proba] = found.proba
    target.uns[keys.uns] = uns
    if is_first_process():
        for path in files.values():
            remove_checkpoint(path)
    if copy:
        return (target, model) if return_model else target
    return model if return_model else None


def _checkpoint_files(checkpoint: str | os.PathLike[str] | None, seeds: Sequence[int]) -> dict[int, Path]:
    """A file for every run, so that those that are complete need not be repeated either."""
    if checkpoint is None:
        return {}
    path = Path(checkpoint)
    return {seed: path if len(seeds) == 1 else path.with_suffix(f".{seed}{path.suffix}") for seed in seeds}


def _check_n_init(n_init: int, random_state: int) -> None:
    values: dict[str, Any] = {"n_init": n_init, "random_state": random_state}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            msg = f"{name}={value!r} must be an integer, not {type(value).__name__}."
            raise TypeError(msg)
    if n_init < 1:
        msg = f"n_init={n_init} must be at least 1."
        raise ValueError(msg)


def check_key(keys: Keys, *columns: str | None) -> None:
    """Refuse to overwrite what the result is computed from."""
    if set(columns) & set(keys.of_a_run["obs"]):
        msg = (
            f"key_added={keys.key_added!r} would overwrite a column that the result is computed from. "
            "Choose another name."
        )
        raise ValueError(msg)


def clusters_of(labels: NDArray[np.integer]) -> pd.Categorical[str]:
    """Integer labels to strings, live clusters only, in natural order."""
    live, codes = np.unique(labels, return_inverse=True)
    return pd.Categorical.from_codes(codes.astype(np.int64), categories=pd.Index([str(k) for k in live]))


def record_of(
    model: FCMI,
    clusters: pd.Categorical[str],
    groups: Groups | None,
    labels: pd.Series | None,
    given: dict[str, Any],
    continuous: Continuous | None = None,
) -> dict[str, Any]:
    """What `uns` says about a run: parameters, history, scores if there are groups, and how it was decided."""
    params = model.get_params() | model.used_params() | given
    scores: dict[str, Any] = {}
    if groups is not None:
        scores["metrics"] = clustering_scores(clusters, groups.values, labels)
        by_attribute: dict[str, dict[str, float]] = {}
        if len(groups.factors) > 1:
            for factor, codes in zip(groups.factors, groups.level_codes.T, strict=True):
                by_attribute[factor.name] = clustering_scores(clusters, codes, labels)
        if continuous is not None:
            for name, values in zip(continuous.names, continuous.values.T, strict=True):
                by_attribute[name] = {"continuous_dependence": continuous_dependence(clusters, values)}
        if by_attribute:
            scores["metrics_by_attribute"] = by_attribute
    return {
        # Files have no word for None.
        "params": {name: value for name, value in params.items() if value is not None},
        "history": model.history_,
        **scores,
        "n_clusters": model.n_clusters_evidence_,
        "stopped": model.stopped_,
    }
