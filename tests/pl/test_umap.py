"""The map: what is coloured how, where names stand, and where values come from."""

from __future__ import annotations

import time
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from cycler import cycler
from matplotlib.axes import Axes
from scipy import sparse

import scfcmi as sf
from scfcmi.pl._style import GROUP_PALETTE, LABEL_PALETTE, PALETTE


def legend_names(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def colors_at(ax: Axes, adata: AnnData) -> list[str]:
    """Colour of every cell, in the order of the data."""
    (points,) = ax.collections
    at = {tuple(xy): mpl.colors.to_hex(c) for xy, c in zip(points.get_offsets(), points.get_facecolors(), strict=True)}
    return [at[tuple(xy.astype(float))] for xy in adata.obsm["X_fair_cluster_umap"]]


def test_default_panels(run: AnnData) -> None:
    axes = sf.pl.umap(run)
    assert isinstance(axes, list)
    assert [ax.get_title() for ax in axes] == ["fair_cluster", "tech", "cell_type"]
    assert {text.get_text() for text in axes[0].texts} == set("012345")
    assert legend_names(axes[0]) == []
    assert legend_names(axes[1]) == ["tech0", "tech1"]
    del run.uns["fair_cluster"]["params"]["label_key"]
    axes = sf.pl.umap(run)
    assert isinstance(axes, list) and len(axes) == 2


def test_a_missing_map_is_computed_once_and_kept(run: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    xy = run.obsm.pop("X_fair_cluster_umap")
    asked = []

    def compute(adata: AnnData, key: str) -> None:
        asked.append(key)
        adata.obsm["X_fair_cluster_umap"] = xy

    monkeypatch.setattr("scfcmi.pl._umap.compute_umap", compute)
    for _ in range(2):
        axes = sf.pl.umap(run, color=["fair_cluster", "tech"])
    assert isinstance(axes, list)
    np.testing.assert_allclose(np.sort(axes[1].collections[0].get_offsets()[:, 0]), np.sort(xy[:, 0]), rtol=1e-6)
    assert asked == ["fair_cluster"]


def test_a_map_that_is_none(run: AnnData) -> None:
    run.obsm["X_fair_cluster_umap"] = run.obsm["X_fair_cluster_umap"] * np.nan
    with pytest.raises(ValueError, match="no map of two finite numbers"):
        sf.pl.umap(run)
    assert not plt.get_fignums()


# colours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "palette"), [("fair_cluster", PALETTE), ("tech", GROUP_PALETTE), ("cell_type", LABEL_PALETTE)]
)
def test_every_kind_has_its_palette(run: AnnData, name: str, palette: list[str]) -> None:
    ax = sf.pl.umap(run, name)
    assert isinstance(ax, Axes)
    assert colors_at(ax, run) == [palette[code] for code in run.obs[name].cat.codes]


def test_no_colour_means_two_things() -> None:
    first = [*PALETTE[:12], *GROUP_PALETTE[:8], *LABEL_PALETTE[:12]]
    assert len(set(first)) == len(first)
    for palette in (PALETTE, GROUP_PALETTE, LABEL_PALETTE):
        assert len(set(palette)) == len(palette)


@pytest.mark.parametrize(
    "palette",
    [
        ["#000000", "#ff0000"],
        ("black", "red"),
        np.array([[0, 0, 0], [1, 0, 0]]),
        {"tech1": "red", "tech0": "black"},
        {"tech": ["k", "r"]},
        cycler(color=["k", "r"]),
    ],
    ids=["list", "tuple", "array", "dict", "dict of columns", "cycler"],
)
def test_palettes(run: AnnData, palette: object) -> None:
    ax = sf.pl.umap(run, "tech", palette=palette)
    assert isinstance(ax, Axes)
    assert colors_at(ax, run) == [["#000000", "#ff0000"][code] for code in run.obs["tech"].cat.codes]


def test_a_palette_by_name_and_the_one_in_uns(run: AnnData) -> None:
    ax = sf.pl.umap(run, "tech", palette="Set1")
    assert isinstance(ax, Axes)
    assert set(colors_at(ax, run)) == {mpl.colors.to_hex(color) for color in mpl.colormaps["Set1"].colors[:2]}
    run.uns["tech_colors"] = np.array(["#000000", "#ff0000"])
    ax = sf.pl.umap(run, "tech")
    assert isinstance(ax, Axes)
    assert set(colors_at(ax, run)) == {"#000000", "#ff0000"}
    run.uns["tech_colors"] = ["#000000"]
    ax = sf.pl.umap(run, "tech")
    assert isinstance(ax, Axes)
    assert set(colors_at(ax, run)) == set(GROUP_PALETTE[:2])


@pytest.mark.parametrize(
    ("palette", "match"),
    [
        (["red"], "2 categories of 'tech', but there are 1"),
        (["red", "no colour"], "'no colour' is no colour"),
        ({"tech0": "red"}, r"no colour for \['tech1'\]"),
        ("nothing", "palette='nothing' is no colour map"),
    ],
)
def test_palettes_that_do_not_fit(run: AnnData, palette: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sf.pl.umap(run, "tech", palette=palette)
    assert not plt.get_fignums()


def test_groups_in_colour_and_the_rest_grey(run: AnnData) -> None:
    ax = sf.pl.umap(run, "cell_type", groups=["type1"], na_color="#010101")
    assert isinstance(ax, Axes)
    chosen = (run.obs["cell_type"] == "type1").to_numpy()
    assert colors_at(ax, run) == np.where(chosen, LABEL_PALETTE[1], "#010101").tolist()
    assert legend_names(ax) == ["type1", "others"]
    with pytest.raises(ValueError, match=r"groups names \['type99'\]"):
        sf.pl.umap(run, "cell_type", groups="type99")


def test_missing_labels(run: AnnData) -> None:
    run.obs["cell_type"] = run.obs["cell_type"].where(np.arange(run.n_obs) % 3 > 0)
    ax = sf.pl.umap(run, "cell_type", na_color="#020202")
    assert isinstance(ax, Axes)
    assert legend_names(ax)[-1] == "missing"
    colors = np.array(colors_at(ax, run))
    assert set(colors[::3]) == {"#020202"} and "#020202" not in set(colors[1::3])
    run.obs["cell_type"] = pd.Categorical([None] * run.n_obs, categories=["x"])
    ax = sf.pl.umap(run, "cell_type")
    assert isinstance(ax, Axes) and legend_names(ax) == ["missing"]


@pytest.mark.parametrize("values", [[True, False], ["b", "a"], [None, "a"]])
def test_columns_that_are_not_categorical(run: AnnData, values: list) -> None:
    run.obs["odd"] = values * 300
    ax = sf.pl.umap(run, "odd")
    assert isinstance(ax, Axes)
    assert len(legend_names(ax)) == 2


def test_numbers_run_from_low_to_high_and_have_a_colour_bar(run: AnnData) -> None:
    run.obs["score"] = np.where(np.arange(run.n_obs) == 5, np.nan, np.arange(run.n_obs))
    ax = sf.pl.umap(run, "score", cmap="magma", vmin=100, vmax="p50", na_color="#030303")
    assert isinstance(ax, Axes)
    assert len(ax.child_axes) == 1
    offsets = ax.collections[0].get_offsets()
    np.testing.assert_allclose(offsets[0], run.obsm["X_fair_cluster_umap"][5])
    np.testing.assert_allclose(offsets[-1], run.obsm["X_fair_cluster_umap"][-1])
    colors = colors_at(ax, run)
    assert colors[5] == "#030303"
    assert colors[0] == colors[100] == mpl.colors.to_hex(mpl.colormaps["magma"](0.0))
    assert colors[-1] == mpl.colors.to_hex(mpl.colormaps["magma"](1.0))
    with pytest.raises(ValueError, match="percentiles such as 'p99', not 'high'"):
        sf.pl.umap(run, "score", vmax="high")
    assert len(plt.get_fignums()) == 1, "that of the first call alone"


# genes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_raw(run: AnnData) -> AnnData:
    """All genes in `.raw`, ten of them in `X` with other values, and a gene that is in `X` alone."""
    run.var["symbol"] = [f"S{i}" for i in range(run.n_vars)]
    full = run.copy()
    run = run[:, :10].copy()
    run.var_names = [*run.var_names[:9], "new"]
    run.X = sparse.csr_matrix(np.full(run.shape, 7.0, np.float32) + np.arange(run.n_obs, dtype=np.float32)[:, None])
    run.layers["counts"] = run.X * 2
    run.raw = full
    return run


def values_of(ax: object) -> list[float]:
    assert isinstance(ax, Axes)
    mappable = ax.child_axes[0]._colorbar.mappable
    return [mappable.norm.vmin, mappable.norm.vmax]


def test_genes_come_from_raw_where_there_is_one(with_raw: AnnData) -> None:
    name = with_raw.var_names[0]
    raw = with_raw.raw[:, name].X.toarray()
    assert values_of(sf.pl.umap(with_raw, name)) == [raw.min(), raw.max()]
    assert values_of(sf.pl.umap(with_raw, name, use_raw=False)) == [7, 606]
    assert values_of(sf.pl.umap(with_raw, name, layer="counts")) == [14, 1212]
    assert values_of(sf.pl.umap(with_raw, "new")) == [7, 606]
    only_raw = with_raw.raw.var_names[20]
    assert values_of(sf.pl.umap(with_raw, only_raw))[1] == with_raw.raw[:, only_raw].X.max()
    assert values_of(sf.pl.umap(with_raw, "S20", gene_symbols="symbol"))[1] == with_raw.raw[:, only_raw].X.max()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"color": "nothing"}, KeyError, "neither a column of adata.obs nor a gene of adata.var_names or those of"),
        ({"color": "S99", "gene_symbols": "symbol"}, KeyError, r"gene of adata.var\['symbol'\]"),
        ({"color": "new", "use_raw": True}, KeyError, "gene of adata.var_names of adata.raw"),
        ({"color": "new", "layer": "absent"}, KeyError, "layer='absent'"),
        ({"color": "new", "layer": "counts", "use_raw": True}, ValueError, "exclude each other"),
        ({"color": []}, ValueError, "color is empty"),
        ({"color": "tech", "ncols": 0}, ValueError, "ncols=0"),
        ({"color": ["tech", "depth"], "title": "one"}, ValueError, "title has 1 entries, but there are 2"),
    ],
)
def test_refused(with_raw: AnnData, options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sf.pl.umap(with_raw, **options)
    assert not plt.get_fignums()


def test_raw_that_is_not_there(run: AnnData) -> None:
    with pytest.raises(ValueError, match="adata.raw is empty"):
        sf.pl.umap(run, run.var_names[0], use_raw=True)


# names --------------------------------------------------------------------------------------------------------------


def test_legends_are_where_they_are_asked_for(run: AnnData) -> None:
    on_data, beside, inside, none = (
        sf.pl.umap(run, "cell_type", legend_loc=loc, legend_fontsize=9)
        for loc in ("on data", "right margin", "best", None)
    )
    assert {text.get_text() for text in on_data.texts} == {f"type{k}" for k in range(6)}
    assert {text.get_fontsize() for text in on_data.texts} == {9}
    assert legend_names(on_data) == [] and not beside.texts
    assert legend_names(beside) == legend_names(inside) == [f"type{k}" for k in range(6)]
    for ax, is_inside in ((beside, False), (inside, True)):
        ax.figure.canvas.draw()
        panel, box = ax.get_window_extent(), ax.get_legend().get_window_extent()
        assert (box.x1 <= panel.x1) == is_inside
    assert legend_names(none) == [] and not none.texts


def test_every_name_is_complete_however_long(make: Callable[..., AnnData]) -> None:
    stem = "a cell of the adult human kidney that has a very long name and differs only at its end, "
    names = [stem + str(k) for k in range(6)]
    ax = sf.pl.umap(make(type_names=names), "cell_type", show=False)
    assert isinstance(ax, Axes)
    shown = [name.replace("\n", " ") for name in legend_names(ax)]
    assert shown == names


def test_names_that_look_alike_are_told_apart(run: AnnData) -> None:
    alike = ["same", "same ", " same", "x" * 300 + "a" + "y" * 300, "x" * 300 + "b" + "y" * 300, ""]
    run.obs["cell_type"] = run.obs["cell_type"].cat.rename_categories(alike)
    ax = sf.pl.umap(run, "cell_type", show=False)
    assert isinstance(ax, Axes)
    names = legend_names(ax)
    assert names[:3] == ["same (1)", "same (2)", "same (3)"]
    assert len(set(names)) == 6 and names[5] == "(empty)"


def test_small_clusters_are_not_hidden_by_their_names(run: AnnData) -> None:
    xy = run.obsm["X_fair_cluster_umap"]
    small = (run.obs["fair_cluster"] == "5").to_numpy()
    xy[small] = xy[small].mean(axis=0) + 0.001 * xy[small]
    ax = sf.pl.umap(run, "fair_cluster", show=False)
    assert isinstance(ax, Axes)
    ax.figure.canvas.draw()
    (name,) = (text for text in ax.texts if text.get_text() == "5")
    middle = ax.transData.transform(np.median(xy[small], axis=0))
    assert not name.get_window_extent().contains(*middle)
    assert any(np.allclose(line.get_xydata()[0], np.median(xy[small], axis=0), atol=0.02) for line in ax.lines)


def test_very_many_categories_keep_the_legend_short(make: Callable[..., AnnData]) -> None:
    ax = sf.pl.umap(make(1500, 6, 150), "tech", show=False)
    assert isinstance(ax, Axes)
    names = legend_names(ax)
    assert len(names) == 60
    assert names[-1] == "… 91 more, smaller"
    assert ax.figure.get_figwidth() < 12


# size ---------------------------------------------------------------------------------------------------------------


def test_a_million_cells_are_an_image_in_which_every_cluster_shows() -> None:
    n_cells = 1_000_000
    rng = np.random.default_rng(0)
    codes = np.minimum(rng.geometric(0.3, n_cells) - 1, 11)
    codes[:40] = 12
    xy = (np.stack([codes % 4, codes // 4], axis=1) + 0.1 * rng.normal(size=(n_cells, 2))).astype(np.float32)
    obs = pd.DataFrame(
        {"fair_cluster": pd.Categorical.from_codes(codes, [str(k) for k in range(13)])},
        index=pd.RangeIndex(n_cells).astype(str),
    )
    adata = AnnData(obs=obs, obsm={"X_fair_cluster_umap": xy})
    start = time.perf_counter()
    ax = sf.pl.umap(adata, "fair_cluster", show=False)
    assert isinstance(ax, Axes)
    ax.figure.canvas.draw()
    assert time.perf_counter() - start < 20
    assert not ax.collections
    pixels = np.asarray(ax.images[0].get_array())
    shown = {mpl.colors.to_hex(color) for color in np.unique(pixels[pixels[:, :, 3] > 0][:, :3], axis=0) / 255}
    assert shown == set(PALETTE[:13])


def test_names_in_the_map_never_lie_on_each_other(make: Callable[..., AnnData]) -> None:
    run = make(1500, 40, 2, type_names=[f"cell ontology class number {i}, in many words" for i in range(40)])
    ax = sf.pl.umap(run, "cell_type", legend_loc="on data", show=False)
    assert isinstance(ax, Axes)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 5 < len(boxes) <= 40
    largest = run.obs["cell_type"].value_counts().index[0]
    assert largest in {text.get_text().replace("\n", " ") for text in ax.texts}
    for i, box in enumerate(boxes):
        for other in boxes[:i]:
            assert (
                min(box.x1, other.x1) - max(box.x0, other.x0) < 2 or min(box.y1, other.y1) - max(box.y0, other.y0) < 2
            )


def test_no_cells() -> None:
    nothing = AnnData(
        obs=pd.DataFrame({"fair_cluster": pd.Categorical([])}), obsm={"X_fair_cluster_umap": np.ones((0, 2))}
    )
    with pytest.raises(ValueError, match="adata has no cells: there is nothing to draw"):
        sf.pl.umap(nothing, show=False)
