"""Which groups the cells of each cluster come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY
from scfcmi.metrics import cluster_composition

from ._layout import finish, panels
from ._results import column, sensitive
from ._style import (
    ROW_CHARACTERS,
    ROW_LINES,
    SMALL,
    colors_of,
    despine,
    display_names,
    given_axes,
    inches,
    ink,
    legend_beside,
    plain,
    row_fontsize,
    thousands,
    wrap,
)

# More groups than this cannot be told apart by colour, and are columns of a heat map.
MAX_COLORS = 20
GUIDE_LINES = 5
BAR, GAP, ROW, COLUMN, WIDTH = 0.82, 0.6, 0.22, 0.17, 3.2
# Ends of the heat map: an eighth and eight times of what the whole data have, in powers of two.
FOLD = 3.0
MAX_LISTED = 3


def composition(
    adata: AnnData,
    cluster_key: str = DEFAULT_KEY,
    sensitive_key: str | Sequence[str] | None = None,
    *,
    kind: Literal["bars", "heatmap"] | None = None,
    palette: Any = None,
    cmap: str = "RdBu_r",
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Group shares of every cluster beside those of all cells.

    The cluster whose group entropy is lowest, and that so sets MNCE, is outlined; several are if they tie. Where it
    holds a cell type that only some groups have, this is biology and no lack of correction. More than 20 groups are
    shown as a heat map of how much more or less frequent each is in a cluster than in all cells. Cells without a
    cluster or group are left out.

    Parameters
    ----------
    adata
        Annotated data.
    cluster_key
        Column of `obs` with the clusters, of any method.
    sensitive_key
        Column of `obs` with the technology, batch or donor; that of the run when absent. Of several, the combinations
        of levels are shown.
    kind
        `"bars"` or `"heatmap"`; chosen from the number of groups when absent.
    palette
        Colours of the groups: a list, tuple or array, the name of a colour map, a cycler, or a dictionary.
    cmap
        Colour map of the heat map.
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
        If the sensitive attribute is not known, or has a single group, or `kind` or `palette` does not fit.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"leiden": list("001122"), "tech": list("abaabb")}, index=list("uvwxyz"))
    >>> ax = sf.pl.composition(ad.AnnData(obs=obs), "leiden", "tech", show=False)
    >>> ax.get_title()
    'MNCE 0.00, set by clusters 1, 2'
    """
    if kind not in (None, "bars", "heatmap"):
        msg = f"kind={kind!r} must be 'bars', 'heatmap' or None."
        raise ValueError(msg)
    clusters = column(adata, cluster_key, "cluster_key")
    name, groups = sensitive(adata, cluster_key, sensitive_key)
    complete = (clusters.notna() & groups.notna()).to_numpy()
    if not complete.any():
        msg = f"No cell has both {cluster_key!r} and {name!r}."
        raise ValueError(msg)
    kept = groups[complete].cat.remove_unused_categories()
    levels = list(kept.cat.categories)
    if len(levels) < 2:
        msg = f"sensitive_key={name!r} has a single value, {str(levels[0])!r}: there is no mix of groups to show."
        raise ValueError(msg)
    every = list(groups.cat.categories)
    colors = colors_of(adata, name, every, kind="group", palette=palette)
    # By number: groups may be called like the other columns of the table.
    table = cluster_composition(clusters[complete], kept.cat.codes.to_numpy())
    ratio = table["entropy_ratio"].to_numpy(float)
    lowest = np.flatnonzero(ratio <= ratio.min() + 1e-9)
    shares = table[list(range(len(levels)))].to_numpy(float)
    size = table["size"].to_numpy(float)
    shares = np.vstack([size @ shares / size.sum(), shares])
    own = given_axes(ax, 1)
    as_bars = kind == "bars" or (kind is None and len(levels) <= MAX_COLORS)
    rows = display_names(["all cells", *table.index], characters=ROW_CHARACTERS, lines=ROW_LINES)
    lines = max(row.count("\n") for row in rows) + 1
    width = WIDTH if as_bars else max(COLUMN * len(levels), 1.5)
    height = max((len(rows) + GAP) * ROW * (1 + 0.6 * (lines - 1)), 1.2)
    axis = own[0] if own else panels([(width, height)])[0]
    y = np.concatenate([[0.0], 1 + GAP + np.arange(len(table))])
    axis.set_ylim(y[-1] + 0.6, -0.6)
    names = display_names(levels)
    if as_bars:
        _bars(axis, y, shares, [colors[level] for level in levels])
        handles = [Patch(color=colors[level]) for level in levels]
        legend_beside(axis, handles, names, title=name, at=1.02 + 0.4 / inches(axis)[0])
    else:
        _heat(axis, y, shares, names, cmap)
    _rows(axis, y, rows, np.concatenate([[size.sum()], size]), lines)
    right = 1.0 if as_bars else len(levels) - 0.5
    left = 0.0 if as_bars else -0.5
    for k in lowest:
        place = (left, y[1 + k] - BAR / 2)
        box = Rectangle(place, right - left, BAR, fill=False, edgecolor=ink(), lw=1.8, clip_on=False, zorder=5)
        axis.add_patch(box)
        axis.get_yticklabels()[1 + k].set_fontweight("bold")
    title = _title(float(ratio.min()), [str(name) for name in table.index[lowest]], int((~complete).sum()))
    axis.set_title(plain(title), fontsize=11)
    axis.set_ylabel(plain(cluster_key))
    if as_bars:
        axis.set_xlabel(plain(f"share of {name}"))
    return axis if finish([axis], ax, show=show) else None


