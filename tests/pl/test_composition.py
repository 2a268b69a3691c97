"""Which groups the clusters hold."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

import scfcmi as sf


@pytest.fixture
def uneven(run: AnnData) -> AnnData:
    """Cluster 1 has a single group."""
    run.obs.loc[(run.obs["fair_cluster"] == "1").to_numpy(), "tech"] = "tech0"
    return run


def outlines(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def rows(ax: Axes) -> dict[str, float]:
    return dict(zip([label.get_text() for label in ax.get_yticklabels()], ax.get_yticks(), strict=True))


def test_the_cluster_that_sets_mnce_is_outlined(uneven: AnnData) -> None:
    ax = sf.pl.composition(uneven)
    assert ax is not None
    assert ax.get_title() == "MNCE 0.00, set by cluster 1"
    (outline,) = outlines(ax)
    assert list(rows(ax)) == ["all cells", "0", "1", "2", "3", "4", "5"]
    assert outline.get_y() + outline.get_height() / 2 == pytest.approx(rows(ax)["1"])


def test_ties_are_all_outlined(uneven: AnnData) -> None:
    uneven.obs.loc[(uneven.obs["fair_cluster"] == "4").to_numpy(), "tech"] = "tech1"
    ax = sf.pl.composition(uneven)
    assert ax is not None
    assert ax.get_title() == "MNCE 0.00, set by clusters 1, 4"
    assert len(outlines(ax)) == 2


def test_bars_add_up_to_the_shares(uneven: AnnData) -> None:
    ax = sf.pl.composition(uneven, palette=["black", "red"])
    assert ax is not None
    bars = [patch for patch in ax.patches if patch.get_fill()]
    widths = np.array([bar.get_width() for bar in bars]).reshape(2, 7)
    np.testing.assert_allclose(widths.sum(axis=0), 1)
    assert widths[0, 0] == pytest.approx((uneven.obs["tech"] == "tech0").mean())
    assert widths[0, 2] == 1
    assert {mpl.colors.to_hex(bar.get_facecolor()) for bar in bars} == {"#000000", "#ff0000"}
    sizes = uneven.obs["fair_cluster"].value_counts().sort_index()
    assert [text.get_text() for text in ax.texts] == [str(len(uneven)), *map(str, sizes)]


def test_any_clustering_and_what_is_missing(run: AnnData) -> None:
    ax = sf.pl.composition(run, "cell_type", "tech")
    assert ax is not None
    assert ax.get_ylabel() == "cell_type"
    with pytest.raises(ValueError, match="Name a column with `sensitive_key`"):
        sf.pl.composition(run, "cell_type")
    with pytest.raises(KeyError, match="cluster_key='nothing' is not a column"):
        sf.pl.composition(run, "nothing", "tech")
    with pytest.raises(ValueError, match="kind='pie'"):
        sf.pl.composition(run, kind="pie")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sensitive_key='tech' has a single value, 'tech0'"):
        sf.pl.composition(run[run.obs["tech"] == "tech0"])


def test_cells_without_a_value_are_left_out(run: AnnData) -> None:
    run.obs["tech"] = run.obs["tech"].where(np.arange(run.n_obs) >= 12)
    ax = sf.pl.composition(run)
    assert ax is not None
    assert "12 cells without a value left out" in ax.get_title()


@pytest.mark.parametrize("given", [True, False])
def test_several_attributes_are_shown_by_combination(run: AnnData, given: bool) -> None:
    run.obs["donor"] = pd.Categorical(np.array(["u", "v"])[np.arange(run.n_obs) % 2])
    run.uns["fair_cluster"]["params"]["sensitive_key"] = np.array(["tech", "donor"])
    ax = sf.pl.composition(run, sensitive_key=["tech", "donor"] if given else None)
    assert ax is not None
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        f"{tech} | {donor}" for tech in ("tech0", "tech1") for donor in "uv"
    ]
    assert ax.get_xlabel() == "share of tech | donor"


def test_groups_may_be_called_anything(run: AnnData) -> None:
    run.obs["tech"] = run.obs["tech"].cat.rename_categories(["size", "entropy_ratio"])
    ax = sf.pl.composition(run)
    assert ax is not None
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["size", "entropy_ratio"]


def test_many_groups_are_the_columns_of_a_heat_map(make: Callable[..., AnnData]) -> None:
    many = make(3000, 8, 40)
    ax = sf.pl.composition(many)
    assert ax is not None
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"tech{g}" for g in range(40)]
    counts = pd.crosstab(many.obs["fair_cluster"], many.obs["tech"])
    fold = (counts.T / counts.sum(axis=1)).T / (counts.sum() / counts.to_numpy().sum())
    with np.errstate(divide="ignore"):
        expected = np.log2(fold.to_numpy()).clip(-3, 3)
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(8, 40), expected, atol=1e-6)
    bars = sf.pl.composition(many, kind="bars")
    assert bars is not None and len(bars.get_legend().get_texts()) == 40
