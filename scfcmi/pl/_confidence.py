"""How sure the assignment of cells is, and how often it is right where it is sure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys

from ._layout import finish, panels
from ._results import column
from ._style import (
    PALETTE,
    ROW_CHARACTERS,
    ROW_LINES,
    SMALL,
    colors_of,
    despine,
    display_names,
    given_axes,
    ink,
    plain,
    row_fontsize,
)

ROW, WIDTH = 0.22, 3.2
# Normal quantile of an interval that holds the truth in 95 % of the cases.
Z95 = 1.96


def confidence(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    palette: Any = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Confidence of the cells of every cluster: half of them in the box, nine tenths between the whiskers.

    The number on the right is the share of the cluster's cells that are unlike everything that was fitted, where that
    is known.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    palette
        Colours of the clusters: a list, tuple or array, the name of a colour map, a cycler, or a dictionary.
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
        If the clusters or their confidence do not exist.
    ValueError
        If no cell has a confidence, or `palette` does not fit.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"fair_cluster": list("0011"), "fair_cluster_confidence": [0.9, 1.0, 0.6, 0.8]})
    >>> ax = sf.pl.confidence(ad.AnnData(obs=obs.set_index("c" + obs.index.astype(str))), show=False)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['0', '1']
    """
    clusters, values = read_confidence(adata, key)
    colors = colors_of(adata, key, list(clusters.cat.categories), kind="cluster", palette=palette)
    known = (clusters.notna() & np.isfinite(values)).to_numpy()
    codes, given = clusters.cat.codes.to_numpy()[known], values.to_numpy()[known]
    rows = display_names(list(clusters.cat.categories), characters=ROW_CHARACTERS, lines=ROW_LINES)
    lines = max(row.count("\n") for row in rows) + 1
    own = given_axes(ax, 1)
    height = max(len(rows) * ROW * (1 + 0.6 * (lines - 1)), 1.2)
    axis = own[0] if own else panels([(WIDTH, height)])[0]
    boxes = [_box(given[codes == k]) for k in range(len(rows))]
    drawn = axis.bxp(
        boxes,
        positions=range(len(rows)),
        widths=0.66,
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        medianprops={"color": ink(), "lw": 1.6},
        whiskerprops={"color": ink(0.6)},
        capprops={"color": ink(0.6)},
        boxprops={"edgecolor": ink(0.6), "linewidth": 0.8},
    )
    for patch, category in zip(drawn["boxes"], clusters.cat.categories, strict=True):
        patch.set_facecolor(colors[category])
    fontsize = row_fontsize(axis, len(rows), lines)
    axis.set_yticks(range(len(rows)), [plain(row) for row in rows], fontsize=fontsize)
    axis.tick_params(axis="y", length=0)
    low = min((box["whislo"] for box in boxes), default=0.0)
    axis.set(xlim=(max(0.0, low - 0.05), 1.005), ylim=(len(rows) - 0.4, -0.6))
    axis.set_xlabel("p(cluster | cell)")
    axis.set_ylabel(plain(key))
    axis.set_title(f"{np.mean(given >= 0.9):.0%} of cells at 0.9 or above", fontsize=11)
    _unlike(axis, adata, key, clusters, fontsize)
    despine(axis)
    return axis if finish([axis], ax, show=show) else None