def _title(lowest: float, names: list[str], n_left_out: int) -> str:
    which = display_names(names[:MAX_LISTED], characters=120, lines=1)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    title = f"MNCE {lowest:.2f}, set by cluster{'s' if len(names) > 1 else ''} {', '.join(which)}{more}"
    return wrap(title, ROW_CHARACTERS) + (f"\n{n_left_out} cells without a value left out" if n_left_out else "")


def _bars(ax: Axes, y: NDArray[np.float64], shares: NDArray[np.float64], colors: list[str]) -> None:
    left = np.zeros(len(y))
    for share, color in zip(shares.T, colors, strict=True):
        ax.barh(y, share, BAR, left=left, color=color, linewidth=0)
        left += share
    if len(colors) <= GUIDE_LINES:
        for level in shares[0].cumsum()[:-1]:
            ax.vlines(level, y[0] - BAR / 2, y[-1] + BAR / 2, color=ink(), linestyle=(0, (4, 3)), lw=0.8)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.tick_params(axis="x", labelsize=SMALL)
    despine(ax)


def _heat(ax: Axes, y: NDArray[np.float64], shares: NDArray[np.float64], names: list[str], cmap: str) -> None:
    """How many times as frequent as in all cells; in the first row the frequency itself, in numbers."""
    with np.errstate(divide="ignore"):
        fold = np.log2(shares[1:] / shares[0])
    edges = np.arange(len(names) + 1) - 0.5
    norm = Normalize(-FOLD, FOLD)
    mesh = ax.pcolormesh(edges, np.append(y[1:], y[-1] + 1) - 0.5, fold.clip(-FOLD, FOLD), cmap=cmap, norm=norm)
    mesh.set_rasterized(True)
    top = shares[0] / shares[0].max() * BAR
    ax.bar(np.arange(len(names)), -top, 0.8, bottom=BAR / 2, color=ink(0.5), linewidth=0)
    ax.set_xlim(edges[0], edges[-1])
    fontsize = min(SMALL, 72 * inches(ax)[0] / len(names) / 1.2)
    ax.set_xticks(range(len(names)), [plain(name) for name in names], rotation=90, fontsize=fontsize)
    ax.tick_params(axis="x", length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1 + 0.5 / inches(ax)[0], 0.0, 0.12 / inches(ax)[0], 1.0)))
    bar.set_ticks([-3, -2, -1, 0, 1, 2, 3], labels=["⅛", "¼", "½", "1", "2", "4", "8"], fontsize=SMALL)
    bar.set_label("times as frequent as in all cells", fontsize=SMALL)
    bar.outline.set_visible(False)


def _rows(ax: Axes, y: NDArray[np.float64], rows: list[str], size: NDArray[np.float64], lines: int) -> None:
    """Name of every cluster on the left, and number of its cells on the right."""
    fontsize = row_fontsize(ax, len(rows) + 1, lines)
    ax.set_yticks(y, [plain(row) for row in rows], fontsize=fontsize)
    ax.tick_params(axis="y", length=0)
    place = ax.get_yaxis_transform()
    for at, count in zip(y, size, strict=True):
        ax.text(1.01, at, thousands(count), transform=place, va="center", fontsize=fontsize - 0.5, color=ink(0.6))
