"""The map of cells, coloured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi.tl import umap as compute_umap

from ._layout import finish, panels
from ._results import parameter
from ._style import (
    SMALL,
    as_categories,
    colors_of,
    despine,
    display_names,
    fit_legend,
    given_axes,
    ink,
    kind_of,
    legend_beside,
    paper,
    plain,
    text_size,
)

PANEL = 3.4
# From so many cells on a panel is an image with a cell in every pixel: as much as the eye sees of them, in a second.
MANY_CELLS = 150_000
PIXELS = 700
# Longer names than this are not written into the map unless that is asked for.
SHORT_NAME = 4
SMALLEST = 4.5


@dataclass(frozen=True)
class _Panel:
    """What one panel shows: numbers, or categories with their colours."""

    name: str
    title: str
    values: pd.Series
    colors: dict
    legend_loc: str | None
    rest: str = "missing"


@dataclass(frozen=True)
class _Look:
    """What all panels share."""

    area: float
    na_color: str
    cmap: str | mpl.colors.Colormap
    vmin: float | str | None
    vmax: float | str | None
    fontsize: float | None
    fontoutline: float


def umap(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    key: str = DEFAULT_KEY,
    groups: str | Sequence[str] | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    gene_symbols: str | None = None,
    palette: Any = None,
    cmap: str | mpl.colors.Colormap = "viridis",
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    na_color: str | None = None,
    legend_loc: str | None = "auto",
    legend_fontsize: float | None = None,
    legend_fontoutline: float = 2.0,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
) -> Axes | list[Axes] | None:
    """UMAP of the learned embedding, one panel per column.

    Where the map is missing, it is computed with the defaults of :func:`scfcmi.tl.umap` and kept in
    `obsm["X_" + key + "_umap"]`; nothing else is written. Cells are drawn in random order, so that no category hides
    another, and numbers from low to high. From 150,000 cells on a panel is one image in which a pixel shows one of its
    cells. Clusters, groups and other labels have palettes of their own, safe for colour-blind readers; colours in
    `uns[name + "_colors"]` are used instead where there are any.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    color
        Columns of `obs` or genes, one panel each. When absent: the clusters, the sensitive attribute, and the labels
        if the run was given any.
    key
        Name of the run, its `key_added`.
    groups
        Categories to show in colour; all others are drawn as missing values are.
    layer
        Layer with the expression of genes.
    use_raw
        Whether genes are read from `adata.raw`; when absent, if there is one and no layer is named, as scanpy does.
    gene_symbols
        Column of `var` with the names that `color` gives for genes.
    palette
        Colours of categories: a list, tuple or array of colours, the name of a colour map, a cycler, or a dictionary
        from category to colour. For several columns a dictionary from column to any of these.
    cmap
        Colour map of numbers.
    vmin
        Lower end of the colours of numbers, also as a percentile such as `"p1"`.
    vmax
        Upper end, alike.
    na_color
        Colour of missing values; a grey that fits the background when absent.
    legend_loc
        `"right margin"`, `"on data"`, `None` for no legend, or one of matplotlib's places; `"auto"` writes short names
        of clusters into the map and all others beside it.
    legend_fontsize
        Size of the names; chosen from their number when absent. Names in the map for which there is no room are left
        out, those of small clusters first.
    legend_fontoutline
        Width of the outline of names in the map.
    title
        Titles of the panels; their names when absent.
    ncols
        Panels per row.
    size
        Area of a point; chosen from the number of cells when absent.
    ax
        As many axes as there are panels; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The axes, a list if there are several panels; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If the run, a column, a gene or a layer does not exist.
    ValueError
        If the number of axes or titles does not match, a category in `groups` does not exist, or `palette` does not
        fit.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, scfcmi as sf
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"fair_cluster": ["0", "1"] * 30, "tech": list("aabb") * 15}, index=map(str, range(60)))
    >>> adata = ad.AnnData(obs=obs, obsm={"X_fair_cluster_umap": rng.normal(size=(60, 2))})
    >>> axes = sf.pl.umap(adata, ["fair_cluster", "tech"], show=False)
    >>> [ax.get_title() for ax in axes]
    ['fair_cluster', 'tech']
    """
    keys = Keys(key)
    names = _default_colors(adata, keys) if color is None else [color] if isinstance(color, str) else list(color)
    if not names:
        msg = "color is empty. Name columns of adata.obs, or leave it out."
        raise ValueError(msg)
    if ncols < 1:
        msg = f"ncols={ncols} must be at least 1."
        raise ValueError(msg)
    titles = names if title is None else [title] if isinstance(title, str) else list(title)
    if len(titles) != len(names):
        msg = f"title has {len(titles)} entries, but there are {len(names)} panels."
        raise ValueError(msg)
    wanted = None if groups is None else [groups] if isinstance(groups, str) else list(groups)
    shown = []
    for name, words in zip(names, titles, strict=True):
        values = _values(adata, name, keys, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols)
        shown.append(_panel(adata, name, words, values, keys, palette, wanted, legend_loc))
    for end in (vmin, vmax):
        _end(end, np.zeros(1), 0.0)  # refused before there is a figure
    if adata.n_obs == 0:
        msg = "adata has no cells: there is nothing to draw."
        raise ValueError(msg)
    own = given_axes(ax, len(shown))
    if keys.umap not in adata.obsm:
        compute_umap(adata, key)
    xy = map_of(adata, keys)
    axes = panels([(PANEL, PANEL)] * len(shown)) if own is None else own
    look = _Look(
        area=float(np.clip(40_000 / len(xy), 1.0, 25.0)) if size is None else size,
        na_color=ink(0.17) if na_color is None else na_color,
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
        fontsize=legend_fontsize,
        fontoutline=legend_fontoutline,
    )
    order = np.random.default_rng(0).permutation(len(xy))
    for one, panel in zip(axes, shown, strict=True):
        _draw(one, xy, panel, order, look)
    if not finish(axes, ax, show=show, ncols=min(ncols, len(axes))):
        return None
    return axes[0] if len(axes) == 1 else axes


def map_of(adata: AnnData, keys: Keys) -> NDArray[np.floating]:
    """The coordinates of a run's map, two finite numbers for every cell."""
    xy = np.asarray(adata.obsm[keys.umap])
    if xy.ndim != 2 or xy.shape[1] < 2 or xy.dtype.kind not in "fiu" or not np.isfinite(xy[:, :2]).all():
        msg = (
            f"adata.obsm[{keys.umap!r}] with shape {xy.shape} is no map of two finite numbers per cell. "
            f"Delete it, or run `scfcmi.tl.umap(adata, {keys.key_added!r})` again."
        )
        raise ValueError(msg)
    return xy[:, :2]


