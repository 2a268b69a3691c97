"""Where mixing is supported, forced, split or absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys

from ._layout import finish, panels
from ._style import (
    ROW_CHARACTERS,
    ROW_LINES,
    SMALL,
    display_names,
    given_axes,
    legend_beside,
    plain,
    readable_on,
    row_fontsize,
    text_size,
    thousands,
)

STATUS_COLORS = {
    "shared": "#a8d5c2",
    "own": "#e4efe9",
    "forced": "#d55e00",
    "absent": "#0072b2",
    "split": "#e69f00",
    "unclear": "#c8c8c8",
}
MEANING = {
    "shared": "shared: groups overlap",
    "own": "largest, shared with none",
    "forced": "forced: no match",
    "absent": "absent: specific cluster",
    "split": "split: → counterpart",
    "unclear": "too few cells to tell",
}
NEEDED = ("clusters", "groups", "status", "n_cells", "counterpart", "cluster_status", "sensitive_key")
# Beyond so many clusters or groups numbers would be too many to read.
MAX_TEXT = (60, 24)
TILE, ROW, COLUMN = 0.92, 0.22, 0.17


def diagnose(
    adata: AnnData, key: str = DEFAULT_KEY, *, ax: Axes | None = None, show: bool | None = None
) -> Axes | None:
    """Table of clusters and groups that shows what :func:`scfcmi.tl.diagnose` found.

    Numbers are cells; an arrow points to the cluster that holds what is missing. Beyond 60 clusters or 24 groups,
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
    ValueError
        If the diagnosis in `uns` is damaged.

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
    found, status = read_diagnosis(adata, key)
    rows = display_names([str(one) for one in found["clusters"]], characters=ROW_CHARACTERS, lines=ROW_LINES)
    columns = display_names([str(one) for one in found["groups"]])
    lines = max(row.count("\n") for row in rows) + 1
    texts = _texts(found, status)
    wide = max(text_size(text, SMALL - 1)[0] for text in texts.ravel()) + 0.12 if texts.size else COLUMN
    # Names stand upright where they do not fit under their tiles.
    flat = all(text_size(name)[0] < (max(wide, 0.5) if texts.size else COLUMN) for name in columns)
    width = max(len(columns) * max(wide, COLUMN, 0.5 if flat and texts.size else 0), 1.0)
    own = given_axes(ax, 1)
    axis = own[0] if own else panels([(width, max(len(rows) * ROW * (1 + 0.6 * (lines - 1)), 0.8))])[0]
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    _tiles(axis, status, texts)
    box = axis.get_window_extent()
    fontsize = min(SMALL, 72 * box.width / axis.figure.dpi / len(columns) / 1.2) if not flat else SMALL
    axis.set_xticks(
        range(len(columns)), [plain(name) for name in columns], rotation=0 if flat else 90, fontsize=fontsize
    )
    axis.set_yticks(range(len(rows)), [plain(row) for row in rows], fontsize=row_fontsize(axis, len(rows), lines))
    axis.set_xlabel(plain(" | ".join(map(str, np.atleast_1d(found["sensitive_key"]).tolist()))))
    axis.set_ylabel(plain(key))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(_title(_words(found["cluster_status"]).tolist()), fontsize=10, loc="left")
    used = [kind for kind in STATUS_COLORS if (status == kind).any()]
    legend_beside(axis, [Patch(color=STATUS_COLORS[kind]) for kind in used], [MEANING[kind] for kind in used])
    return axis if finish([axis], ax, show=show) else None


def read_diagnosis(adata: AnnData, key: str) -> tuple[Mapping[str, Any], NDArray[np.str_]]:
    """A diagnosis and its table of status, or an error that says how to get one."""
    name = Keys(key).diagnosis
    found = adata.uns.get(name)
    if not isinstance(found, Mapping):
        msg = f"adata.uns has no {name!r}. Run `scfcmi.tl.diagnose(adata, {key!r})` first."
        raise KeyError(msg)
    missing = [entry for entry in NEEDED if entry not in found]
    if not missing:
        status = _words(found["status"])
        shapes = {np.shape(found[entry]) for entry in ("status", "n_cells", "counterpart")}
        rows, columns, judged = (np.shape(found[entry]) for entry in ("clusters", "groups", "cluster_status"))
        known = set(status.ravel()) <= set(STATUS_COLORS)
        if shapes == {rows + columns} and known and judged == rows and len(rows) == len(columns) == 1 and status.size:
            return found, status
    what = f"it lacks {missing}" if missing else "its tables do not go with its clusters and groups"
    msg = f"adata.uns[{name!r}] is damaged: {what}. Run `scfcmi.tl.diagnose(adata, {key!r})` again."
    raise ValueError(msg)


def _words(values: Any) -> NDArray[np.str_]:
    """Text as NumPy has it of old: the kind that zarr 3 gives does not become it by itself."""
    return np.asarray(values).astype(object).astype(str)


def _texts(found: Mapping[str, Any], status: NDArray[np.str_]) -> NDArray[np.object_]:
    """What stands in every tile; nothing at all where there are too many."""
    if status.shape[0] > MAX_TEXT[0] or status.shape[1] > MAX_TEXT[1]:
        return np.empty((0, 0), dtype=object)
    counts, counterpart = np.asarray(found["n_cells"]), _words(found["counterpart"])
    texts = np.empty(status.shape, dtype=object)
    for place in np.ndindex(*status.shape):
        texts[place] = thousands(float(counts[place]))
        if status[place] == "split" and counterpart[place]:
            texts[place] += f" → {display_names([str(counterpart[place])], characters=14, lines=1)[0]}"
    return texts


def _tiles(ax: Axes, status: NDArray[np.str_], texts: NDArray[np.object_]) -> None:
    places = list(np.ndindex(*status.shape))
    tiles = [Rectangle((b - TILE / 2, k - TILE / 2), TILE, TILE) for k, b in places]
    ax.add_collection(
        PatchCollection(tiles, facecolors=[STATUS_COLORS[str(status[place])] for place in places], linewidths=0)
    )
    if not texts.size:
        return
    box = ax.get_window_extent()
    tile = box.width / ax.figure.dpi / status.shape[1], box.height / ax.figure.dpi / status.shape[0]
    widest = max(text_size(text, SMALL - 1)[0] for text in texts.ravel())
    # In the caller's panel tiles may be too small for their numbers.
    if widest > tile[0] or (SMALL - 1) / 72 > tile[1]:
        return
    for k, b in places:
        color = readable_on(STATUS_COLORS[str(status[k, b])])
        ax.text(b, k, plain(texts[k, b]), ha="center", va="center", fontsize=SMALL - 1, color=color)


def _title(kinds: list[str]) -> str:
    words = ("shared", "specific", "split", "forced", "unclear")
    return f"{len(kinds)} clusters: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in words if kind in kinds)
