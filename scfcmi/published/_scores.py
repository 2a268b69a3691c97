"""Scores after every epoch, where reference labels are known: the paper's Figure 5."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scfcmi.metrics import clustering_scores

from ._options import EpochReport

KEPT = ("acc", "nmi", "mnce", "f_beta")


class FollowScores:
    """A callback that keeps ACC, NMI, MNCE and F_β of every epoch.

    Labels judge; the fit does not see them.

    Parameters
    ----------
    groups
        Group of every cell, shape (n_cells,).
    labels
        Reference label of every cell, shape (n_cells,).

    Examples
    --------
    >>> import numpy as np
    >>> from scfcmi.published import FollowScores, NetworkOptions, fit_published
    >>> from scfcmi.source import as_source, read_groups
    >>> X = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    >>> groups, labels = ["a", "b"] * 30, ["x", "x", "y"] * 20
    >>> scores = FollowScores(groups, labels)
    >>> options = NetworkOptions(hidden=(16, 8), max_epochs=3, warmup_epochs=1, batch_size=30, callback=scores)
    >>> fit = fit_published(as_source(X), read_groups(groups), 2, options, random_state=0, device="cpu")
    >>> scores.history["acc"].shape
    (3,)
    """

    def __init__(self, groups: ArrayLike, labels: ArrayLike) -> None:
        self._groups, self._labels = groups, labels
        self._rows: list[dict[str, float]] = []

    def __call__(self, report: EpochReport) -> None:
        """Score one epoch."""
        scores = clustering_scores(report.labels, self._groups, self._labels)
        self._rows.append({name: scores[name] for name in KEPT})

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        """Scores by name, shape (n_epochs,) each; to be put beside the terms of the loss, for `pl.training`."""
        return {name: np.array([row[name] for row in self._rows]) for name in KEPT}