# what is shown ------------------------------------------------------------------------------------------------------


def _default_colors(adata: AnnData, keys: Keys) -> list[str]:
    wanted = [one for name in ("sensitive_key", "label_key") for one in parameter(adata, keys.key_added, name)]
    return [keys.labels, *(name for name in dict.fromkeys(wanted) if name in adata.obs)]


def _values(
    adata: AnnData, name: str, keys: Keys, *, layer: str | None, use_raw: bool | None, gene_symbols: str | None
) -> pd.Series:
    if name in adata.obs:
        values = adata.obs[name]
        return values if isinstance(values, pd.Series) else values.to_series()
    if use_raw and adata.raw is None:
        msg = "use_raw=True, but adata.raw is empty. Leave use_raw out, or name a layer."
        raise ValueError(msg)
    if use_raw and layer is not None:
        msg = f"use_raw=True and layer={layer!r} exclude each other. Give one of them."
        raise ValueError(msg)
    if layer is not None and layer not in adata.layers:
        msg = f"layer={layer!r} is not a layer of adata; there are {list(adata.layers)}."
        raise KeyError(msg)
    in_raw = (adata.raw is not None and layer is None) if use_raw is None else use_raw
    # Scanpy reads from .raw where there is one; a gene that is in `var` alone is shown all the same.
    for flag in dict.fromkeys([in_raw, False] if use_raw is None else [in_raw]):
        known = _genes(adata, gene_symbols, raw=flag)
        if known is not None and name in known:
            if not isinstance(adata.obs, pd.DataFrame):  # scanpy does not know lazy data: the gene alone is read
                adata = adata[:, (known == name) & (not flag)].to_memory()
            return sc.get.obs_df(adata, keys=[name], layer=layer, gene_symbols=gene_symbols, use_raw=flag)[name]
    place = f"adata.var[{gene_symbols!r}]" if gene_symbols else "adata.var_names"
    if in_raw:
        place += " or those of adata.raw" if use_raw is None else " of adata.raw"
    msg = f"{name!r} is neither a column of adata.obs nor a gene of {place}."
    if name == keys.labels:
        msg += f" Run `scfcmi.tl.fair_cluster(adata, ..., key_added={name!r})` first."
    raise KeyError(msg)


def _genes(adata: AnnData, gene_symbols: str | None, *, raw: bool) -> pd.Index | None:
    var = adata.raw.var if raw else adata.var
    if gene_symbols is None:
        return var.index
    return pd.Index(var[gene_symbols]) if gene_symbols in var else None


