"""One page on a run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi._recorded import recorded_scores

from ._composition import MAX_COLORS, composition
from ._confidence import confidence
from ._diagnose import diagnose
from ._layout import figure_of, fit, panels
from ._n_clusters import n_clusters
from ._results import column, sensitive
from ._style import inches, ink, plain, should_return
from ._umap import umap

MAP = 3.4
ROW, MIN_HEIGHT, MAX_HEIGHT = 0.2, 2.6, 7.0
COLUMNS = 3
# Scores and what they say, in the order in which they are read.
SCORES = {
    "mnce": ("MNCE", "worst cluster's mix of groups, 1: as in all cells"),
    "nce": ("NCE", "mean mix of groups over cells"),
    "balance": ("Balance", "rarest group over largest, worst cluster"),
    "conditional_fairness": ("CF", "fair given the labels; labels reach 1"),
    "nmi": ("NMI", "agreement with the labels"),
    "ari": ("ARI", "agreement of pairs, corrected for chance"),
    "acc": ("ACC", "cells right by the best matching"),
    "f_beta": ("F_β", "NMI and MNCE in one"),
}


def summary(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    sensitive_key: str | Sequence[str] | None = None,
    *,
    show: bool | None = None,
) -> list[Axes] | None:
    """A page on a run: maps, evidence for the number of clusters, composition, diagnosis and scores.

    Where :func:`scfcmi.tl.diagnose` has not been run, the confidence of the cells takes its place.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    sensitive_key
        Column of `obs` with the technology, batch or donor; that of the run when absent. Of several, the combinations
        of levels are shown.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive.

    Returns
    -------
    The six axes; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If there is no run of that name, or a column does not exist.
    ValueError
        If the sensitive attribute is not known, or what the run left behind is damaged.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, scfcmi as sf
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"fair_cluster": ["0", "1"] * 30, "tech": list("aabb") * 15}, index=map(str, range(60)))
    >>> adata = ad.AnnData(obs=obs, obsm={"X_fair_cluster_umap": rng.normal(size=(60, 2))})
    >>> adata.uns["fair_cluster"] = {
    ...     "params": {"sensitive_key": "tech"},
    ...     "n_clusters": {"method": "given", "chosen": 2},
    ...     "metrics": {"mnce": 1.0},
    ... }
    >>> len(sf.pl.summary(adata, show=False))
    6
    """
    run = adata.uns.get(Keys(key).uns)
    if not isinstance(run, Mapping):
        msg = f"adata.uns has no {key!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first."
        raise KeyError(msg)
    clusters = column(adata, key, "key")
    name, groups = sensitive(adata, key, sensitive_key)
    n_rows, n_groups = len(clusters.cat.categories), len(groups.cat.categories)
    height = float(np.clip(ROW * (n_rows + 2), MIN_HEIGHT, MAX_HEIGHT))
    wide = float(np.clip(0.17 * n_groups, MAP, 6.0)) if n_groups > MAX_COLORS else MAP
    sizes = [(MAP, MAP), (MAP, MAP), (MAP, MAP), (wide, height), (MAP, height), (MAP, height)]
    axes = panels(sizes)
    try:
        _draw(axes, adata, key, name, groups, sensitive_key)
    except Exception:
        plt.close(figure_of(axes[0]))
        raise
    top = 0.5
    fit(axes, COLUMNS, top=top)
    figure = figure_of(axes[0])
    words = f"{key}: {adata.n_obs:,} cells, {n_rows} clusters, {n_groups} groups of {name}"
    figure.text(0.5, 1 - 0.5 * top / figure.get_figheight(), plain(words), ha="center", va="center", fontsize=14)
    return axes if should_return(show=show, own_figure=True) else None


def _draw(
    axes: list[Axes],
    adata: AnnData,
    key: str,
    name: str,
    groups: pd.Series,
    sensitive_key: str | Sequence[str] | None,
) -> None:
    shown = adata if name in adata.obs else _with(adata, name, groups, key)
    umap(shown, [key, name], key=key, ax=axes[:2], show=False)
    if Keys(key).umap not in adata.obsm:
        adata.obsm[Keys(key).umap] = shown.obsm[Keys(key).umap]
    n_clusters(adata, key, ax=axes[2], show=False)
    composition(adata, key, sensitive_key, ax=axes[3], show=False)
    if Keys(key).diagnosis in adata.uns:
        diagnose(adata, key, ax=axes[4], show=False)
    elif Keys(key).confidence in adata.obs:
        confidence(adata, key, ax=axes[4], show=False)
    else:
        _note(axes[4], f"No diagnosis yet: run scfcmi.tl.diagnose(adata, {key!r}).")
    _scores(axes[5], recorded_scores(adata.uns[Keys(key).uns], key))


def _with(adata: AnnData, name: str, groups: pd.Series, key: str) -> AnnData:
    """The parts that maps are drawn from, with the combinations of several attributes as a column."""
    obsm = {entry: adata.obsm[entry] for entry in (Keys(key).embedding, Keys(key).umap) if entry in adata.obsm}
    return AnnData(obs=adata.obs.assign(**{name: groups}), obsm=obsm, uns=adata.uns)


def _note(ax: Axes, words: str) -> None:
    ax.set_axis_off()
    text = textwrap.fill(words, 44, break_long_words=False)
    ax.text(0.5, 0.5, plain(text), ha="center", va="center", transform=ax.transAxes, color=ink(0.7))


def _scores(ax: Axes, metrics: Mapping[str, float]) -> None:
    """Scores as a table: a name, a number, and what it says."""
    if not metrics:
        _note(ax, "This run was not scored: see scfcmi.tl.evaluate.")
        return
    ax.set_axis_off()
    ax.set_title("Scores", fontsize=11, loc="left")
    ax.set(xlim=(0, 1), ylim=(1, 0))
    known = [*(name for name in SCORES if name in metrics), *(name for name in metrics if name not in SCORES)]
    step = 0.26 / inches(ax)[1]
    for row, name in enumerate(known):
        words, meaning = SCORES.get(name, (name, ""))
        y = (row + 0.5) * step
        ax.text(0.0, y, plain(words), va="center", fontsize=9, weight="bold")
        ax.text(0.3, y, f"{metrics[name]:.2f}", va="center", ha="right", fontsize=9)
        ax.text(0.34, y, plain(meaning), va="center", fontsize=8, color=ink(0.7))
