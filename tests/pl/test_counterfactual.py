"""Measured and decoded profiles side by side."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData

import scfcmi as sf

QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu", "return_model": True}
FITTED: list[tuple[AnnData, sf.model.FCMI]] = []


@pytest.fixture
def fitted(adata: AnnData) -> tuple[AnnData, sf.model.FCMI]:
    if not FITTED:
        FITTED.append((adata, sf.tl.fair_cluster(adata, "tech", 3, **QUICK)))
    return FITTED[0]


def test_rows_are_central_cells_and_columns_are_branches(fitted: tuple[AnnData, sf.model.FCMI]) -> None:
    adata, model = fitted
    axes = sf.pl.counterfactual(adata, model=model, genes=["gene3", "gene1"], show=False)
    assert axes is not None
    assert [axis.get_title() for axis in axes] == ["measured", "as tech0", "as tech1"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["tech0", "tech1"] * 3
    assert [text.get_text() for text in axes[0].texts] == ["0", "1", "2", "fair_cluster,\nby group"]
    for axis in axes:
        separators = [line.get_ydata()[0] for line in axis.get_lines() if line.get_clip_on()]
        assert separators == [1.5, 3.5]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["gene3", "gene1"]
    h = adata.obsm["X_fair_cluster"]
    inside = (adata.obs["fair_cluster"] == "1").to_numpy()
    closeness = np.where(inside & (adata.obs["tech"] == "tech1").to_numpy(), h @ h[inside].mean(axis=0), -np.inf)
    cell = int(closeness.argmax())
    np.testing.assert_allclose(axes[0].images[0].get_array()[3], adata.X[cell].toarray().ravel()[[3, 1]], atol=1e-6)
    decoded = model.decode(h[[cell]], "tech0")[0, [3, 1]]
    np.testing.assert_allclose(axes[1].images[0].get_array()[3], decoded, atol=1e-5)
    axes[0].figure.canvas.draw()


def test_what_is_shown_can_be_chosen(fitted: tuple[AnnData, sf.model.FCMI]) -> None:
    adata, model = fitted
    _, given = plt.subplots(1, 2)
    axes = sf.pl.counterfactual(
        adata,
        model=model,
        cells=["cell9", "cell2"],
        groups=["tech1"],
        n_genes=7,
        standard_scale="var",
        ax=given,
        show=False,
    )
    assert axes == list(given)
    image = axes[1].images[0].get_array()
    assert image.shape == (2, 7)
    both = np.concatenate([axis.images[0].get_array() for axis in axes])
    np.testing.assert_allclose([both.min(axis=0), both.max(axis=0)], [np.zeros(7), np.ones(7)], atol=1e-5)


def test_combinations_of_attributes(adata: AnnData) -> None:
    adata.obs["donor"] = np.array(["u", "v"])[np.arange(adata.n_obs) // 6 % 2]
    model = sf.tl.fair_cluster(adata, ["tech", "donor"], 3, **QUICK)
    axes = sf.pl.counterfactual(adata, model=model, show=False)
    assert axes is not None
    assert [axis.get_title() for axis in axes][1:] == [f"as {level}" for level in model.groups_.levels]


def test_negative_values_have_their_colours(fitted: tuple[AnnData, sf.model.FCMI]) -> None:
    adata, model = fitted
    axes = sf.pl.counterfactual(adata, model=model, show=False)
    assert axes is not None
    assert {axis.images[0].get_clim()[0] for axis in axes} == {0}, "what is not measured below zero is drawn as zero"
    scaled = adata.copy()
    scaled.X = scaled.X.toarray() - scaled.X.toarray().mean(axis=0)
    axes = sf.pl.counterfactual(scaled, model=model, show=False)
    assert axes is not None
    low, high = axes[0].images[0].get_clim()
    assert low == -high and axes[0].images[0].get_cmap().name == "RdBu_r"


def test_many_rows_and_long_names_stay_on_the_page(fitted: tuple[AnnData, sf.model.FCMI]) -> None:
    adata, model = fitted
    adata = adata.copy()
    long = ["a cluster with a name that is longer than most of its kind", "$b_1", "c"]
    adata.obs["fair_cluster"] = adata.obs["fair_cluster"].cat.rename_categories(long)
    axes = sf.pl.counterfactual(adata, model=model, cells=list(adata.obs_names[:90]), n_genes=60, show=False)
    assert axes is not None
    figure = axes[0].figure
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for text in [*axes[0].texts, *axes[0].get_yticklabels(), *axes[0].get_xticklabels()]:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"groups": ["tech9"]}, ValueError, r"unknown are \['tech9'\]"),
        ({"groups": []}, ValueError, "must name groups"),
        ({"cells": ["nobody"]}, KeyError, r"cells has unknown names: \['nobody'\]"),
        ({"genes": ["nothing"]}, KeyError, "genes has unknown names"),
        ({"layer": "absent"}, KeyError, "layer='absent'"),
        ({"standard_scale": "obs"}, ValueError, "standard_scale"),
        ({"key": "other"}, KeyError, "X_other"),
        ({"model": None}, TypeError, "model must be"),
    ],
)
def test_refused(
    fitted: tuple[AnnData, sf.model.FCMI], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sf.pl.counterfactual(fitted[0], **({"model": fitted[1]} | options))
    assert not plt.get_fignums()


def test_what_does_not_say_enough(fitted: tuple[AnnData, sf.model.FCMI]) -> None:
    adata, model = fitted
    other = adata.copy()
    del other.uns["fair_cluster"]["params"]["sensitive_key"]
    with pytest.raises(KeyError, match="does not say which column holds the groups"):
        sf.pl.counterfactual(other, model=model, show=False)
    nameless = sf.model.FCMI(3, progress_bar=False, device="cpu").fit(adata.X, adata.obs["tech"].to_numpy())
    with pytest.raises(ValueError, match="fitted without gene names"):
        sf.pl.counterfactual(adata, model=nameless, show=False)
    elsewhere = adata.copy()
    elsewhere.obsm["X_fair_cluster"] = np.ones((300, 1))
    with pytest.raises(ValueError, match=r"with shape \(300, 1\) is not an embedding by this model"):
        sf.pl.counterfactual(elsewhere, model=model, show=False)