def _panel(
    adata: AnnData,
    name: str,
    title: str,
    values: pd.Series,
    keys: Keys,
    palette: Any,
    groups: list | None,
    legend_loc: str | None,
) -> _Panel:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return _Panel(name, title, values, {}, None)
    values = as_categories(values)
    if isinstance(palette, Mapping) and name in palette and not mpl.colors.is_color_like(palette[name]):
        palette = palette[name]
    elif isinstance(palette, Mapping) and any(not mpl.colors.is_color_like(one) for one in palette.values()):
        palette = None  # palettes for other columns
    kind = kind_of(adata, name, keys.key_added)
    colors = colors_of(adata, name, list(values.cat.categories), kind=kind, palette=palette)
    if groups is not None:
        unknown = [one for one in groups if str(one) not in map(str, values.cat.categories)]
        if unknown:
            msg = f"groups names {unknown}, which {name!r} does not have; there are {list(values.cat.categories)}."
            raise ValueError(msg)
        chosen = {str(one) for one in groups}
        values = values.cat.set_categories([one for one in values.cat.categories if str(one) in chosen])
    values = values.cat.remove_unused_categories()
    if legend_loc == "auto":
        short = all(len(str(one)) <= SHORT_NAME for one in values.cat.categories)
        legend_loc = "on data" if kind == "cluster" and short else "right margin"
    return _Panel(name, title, values, colors, legend_loc, "missing" if groups is None else "others")


# drawing ------------------------------------------------------------------------------------------------------------


def _draw(ax: Axes, xy: NDArray, panel: _Panel, order: NDArray[np.int64], look: _Look) -> None:
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = 0.04 * np.maximum(high - low, 1e-9)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    if panel.colors:
        codes = panel.values.cat.codes.to_numpy()
        table = [panel.colors[category] for category in panel.values.cat.categories]
        colors = np.array([to_rgba(color) for color in [*table, look.na_color]])[codes]
        _points(ax, xy, colors, np.concatenate([order[codes[order] < 0], order[codes[order] >= 0]]), look.area)
        if panel.legend_loc == "on data":
            _name_clusters(ax, xy, panel, look.fontsize, look.fontoutline)
        elif panel.legend_loc is not None:
            _legend(ax, panel, look)
    else:
        values = panel.values.to_numpy(float, na_value=np.nan)
        known = np.isfinite(values)
        norm = Normalize(_end(look.vmin, values[known], 0.0), _end(look.vmax, values[known], 100.0))
        mapped = mpl.cm.ScalarMappable(norm, look.cmap)
        colors = np.where(known[:, None], mapped.to_rgba(np.where(known, values, 0.0)), to_rgba(look.na_color))
        rank = np.argsort(np.where(known, values, -np.inf)[order], kind="stable")
        _points(ax, xy, colors, order[rank], look.area)
        if known.any():
            bar = ax.figure.colorbar(mapped, cax=ax.inset_axes((1.03, 0.0, 0.045, 1.0)))
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=SMALL)
    ax.set_title(plain(panel.title))
    ax.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    ax.set_box_aspect(1)
    despine(ax)


def _end(given: float | str | None, values: NDArray[np.float64], percent: float) -> float | None:
    """An end of the colours: a number, a percentile such as `"p99"`, or that of the values."""
    if given is None or isinstance(given, int | float | np.number):
        return float(given) if given is not None else float(np.percentile(values, percent)) if len(values) else None
    try:
        asked = float(str(given).removeprefix("p"))
        return float(np.percentile(values, asked)) if len(values) else None
    except ValueError as error:
        msg = f"vmin and vmax must be numbers or percentiles such as 'p99', not {given!r}."
        raise ValueError(msg) from error


def _points(ax: Axes, xy: NDArray, colors: NDArray[np.float64], order: NDArray[np.int64], area: float) -> None:
    """Points in the given order, or for very many cells an image; both stay pixels in vector files."""
    if len(xy) < MANY_CELLS:
        ax.scatter(xy[order, 0], xy[order, 1], c=colors[order], s=area, linewidths=0, rasterized=True)
        return
    ax.add_image(_image(ax, xy, colors, order))


