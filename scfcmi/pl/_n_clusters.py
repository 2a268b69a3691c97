"""Why there are as many clusters as there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY

from ._layout import finish, panels
from ._results import damaged, numbers, result
from ._style import PALETTE, SMALL, despine, given_axes, ink

# A cut is stable if the same clusters come out over so large a factor in resolution; the most stable ones are marked.
STABLE, MAX_MARKED = 1.4, 5
NEIGHBOURS = 2.5
METHODS = {"tree": "from the tree", "given": "given", "resolution": "by resolution"}


@dataclass(frozen=True)
class Cuts:
    """The evidence on the number of clusters: every step of the tree, from many clusters to two."""

    method: str
    chosen: int
    candidates: NDArray[np.int64]  # numbers of clusters, falling
    link: NDArray[np.float64]  # of the step that turns that many clusters into one fewer
    threshold: float
    resolution: float

    @classmethod
    def read(cls, adata: AnnData, key: str) -> Cuts:
        """What `uns[key]["n_clusters"]` says, checked."""
        found = result(adata, key, "n_clusters")
        candidates = numbers(found, "candidates", key, "n_clusters").astype(np.int64)
        link = numbers(found, "link", key, "n_clusters")
        values = [numbers(found, name, key, "n_clusters") for name in ("chosen", "threshold", "resolution")]
        if any(value.ndim for value in values):
            what = "'chosen', 'threshold' and 'resolution' must be single numbers"
            raise ValueError(damaged(key, "n_clusters", what))
        chosen, threshold, resolution = map(float, values)
        if candidates.ndim != 1 or candidates.shape != link.shape:
            what = f"{candidates.shape} candidates do not go with {link.shape} links"
            raise ValueError(damaged(key, "n_clusters", what))
        if threshold <= 0 or resolution <= 0 or (link < 0).any():
            what = "threshold and resolution must be positive, and no link is below 0"
            raise ValueError(damaged(key, "n_clusters", what))
        order = np.argsort(-candidates, kind="stable")
        return cls(str(found.get("method", "tree")), int(chosen), candidates[order], link[order], threshold, resolution)

    @property
    def floor(self) -> float:
        """Links are drawn from here on: on a logarithmic axis there is no zero."""
        positive = self.link[self.link > 0]
        return min(float(positive.min()) if len(positive) else 1.0, self.threshold * self.resolution) / 2

    def range_of(self, k: int) -> tuple[float, float]:
        """Resolutions at which the tree is cut into `k` clusters: above the first, up to the second."""
        leaving = self.link[self.candidates == k]
        making = self.link[self.candidates == k + 1]
        low = float(leaving[0]) / self.threshold if len(leaving) else 0.0
        high = float(making[0]) / self.threshold if len(making) else np.inf
        return low, high

    @property
    def at(self) -> float:
        """Resolution of the present cut; where the number was given, one that leads to it."""
        low, high = self.range_of(self.chosen)
        if low <= self.resolution <= high:
            return self.resolution
        low = max(low, self.floor / self.threshold)
        return float(np.sqrt(low * high)) if np.isfinite(high) else 2 * low

    def stable(self) -> list[int]:
        """Other numbers, near the chosen one, that a wide range of resolutions leads to; the widest first."""
        near = [
            int(k)
            for k in self.candidates
            if k != self.chosen and self.chosen / NEIGHBOURS <= k <= self.chosen * NEIGHBOURS
        ]
        width = {}
        for k in near:
            low, high = self.range_of(k)
            low = max(low, self.floor / self.threshold)
            if np.isfinite(high) and high / low >= STABLE:
                width[k] = high / low
        return sorted(width, key=lambda k: -width[k])[:MAX_MARKED]


def n_clusters(
    adata: AnnData, key: str = DEFAULT_KEY, *, ax: Axes | None = None, show: bool | None = None
) -> Axes | None:
    """How strongly the clusters that would be joined next are linked, for every number of clusters.

    Read from right to left: the tree joins one pair of branches after the other, and a link is how strongly the two are
    connected by neighbouring cells. Above the threshold, times the resolution, branches are one cluster, below
    it they stay apart. A steep step means clusters that differ clearly; open circles mark other numbers near the chosen
    one that hold over a wide range of resolutions, and :func:`scfcmi.tl.recut` gives any of them.

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
    The axes; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If there is no run of that name.
    ValueError
        If what the run left in `uns` is damaged.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfcmi as sf
    >>> adata = ad.AnnData(np.zeros((2, 2), "float32"))
    >>> found = {
    ...     "method": "tree",
    ...     "chosen": 3,
    ...     "candidates": np.array([5, 4, 3, 2]),
    ...     "link": np.array([0.4, 0.2, 0.01, 0.004]),
    ...     "threshold": 0.04,
    ...     "resolution": 1.0,
    ... }
    >>> adata.uns["fair_cluster"] = {"n_clusters": found}
    >>> sf.pl.n_clusters(adata, show=False).get_title()
    '3 clusters, from the tree'
    """
    found = result(adata, key, "n_clusters")
    cuts = Cuts.read(adata, key) if "candidates" in found else None
    own = given_axes(ax, 1)
    axis = own[0] if own else panels([(4.4, 3.0)])[0]
    if cuts is None or not len(cuts.link):
        words = "was given, and no tree was made" if cuts is None else "is all that the data hold"
        chosen = int(numbers(found, "chosen", key, "n_clusters"))
        axis.set_title(f"{chosen} clusters")
        said_ = f"K = {chosen} {words}:\nthere was nothing to choose."
        axis.text(0.5, 0.5, said_, ha="center", va="center", transform=axis.transAxes, color=ink(0.7))
        axis.set_axis_off()
        return axis if finish([axis], ax, show=show) else None
    link = np.maximum(cuts.link, cuts.floor)
    resolution = 1.0 if cuts.method == "given" else cuts.resolution
    cut = cuts.threshold * resolution
    axis.set_yscale("log")
    axis.plot(cuts.candidates, link, color=ink(0.65), lw=1.2, marker="o", markersize=3.5, markeredgewidth=0)
    axis.axhline(cut, color=ink(0.5), linestyle=":", lw=1.2, zorder=0)
    words = "threshold" if resolution == 1 else f"threshold × resolution {resolution:g}"
    place = axis.get_yaxis_transform()
    axis.text(0.99, cut, words, transform=place, ha="right", va="bottom", fontsize=SMALL, color=ink(0.7))
    at = dict(zip(cuts.candidates.tolist(), link, strict=True))
    axis.axvline(cuts.chosen, color=PALETTE[1], linestyle="--", lw=1.2, zorder=0)
    if cuts.chosen in at:
        axis.plot([cuts.chosen], [at[cuts.chosen]], "o", color=PALETTE[1], markersize=8)
    marked: list[int] = []
    for k in cuts.stable():
        near = any(abs(k - other) < 0.04 * np.ptp(cuts.candidates) for other in [*marked, cuts.chosen])
        if k in at and not near:
            marked.append(k)
            axis.plot([k], [at[k]], "o", mfc="none", mec=PALETTE[0], mew=1.4, markersize=8)
            axis.annotate(
                str(k), (k, at[k]), (0, -8), textcoords="offset points", ha="center", va="top", fontsize=SMALL
            )
    axis.set_title(f"{cuts.chosen} clusters, {METHODS.get(cuts.method, cuts.method)}")
    axis.set_xlabel(f"number of clusters\n{said(cuts)}")
    axis.set_ylabel("link of the two joined next")
    axis.set_ylim(cuts.floor * 0.8, max(float(link.max()), cut) * 1.6)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0,) if link.max() / link.min() > 100 else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    despine(axis)
    return axis if finish([axis], ax, show=show) else None


def said(cuts: Cuts) -> str:
    """For which resolutions the number stays the same."""
    low, high = cuts.range_of(cuts.chosen)
    if not np.isfinite(high):
        return f"as many for every resolution above {low:.2g}"
    if low <= 0:
        return f"as many for every resolution up to {high:.2g}"
    return f"as many for resolutions from {low:.2g} to {high:.2g}"
