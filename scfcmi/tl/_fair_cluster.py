"""The main job: fair clusters of an AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._adata import (
    attribute_keys,
    check_adata,
    drop_results,
    obs_column,
    obs_continuous,
    obs_groups,
    obs_labels,
    stale_results,
    storable_keys,
    writable,
)
from scfcmi._keys import DEFAULT_KEY, DEFAULT_MASK, TREE, Keys, entry_name
from scfcmi._levels import natural_order
from scfcmi._numbers import check_count, check_seed
from scfcmi._options import OPTIONS, Preset
from scfcmi.communities import THRESHOLD
from scfcmi.metrics import clustering_scores, continuous_dependence
from scfcmi.model import FCMI, Assignment, Registered, fit_several
from scfcmi.published import NetworkOptions
from scfcmi.source import Continuous, Groups, select_source

from ._design import describe_design


def fair_cluster(
    adata: AnnData,
    sensitive_key: str | Sequence[str],
    n_clusters: int | None = None,
    *,
    resolution: float = 1.0,
    continuous_keys: str | Sequence[str] | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    mask_var: str | Sequence[str] | NDArray[np.bool_] | None = DEFAULT_MASK,
    restrict_to: tuple[str, Sequence[str]] | None = None,
    label_key: str | None = None,
    preset: Preset = "default",
    fairness: float | None = None,
    network: NetworkOptions | None = None,
    key_added: str = DEFAULT_KEY,
    random_state: int = 0,
    n_init: int = 1,
    device: str = "auto",
    devices: int = 1,
    progress_bar: bool | None = None,
    return_model: bool = False,
    copy: bool = False,
) -> AnnData | FCMI | tuple[AnnData, FCMI] | None:
    """Cluster cells by what they are, not by the group they were measured in.

    All cells are registered by a mixture whose components move coherently from group to group, with proportions of each
    group's own, so that a type may be missing from a group: the objective of Zeng et al., CVPR 2023, with the branches
    of its decoder in closed form. Communities of the registered cells, and of each community in directions of its own,
    make a tree; `n_clusters` or `resolution` say where it is cut, and :func:`scfcmi.tl.recut` cuts it again.
    `preset="paper"` is the published network, loss and schedule.

    Parameters
    ----------
    adata
        Annotated data with log-normalised expression; dense or sparse, a view, backed, or lazy. What lies on disk is
        read a few times from one end to the other, and never held in memory whole; matrices stored by rows are read
        fastest. Results for backed and lazy data are kept in memory, not written to the file.
    sensitive_key
        Column of `obs` with the technology, batch or donor, or several such columns, nested or crossed: each displaces
        cells, and the displacements add up. Combinations of levels are named like `"10x | donor 1"`.
    n_clusters
        Number of clusters. When absent, `resolution` says where the tree is cut.
    resolution
        At 1, clusters are apart if the link between them is clearly weaker than inside a homogeneous one; larger gives
        more clusters. Cuts at different resolutions are nested.
    continuous_keys
        Column of `obs` with numbers that clusters should not depend on either, for example the depth, or several. Cells
        are displaced by smooth functions of them.
    use_rep
        Entry of `obsm` to cluster instead of expression, for example `"X_pca"`.
    layer
        Layer with log-normalised expression, used instead of `X`.
    use_raw
        Whether to use `adata.raw`, for data whose `X` was scaled.
    mask_var
        Column of `var`, boolean array, or names of the genes to use. The default column is used if it exists; `None`
        takes all genes.
    restrict_to
        A column of `obs` and some of its values: only these cells are clustered, and their labels are the value and the
        cluster inside it, like `"3,1"`; the labels of all others stay those of the column.
    label_key
        Column of `obs` with curated labels. They are used for scoring alone, never in a fit.
    preset
        `"default"`, or `"paper"`.
    fairness
        β, the weight of I(G;C): from 0, the default, proportions of each group's own, to 1, the same for all groups.
    network
        Options of the published network, for `preset="paper"`.
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
        Processes that share the batches of the published network.
    progress_bar
        Show progress; when absent, only in a terminal.
    return_model
        Whether to return the fitted :class:`scfcmi.model.FCMI`.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`, or the model if `return_model=True`, or both. Sets the following fields; with
    `restrict_to`, the labels and `uns` alone:

    `adata.obs[key_added]` : :class:`pandas.Series` (dtype `category`)
        Cluster labels, strings in natural order, `"0"` the largest.
    `adata.obs[key_added + "_confidence"]` : :class:`pandas.Series` (dtype `float32`)
        Probability of the cell's cluster.
    `adata.obs[key_added + "_unlike"]` : :class:`pandas.Series` (dtype `bool`)
        Default preset: whether the cell is unlike all others, by its likelihood.
    `adata.obs[key_added + "_stability"]` : :class:`pandas.Series` (dtype `float32`)
        Only if `n_init` > 1: share of the runs, the kept one included, that put the cell into the cluster that
        corresponds to its own.
    `adata.obsm["X_" + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Registered positions, shape (n_cells, n_dims); with `preset="paper"` the embedding.
    `adata.obsm[key_added + "_proba"]` : :class:`numpy.ndarray` (dtype `float32`)
        p(cluster | cell), shape (n_cells, n_clusters), rows sum to one.
    `adata.obsm[key_added + "_leaves"]` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Default preset: p(leaf of the tree | cell), shape (n_cells, n_leaves).
    `adata.uns[key_added]` : :class:`dict`
        `params`; `history`, one array per term of the objective; `metrics`, see
        :func:`scfcmi.metrics.clustering_scores`; `n_clusters`, how their number was found; `tree` (`merges`, `link`,
        `threshold`); `registration` (`groups`, `deviation`, see :class:`scfcmi.model.FCMI`, and the free energy of
        every start); `stopped`; `stability`, the mean ARI between two runs, if `n_init` > 1; `design`, in words, where
        there is something to say about how attributes relate. With several attributes, `metrics` is on their
        combinations, and `metrics_by_attribute` has the scores for each, and for continuous ones
        :func:`scfcmi.metrics.continuous_dependence`.

    Raises
    ------
    KeyError
        If a column, layer or representation does not exist.
    TypeError
        If `adata` is no AnnData, an option is of another type, or a continuous attribute no number.
    ValueError
        If an attribute has missing values, a single group or value, or is a continuous measurement where groups are
        asked for; if the matrix has NaN, infinite or negative values; if an option is out of range; if `key_added`
        cannot be a name, or would overwrite what the result is computed from.

    Examples
    --------
    >>> import scanpy as sc, scfcmi
    >>> adata = scfcmi.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> scfcmi.tl.fair_cluster(adata, sensitive_key="tech", n_clusters=4, progress_bar=False)
    >>> adata.obsm["fair_cluster_proba"].shape
    (300, 4)
    """
    check_adata(adata, copy=copy)
    groups = obs_groups(adata, sensitive_key)
    labels = None if label_key is None else obs_labels(adata, label_key)
    continuous = obs_continuous(adata, continuous_keys, attribute_keys(sensitive_key))
    outer = None if restrict_to is None else _restriction(adata, restrict_to)
    keys = Keys.checked(
        key_added,
        adata,
        obs=[*attribute_keys(sensitive_key), *continuous.names, label_key, *(restrict_to or ())[:1]],
        obsm=[use_rep],
        layers=[layer],
    )
    check_seed(random_state, n=check_count(n_init, "n_init"))
    inside = adata if outer is None else adata[outer.to_numpy(bool)]
    source, names = select_source(
        inside, use_rep=use_rep, layer=layer, use_raw=use_raw, mask_var=mask_var, deferred=True
    )
    # Names that stand twice cannot tell the columns of later cells apart.
    feature_names = names if len(set(names)) == len(names) else None
    if outer is not None:
        rows = np.flatnonzero(outer.to_numpy(bool))
        groups, continuous = groups.take(rows), continuous.take(rows)

    def fit(n_clusters: int | None, seed: int) -> FCMI:
        return FCMI(
            n_clusters,
            resolution=resolution,
            preset=preset,
            fairness=fairness,
            network=network,
            standardize=use_rep is None or use_rep == "X",
            random_state=seed,
            device=device,
            devices=devices,
            progress_bar=progress_bar,
        ).fit(source, groups, continuous=continuous, feature_names=feature_names)

    several = None
    if n_init == 1:
        model = fit(n_clusters, random_state)
    else:
        several = fit_several(fit, n_clusters, range(random_state, random_state + n_init))
        model = several.model
    found = model.assignment_
    clusters = clusters_of(found.labels)
    given = {
        "sensitive_key": storable_keys(sensitive_key),
        "continuous_keys": np.array(continuous.names) if continuous.names else None,
        "label_key": label_key,
        "use_rep": use_rep,
        "layer": layer,
        "use_raw": use_raw,
        "n_vars": source.shape[1],
        "n_init": n_init,
    }
    if restrict_to is not None:
        given["restrict_to"] = np.array([restrict_to[0], *map(str, restrict_to[1])])
    own_labels = labels if outer is None or labels is None else labels[outer.to_numpy(bool)]
    uns = record_of(model, clusters, groups, own_labels, given, continuous)
    design = describe_design(groups, own_labels)
    if design:
        uns["design"] = design
    if several is not None:
        uns["stability"] = several.mean_ari
    target = writable(adata, copy=copy)
    drop_results(target, stale_results(keys, target.uns))
    if outer is None:
        write_assignment(target, keys, found, clusters)
        if several is not None:
            target.obs[keys.stability] = several.stability
    else:
        assert restrict_to is not None
        target.obs[keys.labels] = _within(obs_column(target, restrict_to[0], "restrict_to"), outer, clusters)
    target.uns[keys.uns] = uns
    if copy:
        return (target, model) if return_model else target
    return model if return_model else None


def write_assignment(target: AnnData, keys: Keys, found: Assignment, clusters: pd.Categorical[str]) -> None:
    """Write what is known of cells into `obs` and `obsm`."""
    target.obs[keys.labels] = pd.Series(clusters, index=target.obs_names)
    target.obs[keys.confidence] = found.confidence
    target.obsm[keys.embedding] = found.embedding
    target.obsm[keys.proba] = found.proba
    if found.leaves is not None:
        target.obs[keys.unlike] = found.unlike
        target.obsm[keys.leaves] = found.leaves


def _restriction(adata: AnnData, restrict_to: tuple[str, Sequence[str]]) -> pd.Series:
    """Which cells are clustered."""
    key, values = restrict_to
    column = obs_column(adata, key, "restrict_to").astype(str)
    wanted = [values] if isinstance(values, str) else [str(value) for value in values]
    missing = [value for value in wanted if value not in set(column)]
    if missing or not wanted:
        known = natural_order(set(column))
        msg = f"restrict_to names {missing or 'no values'} of adata.obs[{key!r}]; there are {known}."
        raise ValueError(msg)
    return column.isin(wanted)


def _within(column: pd.Series, outer: pd.Series, clusters: pd.Categorical[str]) -> pd.Series:
    """Labels of a column, with those of some cells split by what they were clustered into."""
    labels = column.astype(str).to_numpy(object)
    rows = np.flatnonzero(outer.to_numpy(bool))
    labels[rows] = [f"{old},{new}" for old, new in zip(labels[rows], clusters, strict=True)]
    categories = natural_order(set(labels))
    return pd.Series(pd.Categorical(labels, categories=categories), index=column.index)


def clusters_of(labels: NDArray[np.integer]) -> pd.Categorical[str]:
    """Integer labels to strings, live clusters only, in natural order."""
    live, codes = np.unique(labels, return_inverse=True)
    return pd.Categorical.from_codes(codes.astype(np.int64), categories=pd.Index([str(k) for k in live]))


def scores_of(
    clusters: pd.Categorical[str], groups: Groups, labels: pd.Series | None, continuous: Continuous | None
) -> dict[str, Any]:
    """Scores of a clustering, overall and by attribute, as they stand in `uns`."""
    scores: dict[str, Any] = {"metrics": clustering_scores(clusters, groups.values, labels)}
    by_attribute: dict[str, dict[str, float]] = {}
    if len(groups.factors) > 1:
        for factor, codes in zip(groups.factors, groups.level_codes.T, strict=True):
            by_attribute[entry_name(factor.name)] = clustering_scores(clusters, codes, labels)
    if continuous is not None:
        for name, values in zip(continuous.names, continuous.values.T, strict=True):
            by_attribute[entry_name(name)] = {"continuous_dependence": continuous_dependence(clusters, values)}
    if by_attribute:
        scores["metrics_by_attribute"] = by_attribute
    return scores


def record_of(
    model: FCMI,
    clusters: pd.Categorical[str],
    groups: Groups | None,
    labels: pd.Series | None,
    given: dict[str, Any],
    continuous: Continuous | None = None,
) -> dict[str, Any]:
    """What `uns` says about a run: parameters, history, scores if there are groups, and how it was decided."""
    params = {name: value for name, value in model.get_params(deep=False).items() if OPTIONS[name].stored}
    params |= {"n_clusters": model.n_clusters_, "device": model.used_device} | given
    if model.preset == "paper":
        params |= {f"network_{name}": value for name, value in (model.network or NetworkOptions()).as_params().items()}
    record: dict[str, Any] = {
        # Files have no word for None.
        "params": {name: value for name, value in params.items() if value is not None},
        "history": {entry_name(name): values for name, values in model.history_.items()},
        "n_clusters": model.n_clusters_evidence_,
        "stopped": model.stopped_,
    }
    if groups is not None:
        record |= scores_of(clusters, groups, labels, continuous)
    if isinstance(model.state_, Registered):
        tree = model.state_.tree
        record[TREE] = {"merges": tree.merges, "link": tree.link, "threshold": THRESHOLD}
        record["registration"] = {"groups": np.array(model.groups_.levels, dtype=object)}
        if hasattr(model, "registration_"):
            record["registration"] |= {"deviation": model.deviation_, "starts": model.registration_.starts}
    return record