def _image(ax: Axes, xy: NDArray, colors: NDArray[np.float64], order: NDArray[np.int64]) -> AxesImage:
    """Every cell fills a small square of pixels, the last one of `order` on top."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    column_ = ((xy[:, 0] - left) / (right - left) * PIXELS).astype(np.int64).clip(0, PIXELS - 2)
    row = ((xy[:, 1] - bottom) / (top - bottom) * PIXELS).astype(np.int64).clip(0, PIXELS - 2)
    pixels = np.zeros((PIXELS * PIXELS, 4), np.uint8)
    drawn = (255 * colors[order]).astype(np.uint8)
    place = (row * PIXELS + column_)[order]
    for shift in (PIXELS + 1, PIXELS, 1, 0):
        pixels[place + shift] = drawn  # of several cells for one pixel numpy keeps the last
    image = AxesImage(ax, extent=(left, right, bottom, top), origin="lower", interpolation="nearest")
    image.set_data(pixels.reshape(PIXELS, PIXELS, 4))
    image.set_clip_path(ax.patch)
    return image


def _name_clusters(ax: Axes, xy: NDArray, panel: _Panel, fontsize: float | None, outline: float) -> None:
    """Write each name near the middle of its cells, the largest first and none on another.

    Names become smaller until all have room; those for which even that does not suffice are left out.
    """
    codes, categories = panel.values.cat.codes.to_numpy(), list(panel.values.cat.categories)
    size = fontsize or float(np.clip(11 - 0.07 * len(categories), 6.0, 10.0))
    names = display_names(categories, characters=16)
    box = ax.get_window_extent()
    panel_size = np.array([box.width, box.height]) / ax.figure.dpi
    low, high = (np.array(ends) for ends in zip(ax.get_xlim(), ax.get_ylim(), strict=True))
    by_size = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(categories)), kind="stable")
    scale = panel_size / (high - low)
    where = [(xy[codes == k] - low) * scale for k in by_size]
    start = np.array([_middle(own) for own in where])
    extent = np.array([np.ptp(np.quantile(own, [0.1, 0.9], axis=0), axis=0) for own in where]) + 0.04
    while True:
        room = np.array([text_size(names[k], size, "bold") for k in by_size]) + 0.03
        places = _apart(start, room, extent, panel_size)
        if fontsize is not None or size <= SMALLEST or np.isfinite(places).all():
            break
        size = max(0.85 * size, SMALLEST)
    stroke = [withStroke(linewidth=outline, foreground=paper())]
    for k, middle, place, half in zip(by_size, start, places, room / 2, strict=True):
        if np.isnan(place).any():
            continue
        (x, y), (from_x, from_y) = low + place / scale, low + middle / scale
        if (np.abs(place - middle) > half).any():  # the middle can be seen beside the name
            ax.plot([from_x, x], [from_y, y], color=ink(0.6), lw=0.7, solid_capstyle="round", zorder=4)
        ax.text(
            x,
            y,
            plain(names[k]),
            ha="center",
            va="center",
            fontsize=size,
            weight="bold",
            path_effects=stroke,
            linespacing=1.0,
            zorder=5,
        )


def _middle(own: NDArray) -> NDArray:
    """The cell nearest to the median, which lies inside even when the median does not."""
    return own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]


def _apart(start: NDArray, room: NDArray, extent: NDArray, panel: NDArray) -> NDArray:
    """Places for boxes, in inches: each as near to its start as the edges of the panel and those before it leave room.

    What is smaller than its box would be hidden, and has its box beside it. NaN where there is no room at all.
    """
    turns = np.arange(2500)
    spiral = 0.04 * np.sqrt(turns)[:, None] * np.stack([np.cos(2.4 * turns), np.sin(2.4 * turns)], axis=1)
    small = (extent < room).all(axis=1)
    taken, sizes = start[small], extent[small]
    placed = np.zeros_like(start)
    for i in range(len(start)):
        half = room[i] / 2
        tries = np.clip(start[i] + spiral, half, np.maximum(panel - half, half))
        free = ~(np.abs(tries[:, None] - taken[None]) < (room[i] + sizes) / 2).all(axis=2).any(axis=1)
        placed[i] = tries[int(free.argmax())] if free.any() else np.nan
        taken, sizes = np.vstack([taken, placed[i]]), np.vstack([sizes, room[i]])
    return placed


def _legend(ax: Axes, panel: _Panel, look: _Look) -> None:
    categories = list(panel.values.cat.categories)
    sizes = panel.values.value_counts().reindex(categories)
    kept, more = fit_legend([str(category) for category in categories], sizes.tolist())
    every = display_names(categories)
    names, colors = [every[i] for i in kept], [panel.colors[categories[i]] for i in kept]
    if more:
        names.append(more)
        colors.append("none")
    if panel.values.isna().any():
        names.append(panel.rest if panel.rest not in names else f"({panel.rest})")
        colors.append(look.na_color)
    handles = [Line2D([], [], marker="o", linestyle="", markersize=5.5, markeredgewidth=0, color=c) for c in colors]
    place = None if panel.legend_loc == "right margin" else panel.legend_loc
    legend_beside(ax, handles, names, loc=place, fontsize=look.fontsize or SMALL)
