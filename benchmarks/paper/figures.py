"""Figures 4 and 5 of the paper: digits through either branch of the decoder, and scores against the epoch.

    python benchmarks/paper/figures.py [--set mnist-usps] [--rows N] [--epochs 300] [--seeds 0] [--device auto]

Figure 5 has ACC, NMI, MNCE, F_β and the terms of the loss after every epoch. Figure 4 has, for one digit of every class
and group, the image, its reconstruction through the branch of its own group, and through that of the other one.
Writes `paper_figure4_<set>.png` and `paper_figure5_<set>.svg` and `.csv` for the first seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import images
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from numpy.typing import NDArray

import scfcmi
from scfcmi.published import FollowScores, PublishedFit
from scfcmi.source import Groups


def against_epoch(history: Mapping[str, Any], stopped: Mapping[str, Any]) -> Figure:
    """Figure 5: scores and terms of the loss against the epoch."""
    adata = AnnData(np.zeros((1, 1), np.float32))
    uns = {"history": {name: np.asarray(values) for name, values in history.items()}, "stopped": dict(stopped)}
    adata.uns["fair_cluster"] = uns
    axes = scfcmi.pl.training(adata, show=False)
    assert axes is not None
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    return figure


def examples(
    found: PublishedFit, x: NDArray[np.float32], groups: Groups, truth: NDArray, n: int = 1
) -> NDArray[np.float32]:
    """A few images of every class and group, beside what either branch makes of them.

    Returns
    -------
    Shape (n_groups, n_classes, n, 3, n_pixels): image, own branch, other branch.
    """
    shown = np.zeros((2, images.N_CLASSES, n, 3, x.shape[1]), np.float32)
    for group in range(2):
        for digit in range(images.N_CLASSES):
            some = np.flatnonzero((truth == digit) & (groups.codes == group))[:n]
            h = found.assign(x[some])[2]
            parts = [x[some], *(found.decode(h, np.full(len(some), g)) for g in (group, 1 - group))]
            shown[group, digit, : len(some)] = np.stack(parts, 1)
    return shown


def either_branch(shown: NDArray[np.float32], names: Sequence[str]) -> Figure:
    """Figure 4: of every class and group the first image, and both reconstructions."""
    labels = [f"{name}: {row}" for name in names for row in ("image", "own branch", "other branch")]
    figure, grid = plt.subplots(len(labels), images.N_CLASSES, figsize=(8.5, 5.6), layout="constrained")
    for group, of_group in enumerate(shown):
        for digit, of_digit in enumerate(of_group):
            for i, image in enumerate(of_digit[0]):
                grid[3 * group + i, digit].imshow(image.reshape(28, 28), cmap="gray", vmin=-1, vmax=1)
    for ax in grid.ravel():
        ax.set(xticks=[], yticks=[])
    for ax, label in zip(grid[:, 0], labels, strict=True):
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def main() -> None:
    given = images.parsed(images.arguments(__doc__))
    mpl.use("Agg")
    x, groups, truth = images.load(given.set, given.data, given.rows)
    scores = FollowScores(groups.values, truth)
    found, labels, _ = images.fit(x, groups, given.seeds[0], given, callback=scores)
    history = dict(found.history) | scores.history
    against_epoch(history, found.stopped).savefig(given.out / f"paper_figure5_{given.set}.svg")
    pd.DataFrame(history).to_csv(given.out / f"paper_figure5_{given.set}.csv", index_label="epoch")
    shown = examples(found, x, groups, truth)
    either_branch(shown, groups.levels).savefig(given.out / f"paper_figure4_{given.set}.png", dpi=100)
    print(images.size(x, given), images.score(labels, groups, truth))


if __name__ == "__main__":
    main()
