"""Which groups the cells of each cluster come from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from scfcmi._keys import DEFAULT_KEY
from scfcmi.metrics import cluster_composition

from ._results import parameter
from ._style import (
    OTHER_COLOR,
    SMALL,
    as_categories,
    colors_of,
    despine,
    given_axes,
    legend_beside,
    legend_width,
    new_axes,
    shorten,
    should_return,
)

MAX_GROUPS = 18
GUIDE_LINES = 5
BAR = 0.84
GAP = 1.6


def composition(
    adata: AnnData,
    cluster_key: str = DEFAULT_KEY,
    sensitive_key: str | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Group shares of every cluster beside those of all cells.

    The cluster whose group entropy is lowest, and that so sets MNCE, is outlined. Where it holds a cell type that
    only some groups have, this is biology and no lack of correction. Beyond 18 groups those with the largest share in
    any cluster have colours of their own, and the others are drawn as one. Cells without a cluster or group are left
    out.

    Parameters
    ----------
    adata
        Annotated data.
    cluster_key
        Column of `obs` with the clusters, of any method.
    sensitive_key
        Column of `obs` with the technology, batch or donor; that of the run when absent.
    ax
        Axes to draw in; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The axes; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If the sensitive attribute is not known, or has a single group.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"leiden": list("001122"), "tech": list("abaabb")}, index=list("uvwxyz"))
    >>> ax = sf.pl.composition(ad.AnnData(obs=obs), "leiden", "tech", show=False)
    >>> ax.get_title()
    'MNCE 0.00, set by cluster 1'
    """
    if sensitive_key is None:
        found = parameter(adata, cluster_key, "sensitive_key")
        if len(found) != 1:
            said = f"names several sensitive attributes, {found}" if found else "does not name a sensitive attribute"
            msg = f"adata.uns[{cluster_key!r}] {said}. Name a column with `sensitive_key`."
            raise ValueError(msg)
        sensitive_key = found[0]
    for argument, name in {"cluster_key": cluster_key, "sensitive_key": sensitive_key}.items():
        if name not in adata.obs:
            hint = " Run `scfcmi.tl.fair_cluster` first." if name == DEFAULT_KEY else ""
            listed = [str(column) for column in adata.obs.columns]
            msg = f"{argument}={name!r} is not a column of adata.obs; there are {listed}.{hint}"
            raise KeyError(msg)
    groups = as_categories(adata.obs[sensitive_key])
    clusters = as_categories(adata.obs[cluster_key])
    complete = (clusters.notna() & groups.notna()).to_numpy()
    if not complete.any():
        msg = f"No cell has both {cluster_key!r} and {sensitive_key!r}."
        raise ValueError(msg)
    colors = {str(g): c for g, c in colors_of(adata, sensitive_key, list(groups.cat.categories)).items()}
    table = cluster_composition(clusters[complete], groups[complete].cat.rename_categories(str))
    mnce = float(table["entropy_ratio"].min())
    lowest = int(table["entropy_ratio"].to_numpy().argmin())
    shares = table.drop(columns=["size", "entropy_ratio"])
    overall = shares.mul(table["size"], axis=0).sum() / table["size"].sum()
    overall.name = "all"
    shares, colors = _lump(pd.concat([overall.to_frame().T, shares]), colors)

    names = [shorten(name) for name in shares.columns]
    own = given_axes(ax, 1)
    width = 1.8 + 0.28 * (len(table) + GAP) + legend_width(names)
    axis = own[0] if own else new_axes(width=max(width, 4.0), height=3.8)[0]
    _bars(axis, shares, colors, lowest)
    title = f"MNCE {mnce:.2f}, set by cluster {shorten(table.index[lowest])}"
    if not complete.all():
        title += f"\n{int((~complete).sum())} cells without a value left out"
    axis.set_title(title, fontsize=SMALL + 3)
    axis.set(xlabel=cluster_key, ylabel=f"share of {sensitive_key}", ylim=(0, 1))
    handles = [Patch(color=colors[name]) for name in shares.columns]
    legend_beside(axis, handles[::-1], names[::-1])
    return axis if should_return(show=show, own_figure=ax is None) else None


def _lump(shares: pd.DataFrame, colors: dict[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Keep the groups that have the largest share in any row, and add up the others."""
    if shares.shape[1] <= MAX_GROUPS:
        return shares, colors
    largest = set(shares.max().nlargest(MAX_GROUPS - 1).index)
    kept = [name for name in shares.columns if name in largest]
    rest = [name for name in shares.columns if name not in largest]
    other = f"{len(rest)} others"
    lumped = shares[kept].copy()
    lumped[other] = shares[rest].sum(axis=1)
    return lumped, colors | {other: OTHER_COLOR}


def _bars(ax: Axes, shares: pd.DataFrame, colors: dict[str, str], lowest: int) -> None:
    """First row apart, the clusters after it; the one at position `lowest` is outlined."""
    x = np.concatenate([[0.0], GAP + np.arange(len(shares) - 1)])
    bottom = np.zeros(len(shares))
    for name in shares.columns:
        height = shares[name].to_numpy(float)
        ax.bar(x, height, BAR, bottom=bottom, color=colors[name], linewidth=0)
        bottom += height
    if shares.shape[1] <= GUIDE_LINES:
        for level in shares.iloc[0].cumsum().iloc[:-1]:
            ax.hlines(level, x[0] - BAR / 2, x[-1] + BAR / 2, color="black", linestyle=(0, (4, 3)), lw=0.8)
    marked = x[1 + lowest]
    outline = Rectangle((marked - BAR / 2, 0), BAR, 1, fill=False, edgecolor="black", lw=2, clip_on=False, zorder=5)
    ax.add_patch(outline)
    labels = [shorten(name) for name in shares.index]
    long = max(map(len, labels[1:])) > 3
    ax.set_xticks(x, labels, fontsize=SMALL if len(labels) <= 30 else SMALL - 1, rotation=90 if long else 0)
    ax.get_xticklabels()[1 + lowest].set_fontweight("bold")
    ax.set_xlim(x[0] - 0.8, x[-1] + 0.8)
    ax.tick_params(axis="x", length=0)
    despine(ax)
