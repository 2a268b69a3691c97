"""How many clusters there are: the evidence of the tree, and what else it supports, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from scfcmi._warn import warn
from scfcmi.communities import THRESHOLD, Tree

# Another number of clusters is worth a word if it stands within this factor of the threshold, and over a range of
# resolutions that is so many times wider than that of the number found.
WITHIN, WIDER = 1.5, 2.0


def evidence_of(tree: Tree, n_clusters: int | None, resolution: float) -> dict[str, Any]:
    """What is known about the number of clusters.

    Returns
    -------
    `method`, `"tree"` or `"given"`; `candidates`, numbers of clusters from the number of leaves down to 2, and `link`,
    how strongly the two were linked that are joined next; `threshold` and `resolution`.
    """
    return {
        "method": "tree" if n_clusters is None else "given",
        "candidates": np.arange(tree.n_leaves, 1, -1),
        "link": tree.link,
        "threshold": THRESHOLD,
        "resolution": float(resolution),
    }


def say_alternative(tree: Tree, n_clusters: int) -> None:
    """Warn where another number of clusters, close by, holds over a clearly wider range of resolutions."""
    own = _range(tree, n_clusters)
    best, width = None, WIDER * own
    for k in range(max(1, n_clusters // 2), min(2 * n_clusters, tree.n_leaves) + 1):
        if k == n_clusters:
            continue
        low, high = _bounds(tree, k)
        near = high >= THRESHOLD / WITHIN and low <= THRESHOLD * WITHIN
        if near and _range(tree, k) > width:
            best, width = k, _range(tree, k)
    if best is not None:
        msg = (
            f"The data support {n_clusters} clusters at this resolution, and {best} over a wider range of resolutions: "
            f"look at `scfcmi.pl.n_clusters(adata)`, and cut again with `scfcmi.tl.recut(adata, n_clusters={best})`."
        )
        warn(msg)


def _bounds(tree: Tree, k: int) -> tuple[float, float]:
    """Links between which there are `k` clusters."""
    step = tree.n_leaves - k
    high = tree.link[step - 1] if step > 0 else np.inf
    low = tree.link[step] if step < len(tree.link) else 0.0
    return float(low), float(min(high, 10.0))


def _range(tree: Tree, k: int) -> float:
    low, high = _bounds(tree, k)
    return float(np.log(max(high, 1e-3) / max(low, 1e-3)))
