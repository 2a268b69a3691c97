"""What fairness costs, as a curve."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ._layout import finish, panels
from ._style import PALETTE, SMALL, despine, given_axes, ink, legend_beside

CURVES = {
    "agreement_ari": ("same as at fairness 0 (ARI)", None),
    "ari": ("same as labels (ARI)", PALETTE[1]),
    "conditional_fairness": ("fair given labels (1 − I(G;C|Y)/H(G|Y))", PALETTE[2]),
    "nce": ("fair (NCE)", PALETTE[0]),
}
NEEDED = ("fairness", "agreement_ari", "nce")


def tradeoff(frame: pd.DataFrame, *, ax: Axes | None = None, show: bool | None = None) -> Axes | None:
    """Fairness and agreement against the knob, from :func:`scfcmi.tl.tradeoff`.

    Parameters
    ----------
    frame
        What :func:`scfcmi.tl.tradeoff` returned.
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
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        msg = f"frame has no columns {missing}. Make it with `scfcmi.tl.tradeoff`."
        raise ValueError(msg)
    ordered = frame.sort_values("fairness")
    shown = {name: curve for name, curve in CURVES.items() if name in ordered}
    names = [words for words, _ in shown.values()]
    own = given_axes(ax, 1)
    axis = own[0] if own else panels([(3.8, 2.8)])[0]
    lines = [
        axis.plot(ordered["fairness"], ordered[name], color=color or ink(0.65), marker="o", markersize=5, lw=1.6)[0]
        for name, (_, color) in shown.items()
    ]
    low = min(0.0, float(np.nanmin(ordered[list(shown)].to_numpy(float))))
    axis.set(xlabel="fairness", ylabel="score", ylim=(low, 1.03))
    axis.set_xticks(ordered["fairness"], [f"{value:g}" for value in ordered["fairness"]], fontsize=SMALL)
    despine(axis)
    legend_beside(axis, lines, names)
    return axis if finish([axis], ax, show=show) else None
