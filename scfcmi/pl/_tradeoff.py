"""What fairness costs, as a curve."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ._layout import finish, panels
from ._style import PALETTE, SMALL, despine, given_axes, ink, legend_beside

CURVES = {
    "agreement_ari": ("same as at {knob} {least} (ARI)", None),
    "ari": ("same as labels (ARI)", PALETTE[1]),
    "conditional_fairness": ("fair given labels (1 − I(G;C|Y)/H(G|Y))", PALETTE[2]),
    "nce": ("fair (NCE)", PALETTE[0]),
}
NEEDED = ("agreement_ari", "nce")
KNOBS = {"fairness": "fairness", "alpha": "α", "beta": "β"}
# Values that span more than this factor are told apart on a logarithmic scale alone.
WIDE = 10


def tradeoff(frame: pd.DataFrame, *, ax: Axes | None = None, show: bool | None = None) -> Axes | None:
    """Fairness and agreement against the knob that was turned, from :func:`scfcmi.tl.tradeoff`.

    Values of α or β that span more than a factor of ten stand on a logarithmic scale, which is linear below the
    smallest, so that 0 has its place.

    Parameters
    ----------
    frame
        What :func:`scfcmi.tl.tradeoff` returned, with one of `fairness`, `alpha` and `beta`.
    ax
        Axes to draw in; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The axes; `None` if the figure was shown.

    Raises
    ------
    ValueError
        If columns are missing.

    Examples
    --------
    >>> import pandas as pd, scfcmi as sf
    >>> frame = pd.DataFrame({"fairness": [0, 1], "agreement_ari": [1.0, 0.6], "nce": [0.5, 0.9]})
    >>> sf.pl.tradeoff(frame, show=False).get_xlabel()
    'fairness'
    """
    knobs = [name for name in KNOBS if name in frame]
    missing = [name for name in NEEDED if name not in frame] + ([] if knobs else ["fairness"])
    if missing:
        msg = f"frame has no columns {missing}. Make it with `scfcmi.tl.tradeoff`."
        raise ValueError(msg)
    knob = knobs[0]
    ordered = frame.sort_values(knob)
    values = ordered[knob].to_numpy(float)
    shown = {name: curve for name, curve in CURVES.items() if name in ordered}
    names = [words.format(knob=KNOBS[knob], least=f"{values[0]:g}") for words, _ in shown.values()]
    own = given_axes(ax, 1)
    axis = own[0] if own else panels([(3.8, 2.8)])[0]
    lines = [
        axis.plot(values, ordered[name], color=color or ink(0.65), marker="o", markersize=5, lw=1.6)[0]
        for name, (_, color) in shown.items()
    ]
    low = min(0.0, float(np.nanmin(ordered[list(shown)].to_numpy(float))))
    positive = values[values > 0]
    if len(positive) and positive.max() > WIDE * positive.min():
        axis.set_xscale("symlog", linthresh=positive.min())
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel=KNOBS[knob], ylabel="score", ylim=(low, 1.03))
    axis.set_xticks(values, [f"{value:g}" for value in values], fontsize=SMALL)
    despine(axis)
    legend_beside(axis, lines, names)
    return axis if finish([axis], ax, show=show) else None
