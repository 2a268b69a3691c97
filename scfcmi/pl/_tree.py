"""The tree of clusters: what is joined with what, at which resolution, and which groups every branch holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.special import entr

from scfcmi._keys import DEFAULT_KEY
from scfcmi.communities import Tree as MergeTree

from ._layout import finish, panels
from ._n_clusters import METHODS, Cuts
from ._results import column, damaged, numbers, parameter, result, sensitive
from ._style import (
    PALETTE,
    ROW_CHARACTERS,
    ROW_LINES,
    SMALL,
    colors_of,
    display_names,
    given_axes,
    ink,
    legend_beside,
    plain,
    row_fontsize,
    text_size,
    thousands,
    with_labels,
)

# Branches that are shown at most, unless there are more clusters, and groups that colours can tell apart.
MAX_TIPS, MAX_COLORS = 60, 20
ROW, WIDTH, BAND = 0.2, 4.6, 0.62


@dataclass(frozen=True)
class Tree:
    """Merges as in SciPy's linkage matrices, and their links."""

    merges: NDArray[np.int64]
    link: NDArray[np.float64]
    threshold: float

    @classmethod
    def read(cls, adata: AnnData, key: str) -> Tree:
        """What `uns[key]["tree"]` says, checked."""
        found = result(adata, key, "tree")
        merges, link = (numbers(found, name, key, "tree") for name in ("merges", "link"))
        threshold = numbers(found, "threshold", key, "tree")
        if merges.size == 0:
            merges = merges.reshape(0, 2)
        if threshold.ndim or threshold <= 0:
            raise ValueError(damaged(key, "tree", "the threshold must be positive"))
        wrong = MergeTree(merges.astype(np.int64), link).fault()
        if wrong:
            raise ValueError(damaged(key, "tree", wrong))
        return cls(merges.astype(np.int64), link, float(threshold))

    @property
    def n_leaves(self) -> int:
        return len(self.merges) + 1

    def cut(self, k: int) -> NDArray[np.int64]:
        """Node that every leaf belongs to when `k` branches are left, shape (n_leaves,)."""
        node = np.arange(self.n_leaves)
        for i, (a, b) in enumerate(self.merges[: self.n_leaves - k]):
            node[(node == a) | (node == b)] = self.n_leaves + i
        return node


