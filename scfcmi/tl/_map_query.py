"""Later cells, placed on the clusters of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._adata import (
    attribute_keys,
    check_adata,
    check_model,
    drop_results,
    obs_column,
    obs_continuous,
    stale_results,
    storable_keys,
    writable,
)
from scfcmi._device import on_cpu_by_default
from scfcmi._keys import DEFAULT_KEY, MAPPING, Keys
from scfcmi._levels import level_names, meet, natural_order
from scfcmi._warn import warn
from scfcmi.model import FCMI, Assignment, Registered, restricted, with_new_group
from scfcmi.published import PublishedFit
from scfcmi.source import BETWEEN, MatrixSource, dense, select_source

from ._fair_cluster import write_assignment

NewGroups = Literal["error", "fit"]
# Share of the model's genes below which cells cannot be placed.
MIN_GENES = 0.5


def map_query(
    adata: AnnData,
    model: FCMI,
    *,
    sensitive_key: str | Sequence[str],
    new_groups: NewGroups = "error",
    layer: str | None = None,
    reference: AnnData | None = None,
    reference_key: str = DEFAULT_KEY,
    transfer: str | Sequence[str] | None = None,
    key_added: str = DEFAULT_KEY,
    copy: bool = False,
) -> AnnData | None:
    """Assign later cells to the clusters of a fitted model, which stays as it is.

    Genes are matched by name; those that the query lacks stand at their mean in the reference. Cells of groups that the
    model knows are displaced as their group was. The displacement of a new group is found by the same mixture with all
    else fixed, coherent over components as in the fit: a group of few cells moves as a whole, or not at all. Columns of
    the reference, such as cell types, are transferred by the leaves of the tree.

    Parameters
    ----------
    adata
        The query: annotated data with log-normalised expression, normalised as the reference was.
    model
        The fitted model, from `return_model=True` or :meth:`scfcmi.model.FCMI.load`.
    sensitive_key
        Column of `obs` with the technology, batch or donor. For a model of several attributes as many columns, in the
        order of the fit; a combination of levels that it was not fitted with is a new group, of which only what the
        levels that are known do not explain has to be found. Numbers that the model was fitted with are read from the
        columns of the same name; where one is missing, cells count as typical.
    new_groups
        What to do with groups that the model was not fitted with: `"error"`, or `"fit"` to find their displacements.
    layer
        Layer with log-normalised expression instead of `X`.
    reference
        Annotated data that the model was fitted to, with what the run wrote, for `transfer`.
    reference_key
        Name under which that run wrote.
    transfer
        Column of `obs` of the reference with labels for the query, or several.
    key_added
        Name under which results are written.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `adata.obs[key_added]` : :class:`pandas.Series` (dtype `category`)
        Cluster labels; the same name is the same cluster as in the reference, whose clusters are all categories.
    `adata.obs[key_added + "_confidence"]` : :class:`pandas.Series` (dtype `float32`)
        Probability of the cell's cluster.
    `adata.obs[key_added + "_unlike"]` : :class:`pandas.Series` (dtype `bool`)
        Default preset: whether a cell is unlike anything in the reference, by its likelihood, so that its label should
        not be trusted. The test is coarse: a new type that resembles a known one goes unnoticed.
    `adata.obs[key_added + "_" + column]`, `adata.obs[key_added + "_" + column + "_confidence"]`
        For each column of `transfer`: the likeliest label (dtype `category`) and its probability (dtype `float32`).
    `adata.obsm["X_" + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Registered position, shape (n_cells, n_dims).
    `adata.obsm[key_added + "_proba"]` : :class:`numpy.ndarray` (dtype `float32`)
        p(cluster given cell), shape (n_cells, n_clusters), rows sum to one.
    `adata.obsm[key_added + "_leaves"]` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Default preset: p(leaf given cell), shape (n_cells, n_leaves).
    `adata.uns[key_added]` : :class:`dict`
        `params`, and `mapping`: number of genes matched and imputed, names and numbers of cells of new groups, the
        number of cells unlike the reference, and the columns transferred.

    Raises
    ------
    KeyError
        If a column or layer does not exist.
    TypeError
        If `adata`, `model` or `reference` is of another type.
    ValueError
        If groups are unknown, too few genes match, the model has no gene names or, for new groups, is the published
        network, or the reference is not what the model was fitted to.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=400, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> reference, query = adata[:300].copy(), adata[300:].copy()
    >>> model = sf.tl.fair_cluster(reference, "tech", 4, progress_bar=False, return_model=True)
    >>> sf.tl.map_query(query, model, sensitive_key="tech", reference=reference, transfer="cell_type")
    >>> query.obs["fair_cluster_cell_type"].cat.categories[:2].tolist()
    ['type0', 'type1']
    """
    check_adata(adata, copy=copy)
    check_model(model)
    if new_groups not in get_args(NewGroups):
        msg = f"new_groups={new_groups!r} is unknown: use one of {list(get_args(NewGroups))}."
        raise ValueError(msg)
    sensitive_keys = attribute_keys(sensitive_key)
    keys = Keys.checked(key_added, adata, obs=[*sensitive_keys, *model.continuous_names_], layers=[layer])
    columns = [] if transfer is None else [transfer] if isinstance(transfer, str) else [*transfer]
    labels = [_Labels.of(reference, column, reference_key, model) for column in columns]
    names = _group_names(adata, sensitive_keys, model)
    unknown = natural_order(set(names) - set(model.groups_.levels))
    _check_groups(unknown, new_groups, model, sensitive_key)
    values = None
    if model.continuous_names_ and set(model.continuous_names_) <= set(adata.obs.columns):
        values = obs_continuous(adata, list(model.continuous_names_), sensitive_keys).named(model.continuous_names_)
    places = _match_genes(adata, model)
    source = select_source(adata, layer=layer, mask_var=None, deferred=True)[0]
    source = source.restricted(places[places >= 0])
    levels = [*model.groups_.levels, *unknown]
    codes = pd.Index(levels, dtype=object).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
    with on_cpu_by_default():
        if isinstance(model.state_, Registered):
            source.settle()
            state = restricted(model.state_, places >= 0)
            for group in unknown:
                cells = np.flatnonzero(codes == levels.index(group))
                state = _learned(state, group, cells, names, source, values, model)
            found = _assigned(state, source, codes, values)
        else:
            found = _published(model, source, places)
    n_imputed = int((places < 0).sum())
    if n_imputed:
        what = "their mean in the reference is" if isinstance(model.state_, Registered) else "zeros are"
        warn(f"{n_imputed} of {len(places)} genes of the model are not in adata; {what} used.")

    target = writable(adata, copy=copy)
    drop_results(target, stale_results(keys, target.uns))
    every = pd.Index([str(k) for k in range(model.n_clusters_)])
    clusters = pd.Categorical.from_codes(found.labels, categories=every)
    write_assignment(target, keys, found, clusters)
    for column in labels:
        own, confidence = column.given(found)
        name, name_of_confidence = keys.transferred(column.name)
        target.obs[name] = pd.Series(own, index=target.obs_names)
        target.obs[name_of_confidence] = confidence
    params = {"sensitive_key": storable_keys(sensitive_key), "new_groups": new_groups, "n_clusters": model.n_clusters_}
    target.uns[keys.uns] = {
        "params": params | ({} if layer is None else {"layer": layer}),
        MAPPING: {
            "n_genes": len(places) - n_imputed,
            "n_genes_imputed": n_imputed,
            "new_groups": np.array(unknown, dtype=str),
            "n_new": np.array([int((names == group).sum()) for group in unknown], dtype=np.int64),
            "n_unlike": 0 if found.unlike is None else int(found.unlike.sum()),
            "transferred": np.array(columns, dtype=str),
        },
    }
    return target if copy else None


def _group_names(adata: AnnData, keys: list[str], model: FCMI) -> NDArray[np.object_]:
    """Name of each cell's group, as the model would call it."""
    factors = model.groups_.factors
    if len(keys) != len(factors):
        fitted = [factor.name for factor in factors]
        msg = f"sensitive_key={keys} names {len(keys)} columns, but the model was fitted with {len(fitted)}: {fitted}."
        raise ValueError(msg)
    columns = []
    for key, factor in zip(keys, factors, strict=True):
        column = obs_column(adata, key, "sensitive_key")
        n_missing = int(column.isna().sum())
        if n_missing:
            msg = f"sensitive_key={key!r} has {n_missing} missing values. Drop these cells, or name their group."
            raise ValueError(msg)
        columns.append(meet(level_names(column), factor.levels))
    return np.array([BETWEEN.join(levels) for levels in zip(*columns, strict=True)], dtype=object)


def _check_groups(unknown: list[str], new_groups: NewGroups, model: FCMI, sensitive_key: str | Sequence[str]) -> None:
    if unknown and new_groups == "error":
        msg = (
            f"sensitive_key={sensitive_key!r} has groups that the model was not fitted with: {unknown}; known are "
            f"{list(model.groups_.levels)}. Pass new_groups='fit' to find how they are displaced."
        )
        raise ValueError(msg)
    if unknown and not isinstance(model.state_, Registered):
        msg = (
            f"The groups {unknown} are new, but a model of preset={model.preset!r} keeps nothing that tells how they "
            "are displaced."
        )
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


def _learned(
    state: Registered,
    group: str,
    cells: NDArray[np.int64],
    names: NDArray[np.object_],
    source: MatrixSource,
    values: NDArray[np.float64] | None,
    model: FCMI,
) -> Registered:
    """The fit with a new group."""
    parts = group.split(BETWEEN) if len(model.groups_.factors) > 1 else [group]
    levels = [
        factor.levels.index(part) if part in factor.levels else -1
        for factor, part in zip(model.groups_.factors, parts, strict=True)
    ]
    return with_new_group(
        state,
        np.array(levels),
        len(cells),
        lambda some: source.gather(cells[some]),
        None if values is None else lambda some: values[cells[some]],
        random_state=model.random_state,
    )


def _assigned(
    state: Registered, source: MatrixSource, codes: NDArray[np.int64], values: NDArray[np.float64] | None
) -> Assignment:
    parts = [
        state.assign(block, codes[rows], None if values is None else values[rows]) for rows, block in source.chunks()
    ]
    return Assignment.stacked(parts)


def _published(model: FCMI, source: MatrixSource, places: NDArray[np.int64]) -> Assignment:
    """Clusters by the published network, whose encoder is the same for all groups; genes that are missing are zero."""
    parts = []
    for _, block in source.chunks():
        full = np.zeros((block.shape[0], len(places)), np.float32)
        full[:, places >= 0] = dense(block)
        assert isinstance(model.state_, PublishedFit)
        parts.append(Assignment(*model.state_.assign(full)))
    return Assignment.stacked(parts)


class _Labels(NamedTuple):
    """A column of the reference, by leaf."""

    name: str
    levels: list[str]
    of_leaf: NDArray[np.float32]  # p(label | leaf), or p(label | cluster) with the published network

    @classmethod
    def of(cls, reference: AnnData | None, column: Any, key: str, model: FCMI) -> _Labels:
        if reference is None:
            msg = f"transfer={column!r} needs the data that the model was fitted to: pass reference."
            raise ValueError(msg)
        if not isinstance(reference, AnnData):
            msg = f"reference must be an AnnData, not {type(reference).__name__}."
            raise TypeError(msg)
        state = model.state_
        registered = isinstance(state, Registered)
        name = Keys(key).leaves if registered else Keys(key).proba
        n_known = state.tree.n_leaves if isinstance(state, Registered) else model.n_clusters_
        if name not in reference.obsm or reference.obsm[name].shape[1] != n_known:
            msg = (
                f"reference.obsm[{name!r}] with {n_known} columns is needed: pass the data that this model was fitted "
                "to, and the name of that run as reference_key."
            )
            raise ValueError(msg)
        known = obs_column(reference, column, "transfer").reset_index(drop=True)
        rows = np.flatnonzero(known.notna())
        names = level_names(known.iloc[rows])
        levels = natural_order(set(names))
        if not levels:
            msg = f"transfer={column!r} has no values in the reference."
            raise ValueError(msg)
        member = sp.csr_matrix(
            (np.ones(len(rows), np.float32), pd.Index(levels).get_indexer(pd.Index(names)), np.arange(len(rows) + 1)),
            shape=(len(rows), len(levels)),
        )
        table = np.asarray((sp.csr_matrix(reference.obsm[name])[rows].T @ member).todense())
        return cls(column, levels, table / np.maximum(table.sum(axis=1, keepdims=True), 1e-12))

    def given(self, found: Assignment) -> tuple[pd.Categorical[str], NDArray[np.float32]]:
        """The likeliest label of each cell, and its probability; none where no cell of the reference has one."""
        weight = found.proba if found.leaves is None else found.leaves
        proba = np.asarray(weight @ self.of_leaf, np.float32)
        best = proba.argmax(axis=1)
        confidence = proba[np.arange(len(proba)), best]
        return pd.Categorical.from_codes(
            np.where(confidence > 0, best, -1), categories=pd.Index(self.levels)
        ), confidence
