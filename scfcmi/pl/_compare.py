"""Two clusterings of the same cells, side by side."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import adjusted_rand_score

from ._layout import finish, panels
from ._results import column
from ._style import (
    ROW_CHARACTERS,
    ROW_LINES,
    SMALL,
    colors_of,
    display_names,
    given_axes,
    ink,
    kind_of,
    plain,
    row_fontsize,
    text_size,
    thousands,
)

ROW, WIDTH = 0.2, 3.2
BLOCK, SPACE = 0.06, 0.012
# Smaller flows than this share of all cells would be hairlines.
THIN = 0.0005


def compare(
    adata: AnnData,
    key_a: str,
    key_b: str,
    *,
    kind: Literal["alluvial", "confusion"] = "alluvial",
    palette: Any = None,
    cmap: str = "Blues",
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Where the cells of each cluster are in another clustering, or among reference labels.

    As an alluvial plot, ribbons as wide as the number of cells run from the first to the second, whose clusters are
    ordered so that ribbons cross little; flows of less than 0.05 % of the cells are left out. As a confusion table,
    rows are the clusters of the first and say which share of their cells is in each of the second, matched ones along
    the diagonal. Cells without either are left out.

    Parameters
    ----------
    adata
        Annotated data.
    key_a
        Column of `obs` with the first clustering.
    key_b
        Column of `obs` with the second one.
    kind
        `"alluvial"` or `"confusion"`.
    palette
        Colours of the first clustering: a list, tuple or array, the name of a colour map, a cycler, or a dictionary.
    cmap
        Colour map of the confusion table.
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
        If no cell is in both clusterings, or `kind` or `palette` does not fit.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"leiden": list("001122"), "type": list("TTBBBK")}, index=list("uvwxyz"))
    >>> sf.pl.compare(ad.AnnData(obs=obs), "leiden", "type", show=False).get_title()
    'leiden and type: ARI 0.44'
    """
    if kind not in ("alluvial", "confusion"):
        msg = f"kind={kind!r} must be 'alluvial' or 'confusion'."
        raise ValueError(msg)
    first, second = column(adata, key_a, "key_a"), column(adata, key_b, "key_b")
    known = (first.notna() & second.notna()).to_numpy()
    if not known.any():
        msg = f"No cell has both {key_a!r} and {key_b!r}."
        raise ValueError(msg)
    a, b = first.cat.codes.to_numpy()[known].astype(np.int64), second.cat.codes.to_numpy()[known].astype(np.int64)
    shape = len(first.cat.categories), len(second.cat.categories)
    counts = np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape)
    order = _order(counts)
    counts = counts[:, order]
    levels = list(first.cat.categories)
    colors = colors_of(adata, key_a, levels, kind=kind_of(adata, key_a, key_a), palette=palette)
    rows, columns = (
        display_names(names, characters=ROW_CHARACTERS, lines=ROW_LINES)
        for names in (levels, [second.cat.categories[i] for i in order])
    )
    own = given_axes(ax, 1)
    lines = max(name.count("\n") for name in [*rows, *columns]) + 1
    height = max(ROW * (1 + 0.6 * (lines - 1)) * (max(shape) if kind == "alluvial" else shape[0]), 1.6)
    width = WIDTH if kind == "alluvial" else max(ROW * shape[1], 1.6)
    axis = own[0] if own else panels([(width, height)])[0]
    if kind == "alluvial":
        _alluvial(axis, counts, [colors[level] for level in levels], rows, columns, lines)
        axis.text(0, 1.01, plain(key_a), transform=axis.transAxes, ha="left", va="bottom", fontsize=SMALL + 1)
        axis.text(1, 1.01, plain(key_b), transform=axis.transAxes, ha="right", va="bottom", fontsize=SMALL + 1)
    else:
        _confusion(axis, counts, rows, columns, lines, cmap)
        axis.set_xlabel(plain(key_b))
        axis.set_ylabel(plain(key_a))
    ari = float(adjusted_rand_score(a, b))
    left_out = f"\n{int((~known).sum())} cells without either left out" if not known.all() else ""
    title = plain(f"{key_a} and {key_b}: ARI {ari:.2f}{left_out}")
    axis.set_title(title, fontsize=11, pad=22 if kind == "alluvial" else 6)
    return axis if finish([axis], ax, show=show) else None


