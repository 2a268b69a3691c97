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


@pytest.mark.parametrize(("knob", "sign"), [("alpha", "α"), ("beta", "β")])
def test_weights_of_the_published_loss(knob: str, sign: str) -> None:
    frame = FRAME.drop(columns="fairness").assign(**{knob: [0.05, 0.0, 0.2]})
    ax = sf.pl.tradeoff(frame, show=False)
    assert ax is not None
    assert ax.get_xlabel() == sign and ax.get_xscale() == "linear"
    assert ax.lines[0].get_xdata().tolist() == [0, 0.05, 0.2]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.05", "0.2"]
    legend = ax.figure.legends[0] if ax.figure.legends else ax.get_legend()
    assert f"same as at {sign} 0 (ARI)" in [text.get_text() for text in legend.get_texts()]


def test_far_apart_values_stand_on_a_logarithmic_scale() -> None:
    ax = sf.pl.tradeoff(FRAME.drop(columns="fairness").assign(alpha=[0.01, 0.0, 0.64]), show=False)
    assert ax is not None
    assert ax.get_xscale() == "symlog"
    zero, low, high = ax.transData.transform([(x, 0) for x in (0, 0.01, 0.64)])[:, 0]
    assert low - zero > 0.1 * (high - zero)


def test_another_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="scfcmi.tl.tradeoff"):
        sf.pl.tradeoff(FRAME[["ari"]])
    with pytest.raises(ValueError, match="fairness"):
        sf.pl.tradeoff(FRAME.drop(columns="fairness"))
