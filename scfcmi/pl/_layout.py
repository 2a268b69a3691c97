"""Panels of a fixed size, and a figure that grows until nothing around them is cut off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import Size, should_return, with_labels

# Inches around the figure, and between what belongs to two panels.
EDGE, GAP = 0.1, 0.25


def panels(sizes: Sequence[Size], figure: Figure | None = None) -> list[Axes]:
    """Panels of these inner sizes in inches, in a new figure if none is given; to be put in place by :func:`fit`."""
    width, height = max(w for w, _ in sizes) + 2, max(h for _, h in sizes) + 2
    if figure is None:
        figure = plt.figure(layout="none")
    figure.set_size_inches(width, height)
    places = [(1 / width, 1 / height, w / width, h / height) for w, h in sizes]
    return [figure.add_axes(place, label=str(i)) for i, place in enumerate(places)]


def figure_of(ax: Axes) -> Figure:
    """The whole figure that a panel is in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def fit(axes: Sequence[Axes], ncols: int = 1, *, top: float = 0.0) -> None:
    """Put panels on a grid, each with the room that its labels, title and legend take.

    Panels keep their size, their upper edges are level in a row and their left ones in a column, and the figure becomes
    as large as that needs; `top` inches are left free above.
    """
    figure = figure_of(axes[0])
    nrows = math.ceil(len(axes) / ncols)
    inner = np.zeros((nrows, ncols, 2))
    margin = np.zeros((nrows, ncols, 4))  # left, right, below, above
    for i, ax in enumerate(axes):
        panel, full = ax.get_window_extent(), with_labels(ax)
        inner[i // ncols, i % ncols] = panel.width, panel.height
        around = panel.x0 - full.x0, full.x1 - panel.x1, panel.y0 - full.y0, full.y1 - panel.y1
        margin[i // ncols, i % ncols] = np.maximum(around, 0)
    inner, margin = inner / figure.dpi, margin / figure.dpi
    left, above = margin[:, :, 0].max(axis=0), margin[:, :, 3].max(axis=1)
    right = (inner[:, :, 0] + margin[:, :, 1]).max(axis=0)
    below = (inner[:, :, 1] + margin[:, :, 2]).max(axis=1)
    x = EDGE + np.cumsum(left) + np.concatenate([[0], np.cumsum(right[:-1] + GAP)])
    y = EDGE + top + np.cumsum(above) + np.concatenate([[0], np.cumsum(below[:-1] + GAP)])
    width, height = x[-1] + right[-1] + EDGE, y[-1] + below[-1] + EDGE
    figure.set_size_inches(width, height)
    for i, ax in enumerate(axes):
        row, column = divmod(i, ncols)
        w, h = inner[row, column]
        ax.set_position((x[column] / width, 1 - (y[row] + h) / height, w / width, h / height))


def finish(axes: Sequence[Axes], given: object, *, show: bool | None, ncols: int = 1) -> bool:
    """Fit a figure of our own to what is in it, and show it if that is wanted; whether axes are to be returned."""
    if given is None:
        fit(axes, ncols)
    return should_return(show=show, own_figure=given is None)
