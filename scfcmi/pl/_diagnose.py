"""Where mixing is supported, forced, split or absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys

from ._style import MISSING_COLOR, SMALL, given_axes, legend_beside, legend_width, new_axes, shorten, should_return

STATUS_COLORS = {
    "shared": "#a8d5c2",
    "own": "#e4efe9",
    "forced": "#d55e00",
    "absent": "#0072b2",
    "split": "#e69f00",
    "unclear": MISSING_COLOR,
}
MEANING = {
    "shared": "shared: groups overlap",
    "own": "largest, shared with none",
    "forced": "forced: no match",
    "absent": "absent: specific cluster",
    "split": "split: → counterpart",
    "unclear": "too few cells to tell",
}
DARK = ("forced", "absent")
MAX_TEXT = (40, 20)
TILE = 0.92


def diagnose(
    adata: AnnData, key: str = DEFAULT_KEY, *, ax: Axes | None = None, show: bool | None = None
) -> Axes | None:
    """Table of clusters and groups that shows what :func:`scfcmi.tl.diagnose` found.

    Numbers are cells; an arrow points to the cluster that holds what is missing. Beyond 40 clusters or 20 groups,
    colours are shown alone.

    Parameters
    ----------
    adata
        Annotated data with a diagnosis.
    key
        Column of `obs` with the clusters that were diagnosed.
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
        If these clusters have not been diagnosed.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> found = sf.tl.diagnose(adata, "cell_type", "tech")
    >>> sf.pl.diagnose(adata, "cell_type", show=False).get_ylabel()
    'cell_type'
    """
    found = adata.uns.get(Keys(key).diagnosis)
    if not isinstance(found, Mapping):
        msg = f"adata.uns has no {Keys(key).diagnosis!r}. Run `scfcmi.tl.diagnose(adata, {key!r})` first."
        raise KeyError(msg)
    names, levels = ([shorten(name) for name in found[entry]] for entry in ("clusters", "groups"))
    status = np.asarray(found["status"]).astype(str)
    used = [kind for kind in STATUS_COLORS if (status == kind).any()]
    legend = [MEANING[kind] for kind in used]
    own = given_axes(ax, 1)
    width, height = _size(names, levels)
    axis = own[0] if own else new_axes(width=width + legend_width(legend), height=height)[0]
    _tiles(axis, found, status)
    axis.set_xticks(range(len(levels)), levels, rotation=90 if max(map(len, levels)) > 7 else 0, fontsize=SMALL)
    axis.set_yticks(range(len(names)), names, fontsize=SMALL)
    axis.set(xlim=(-0.5, len(levels) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axis.set(xlabel=" | ".join(np.atleast_1d(found["sensitive_key"])), ylabel=key)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    kinds = np.asarray(found["cluster_status"]).astype(str).tolist()
    axis.set_title(_title(kinds), fontsize=SMALL + 3, loc="left")
    legend_beside(axis, [Patch(color=STATUS_COLORS[kind]) for kind in used], legend)
    return axis if should_return(show=show, own_figure=ax is None) else None


def _size(names: list[str], levels: list[str]) -> tuple[float, float]:
    """Inches that the table takes without its legend."""
    has_text = len(names) <= MAX_TEXT[0] and len(levels) <= MAX_TEXT[1]
    tall, wide = (0.26, 0.62) if has_text else (0.14, 0.14)
    margin = 0.065 * max(map(len, names))
    return max(1.0 + margin + wide * len(levels), 2.6), min(max(1.2 + tall * len(names), 2.2), 14.0)


def _tiles(ax: Axes, found: Mapping[str, Any], status: NDArray[np.str_]) -> None:
    counts = np.asarray(found["n_cells"])
    counterpart = np.asarray(found["counterpart"]).astype(str)
    n_clusters, n_groups = status.shape
    has_text = n_clusters <= MAX_TEXT[0] and n_groups <= MAX_TEXT[1]
    for k in range(n_clusters):
        for b in range(n_groups):
            kind = str(status[k, b])
            ax.add_patch(
                Rectangle((b - TILE / 2, k - TILE / 2), TILE, TILE, facecolor=STATUS_COLORS[kind], linewidth=0)
            )
            if has_text:
                text = f"{int(counts[k, b])}" + (f" → {shorten(counterpart[k, b])}" if kind == "split" else "")
                color = "white" if kind in DARK else "black"
                ax.text(b, k, text, ha="center", va="center", fontsize=SMALL - 1, color=color)


def _title(kinds: list[str]) -> str:
    words = {"shared": "shared", "specific": "specific", "split": "split", "forced": "forced", "unclear": "unclear"}
    return f"{len(kinds)} clusters: " + ", ".join(
        f"{kinds.count(kind)} {word}" for kind, word in words.items() if kind in kinds
    )
