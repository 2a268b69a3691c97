"""Measured and decoded profiles side by side."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData

import scfcmi as sf
from scfcmi.train import one_thread

QUICK: dict[str, Any] = {"max_epochs": 3, "progress_bar": False, "device": "cpu", "return_model": True}
FITTED: list[tuple[AnnData, sf.model.FCMI]] = []


@pytest.fixture
def fitted(adata: AnnData) -> tuple[AnnData, sf.model.FCMI]:
    if not FITTED:
        with one_thread():
            FITTED.append((adata, sf.tl.fair_cluster(adata, "tech", 3, **QUICK)))
    return FITTED[0]


def test_rows_are_central_cells_and_columns_are_branches(fitted: tuple[AnnData, sf.model.FCMI]) -> None:
    adata, model = fitted
    axes = sf.pl.counterfactual(adata, model=model, genes=["gene3", "gene1"], show=False)
    assert axes is not None
    assert [axis.get_title() for axis in axes] == ["measured", "as tech0", "as tech1"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == [f"{k}, tech{g}" for k in range(3) for g in range(2)]
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
    with one_thread():
        model = sf.tl.fair_cluster(adata, ["tech", "donor"], 3, **QUICK)
    axes = sf.pl.counterfactual(adata, model=model, show=False)
    assert axes is not None
    assert [axis.get_title() for axis in axes][1:] == [f"as {level}" for level in model.groups_.levels]


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
