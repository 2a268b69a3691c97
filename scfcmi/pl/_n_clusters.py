"""Why there are as many clusters as there are."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scfcmi._keys import DEFAULT_KEY

from ._results import result
from ._style import PALETTE, SMALL, despine, given_axes, new_axes, should_return


def n_clusters(
    adata: AnnData, key: str = DEFAULT_KEY, *, ax: Axes | None = None, show: bool | None = None
) -> Axes | None:
    """Score of each number of clusters that was considered, and the one that was chosen.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    ax
        Axes to draw in; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The axes; `None` if the figure was shown. Where the number was given, they say so and hold no curve.

    Raises
    ------
    KeyError
        If there is no run of that name.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfcmi as sf
    >>> adata = ad.AnnData(np.zeros((2, 2), "float32"))
    >>> found = {
    ...     "candidates": np.array([2, 3, 4]),
    ...     "score": np.array([0.1, 0.5, 0.2]),
    ...     "chosen": 3,
    ...     "method": "linkage",
    ... }
    >>> adata.uns["fair_cluster"] = {"n_clusters": found}
    >>> sf.pl.n_clusters(adata, show=False).get_title()
    '3 clusters, chosen by linkage'
    """
    found = result(adata, key, "n_clusters")
    own = given_axes(ax, 1)
    axis = own[0] if own else new_axes(width=5.0, height=3.4)[0]
    chosen = int(found["chosen"])
    if "candidates" not in found:
        axis.set_title(f"{chosen} clusters")
        said = f"K = {chosen} was given,\nso there was nothing to choose."
        axis.text(0.5, 0.5, said, ha="center", va="center", transform=axis.transAxes, color="0.3")
        axis.set_axis_off()
        return axis if should_return(show=show, own_figure=ax is None) else None
    method = str(found.get("method", "score"))
    order = np.argsort(found["candidates"], kind="stable")
    candidates = np.asarray(found["candidates"])[order]
    score = np.asarray(found["score"], float)[order]
    axis.plot(candidates, score, color="0.35", lw=1.2, marker="o", markersize=4, markeredgewidth=0)
    axis.axvline(chosen, color=PALETTE[1], linestyle="--", lw=1.2, zorder=0)
    axis.plot(candidates[candidates == chosen], score[candidates == chosen], "o", color=PALETTE[1], markersize=8)
    if found.get("threshold") is not None:
        threshold = float(found["threshold"])
        axis.axhline(threshold, color="0.6", linestyle=":", lw=1.2, zorder=0)
        place = axis.get_yaxis_transform()
        axis.text(0.99, threshold, "threshold", transform=place, ha="right", va="bottom", fontsize=SMALL, color="0.4")
    axis.set_title(f"{chosen} clusters, chosen by {method}")
    axis.set(xlabel="number of clusters", ylabel=method)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    despine(axis)
    return axis if should_return(show=show, own_figure=ax is None) else None
