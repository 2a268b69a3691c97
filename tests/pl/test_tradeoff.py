"""The curve of a trade-off."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import scfcmi as sf

FRAME = pd.DataFrame(
    {
        "fairness": [0.5, 0.0, 1.0],
        "agreement_ari": [0.4, 1.0, 0.3],
        "nce": [0.87, 0.45, 0.97],
        "ari": [0.5, 0.3, -0.01],
        "conditional_fairness": [0.86, 0.45, 0.93],
    }
)


def test_curves_run_from_low_to_high() -> None:
    ax = sf.pl.tradeoff(FRAME, show=False)
    assert ax is not None
    assert len(ax.lines) == 4
    assert ax.lines[0].get_xdata().tolist() == [0, 0.5, 1]
    assert ax.lines[0].get_ydata().tolist() == [1, 0.4, 0.3]
    assert ax.get_ylim()[0] == -0.01


def test_without_labels_two_curves_are_left() -> None:
    _, given = plt.subplots()
    ax = sf.pl.tradeoff(FRAME[["fairness", "agreement_ari", "nce"]], ax=given, show=False)
    assert ax is given
    assert len(ax.lines) == 2


def test_another_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="scfcmi.tl.tradeoff"):
        sf.pl.tradeoff(FRAME[["ari"]])
