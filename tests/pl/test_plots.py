"""Figures: what they show, what they leave alone, and what they say when there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.axes import Axes

import scfcmi as sf

PLOTS = [
    sf.pl.composition,
    sf.pl.confidence,
    sf.pl.diagnose,
    sf.pl.n_clusters,
    sf.pl.summary,
    sf.pl.training,
    sf.pl.tree,
    sf.pl.umap,
]


HISTORY_OF_10 = {
    "epoch": np.arange(1.0, 11),
    "loss": 1 / np.arange(1.0, 11),
    "i_gc": 0.1 / np.arange(1.0, 11),
    "i_xc_given_g": np.log(np.arange(1.0, 11)),
    "reconstruction": 0.5 / np.arange(1.0, 11),
    "anything_new": np.where(np.arange(1.0, 11) > 3, np.arange(1.0, 11), np.nan),
}


@pytest.fixture
def result(run: AnnData) -> AnnData:
    run.uns["fair_cluster"]["history"] = dict(HISTORY_OF_10)
    run.uns["fair_cluster"]["stopped"] = {
        "epoch": 10,
        "reason": "the loss improved by less than 0.1% in 3 epochs",
    }
    return run


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


@pytest.mark.parametrize(
    ("plot", "n"),
    [
        (sf.pl.umap, 3),
        (sf.pl.training, 2),
        (sf.pl.composition, 1),
        (sf.pl.confidence, 1),
        (sf.pl.diagnose, 1),
        (sf.pl.n_clusters, 1),
        (sf.pl.tree, 1),
    ],
)
def test_given_axes_are_used(result: AnnData, plot: Callable, n: int) -> None:
    _, mine = plt.subplots(1, n)
    returned = plot(result, ax=mine)
    assert np.ravel(np.array(returned, dtype=object)).tolist() == np.ravel(np.array(mine, dtype=object)).tolist()
    assert len(plt.get_fignums()) == 1
    _, others = plt.subplots(1, n + 1)
    with pytest.raises(ValueError, match=rf"ax must be {n} matplotlib Axes"):
        plot(result, ax=others)


@each_plot()
@pytest.mark.parametrize("damage", ["no table", "half a table"])
def test_damaged_results_are_named(result: AnnData, plot: Callable, damage: str) -> None:
    uns = result.uns
    uns["fair_cluster_diagnosis"] = np.zeros(3) if damage == "no table" else {"clusters": ["0"], "groups": ["a"]}
    del result.obsm["X_fair_cluster_umap"]
    del result.obsm["X_fair_cluster"]
    del result.obs["fair_cluster_confidence"]
    uns["fair_cluster"] = (
        3 if damage == "no table" else {"n_clusters": {"candidates": [3, 2]}, "tree": {}, "history": 1}
    )
    with pytest.raises((KeyError, ValueError), match=r"fair_cluster"):
        plot(result)
    assert not plt.get_fignums()


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
