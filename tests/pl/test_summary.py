"""Figures of several parts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData

import scfcmi as sf
from scfcmi.pl import overview


def test_a_page_has_six_parts(run: AnnData) -> None:
    axes = sf.pl.summary(run)
    assert axes is not None
    assert [ax.get_title() or ax.get_title(loc="left") for ax in axes[:3]] == [
        "fair_cluster",
        "tech",
        "6 clusters, from the tree",
    ]
    assert axes[3].get_title().startswith("MNCE")
    assert axes[4].get_title(loc="left").startswith("6 clusters: ")
    scores = {text.get_text() for text in axes[5].texts}
    assert {"MNCE", "NMI", f"{run.uns['fair_cluster']['metrics']['mnce']:.2f}"} <= scores
    assert axes[0].figure.texts[0].get_text() == "fair_cluster: 600 cells, 6 clusters, 2 groups of tech"


def test_what_is_missing_is_said(run: AnnData) -> None:
    del run.uns["fair_cluster_diagnosis"]
    del run.uns["fair_cluster"]["metrics"]
    axes = sf.pl.summary(run)
    assert axes is not None
    assert axes[4].get_xlabel() == "p(cluster | cell)"
    assert "was not scored" in axes[5].texts[0].get_text()
    del run.obs["fair_cluster_confidence"]
    axes = sf.pl.summary(run)
    assert axes is not None
    assert "scfcmi.tl.diagnose" in axes[4].texts[0].get_text()


def test_a_damaged_part_leaves_no_figure(run: AnnData) -> None:
    run.uns["fair_cluster"]["n_clusters"]["threshold"] = -1.0
    with pytest.raises(ValueError, match="damaged"):
        sf.pl.summary(run)
    assert not plt.get_fignums()


def test_several_attributes_are_combined(run: AnnData) -> None:
    run.obs["donor"] = np.array(["u", "v"])[np.arange(run.n_obs) % 2]
    axes = sf.pl.summary(run, sensitive_key=["tech", "donor"])
    assert axes is not None
    assert axes[1].get_title() == "tech | donor"
    assert "tech | donor" not in run.obs


def test_overview_shows_before_and_after(run: AnnData) -> None:
    before = set(plt.get_fignums())
    run.obsm["X_umap"] = -run.obsm["X_fair_cluster_umap"]
    figure = overview(run)
    assert set(plt.get_fignums()) == before, "a figure outside of pyplot"
    assert [ax.get_title() for ax in figure.axes[:5]] == [
        "before, by tech",
        "after, by tech",
        "fair clusters",
        "before, by cell_type",
        "after, by cell_type",
    ]
    left, right = (np.asarray(ax.collections[0].get_offsets()) for ax in figure.axes[:2])
    np.testing.assert_allclose(left, -right)
    colors = [{tuple(color) for color in ax.collections[0].get_facecolors()} for ax in figure.axes[:2]]
    assert colors[0] == colors[1]
    del run.obsm["X_umap"]
    with pytest.raises(KeyError, match="X_umap"):
        overview(run)
