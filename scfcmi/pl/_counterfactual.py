"""Cells as every group would have measured them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from natsort import natsorted
from numpy.typing import NDArray

from scfcmi._adata import check_adata, model_embedding, obs_column, obs_groups
from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi.model import FCMI
from scfcmi.source import as_source, dense

from ._layout import finish, panels
from ._results import parameter
from ._style import SMALL, display_names, given_axes, inches, ink, plain, row_fontsize, with_labels

# Columns that a page has room for.
MAX_GROUPS = 6
# Inches of a row and of a column with its name, and sizes beyond which names are left out.
ROW, GENE, MAX_HEIGHT, MAX_WIDTH = 0.17, 0.14, 24.0, 6.0


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
    cmap: str | Colormap | None = None,
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
        Colour map; one that starts at zero, or diverges from it, when absent.
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
    >>> model = sf.tl.fair_cluster(adata, "tech", 4, progress_bar=False, return_model=True)
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

    clusters = np.asarray(obs_column(adata, keys.labels, "key").astype(str), dtype=str)[rows]
    width, height = min(max(GENE * len(columns), 1.2), MAX_WIDTH), min(max(ROW * len(rows), 0.8), MAX_HEIGHT)
    if axes is None:
        axes = panels([(width, height)] * len(blocks))
    low, high = float(blocks.min()), float(blocks.max())
    diverging = standard_scale is None and float(measured.min()) < 0
    limits = (-max(-low, high), max(-low, high)) if diverging else (0.0, max(high, 1e-12))
    cut = standard_scale is None and not diverging and low < -1e-6
    titles = ["measured", *(f"as {name}" for name in display_names(shown, characters=max(12, round(width / 0.09))))]
    for axis, block, title in zip(axes, blocks, titles, strict=True):
        image = axis.imshow(
            block,
            aspect="auto",
            cmap=cmap or ("RdBu_r" if diverging else "viridis"),
            interpolation="nearest",
            vmin=limits[0],
            vmax=limits[1],
        )
        axis.set_title(plain(title), fontsize=10)
        _gene_names(axis, wanted)
        axis.set_yticks([])
        for row in np.flatnonzero(clusters[1:] != clusters[:-1]):
            axis.axhline(row + 0.5, color=ink(), lw=1.2)
    _cell_names(axes[0], clusters, own[rows], key)
    last = axes[-1]
    wide = inches(last)[0]
    bar = last.figure.colorbar(
        image, cax=last.inset_axes((1 + 0.1 / wide, 0.0, 0.12 / wide, 1.0)), extend="min" if cut else "neither"
    )
    bar.set_label("from lowest to highest" if standard_scale else "expression", fontsize=SMALL + 1)
    bar.ax.tick_params(labelsize=SMALL)
    return list(axes) if finish(axes, ax, show=show, ncols=len(axes)) else None


def _gene_names(ax: Axes, names: Sequence[str]) -> None:
    """Names of the genes, or of none where they would touch."""
    points = 72 * ax.get_window_extent().width / ax.figure.dpi / len(names)
    fontsize = min(SMALL, points / 1.15)
    ticks = range(len(names)) if fontsize >= 5 else []
    ax.set_xticks(ticks, [plain(names[i]) for i in ticks], rotation=90, fontsize=fontsize)
    ax.tick_params(axis="x", length=0)


def _cell_names(ax: Axes, clusters: NDArray[np.str_], groups: NDArray[np.str_], key: str) -> None:
    """Group of every row, and beyond it the cluster of each block of rows."""
    fontsize = row_fontsize(ax, len(groups))
    labels = dict(zip(natsorted(set(groups)), display_names(natsorted(set(groups)), lines=1), strict=True))
    if fontsize >= 4:
        ax.set_yticks(range(len(groups)), [plain(labels[group]) for group in groups], fontsize=fontsize)
    ax.tick_params(axis="y", length=0)
    edges = np.flatnonzero(clusters[1:] != clusters[:-1]) + 0.5
    starts, ends = np.concatenate([[-0.5], edges]), np.concatenate([edges, [len(clusters) - 0.5]])
    names = dict(zip(natsorted(set(clusters)), display_names(natsorted(set(clusters))), strict=True))
    box, full = ax.get_window_extent(), with_labels(ax)
    left = (full.x0 - box.x0) / box.width - 0.06 / (box.width / ax.figure.dpi)
    for start, end in zip(starts, ends, strict=True):
        name = names[clusters[round((start + end) / 2)]]
        size = min(SMALL + 1, max(fontsize * (end - start) / (name.count("\n") + 1), 1.0))
        place = ax.get_yaxis_transform()
        ax.plot([left, left], [start + 0.1, end - 0.1], color=ink(0.6), lw=1.2, transform=place, clip_on=False)
        ax.text(
            left - 0.02,
            (start + end) / 2,
            plain(name),
            transform=place,
            ha="right",
            va="center",
            fontsize=size,
            weight="bold",
        )
    ax.set_ylim(len(clusters) - 0.5, -0.5)
    ax.set_xlim(*ax.get_xlim())
    # The name of the column, above the names in it.
    ax.annotate(
        plain(f"{key},\nby group"),
        (left, 1.0),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=SMALL,
        color=ink(0.6),
    )


def _own_groups(adata: AnnData, key: str) -> NDArray[np.str_]:
    """Name of each cell's group."""
    names = parameter(adata, key, "sensitive_key")
    if not names:
        msg = f"adata.uns[{key!r}] does not say which column holds the groups. Run `scfcmi.tl.fair_cluster` first."
        raise KeyError(msg)
    return np.asarray(obs_groups(adata, names).values)


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
    for cluster in natsorted(set(clusters)):
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
    block = dense(as_source(adata.X if layer is None else adata.layers[layer]).rows(rows[order]))[:, columns]
    return block[np.argsort(order)]


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
