"""Figures 4 and 5 of the paper: digits through either branch of the decoder, and scores against the epoch.

    python benchmarks/paper/figures.py [--set mnist-usps] [--rows N] [--epochs 300] [--seeds 0] [--device auto]

Figure 5 has ACC, NMI, MNCE, F_β and the terms of the loss after every epoch. Figure 4 has, for one digit of every class
and group, the image, its reconstruction through the branch of its own group, and through that of the other one.
Writes `paper_figure4_<set>.png` and `paper_figure5_<set>.svg` and `.csv` for the first seed.
"""

from __future__ import annotations

import images
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

import scfcmi
from scfcmi.published import FollowScores, PublishedFit
from scfcmi.source import Groups


def figure5(found: PublishedFit, scores: FollowScores, x: NDArray[np.float32]) -> tuple[plt.Figure, pd.DataFrame]:
    history = dict(found.history) | scores.history
    adata = AnnData(np.zeros((1, 1), np.float32))
    adata.uns["fair_cluster"] = {"history": history, "stopped": dict(found.stopped)}
    axes = scfcmi.pl.training(adata, show=False)
    assert axes is not None
    figure = axes[0].figure
    assert isinstance(figure, plt.Figure)
    return figure, pd.DataFrame(history)


def figure4(found: PublishedFit, x: NDArray[np.float32], groups: Groups, truth: NDArray) -> plt.Figure:
    names = [f"{level}: {row}" for level in groups.levels for row in ("image", "own branch", "other branch")]
    figure, grid = plt.subplots(len(names), images.N_CLASSES, figsize=(8.5, 5.6), layout="constrained")
    for digit in range(images.N_CLASSES):
        for group in range(groups.n):
            first = np.flatnonzero((truth == digit) & (groups.codes == group))[:1]
            h = found.assign(x[first])[2]
            shown = [x[first], *(found.decode(h, np.full(len(h), g)) for g in (group, 1 - group))]
            for i, image in enumerate(shown):
                if len(image):
                    grid[3 * group + i, digit].imshow(image[0].reshape(28, 28), cmap="gray", vmin=-1, vmax=1)
    for ax in grid.ravel():
        ax.set(xticks=[], yticks=[])
    for ax, name in zip(grid[:, 0], names, strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def main() -> None:
    given = images.parsed(images.arguments(__doc__))
    mpl.use("Agg")
    x, groups, truth = images.load(given.set, given.data, given.rows)
    scores = FollowScores(groups.values, truth)
    found, labels, _ = images.fit(x, groups, given.seeds[0], given, callback=scores)
    figure, frame = figure5(found, scores, x)
    figure.savefig(given.out / f"paper_figure5_{given.set}.svg")
    frame.to_csv(given.out / f"paper_figure5_{given.set}.csv", index_label="epoch")
    figure4(found, x, groups, truth).savefig(given.out / f"paper_figure4_{given.set}.png", dpi=100)
    print(images.size(x, given), images.score(labels, groups, truth))


if __name__ == "__main__":
    main()
