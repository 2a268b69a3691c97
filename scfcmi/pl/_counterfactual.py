"""Cells as every group would have measured them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi.metrics._encode import natural_order
from scfcmi.model import FCMI
from scfcmi.source._matrix import dense
from scfcmi.tl._adata import check_adata, model_embedding, obs_column, obs_groups

from ._results import parameter
from ._style import SMALL, given_axes, new_axes, shorten, should_return

# Columns and rows that a page has room for, and genes whose names can be read.
MAX_GROUPS, MAX_CELLS, MAX_NAMED = 6, 60, 40


def counterfactual(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    model: FCMI,
    cells: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = 20,
    layer: str | None = None,
    standard_scale: Literal["var"] | None = None,
    cmap: str = "viridis",
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
) -> list[Axes] | None:
    """Heat maps of a few cells: as measured, and decoded through the branch of every group.

    Down a column, cells of different clusters should differ as they do in the measurement; along a row, a cell stays
    what it is, and only what a group adds to it changes. What decoding leaves out, :meth:`scfcmi.model.FCMI.decode`
    says.

    Parameters
    ----------
    adata
        Annotated data that :func:`scfcmi.tl.fair_cluster` or :func:`scfcmi.tl.map_query` wrote to.
    key
        Name of the run, its `key_added`.
    model
        The fitted model, from `return_model=True` or :meth:`scfcmi.model.FCMI.load`.
    cells
        Names of cells, the rows; when absent, for every cluster and group the one nearest the cluster's centre.
    groups
        Groups to decode to, the columns; when absent those with the most cells, at most 6.
    genes
        Genes to show; when absent those in which the decoded cells differ most.
    n_genes
        How many genes, if they are not named.
    layer
        Layer with the measured profiles; that of the run when absent.
    standard_scale
        `"var"` brings every gene to the range from 0 to 1, measured and decoded values together.
    cmap
        Colour map.
    ax
        One axes for the measured profiles and one for each group; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The axes, first that of the measured profiles; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If the run, a cell, a gene or a layer does not exist.
    TypeError
        If `model` is no fitted model.
    ValueError
        If a group is not one of the model, the model was fitted without gene names, or the number of axes does not fit.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> model = sf.tl.fair_cluster(adata, "tech", 4, max_epochs=5, progress_bar=False, return_model=True)
    >>> axes = sf.pl.counterfactual(adata, model=model, show=False)
    >>> [axis.get_title() for axis in axes]
    ['measured', 'as tech0', 'as tech1']
    """
    keys = Keys(key)
    check_adata(adata, copy=False)
    embedding = model_embedding(adata, keys, model)
    if model.feature_names_ is None:
        msg = "The model was fitted without gene names, so decoded profiles cannot be set beside measured ones."
        raise ValueError(msg)
    if standard_scale not in (None, "var"):
        msg = f"standard_scale={standard_scale!r} must be 'var' or None."
        raise ValueError(msg)
    own = _own_groups(adata, key)
    shown = _chosen_groups(model, groups, own)
    rows = (
        _named(adata.obs_names, cells, "cells") if cells is not None else _central(adata, keys, embedding, own, shown)
    )
    axes = given_axes(ax, 1 + len(shown))

    names = pd.Index(model.feature_names_)
    decoded = np.stack([model.decode(embedding[rows], group) for group in shown])
    if genes is None:
        known = np.flatnonzero(names.isin(adata.var_names))
        spread = decoded.var(axis=1).mean(axis=0)[known]
        columns = np.sort(known[np.argsort(-spread, kind="stable")[:n_genes]])
    else:
        columns = _named(names, genes, "genes")
    wanted = [str(name) for name in names[columns]]
    measured = _measured(adata, rows, _named(adata.var_names.astype(str), wanted, "genes"), layer, keys)
    blocks = np.concatenate([measured[None], decoded[:, :, columns]])
    if standard_scale == "var":
        low, high = blocks.min(axis=(0, 1)), blocks.max(axis=(0, 1))
        blocks = (blocks - low) / np.maximum(high - low, 1e-12)

    if axes is None:
        width = min(max(0.12 * len(columns), 1.5), 4.0)
        height = 1.4 + min(0.16 * len(rows), 9.0)
        axes = new_axes(len(blocks), ncols=len(blocks), width=1.8 + width * len(blocks), height=height)
    titles = ["measured", *(f"as {shorten(group)}" for group in shown)]
    for axis, block, title in zip(axes, blocks, titles, strict=True):
        image = axis.imshow(
            block, aspect="auto", cmap=cmap, interpolation="nearest", vmin=blocks.min(), vmax=blocks.max()
        )
        axis.set_title(title, fontsize=SMALL + 2)
        axis.set_yticks([])
        few = len(wanted) <= MAX_NAMED
        axis.set_xticks(range(len(wanted)) if few else [], wanted if few else [], rotation=90, fontsize=SMALL - 2)
    if len(rows) <= MAX_CELLS:
        clusters = obs_column(adata, keys.labels, "key").astype(str).to_numpy()
        labels = [shorten(f"{clusters[row]}, {own[row]}") for row in rows]
        axes[0].set_yticks(range(len(rows)), labels, fontsize=SMALL - 2)
    axes[0].set_ylabel(f"{key}, group")
    axes[-1].figure.colorbar(image, ax=axes[-1], label="scaled" if standard_scale else "expression")
    return axes if should_return(show=show, own_figure=ax is None) else None


def _own_groups(adata: AnnData, key: str) -> NDArray[np.str_]:
    """Name of each cell's group."""
    names = parameter(adata, key, "sensitive_key")
    if not names:
        msg = f"adata.uns[{key!r}] does not say which column holds the groups. Run `scfcmi.tl.fair_cluster` first."
        raise KeyError(msg)
    return obs_groups(adata, names).values