def _order(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns in the order of the rows that they go with: their best match, else where most of their cells are."""
    matched_rows, matched_columns = linear_sum_assignment(-counts)
    at = counts.argmax(axis=0).astype(float) + 0.5
    real = counts[matched_rows, matched_columns] > 0
    at[matched_columns[real]] = matched_rows[real]
    return np.argsort(at, kind="stable")


def _alluvial(
    ax: Axes, counts: NDArray[np.int64], colors: list[str], rows: list[str], columns: list[str], lines: int
) -> None:
    share = counts / counts.sum()
    sides = share.sum(axis=1), share.sum(axis=0)
    tops = [_tops(side) for side in sides]
    ax.set(xlim=(0, 1), ylim=(1, 0))
    ax.set_axis_off()
    at_a, at_b = tops[0].copy(), tops[1].copy()
    for i, j in np.argwhere(share > 0):
        wide = share[i, j] * _scale(sides[0]), share[i, j] * _scale(sides[1])
        if share[i, j] >= THIN:
            ax.add_patch(_ribbon(at_a[i], at_b[j], wide[0], wide[1], colors[i]))
        at_a[i] += wide[0]
        at_b[j] += wide[1]
    fontsize = row_fontsize(ax, max(counts.shape), lines)
    fills = colors, [ink(0.45)] * len(columns)
    for x, side, names, fill in zip((0.0, 1 - BLOCK), (0, 1), (rows, columns), fills, strict=True):
        tall = sides[side] * _scale(sides[side])
        middle = tops[side] + tall / 2
        box = ax.get_window_extent()
        apart = np.array([text_size(name, fontsize)[1] for name in names]) * ax.figure.dpi / box.height
        for top, height, centre, at, name, color, size in zip(
            tops[side], tall, middle, _spread(middle, apart), names, fill, sides[side] * counts.sum(), strict=True
        ):
            ax.add_patch(Rectangle((x, top), BLOCK, height, color=color, linewidth=0, zorder=3))
            edge, text = (0.0, -0.05) if side == 0 else (1.0, 1.05)
            ax.plot([edge, text * 0.9 + edge * 0.1], [centre, at], color=ink(0.4), lw=0.6, clip_on=False)
            words = f"{name}  {thousands(size)}"
            ax.text(text, at, plain(words), ha="right" if side == 0 else "left", va="center", fontsize=fontsize)


def _scale(side: NDArray[np.float64]) -> float:
    """What is left of the height when blocks have space between them."""
    return 1 - SPACE * (len(side) - 1) if len(side) < 0.5 / SPACE else 0.5


def _tops(side: NDArray[np.float64]) -> NDArray[np.float64]:
    space = (1 - _scale(side)) / max(len(side) - 1, 1)
    return np.concatenate([[0.0], np.cumsum(side * _scale(side) + space)[:-1]])


def _ribbon(a: float, b: float, wide_a: float, wide_b: float, color: str) -> PathPatch:
    left, right, middle = BLOCK, 1 - BLOCK, 0.5
    points = [(left, a), (middle, a), (middle, b), (right, b), (right, b + wide_b)]
    points += [(middle, b + wide_b), (middle, a + wide_a), (left, a + wide_a), (left, a)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    return PathPatch(Path(points, codes), facecolor=color, alpha=0.55, linewidth=0)


def _spread(middle: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights near the given ones, in order, so far apart that no text touches the next."""
    gaps = (apart[1:] + apart[:-1]) / 2
    offset = np.concatenate([[0.0], np.cumsum(gaps)])
    # Without the gaps the order alone is to be kept: the nearest such heights are the isotonic regression.
    return isotonic_regression(middle - offset) + offset


def _confusion(ax: Axes, counts: NDArray[np.int64], rows: list[str], columns: list[str], lines: int, cmap: str) -> None:
    share = counts / counts.sum(axis=1, keepdims=True)
    edges = np.arange(counts.shape[1] + 1) - 0.5, np.arange(counts.shape[0] + 1) - 0.5
    mesh = ax.pcolormesh(*edges, share, cmap=cmap, vmin=0, vmax=1, rasterized=True)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    box = ax.get_window_extent()
    fontsize = min(SMALL, 72 * box.width / ax.figure.dpi / len(columns) / 1.2)
    ax.set_xticks(range(len(columns)), [plain(name) for name in columns], rotation=90, fontsize=fontsize)
    ax.set_yticks(range(len(rows)), [plain(name) for name in rows], fontsize=row_fontsize(ax, len(rows), lines))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    wide = box.width / ax.figure.dpi
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1 + 0.1 / wide, 0.0, 0.12 / wide, 1.0)))
    bar.set_label("share of the row's cells", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