def tree(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    sensitive_key: str | Sequence[str] | None = None,
    *,
    palette: Any = None,
    max_branches: int = MAX_TIPS,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Tree of clusters over the resolution, with the groups that every branch holds.

    Every band is a branch, and its stripes are the shares of the groups. From right to left, branches join where the
    resolution falls below their link over the threshold. The dashed line is the present cut: the bands that it crosses
    are the clusters, whose names and numbers of cells stand on the right. Move the line with :func:`scfcmi.tl.recut`.
    With more than 20 groups the bands show how evenly groups are mixed instead. Cells count with their probabilities.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    sensitive_key
        Column of `obs` with the technology, batch or donor; that of the run when absent. Of several, the combinations
        of levels are shown.
    palette
        Colours of the groups: a list, tuple or array, the name of a colour map, a cycler, or a dictionary.
    max_branches
        Branches on the right; what is finer is left out, but never a cluster.
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
        If there is no run of that name, or it left no tree.
    ValueError
        If what the run left behind is damaged, or `palette` does not fit.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, scfcmi as sf
    >>> from scipy.sparse import csr_matrix
    >>> obs = pd.DataFrame({"fair_cluster": list("0011"), "tech": list("abab")}, index=list("wxyz"))
    >>> adata = ad.AnnData(obs=obs, obsm={"fair_cluster_leaves": csr_matrix(np.eye(4)[:, [0, 1, 2]] + 0.0)})
    >>> link = np.array([0.2, 0.01])
    >>> adata.uns["fair_cluster"] = {
    ...     "tree": {"merges": np.array([[0, 1], [2, 3]]), "link": link, "threshold": 0.04},
    ...     "n_clusters": {
    ...         "method": "tree",
    ...         "chosen": 2,
    ...         "candidates": np.array([3, 2]),
    ...         "link": link,
    ...         "threshold": 0.04,
    ...         "resolution": 1.0,
    ...     },
    ... }
    >>> sf.pl.tree(adata, sensitive_key="tech", show=False).get_title()
    '2 clusters at resolution 1'
    """
    found = Tree.read(adata, key)
    if max_branches < 1:
        msg = f"max_branches={max_branches} must be at least 1."
        raise ValueError(msg)
    cuts = Cuts.read(adata, key)
    k = min(cuts.chosen, found.n_leaves)
    leaves = _leaves(adata, key, found.n_leaves)
    labels = column(adata, key, "key")
    levels, counts, colors = _groups(adata, key, sensitive_key, leaves, palette)
    tips = min(found.n_leaves, max(k, max_branches))
    drawn = _Drawing.of(found, cuts, tips, counts)
    names = _cluster_names(found.cut(k), leaves, labels)
    own = given_axes(ax, 1)
    axis = own[0] if own else panels([(WIDTH, max(ROW * tips, 1.4))])[0]
    axis.set_xscale("log")
    axis.set(xlim=(drawn.left, drawn.right), ylim=(tips - 0.4, -0.6))
    _bands(axis, drawn, colors)
    axis.axvline(drawn.at_cut, color=PALETTE[1], linestyle="--", lw=1.3, zorder=4)
    _name_clusters(axis, drawn, found.cut(k), found.cut(tips), names)
    at = f" at resolution {cuts.resolution:.3g}" if cuts.at == cuts.resolution else ""
    axis.set_title(f"{cuts.chosen} clusters{at or ', ' + METHODS.get(cuts.method, cuts.method)}")
    axis.set_xlabel(_xlabel(found.n_leaves, tips))
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
    wide = drawn.right / drawn.left > 30
    axis.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    if isinstance(colors, list) and levels:
        name = " | ".join(_names(adata, key, sensitive_key))
        _legend(axis, colors, display_names(levels), name)
    elif not isinstance(colors, list):
        _colorbar(axis)
    return axis if finish([axis], ax, show=show) else None


# what is drawn ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawing:
    """Bands from where a branch is joined on the left to where it falls apart on the right."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    y: NDArray[np.float64]
    counts: NDArray[np.float64]  # cells of every group, (n_bands, n_groups)
    joints: list[tuple[float, float, float]]  # resolution of a joint, and the heights that it connects
    tip_y: dict[int, float]
    left: float
    right: float
    at_cut: float

    @classmethod
    def of(cls, found: Tree, cuts: Cuts, tips: int, counts: NDArray[np.float64]) -> _Drawing:
        n_leaves = found.n_leaves
        at = np.maximum(found.link, cuts.floor) / found.threshold
        of_node = np.zeros((2 * n_leaves - 1, counts.shape[1]))
        of_node[:n_leaves] = counts
        for i, (a, b) in enumerate(found.merges):
            of_node[n_leaves + i] = of_node[a] + of_node[b]
        shown = at[n_leaves - tips :]
        ends = np.append(shown, cuts.at)
        left, right = float(ends.min()) / 2, float(ends.max()) * 2
        top = 2 * n_leaves - 2
        first = n_leaves + (n_leaves - tips)  # nodes from here on are joints that are shown
        order: list[int] = []
        stack = [top]
        while stack:
            node = stack.pop()
            if node < first:
                order.append(node)
            else:  # the larger branch above
                a, b = sorted(found.merges[node - n_leaves], key=lambda one: of_node[one].sum())
                stack += [int(a), int(b)]
        height = {node: float(row) for row, node in enumerate(order)}
        tip_y = dict(height)
        begins = {top: left}
        joints = []
        for node in range(first, top + 1):
            a, b = (int(one) for one in found.merges[node - n_leaves])
            height[node] = (height[a] + height[b]) / 2
            begins[a] = begins[b] = float(at[node - n_leaves])
            joints.append((float(at[node - n_leaves]), height[a], height[b]))
        nodes = list(begins)
        end = [right if node < first else float(at[node - n_leaves]) for node in nodes]
        heights = np.array([height[node] for node in nodes])
        start = np.array([begins[node] for node in nodes])
        return cls(start, np.array(end), heights, of_node[nodes], joints, tip_y, left, right, cuts.at)


def _leaves(adata: AnnData, key: str, n_leaves: int) -> sparse.csr_matrix:
    name = f"{key}_leaves"
    if name not in adata.obsm:
        msg = f"adata.obsm has no {name!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first."
        raise KeyError(msg)
    entry = adata.obsm[name]
    if (
        getattr(entry, "dtype", np.dtype(object)).kind not in "fiu"
        or entry.shape[1:] != (n_leaves,)
        or not np.isfinite((leaves := sparse.csr_matrix(entry)).data).all()
    ):
        msg = (
            f"adata.obsm[{name!r}] with shape {entry.shape} does not go with the tree, which has {n_leaves} leaves. "
            "Run `scfcmi.tl.fair_cluster` again."
        )
        raise ValueError(msg)
    return leaves


def _names(adata: AnnData, key: str, sensitive_key: str | Sequence[str] | None) -> list[str]:
    if sensitive_key is None:
        return parameter(adata, key, "sensitive_key")
    return [sensitive_key] if isinstance(sensitive_key, str) else list(sensitive_key)


def _groups(
    adata: AnnData, key: str, sensitive_key: str | Sequence[str] | None, leaves: sparse.csr_matrix, palette: Any
) -> tuple[list[Any], NDArray[np.float64], list[str] | NDArray[np.float64]]:
    """Names of the groups, their cells on every leaf, and their colours; for very many the mix of all cells."""
    if not _names(adata, key, sensitive_key):
        return [], np.asarray(leaves.sum(axis=0), float).reshape(-1, 1), [ink(0.4)]
    name, groups = sensitive(adata, key, sensitive_key)
    levels = list(groups.cat.categories)
    codes = groups.cat.codes.to_numpy()
    known = np.flatnonzero(codes >= 0)
    member = sparse.csr_matrix((np.ones(len(known)), (codes[known], known)), shape=(len(levels), len(codes)))
    counts = np.asarray((member @ leaves).todense(), float).T
    if len(levels) > MAX_COLORS:
        return levels, counts, counts.sum(axis=0)
    colors = colors_of(adata, name, levels, kind="group", palette=palette)
    return levels, counts, [colors[level] for level in levels]


def _cluster_names(node: NDArray[np.int64], leaves: sparse.csr_matrix, labels: Any) -> dict[int, tuple[str, int]]:
    """Label of every branch, by the cells that they share, and how many cells have it; none where cells were lost."""
    codes = labels.cat.codes.to_numpy()
    known = np.flatnonzero(codes >= 0)
    n_labels = len(labels.cat.categories)
    member = sparse.csr_matrix((np.ones(len(known)), (codes[known], known)), shape=(n_labels, len(codes)))
    counts = np.asarray((member @ leaves).todense(), float)
    sizes = np.bincount(codes[known], minlength=n_labels)
    every = display_names(list(labels.cat.categories), characters=ROW_CHARACTERS, lines=ROW_LINES)
    branches = np.unique(node)
    shared = np.stack([counts[:, node == branch].sum(axis=1) for branch in branches])
    pairs = zip(*linear_sum_assignment(-shared), strict=True)
    return {int(branches[i]): (every[j], int(sizes[j])) for i, j in pairs if shared[i, j] > 0}


# drawing ------------------------------------------------------------------------------------------------------------


def _bands(ax: Axes, drawn: _Drawing, colors: list[str] | NDArray[np.float64]) -> None:
    ax.add_collection(
        LineCollection([[(x, a), (x, b)] for x, a, b in drawn.joints], colors=ink(0.55), lw=1.0, zorder=1)
    )
    total = drawn.counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(total > 0, drawn.counts / total, 0.0)
    top = drawn.y - BAND / 2

    def boxes(upper: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.stack([drawn.start, drawn.end, drawn.end, drawn.start], axis=1)
        y = np.stack([upper, upper, upper + height, upper + height], axis=1)
        return np.stack([x, y], axis=2)

    if isinstance(colors, list):
        for share, color in zip(shares.T, colors, strict=True):
            ax.add_collection(PolyCollection(list(boxes(top, share * BAND)), facecolors=color, linewidths=0, zorder=2))
            top = top + share * BAND
        return
    overall = colors / colors.sum()
    mixed = entr(shares).sum(axis=1) / max(float(entr(overall).sum()), 1e-12)
    bands = PolyCollection(list(boxes(top, np.full(len(top), BAND))), array=mixed, cmap="cividis", zorder=2)
    bands.set_norm(Normalize(min(np.floor(mixed.min() * 10) / 10, 0.8), 1))
    bands.set_edgecolor("none")
    ax.add_collection(bands)


def _name_clusters(
    ax: Axes, drawn: _Drawing, of_leaf: NDArray[np.int64], tip_of_leaf: NDArray[np.int64], names: dict
) -> None:
    """Name and size of every cluster beside its branches, with a bracket where there are several."""
    place = ax.get_yaxis_transform()
    rows = {int(branch): [drawn.tip_y[int(t)] for t in np.unique(tip_of_leaf[of_leaf == branch])] for branch in names}
    lines = max((name.count("\n") for name, _ in names.values()), default=0) + 1
    fontsize = row_fontsize(ax, len(drawn.tip_y), lines)
    for branch, ys in rows.items():
        name, size = names[branch]
        ax.plot([1.012, 1.012], [min(ys) - 0.3, max(ys) + 0.3], color=ink(0.6), lw=1.4, transform=place, clip_on=False)
        ax.text(1.025, float(np.mean(ys)), plain(name), transform=place, va="center", fontsize=fontsize, weight="bold")
        ax.annotate(
            f"{thousands(size)} cells",
            (1.025, float(np.mean(ys))),
            (72 * text_size(name, fontsize, "bold")[0] + 6, 0),
            xycoords=place,
            textcoords="offset points",
            va="center",
            fontsize=fontsize - 0.5,
            color=ink(0.6),
            annotation_clip=False,
        )


def _xlabel(n_leaves: int, tips: int) -> str:
    return "resolution" if tips == n_leaves else f"resolution\n{tips} of {n_leaves} branches shown"


def _beside_names(ax: Axes) -> float:
    """Where the names on the right end, in widths of the panel."""
    box, full = ax.get_window_extent(), with_labels(ax)
    return (full.x1 - box.x0) / box.width + 0.03


def _legend(ax: Axes, colors: list[str], names: list[str], title: str) -> None:
    legend_beside(ax, [Patch(color=color) for color in colors], names, title=title, at=_beside_names(ax))


def _colorbar(ax: Axes) -> None:
    right = _beside_names(ax)
    bar = ax.figure.colorbar(ax.collections[-1], cax=ax.inset_axes((right, 0.0, 0.03, 1.0)))
    bar.set_label("how evenly groups are mixed (1: as in all cells)", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