def reliability(
    adata: AnnData,
    label_key: str,
    key: str = DEFAULT_KEY,
    *,
    n_bins: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Whether confidence can be believed: how often cells of each confidence have their cluster's majority label.

    On the diagonal confidence is what it says, below it claims too much. The bars span 95 % intervals, and grey columns
    show where the cells are. ECE, the expected calibration error, is the mean distance from the diagonal over cells.
    Labels that are finer than the clusters count as errors here, so that low accuracy may also mean clusters of several
    types. Cells without a label are left out.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    label_key
        Column of `obs` with reference labels, for example curated cell types.
    key
        Name of the run, its `key_added`.
    n_bins
        Number of bins of equal width between 0 and 1.
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
        If no cell has a cluster, a confidence and a label, or `n_bins` is less than 2.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, scfcmi as sf
    >>> obs = pd.DataFrame({"fair_cluster": list("0011"), "fair_cluster_confidence": [0.9, 1.0, 0.6, 0.8]})
    >>> obs["type"] = ["T", "T", "B", "B"]
    >>> ax = sf.pl.reliability(ad.AnnData(obs=obs.set_index("c" + obs.index.astype(str))), "type", show=False)
    >>> ax.get_title()
    'ECE 0.175, accuracy 1.00'
    """
    if n_bins < 2:
        msg = f"n_bins={n_bins} must be at least 2."
        raise ValueError(msg)
    sure, right = calibration(adata, label_key, key)
    own = given_axes(ax, 1)
    axis = own[0] if own else panels([(3.0, 3.0)])[0]
    bins = np.minimum((sure * n_bins).astype(np.int64), n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    used = np.flatnonzero(count)
    mean = np.bincount(bins, sure, n_bins)[used] / count[used]
    accuracy = np.bincount(bins, right, n_bins)[used] / count[used]
    axis.bar((np.arange(n_bins) + 0.5) / n_bins, count / count.sum(), 0.96 / n_bins, color=ink(0.15), zorder=0)
    axis.plot([0, 1], [0, 1], color=ink(0.5), linestyle="--", lw=1)
    low, high = _interval(accuracy, count[used])
    spread = np.stack([accuracy - low, high - accuracy]).clip(0)
    axis.errorbar(mean, accuracy, spread, color=PALETTE[0], marker="o", markersize=5, lw=1.6, elinewidth=1.2, capsize=2)
    axis.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="confidence")
    axis.set_ylabel(plain(f"has the cluster's majority {label_key}"))
    axis.set_title(f"ECE {calibration_error(sure, right, n_bins):.3f}, accuracy {right.mean():.2f}", fontsize=11)
    axis.text(0.02, 0.97, "grey: share of cells", transform=axis.transAxes, va="top", fontsize=SMALL, color=ink(0.6))
    despine(axis)
    return axis if finish([axis], ax, show=show) else None


def read_confidence(adata: AnnData, key: str) -> tuple[pd.Series, pd.Series]:
    """Clusters and confidence of all cells."""
    clusters = column(adata, key, "key")
    name = Keys(key).confidence
    if name not in adata.obs:
        msg = f"adata.obs has no column {name!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first."
        raise KeyError(msg)
    values = pd.to_numeric(pd.Series(np.asarray(adata.obs[name]), index=clusters.index), errors="coerce")
    if not np.isfinite(values[clusters.notna()]).any():
        msg = f"adata.obs[{name!r}] has no number for any cell that has a cluster."
        raise ValueError(msg)
    if ((values < 0) | (values > 1.001)).any():
        msg = f"adata.obs[{name!r}] has values outside of 0 and 1, so it holds no probabilities."
        raise ValueError(msg)
    return clusters, values.clip(upper=1.0)


def calibration(adata: AnnData, label_key: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of every labelled cell, and whether its label is its cluster's most frequent one."""
    clusters, values = read_confidence(adata, key)
    labels = column(adata, label_key, "label_key")
    known = (clusters.notna() & labels.notna() & np.isfinite(values)).to_numpy()
    if not known.any():
        msg = f"No cell has a cluster, a confidence and a label in {label_key!r}."
        raise ValueError(msg)
    c, y = clusters.cat.codes.to_numpy()[known].astype(np.int64), labels.cat.codes.to_numpy()[known].astype(np.int64)
    n_labels = len(labels.cat.categories)
    counts = np.bincount(c * n_labels + y, minlength=len(clusters.cat.categories) * n_labels).reshape(-1, n_labels)
    return values.to_numpy(float)[known], counts.argmax(axis=1)[c] == y


def calibration_error(sure: NDArray[np.float64], right: NDArray[np.bool_], n_bins: int = 10) -> float:
    """Expected calibration error: mean over cells of how far their bin's accuracy is from its mean confidence."""
    bins = np.minimum((sure * n_bins).astype(np.int64), n_bins - 1)
    return float(np.abs(np.bincount(bins, right, n_bins) - np.bincount(bins, sure, n_bins)).sum() / len(sure))


def _interval(share: NDArray[np.float64], n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of a share among `n`."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return centre - half, centre + half


def _box(values: NDArray[np.float64]) -> dict[str, Any]:
    names = ("whislo", "q1", "med", "q3", "whishi")
    ends = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]) if len(values) else np.full(5, np.nan)
    return dict(zip(names, ends, strict=True))


def _unlike(ax: Axes, adata: AnnData, key: str, clusters: pd.Series, fontsize: float) -> None:
    name = Keys(key).unlike
    if name not in adata.obs:
        return
    flag = np.asarray(adata.obs[name]).astype(bool)
    share = pd.Series(flag, index=clusters.index).groupby(clusters, observed=False).mean()
    place = ax.get_yaxis_transform()
    for k, value in enumerate(share):
        ax.text(1.02, k, f"{value:.1%}", transform=place, va="center", fontsize=fontsize - 0.5, color=ink(0.6))
    ax.text(1.02, -0.75, "unlike", transform=place, va="bottom", fontsize=SMALL - 0.5, color=ink(0.6))
