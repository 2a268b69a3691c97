"""The figure of a fit's history: every term with its label, colours that differ, scores where there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

import scfcmi as sf
from scfcmi.published import FollowScores, NetworkOptions, fit_published
from scfcmi.source import as_source, read_groups


def make(history: dict[str, Any], **more: Any) -> AnnData:
    adata = AnnData(np.zeros((2, 2), np.float32))
    adata.uns["fair_cluster"] = {"history": history, **more}
    return adata


def named(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text().rpartition("  ")[0] for text in legend.get_texts()]


def colors(ax: Axes) -> set[tuple[Any, ...]]:
    return {(*to_rgb(line.get_color()), line.get_linestyle()) for line in ax.get_lines()}


def panels(adata: AnnData, **given: Any) -> list[Axes]:
    axes = sf.pl.training(adata, show=False, **given)
    assert axes is not None
    return axes


def test_passes_of_the_default() -> None:
    names = ("free_energy", "log_likelihood", "prior", "reconstruction", "h_c_given_g", "h_c_given_x", "i_gc")
    adata = make({name: np.linspace(1, 2, 7) for name in names}, stopped={"epoch": 7, "reason": "nothing moved"})
    energy, information = panels(adata)
    assert named(energy) == ["free energy", "log-likelihood", "prior", "reconstruction"]
    assert named(information) == ["H(C|G)", "I(G;C)", "H(C|X)"]
    assert energy.get_title() == "Free energy and its parts"
    assert information.get_xlabel() == "pass"
    assert "ended after pass 7: nothing moved" in energy.get_xlabel().replace("\n", " ")
    for ax, n in ((energy, 4), (information, 3)):
        assert len({c for c in colors(ax) if c[-1] != ":"}) == n


def test_many_attributes_have_colours_of_their_own() -> None:
    history = {"loss": np.ones(3), "i_gc": np.ones(3), "i_xc_given_g": np.ones(3)}
    history |= {f"i_gc_a{i}": np.ones(3) for i in range(12)} | {"i_vc_depth": np.ones(3)}
    _, information = panels(make(history))
    assert len(colors(information)) == 15
    assert named(information)[:4] == ["I(X;C|G)", "I(G;C)", "I(a0;C)", "I(a1;C)"]
    assert named(information)[-1] == "I(depth;C)"


def test_scores_of_every_epoch_are_a_third_panel() -> None:
    rng = np.random.default_rng(0)
    x, types = rng.normal(size=(80, 6)).astype(np.float32), rng.integers(0, 3, 80)
    x[:, :3] += 5 * np.eye(3, dtype=np.float32)[types]
    groups = rng.choice(["a", "b"], 80)
    follow = FollowScores(groups, types)
    options = NetworkOptions(hidden=(16, 8), max_epochs=5, warmup_epochs=2, batch_size=40, callback=follow)
    fit = fit_published(as_source(x), read_groups(groups), 3, options, random_state=0, device="cpu", progress_bar=False)
    last = sf.metrics.clustering_scores(fit.assign(x)[0], groups, types)
    for name in ("acc", "nmi", "mnce", "f_beta"):
        assert follow.history[name].shape == (5,)
        assert follow.history[name][-1] == pytest.approx(last[name])
    adata = make(dict(fit.history) | follow.history, stopped=dict(fit.stopped))
    terms, information, scores = panels(adata)
    assert named(terms) == ["loss", "reconstruction"]
    assert named(information) == ["I(X;C|G)", "I(G;C)", "H(C)", "H(C|X)"]
    assert named(scores) == ["ACC", "NMI", "MNCE", "F_β"]
    np.testing.assert_array_equal(scores.get_lines()[1].get_ydata(), follow.history["nmi"])
    np.testing.assert_array_equal(scores.get_lines()[1].get_xdata(), np.arange(1, 6))
    with pytest.raises(ValueError, match="ax must be 3 matplotlib Axes"):
        panels(adata, ax=[terms, information])


@pytest.mark.parametrize(
    ("history", "stopped", "match"),
    [
        ({"loss": 1e308}, None, r"\['history'\] is damaged: 'loss' is no list of numbers"),
        ({"loss": ["a", "b"]}, None, "'loss' is no list of numbers"),
        ({"loss": np.ones((2, 2))}, None, "'loss' is no list of numbers"),
        ({}, "early", r"\['stopped'\] is damaged: it is no table of results, but str"),
        ({}, {"reason": "moved"}, "it has no 'epoch'"),
        ({}, {"epoch": np.nan, "reason": "moved"}, "'epoch' has values that are not finite"),
        ({}, {"epoch": [1, 2], "reason": "moved"}, "it does not say when and why"),
        ({}, {"epoch": 1}, "it does not say when and why"),
    ],
)
def test_a_damaged_history(history: dict[str, Any], stopped: Any, match: str) -> None:
    adata = make({"i_gc": np.ones(3)} | history, **({} if stopped is None else {"stopped": stopped}))
    with pytest.raises(ValueError, match=match):
        panels(adata)
