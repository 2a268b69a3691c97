"""Clusters of one run, called like those of another."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.optimize import linear_sum_assignment

from scfcmi._adata import check_adata, drop_results, obs_column, writable
from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi._levels import level_names, natural_order


def match(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    reference_key: str | None = None,
    *,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | pd.DataFrame:
    """Name the clusters of one run after those of another, or after curated labels.

    Each cluster gets the name of the reference cluster that it corresponds to, one to one, so that as many cells as
    possible have the same name in both (the assignment problem). Clusters beyond that, of which there are some when
    there are more than in the reference, get the name of the one that most of their cells are in and a number that is
    free: `"T cell 2"` beside `"T cell"`. Which cells belong together does not change.

    Parameters
    ----------
    adata
        Annotated data with both columns.
    key
        Column of `obs` with the clusters to name.
    reference_key
        Column of `obs` with the names. Cells without a value do not count.
    key_added
        Column of `obs` for the renamed clusters; `key + "_matched"` when absent.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    One row per cluster: its `name`, the `reference` cluster, `n_cells`, the number of its cells that are in the
    reference cluster (`n_shared`), and their share of both together (`overlap`, Jaccard's index); or the copy if
    `copy=True`. Sets `adata.obs[key_added]` (dtype `category`).

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If a column has no values, clusters are missing, or `key_added` cannot be a name.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"new": list("001122"), "old": list("bbaacc")}, index=list("uvwxyz"))
    >>> adata = ad.AnnData(obs=obs)
    >>> frame = sf.tl.match(adata, "new", "old")
    >>> adata.obs["new_matched"].tolist()
    ['b', 'b', 'a', 'a', 'c', 'c']
    """
    check_adata(adata, copy=copy)
    if reference_key is None:
        msg = "reference_key must name the column of adata.obs whose names are to be used."
        raise ValueError(msg)
    clusters, reference = obs_column(adata, key, "key"), obs_column(adata, reference_key, "reference_key")
    if clusters.isna().any():
        msg = f"key={key!r} has {int(clusters.isna().sum())} missing values. Match the other cells alone."
        raise ValueError(msg)
    if reference.isna().all():
        msg = f"reference_key={reference_key!r} has no values."
        raise ValueError(msg)
    key_added = f"{key}_matched" if key_added is None else key_added
    keys = Keys.checked(key_added, adata, obs=[key, reference_key])
    own = pd.Series(level_names(clusters), name="cluster")
    known = reference.notna().to_numpy()
    other = pd.Series(level_names(reference[known]), index=np.flatnonzero(known), name="reference")
    table = pd.crosstab(own[known], other).reindex(natural_order(set(own)), fill_value=0)
    table = table[natural_order(table.columns)]
    rows, columns = linear_sum_assignment(table.to_numpy(), maximize=True)
    partner = table.to_numpy().argmax(axis=1)
    partner[rows] = columns
    shared = table.to_numpy()[np.arange(len(table)), partner]
    # A partner that no cell is shared with is none.
    one_to_one = np.isin(np.arange(len(table)), rows) & (shared > 0)
    partner = np.where(shared > 0, partner, table.to_numpy().argmax(axis=1))
    shared = table.to_numpy()[np.arange(len(table)), partner]
    names: dict[int, str] = {i: table.columns[partner[i]] for i in np.flatnonzero(one_to_one).tolist()}
    taken = {*names.values(), *table.columns}
    for i in np.flatnonzero(~one_to_one).tolist():
        base = table.columns[partner[i]] if shared[i] else str(table.index[i])
        names[i] = _free(base, taken)
        taken.add(names[i])
    sizes = own.value_counts().reindex(table.index).to_numpy()
    union = sizes + table.sum(axis=0).to_numpy()[partner] - shared
    name_of = {cluster: names[i] for i, cluster in enumerate(table.index)}
    frame = pd.DataFrame(
        {
            "name": [name_of[cluster] for cluster in table.index],
            "reference": np.where(shared > 0, table.columns[partner], ""),
            "n_cells": sizes,
            "n_shared": shared,
            "overlap": shared / union,
        },
        index=pd.Index(table.index, name=key),
    )
    target = writable(adata, copy=copy)
    if keys.labels in target.obs:
        drop_results(target, keys.of_a_cut)
    renamed = pd.Categorical(own.map(name_of), categories=natural_order(set(name_of.values())))
    target.obs[key_added] = pd.Series(renamed, index=target.obs_names)
    return target if copy else frame


def _free(base: str, taken: set[str]) -> str:
    """The name with the first number that makes it a new one; the name alone if that is new."""
    if base not in taken:
        return base
    number = 2
    while f"{base} {number}" in taken:
        number += 1
    return f"{base} {number}"
