"""What all figures share: colours, legends, and who shows a figure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from scfcmi._keys import Keys
from scfcmi.metrics._encode import natural_order

# Okabe and Ito's seven colours, then those that stay farthest from all before them in normal, protan and deutan vision.
PALETTE = (
    "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #f0e442 #660d1a "
    "#0d00a6 #4d0dff #a61a59 #9973ff #590066 #99bf8c #994d00 #cc0099 "
    "#73ff99 #7300cc #ff4d66 #66400d #99ccff #e626d9 #405973 #99d966 "
    "#593380 #ff80cc #800d4d #d90040 #8099ff #4df2ff #5980cc #267380 "
    "#40e6a6 #d98000 #995959 #e6bf00 #80bf59 #7359ff #e6b3d9 #4d33a6 "
    "#004033 #a6804d #cc99a6 #33b380 #4059b3 #9926d9 #401a80 #73b3bf "
    "#599999 #a6f2bf #596633 #bf80cc #408c80 #0df28c #59598c #662666 "
    "#260de6 #80ccb3 #008ce6 #9973b3 #734040 #5973e6 #4d7399 #bf0073"
).split()
MISSING_COLOR = "#d3d3d3"
OTHER_COLOR = "#9a9a9a"
SMALL = 8
LEGEND_ROWS = 18
LEGEND_COLUMNS = 3
MAX_NAME = 24


def as_categories(values: pd.Series) -> pd.Series:
    """Categorical with its own order, or natural order; missing values stay missing."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values
    return values.astype(pd.CategoricalDtype(natural_order(values.dropna().unique()), ordered=False))


def colors_of(adata: AnnData, name: str, categories: Sequence[Hashable]) -> dict[Hashable, str]:
    """Colour of each category: the palette in `uns` where it fits, else one that is safe for colour-blind readers.

    Beyond 64 categories colours repeat.
    """
    stored = adata.uns.get(Keys(name).colors, ())
    known = [str(color) for color in stored]
    if len(known) < len(categories) or not all(mpl.colors.is_color_like(color) for color in known):
        known = [PALETTE[i % len(PALETTE)] for i in range(len(categories))]
    return dict(zip(categories, known, strict=False))


def shorten(name: object) -> str:
    """At most so many characters that a legend stays narrow."""
    text = str(name)
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 1] + "…"


def legend_width(names: Sequence[str]) -> float:
    """Inches that :func:`legend_beside` takes."""
    if not names:
        return 0.0
    columns = min(math.ceil(len(names) / LEGEND_ROWS), LEGEND_COLUMNS)
    return columns * (0.4 + 0.065 * max(map(len, names)))


def fit_legend(names: Sequence[str], sizes: Sequence[int] | None = None) -> tuple[list[int], str | None]:
    """Positions of the names that a legend has room for, the largest if `sizes` is given, and a line on the rest."""
    room = LEGEND_ROWS * LEGEND_COLUMNS
    if len(names) <= room:
        return list(range(len(names))), None
    order = range(len(names)) if sizes is None else np.argsort(-np.asarray(sizes), kind="stable")
    kept = sorted(int(i) for i in list(order)[: room - 1])
    return kept, f"… {len(names) - len(kept)} more"


def legend_beside(ax: Axes, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Legend to the right of the panel, in as many columns as it needs."""
    ax.legend(
        list(handles),
        list(names),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        ncols=math.ceil(len(names) / LEGEND_ROWS),
        fontsize=SMALL,
        frameon=False,
        handlelength=1.0,
        handletextpad=0.4,
        columnspacing=0.8,
    )


def despine(ax: Axes) -> None:
    """Leave the two axes that are read."""
    ax.spines[["top", "right"]].set_visible(False)


def new_axes(n: int = 1, *, ncols: int = 1, width: float, height: float) -> list[Axes]:
    """A figure of its own with `n` panels."""
    nrows, ncols = math.ceil(n / ncols), min(n, ncols)
    figure, grid = plt.subplots(nrows, ncols, figsize=(width, height), squeeze=False, layout="constrained")
    axes = list(grid.ravel())
    for ax in axes[n:]:
        figure.delaxes(ax)
    return axes[:n]


def given_axes(ax: Axes | Sequence[Axes] | None, n: int) -> list[Axes] | None:
    """The caller's panels as a list, `None` where there are none."""
    if ax is None:
        return None
    axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != n or not all(isinstance(one, Axes) for one in axes):
        msg = f"ax must be {n} matplotlib Axes, one per panel, but {len(axes)} objects were given."
        raise ValueError(msg)
    return axes


def should_return(*, show: bool | None, own_figure: bool) -> bool:
    """Show the figure if asked to, or if matplotlib is interactive and the figure ours; else hand back its axes."""
    if show is None:
        show = own_figure and mpl.is_interactive()
    if show:
        plt.show()
    return not show
