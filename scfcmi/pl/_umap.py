"""The map of cells, coloured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi.tl._umap import umap as compute_umap

from ._results import parameter
from ._style import (
    MISSING_COLOR,
    SMALL,
    as_categories,
    colors_of,
    despine,
    fit_legend,
    given_axes,
    legend_beside,
    legend_width,
    new_axes,
    shorten,
    should_return,
)

PANEL = 3.6
COLOR_BAR = 0.9


@dataclass(frozen=True)
class _Panel:
    """What one panel shows: numbers, or categories with colours and the names in the legend."""

    name: str
    values: pd.Series
    colors: dict
    kept: list
    names: list[str]
    on_data: bool = False

    @property
    def extra_width(self) -> float:
        if self.on_data:
            return 0.0
        return legend_width(self.names) if self.colors else COLOR_BAR


def umap(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    key: str = DEFAULT_KEY,
    ncols: int = 4,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
) -> Axes | list[Axes] | None:
    """UMAP of the learned embedding, one panel per column.

    Where the map is missing, it is computed with the defaults of :func:`scfcmi.tl.umap` and kept in
    `obsm["X_" + key + "_umap"]`; nothing else is written. Cells are drawn in random order, so that no group hides
    another. Colours in `uns[name + "_colors"]` are used where there are any; the others are safe for colour-blind
    readers, and repeat beyond 64 categories.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    color
        Columns of `obs` or genes, one panel each. When absent: the clusters, the sensitive attribute, and the labels
        if the run was given any.
    key
        Name of the run, its `key_added`.
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
        If the run, a column or a gene does not exist.
    ValueError
        If the number of axes does not match.

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
    panels = [_panel(adata, name, keys) for name in names]
    axes = given_axes(ax, len(panels))
    if keys.umap not in adata.obsm:
        compute_umap(adata, key)
    xy = np.asarray(adata.obsm[keys.umap])
    if axes is None:
        n_across, n_down = min(ncols, len(panels)), -(-len(panels) // ncols)
        across = [max(panel.extra_width for panel in panels[i::ncols]) for i in range(n_across)]
        axes = new_axes(len(panels), ncols=ncols, width=sum(across) + n_across * PANEL, height=n_down * (PANEL + 0.2))
    area = float(np.clip(40_000 / len(xy), 1.0, 25.0)) if size is None else size
    order = np.random.default_rng(0).permutation(len(xy))
    for one, panel in zip(axes, panels, strict=True):
        _draw(one, xy, panel, order, area)
    if not should_return(show=show, own_figure=ax is None):
        return None
    return axes[0] if len(axes) == 1 else axes


def _default_colors(adata: AnnData, keys: Keys) -> list[str]:
    wanted = [one for name in ("sensitive_key", "label_key") for one in parameter(adata, keys.key_added, name)]
    return [keys.labels, *(name for name in wanted if name in adata.obs)]


def _panel(adata: AnnData, name: str, keys: Keys) -> _Panel:
    values = _values(adata, name, keys)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return _Panel(name, values, {}, [], [])
    values = as_categories(values)
    colors = colors_of(adata, name, list(values.cat.categories))
    values = values.cat.remove_unused_categories()
    categories = list(values.cat.categories)
    sizes = values.value_counts().reindex(categories)
    kept, more = fit_legend([str(category) for category in categories], sizes.tolist())
    shown = [shorten(categories[i]) for i in kept]
    if more:
        shown.append(more)
    if values.isna().any():
        shown.append("missing")
    return _Panel(name, values, colors, [categories[i] for i in kept], shown, on_data=name == keys.labels)


def _values(adata: AnnData, name: str, keys: Keys) -> pd.Series:
    if name in adata.obs:
        return adata.obs[name]
    if name in adata.var_names:
        return sc.get.obs_df(adata, keys=[name])[name]
    msg = f"{name!r} is neither a column of adata.obs nor a gene of adata.var_names."
    if name == keys.labels:
        msg += f" Run `scfcmi.tl.fair_cluster(adata, ..., key_added={name!r})` first."
    raise KeyError(msg)


def _draw(ax: Axes, xy: NDArray, panel: _Panel, order: NDArray[np.int64], area: float) -> None:
    style: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": True}
    x, y = xy[:, 0], xy[:, 1]
    missing = panel.values.isna().to_numpy()
    behind, front = order[missing[order]], order[~missing[order]]
    ax.scatter(x[behind], y[behind], color=MISSING_COLOR, **style)
    if panel.colors:
        palette = np.array([panel.colors[category] for category in panel.values.cat.categories], dtype=object)
        codes = panel.values.cat.codes.to_numpy()
        ax.scatter(x[front], y[front], c=palette[codes[front]].tolist(), **style)
        if panel.on_data:
            _name_clusters(ax, xy, panel)
        else:
            _legend(ax, panel)
    else:
        points = ax.scatter(x[front], y[front], c=panel.values.to_numpy(float)[front], cmap="viridis", **style)
        if len(front):
            ax.figure.colorbar(points, ax=ax, shrink=0.6, pad=0.02)
    ax.set(title=panel.name, xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    ax.set_box_aspect(1)
    despine(ax)


def _name_clusters(ax: Axes, xy: NDArray, panel: _Panel) -> None:
    """Write each cluster's name on the cell nearest to its median, which lies inside even when the median does not."""
    categories = panel.values.cat.categories
    fontsize = SMALL + 1 if len(categories) <= 20 else SMALL - 1.5
    for category in categories:
        own = xy[(panel.values == category).to_numpy()]
        x, y = own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]
        outline = [withStroke(linewidth=2, foreground="white")]
        ax.text(
            x, y, shorten(category), ha="center", va="center", fontsize=fontsize, weight="bold", path_effects=outline
        )


def _legend(ax: Axes, panel: _Panel) -> None:
    colors = [panel.colors[category] for category in panel.kept]
    colors += ["none" if name.startswith("…") else MISSING_COLOR for name in panel.names[len(colors) :]]
    handles = [Line2D([], [], marker="o", linestyle="", markersize=5, markeredgewidth=0, color=c) for c in colors]
    legend_beside(ax, handles, panel.names)
