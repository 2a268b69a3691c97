"""Later cells, placed on the clusters of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi._warn import warn
from scfcmi.model import FCMI
from scfcmi.model._anchors import align_to_anchors, remoteness
from scfcmi.source import MatrixSource, select_source
from scfcmi.source._groups import BETWEEN
from scfcmi.source._matrix import dense, unit_rows
from scfcmi.train import embed_all

from ._adata import attribute_keys, check_adata, check_model, obs_column, storable_keys, writable

NewGroups = Literal["error", "fit"]
# Share of the model's genes below which cells cannot be placed.
MIN_GENES = 0.5
# A cell is unlike the reference beyond this quantile of the anchors' own distances, or so many deviations above the
# median of the query's, whichever is less; the latter with enough cells only.
QUANTILE, DEVIATIONS, MIN_CELLS, N_NEAREST = 0.99, 4.0, 20, 10


def map_query(
    adata: AnnData,
    model: FCMI,
    *,
    sensitive_key: str | Sequence[str],
    new_groups: NewGroups = "error",
    layer: str | None = None,
    key_added: str = DEFAULT_KEY,
    copy: bool = False,
) -> AnnData | None:
    """Assign later cells to the clusters of a fitted model, which stays as it is.

    Genes are matched by name; those that the query lacks stand at their mean in the reference. Cells of groups that the
    model knows go through its encoder. Cells of a new group are first aligned, group by group, to cells of the
    reference that are kept with the model, as in the fit: along a smooth field of displacements towards mutual nearest
    neighbours. The reference and its labels do not move.

    Parameters
    ----------
    adata
        The query: annotated data with log-normalised expression, normalised as the reference was.
    model
        The fitted model, from `return_model=True` or :meth:`scfcmi.model.FCMI.load`.
    sensitive_key
        Column of `obs` with the technology, batch or donor. For a model of several attributes as many columns, in the
        order of the fit; a combination of levels that it was not fitted with is a new group.
    new_groups
        What to do with groups that the model was not fitted with: `"error"`, or `"fit"` to align them.
    layer
        Layer with log-normalised expression instead of `X`.
    key_added
        Name under which results are written.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `adata.obs[key_added]` : :class:`pandas.Series` (dtype `category`)
        Cluster labels; the same name is the same cluster as in the reference, whose clusters are all categories.
    `adata.obs[key_added + "_unlike"]` : :class:`pandas.Series` (dtype `bool`)
        Whether a cell is unlike anything in the reference, so that its label should not be trusted. The test is
        coarse: a new type that resembles a known one goes unnoticed.
    `adata.obs[key_added + "_distance"]` : :class:`pandas.Series` (dtype `float32`)
        Distance to the nearest cells of the reference, in the embedding; NaN for models without anchors.
    `adata.obsm["X_" + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Embedding, shape (n_cells, n_latent), rows of unit length.
    `adata.obsm[key_added + "_proba"]` : :class:`numpy.ndarray` (dtype `float32`)
        Soft assignments, shape (n_cells, n_clusters), rows sum to one.
    `adata.uns[key_added]` : :class:`dict`
        `params`, and `mapping`: number of genes matched and imputed, new groups and how many of their cells have a
        match in the reference, and the number of cells unlike it.

    Raises
    ------
    KeyError
        If a column or layer does not exist.
    TypeError
        If `adata` or `model` is of another type.
    ValueError
        If groups are unknown, too few genes match, or the model has no gene names or, for new groups, no anchors.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=400, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> reference, query = adata[:300].copy(), adata[300:].copy()
    >>> model = sf.tl.fair_cluster(reference, "tech", 4, max_epochs=5, progress_bar=False, return_model=True)
    >>> sf.tl.map_query(query, model, sensitive_key="tech")
    >>> query.uns["fair_cluster"]["mapping"]["n_genes_imputed"]
    0
    """
    keys = Keys(key_added)
    check_adata(adata, copy=copy)
    check_model(model)
    if new_groups not in get_args(NewGroups):
        msg = f"new_groups={new_groups!r} is unknown: use one of {list(get_args(NewGroups))}."
        raise ValueError(msg)
    if key_added in attribute_keys(sensitive_key):
        msg = f"key_added={key_added!r} would overwrite a column that the result is computed from. Choose another name."
        raise ValueError(msg)
    values = _values(adata, attribute_keys(sensitive_key), model)
    unknown = sorted(set(values) - set(model.groups_.levels))
    _check_groups(unknown, new_groups, model, sensitive_key)
    columns = _match_genes(adata, model)
    select_source(adata, layer=layer, mask_var=np.isin(np.arange(adata.n_vars), columns[columns >= 0]))
    projected = _project(adata.X if layer is None else adata.layers[layer], columns, model)

    embedding = embed_all(model.net_, MatrixSource(projected))
    anchors = None if model.anchors_ is None else embed_all(model.net_, MatrixSource(model.anchors_.position))
    n_matched: dict[str, int] = {}
    for group in unknown:
        assert anchors is not None
        members = values == group
        embedding[members], n_matched[group] = align_to_anchors(
            projected[members],
            anchors,
            n_neighbors=model.settings_.n_align_neighbors,
            n_candidates=model.settings_.n_align_matches,
            max_cells=model.settings_.sketch_size,
            random_state=model.random_state,
        )
    distance, unlike = _unlike(embedding, anchors, values)
    labels, proba = model._clusters(embedding)
    names = [str(k) for k in np.unique(model.merge_)]
    unmatched = [group for group, count in n_matched.items() if count == 0]
    n_imputed = int((columns < 0).sum())
    if n_imputed:
        msg = f"{n_imputed} of {len(columns)} genes of the model are not in adata; their mean in the reference is used."
        warn(msg)
    if unmatched:
        msg = f"No cell of {unmatched} has a match in the reference: these groups are placed without alignment."
        warn(msg)

    target = writable(adata, copy=copy)
    target.obsm.pop(keys.umap, None)
    target.uns.pop(keys.colors, None)
    clusters = pd.Categorical(labels.astype(str), categories=names)
    target.obs[keys.labels] = pd.Series(clusters, index=target.obs_names)
    target.obs[keys.unlike] = unlike
    target.obs[keys.distance] = distance
    target.obsm[keys.embedding] = embedding
    target.obsm[keys.proba] = proba
    params = {"sensitive_key": storable_keys(sensitive_key), "new_groups": new_groups, "n_clusters": model.n_clusters_}
    target.uns[keys.uns] = {
        "params": params | ({} if layer is None else {"layer": layer}),
        "mapping": {
            "n_genes": len(columns) - n_imputed,
            "n_genes_imputed": n_imputed,
            "new_groups": np.array(unknown, dtype=str),
            "n_matched": np.array([n_matched[group] for group in unknown], dtype=np.int64),
            "n_unlike": int(unlike.sum()),
        },
    }
    return target if copy else None


def _values(adata: AnnData, keys: list[str], model: FCMI) -> NDArray[Any]:
    """Name of each cell's group, as the model would call it."""
    fitted = [factor.name for factor in model.groups_.factors]
    if len(keys) != len(fitted):
        msg = f"sensitive_key={keys} names {len(keys)} columns, but the model was fitted with {len(fitted)}: {fitted}."
        raise ValueError(msg)
    columns = []
    for key in keys:
        column = obs_column(adata, key, "sensitive_key")
        n_missing = int(column.isna().sum())
        if n_missing:
            msg = f"sensitive_key={key!r} has {n_missing} missing values. Drop these cells, or name their group."
            raise ValueError(msg)
        columns.append(column.astype(str))
    return np.array([BETWEEN.join(levels) for levels in zip(*columns, strict=True)], dtype=object)


def _check_groups(unknown: list[str], new_groups: NewGroups, model: FCMI, sensitive_key: str | Sequence[str]) -> None:
    if unknown and new_groups == "error":
        msg = (
            f"sensitive_key={sensitive_key!r} has groups that the model was not fitted with: {unknown}; known are "
            f"{list(model.groups_.levels)}. Pass new_groups='fit' to align them to the reference."
        )
        raise ValueError(msg)
    if unknown and model.anchors_ is None:
        msg = f"The groups {unknown} are new, but a model of preset={model.preset!r} keeps no cells to align them to."
        raise ValueError(msg)


def _match_genes(adata: AnnData, model: FCMI) -> NDArray[np.int64]:
    """Position of each of the model's genes in the query, −1 where it has none."""
    if model.feature_names_ is None:
        msg = "The model has no gene names. Fit it with `scfcmi.tl.fair_cluster`, or pass feature_names to `FCMI.fit`."
        raise ValueError(msg)
    if not adata.var_names.is_unique:
        msg = "adata.var_names has duplicates. Run `adata.var_names_make_unique()` first."
        raise ValueError(msg)
    columns = adata.var_names.astype(str).get_indexer(pd.Index(model.feature_names_))
    found = int((columns >= 0).sum())
    if found < MIN_GENES * len(columns):
        missing = [name for name, column in zip(model.feature_names_, columns, strict=True) if column < 0][:3]
        msg = (
            f"Only {found} of {len(columns)} genes of the model are in adata (missing are {missing}, …), too few to "
            "place cells. Check that both use the same kind of gene names; a model fitted with `use_rep` has none."
        )
        raise ValueError(msg)
    return columns.astype(np.int64)


def _project(matrix: Any, columns: NDArray[np.int64], model: FCMI) -> NDArray[np.float32]:
    """What the network sees of every cell, chunk by chunk."""
    source = MatrixSource(matrix)
    present = columns >= 0
    parts = []
    for _, block in source.chunks():
        found = block[:, columns[present]]
        if not present.all():
            full = np.empty((block.shape[0], len(columns)), np.float32)
            full[:, present] = dense(found)
            full[:, ~present] = 0 if model.front_ is None else model.front_.mean[~present]
            found = full
        parts.append(dense(found) if model.front_ is None else model.front_.transform(sp.csr_matrix(found)))
    return np.concatenate(parts)


def _unlike(
    embedding: NDArray[np.float32], anchors: NDArray[np.float32] | None, values: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Distance to the nearest anchors, and whether it is out of the ordinary for the cell's group."""
    if anchors is None:
        return np.full(len(embedding), np.nan, np.float32), np.zeros(len(embedding), bool)
    anchors = unit_rows(anchors)
    distance = remoteness(embedding, anchors, N_NEAREST).astype(np.float32)
    ordinary = float(np.quantile(remoteness(anchors, anchors, N_NEAREST, skip_self=True), QUANTILE))
    unlike = np.zeros(len(embedding), bool)
    for group in np.unique(values):
        members = values == group
        limit = ordinary
        if members.sum() >= MIN_CELLS:
            middle = float(np.median(distance[members]))
            deviation = 1.4826 * float(np.median(np.abs(distance[members] - middle)))
            limit = min(limit, middle + DEVIATIONS * deviation)
        unlike[members] = distance[members] > limit
    return distance, unlike