def _chosen_groups(model: FCMI, groups: Sequence[str] | None, own: NDArray[np.str_]) -> list[str]:
    levels = list(model.groups_.levels)
    if groups is None:
        size = {level: int((own == level).sum()) for level in levels}
        largest = sorted(levels, key=lambda level: -size[level])[:MAX_GROUPS]
        return [level for level in levels if level in largest]
    unknown = [group for group in groups if group not in levels]
    if unknown or not len(groups):
        msg = f"groups={list(groups)} must name groups of the model, {levels}; unknown are {unknown}."
        raise ValueError(msg)
    return list(groups)


def _central(
    adata: AnnData, keys: Keys, embedding: NDArray[np.float32], own: NDArray[np.str_], shown: Sequence[str]
) -> NDArray[np.int64]:
    """The cell of every cluster and group that is nearest the cluster's centre."""
    clusters = obs_column(adata, keys.labels, "key").astype(str).to_numpy()
    found = []
    for cluster in natural_order(set(clusters)):
        closeness = embedding @ embedding[clusters == cluster].mean(axis=0)
        for group in shown:
            members = np.flatnonzero((clusters == cluster) & (own == group))
            if len(members):
                found.append(members[closeness[members].argmax()])
    return np.array(found, np.int64)


def _measured(
    adata: AnnData, rows: NDArray[np.int64], columns: NDArray[np.int64], layer: str | None, keys: Keys
) -> NDArray[np.float32]:
    stored = parameter(adata, keys.key_added, "layer")
    layer = layer if layer is not None else (stored[0] if stored else None)
    if layer is not None and layer not in adata.layers:
        msg = f"layer={layer!r} is not a layer of adata; there are {list(adata.layers)}."
        raise KeyError(msg)
    # Rows in increasing order, which is what files can be read in.
    order = np.argsort(rows)
    block = dense((adata.X if layer is None else adata.layers[layer])[rows[order]])[:, columns]
    return block[np.argsort(order)].astype(np.float32)


def _named(index: pd.Index, names: Sequence[str], argument: str) -> NDArray[np.int64]:
    """Positions of names, all of which have to be there."""
    found = index.get_indexer(pd.Index(names))
    if not len(found) or (found < 0).any():
        missing = [name for name, place in zip(names, found, strict=True) if place < 0][:5]
        msg = (
            f"{argument} names none that are there." if not len(found) else f"{argument} has unknown names: {missing}."
        )
        raise KeyError(msg)
    return found.astype(np.int64)
