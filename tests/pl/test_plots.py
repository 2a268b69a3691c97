"""Figures: what they show, what they leave alone, and what they say when there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

import scfcmi as sf
from scfcmi.pl._style import PALETTE

PLOTS = [sf.pl.umap, sf.pl.training, sf.pl.composition, sf.pl.n_clusters]


def make_result(n_cells: int = 240, n_clusters: int = 4, n_groups: int = 2, seed: int = 0) -> AnnData:
    """What a run leaves behind, without the run."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_cells) % n_clusters
    groups = rng.integers(0, n_groups, n_cells)
    groups[codes == 1] = 0
    obs = pd.DataFrame(
        {
            "fair_cluster": pd.Categorical.from_codes(codes, [str(k) for k in range(n_clusters)]),
            "tech": pd.Categorical([f"t{g}" for g in groups]),
            "cell_type": pd.Categorical([f"type{k // 2}" for k in codes]),
            "depth": rng.gamma(2, size=n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    adata = AnnData(rng.random((n_cells, 3), dtype=np.float32), obs=obs, var=pd.DataFrame(index=["G1", "G2", "G3"]))
    adata.obsm["X_fair_cluster"] = rng.normal(size=(n_cells, 5)).astype(np.float32)
    adata.obsm["X_fair_cluster_umap"] = rng.normal(size=(n_cells, 2)).astype(np.float32)
    epoch = np.arange(1.0, 11)
    adata.uns["fair_cluster"] = {
        "params": {"sensitive_key": "tech", "label_key": "cell_type"},
        "history": {
            "epoch": epoch,
            "loss": 1 / epoch,
            "i_gc": 0.1 / epoch,
            "i_xc_given_g": np.log(epoch),
            "reconstruction": 0.5 / epoch,
            "anything_new": np.where(epoch > 3, epoch, np.nan),
        },
        "stopped": {"epoch": 10, "reason": "the loss improved by less than 0.1% in 3 epochs"},
        "n_clusters": {
            "candidates": np.array([5, 4, 3, 2]),
            "score": np.array([0.4, 0.3, 0.1, 0.05]),
            "chosen": 4,
            "method": "linkage",
        },
    }
    return adata


@pytest.fixture
def result() -> AnnData:
    return make_result()


@pytest.fixture(autouse=True)
def _settings_stay() -> Iterator[None]:
    before = mpl.rcParams.copy()
    yield
    assert mpl.rcParams == before


def each_plot() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)


def draw(axes: Axes | list[Axes] | None) -> None:
    assert axes is not None
    one = axes if isinstance(axes, Axes) else axes[0]
    one.figure.canvas.draw()


def legend_names(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


# all plots ----------------------------------------------------------------------------------------------------------


@each_plot()
def test_one_figure_and_nothing_written(result: AnnData, plot: Callable) -> None:
    obsm, uns = set(result.obsm), set(result.uns)
    draw(plot(result))
    assert len(plt.get_fignums()) == 1
    assert (set(result.obsm), set(result.uns)) == (obsm, uns)


@each_plot()
def test_absent_results_are_explained_and_leave_no_figure(plot: Callable) -> None:
    empty = AnnData(np.zeros((3, 2), np.float32))
    with pytest.raises((KeyError, ValueError), match=r"fair_cluster"):
        plot(empty)
    assert not plt.get_fignums()


@pytest.mark.parametrize("plot", [sf.pl.training, sf.pl.n_clusters], ids=lambda plot: plot.__name__)
def test_absent_run_is_named(result: AnnData, plot: Callable) -> None:
    with pytest.raises(KeyError, match=r"uns\['other'\].*Run `scfcmi.tl.fair_cluster.*key_added='other'"):
        plot(result, "other")


@each_plot()
def test_show(result: AnnData, plot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert plot(result, show=False) is not None
    assert plot(result) is not None
    assert not shown
    assert plot(result, show=True) is None
    assert shown == [1]


@each_plot()
def test_interactive_figures_are_shown(result: AnnData, plot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setattr(mpl, "is_interactive", lambda: True)
    assert plot(result) is None


@pytest.mark.parametrize(("plot", "n"), [(sf.pl.umap, 3), (sf.pl.training, 2), (sf.pl.composition, 1)])
def test_given_axes_are_used(result: AnnData, plot: Callable, n: int) -> None:
    _, mine = plt.subplots(1, n)
    returned = plot(result, ax=mine)
    assert np.ravel(np.array(returned, dtype=object)).tolist() == np.ravel(np.array(mine, dtype=object)).tolist()
    assert len(plt.get_fignums()) == 1
    _, others = plt.subplots(1, n + 1)
    with pytest.raises(ValueError, match=rf"ax must be {n} matplotlib Axes"):
        plot(result, ax=others)


@each_plot()
def test_results_read_from_a_file(result: AnnData, plot: Callable, tmp_path) -> None:
    import anndata as ad

    result.write_h5ad(tmp_path / "run.h5ad")
    draw(plot(ad.read_h5ad(tmp_path / "run.h5ad")))


# umap ---------------------------------------------------------------------------------------------------------------


def test_umap_default_panels(result: AnnData) -> None:
    axes = sf.pl.umap(result)
    assert isinstance(axes, list)
    assert [ax.get_title() for ax in axes] == ["fair_cluster", "tech", "cell_type"]
    assert {text.get_text() for text in axes[0].texts} == {"0", "1", "2", "3"}
    assert legend_names(axes[0]) == []
    assert legend_names(axes[1]) == ["t0", "t1"]


def test_umap_without_labels_has_two_panels(result: AnnData) -> None:
    del result.uns["fair_cluster"]["params"]["label_key"]
    axes = sf.pl.umap(result)
    assert isinstance(axes, list) and len(axes) == 2


def test_umap_is_computed_once_and_kept(result: AnnData) -> None:
    del result.obsm["X_fair_cluster_umap"]
    draw(sf.pl.umap(result, color=["fair_cluster", "tech"]))
    first = result.obsm["X_fair_cluster_umap"].copy()
    assert set(result.obsm) == {"X_fair_cluster", "X_fair_cluster_umap"}
    sf.pl.umap(result)
    np.testing.assert_array_equal(result.obsm["X_fair_cluster_umap"], first)


def test_umap_of_numbers_and_genes_has_a_colour_bar(result: AnnData) -> None:
    for color in ("depth", "G2"):
        ax = sf.pl.umap(result, color)
        assert isinstance(ax, Axes)
        assert ax.get_title() == color
        assert len(ax.figure.axes) == 2


def test_umap_draws_every_cell_in_its_colour(result: AnnData) -> None:
    ax = sf.pl.umap(result, "tech")
    assert isinstance(ax, Axes)
    points = ax.collections[-1]
    at = {tuple(xy): mpl.colors.to_hex(c) for xy, c in zip(points.get_offsets(), points.get_facecolors(), strict=True)}
    assert len(at) == result.n_obs
    for xy, code in zip(result.obsm["X_fair_cluster_umap"], result.obs["tech"].cat.codes, strict=True):
        assert at[tuple(xy.astype(float))] == PALETTE[code]


def test_umap_uses_the_palette_in_uns(result: AnnData) -> None:
    result.uns["tech_colors"] = np.array(["#000000", "#ff0000"])
    ax = sf.pl.umap(result, "tech")
    assert isinstance(ax, Axes)
    found = {mpl.colors.to_hex(c) for c in ax.collections[-1].get_facecolors()}
    assert found == {"#000000", "#ff0000"}
    result.uns["tech_colors"] = ["#000000"]
    draw(sf.pl.umap(result, "tech"))


def test_umap_with_missing_labels(result: AnnData) -> None:
    result.obs["cell_type"] = result.obs["cell_type"].where(np.arange(240) % 3 > 0)
    axes = sf.pl.umap(result)
    assert isinstance(axes, list)
    assert legend_names(axes[2]) == ["type0", "type1", "missing"]
    assert len(axes[2].collections[0].get_offsets()) == 80
    result.obs["cell_type"] = pd.Categorical([None] * 240, categories=["x"])
    draw(sf.pl.umap(result, ["cell_type"]))


@pytest.mark.parametrize("values", [[True, False], ["b", "a"], [None, "a"]])
def test_umap_of_columns_that_are_not_categorical(result: AnnData, values: list) -> None:
    result.obs["odd"] = values * 120
    ax = sf.pl.umap(result, "odd")
    assert isinstance(ax, Axes)
    assert len(legend_names(ax)) == 2


def test_umap_of_many_groups_keeps_the_legend_short() -> None:
    axes = sf.pl.umap(make_result(2000, 60, 200))
    assert isinstance(axes, list)
    names = legend_names(axes[1])
    assert len(names) == 54
    assert names[-1] == "… 147 more"
    assert len(axes[0].texts) == 60
    assert axes[0].figure.get_figwidth() < 25
    draw(axes)


def test_umap_rows_and_errors(result: AnnData) -> None:
    axes = sf.pl.umap(result, ["tech", "depth", "G1"], ncols=2)
    assert isinstance(axes, list)
    assert len({round(ax.get_subplotspec().rowspan.start) for ax in axes}) == 2
    with pytest.raises(KeyError, match="'nothing' is neither a column of adata.obs nor a gene"):
        sf.pl.umap(result, "nothing")
    with pytest.raises(ValueError, match="color is empty"):
        sf.pl.umap(result, [])
    with pytest.raises(ValueError, match="ncols=0"):
        sf.pl.umap(result, ncols=0)


# training -----------------------------------------------------------------------------------------------------------


def test_training_shows_every_term(result: AnnData) -> None:
    axes = sf.pl.training(result)
    assert axes is not None
    loss, information = axes
    assert [len(ax.get_legend().get_lines()) for ax in axes] == [3, 2]
    assert legend_names(loss) == ["loss  0.1", "reconstruction  0.05", "anything_new  10"]
    assert legend_names(information) == ["I(X;C|G)  2.3", "I(G;C)  0.01"]
    np.testing.assert_allclose(information.get_lines()[1].get_ydata(), 0.1 / np.arange(1, 11))


def test_training_says_why_it_ended(result: AnnData) -> None:
    axes = sf.pl.training(result)
    assert axes is not None
    said = axes[0].get_xlabel().replace("\n", " ")
    assert "ended after epoch 10: the loss improved by less than 0.1% in 3 epochs" in said
    del result.uns["fair_cluster"]["stopped"]
    draw(sf.pl.training(result))


def test_training_of_one_epoch_and_without_information(result: AnnData) -> None:
    result.uns["fair_cluster"]["history"] = {"epoch": np.array([1.0]), "loss": np.array([2.0])}
    axes = sf.pl.training(result)
    assert axes is not None and not axes[1].get_lines()[1:]
    draw(axes)


# composition --------------------------------------------------------------------------------------------------------


def outlines(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def test_composition_marks_the_cluster_that_sets_mnce(result: AnnData) -> None:
    ax = sf.pl.composition(result)
    assert ax is not None
    assert ax.get_title() == "MNCE 0.00, set by cluster 1"
    (outline,) = outlines(ax)
    ticks = dict(zip([text.get_text() for text in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert list(ticks) == ["all", "0", "1", "2", "3"]
    assert outline.get_x() + outline.get_width() / 2 == pytest.approx(ticks["1"])


def test_composition_bars_add_up_to_the_shares(result: AnnData) -> None:
    ax = sf.pl.composition(result)
    assert ax is not None
    bars = [patch for patch in ax.patches if patch.get_fill()]
    heights = np.array([bar.get_height() for bar in bars]).reshape(2, 5)
    np.testing.assert_allclose(heights.sum(axis=0), 1)
    assert heights[0, 0] == pytest.approx((result.obs["tech"] == "t0").mean())
    assert heights[0, 2] == 1


def test_composition_of_any_clustering(result: AnnData) -> None:
    ax = sf.pl.composition(result, "cell_type", "tech")
    assert ax is not None
    assert ax.get_xlabel() == "cell_type"
    with pytest.raises(ValueError, match="Name a column with `sensitive_key`"):
        sf.pl.composition(result, "cell_type")
    with pytest.raises(KeyError, match="cluster_key='nothing' is not a column"):
        sf.pl.composition(result, "nothing", "tech")


def test_composition_leaves_out_cells_without_value(result: AnnData) -> None:
    result.obs["tech"] = result.obs["tech"].where(np.arange(240) >= 12)
    ax = sf.pl.composition(result)
    assert ax is not None
    assert "12 cells without a value left out" in ax.get_title()


def test_composition_of_many_keeps_what_dominates_a_cluster() -> None:
    many = make_result(3000, 60, 200)
    many.obs["tech"] = many.obs["tech"].cat.add_categories("rare")
    many.obs.loc[(many.obs["fair_cluster"] == "7").to_numpy(), "tech"] = "rare"
    ax = sf.pl.composition(many)
    assert ax is not None
    names = legend_names(ax)
    assert len(names) == 18
    assert "rare" in names
    assert names[0] == "184 others"
    assert ax.figure.get_figwidth() < 25
    draw(ax)


# number of clusters -------------------------------------------------------------------------------------------------


def test_n_clusters_marks_the_choice(result: AnnData) -> None:
    ax = sf.pl.n_clusters(result)
    assert ax is not None
    assert ax.get_title() == "4 clusters, chosen by linkage"
    curve, line, dot = ax.get_lines()
    assert curve.get_xdata().tolist() == [2, 3, 4, 5]
    assert curve.get_ydata().tolist() == [0.05, 0.1, 0.3, 0.4]
    assert set(line.get_xdata()) == {4}
    assert dot.get_ydata() == 0.3
    result.uns["fair_cluster"]["n_clusters"]["threshold"] = 0.2
    ax = sf.pl.n_clusters(result)
    assert ax is not None and [text.get_text() for text in ax.texts] == ["threshold"]


def test_n_clusters_that_were_given(result: AnnData) -> None:
    result.uns["fair_cluster"]["n_clusters"] = {"method": "given", "chosen": 7}
    ax = sf.pl.n_clusters(result)
    assert ax is not None
    assert ax.get_title() == "7 clusters"
    assert "K = 7 was given" in ax.texts[0].get_text()


# colours ------------------------------------------------------------------------------------------------------------


def test_palette_colours_differ() -> None:
    assert len(set(PALETTE)) == 64
    assert all(mpl.colors.is_color_like(color) for color in PALETTE)
