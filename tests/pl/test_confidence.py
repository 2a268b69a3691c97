"""Confidence of cells, and whether it can be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfcmi as sf
from scfcmi.pl._confidence import calibration_error


def made(sure: list[float], right: list[bool]) -> AnnData:
    """Two clusters whose majority labels are A and B."""
    cluster = np.arange(len(sure)) % 2
    label = np.where(np.asarray(right), cluster, 1 - cluster)
    obs = pd.DataFrame(
        {
            "fair_cluster": pd.Categorical(cluster.astype(str)),
            "fair_cluster_confidence": sure,
            "type": np.array(["A", "B"])[label],
        },
        index=[f"c{i}" for i in range(len(sure))],
    )
    return AnnData(obs=obs)


def test_boxes_are_quantiles(run: AnnData) -> None:
    ax = sf.pl.confidence(run)
    assert ax is not None
    assert [label.get_text() for label in ax.get_yticklabels()] == list("012345")
    values = run.obs["fair_cluster_confidence"][run.obs["fair_cluster"] == "2"]
    box = ax.patches[2].get_path().vertices
    np.testing.assert_allclose([box[:, 0].min(), box[:, 0].max()], np.quantile(values, [0.25, 0.75]), rtol=1e-6)
    share = (run.obs["fair_cluster_confidence"] >= 0.9).mean()
    assert ax.get_title() == f"{share:.0%} of cells at 0.9 or above"


def test_cells_that_are_unlike_are_counted(run: AnnData) -> None:
    run.obs["fair_cluster_unlike"] = (run.obs["fair_cluster"] == "3").to_numpy()
    ax = sf.pl.confidence(run)
    assert ax is not None
    assert [text.get_text() for text in ax.texts] == ["0.0%", "0.0%", "0.0%", "100.0%", "0.0%", "0.0%", "unlike"]
    del run.obs["fair_cluster_unlike"]
    ax = sf.pl.confidence(run)
    assert ax is not None and not ax.texts


def test_calibrated_confidence_is_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 20_000)
    adata = made(sure.tolist(), (rng.random(20_000) < sure).tolist())
    ax = sf.pl.reliability(adata, "type")
    assert ax is not None
    (curve,) = (line for line in ax.get_lines() if line.get_marker() == "o")
    np.testing.assert_allclose(curve.get_xdata(), curve.get_ydata(), atol=0.03)
    assert float(ax.get_title().split()[1].rstrip(",")) < 0.02


def test_too_much_confidence_is_measured() -> None:
    sure = [0.95] * 100
    right = [i % 10 < 7 for i in range(100)]
    ax = sf.pl.reliability(made(sure, right), "type")
    assert ax is not None
    assert ax.get_title() == "ECE 0.250, accuracy 0.70"
    assert calibration_error(np.array(sure), np.array(right)) == pytest.approx(0.25)


def test_cells_without_a_label_are_left_out() -> None:
    adata = made([0.9] * 10 + [0.1] * 10, [True] * 20)
    adata.obs["type"] = adata.obs["type"].where(np.arange(20) < 10)
    ax = sf.pl.reliability(adata, "type")
    assert ax is not None
    assert ax.get_title() == "ECE 0.100, accuracy 1.00"


def test_refused(run: AnnData) -> None:
    with pytest.raises(ValueError, match="n_bins=1"):
        sf.pl.reliability(run, "cell_type", n_bins=1)
    with pytest.raises(KeyError, match="label_key='nothing'"):
        sf.pl.reliability(run, "nothing")
    run.obs["fair_cluster_confidence"] = 3.0
    with pytest.raises(ValueError, match="no probabilities"):
        sf.pl.confidence(run)
    run.obs["fair_cluster_confidence"] = np.nan
    with pytest.raises(ValueError, match="no number for any cell"):
        sf.pl.confidence(run)
    del run.obs["fair_cluster_confidence"]
    with pytest.raises(KeyError, match="Run `scfcmi.tl.fair_cluster"):
        sf.pl.confidence(run)
