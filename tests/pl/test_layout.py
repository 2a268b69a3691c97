"""What holds for every figure, small or large: all of it is on the page, nothing is written twice or over another."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import scfcmi as sf

LONG_TYPES = [
    "CD8-positive, alpha-beta cytotoxic T cell, effector memory",
    "CD8-positive, alpha-beta cytotoxic T cell, central memory",
    "plasmacytoid dendritic cell, human",
    r"type $\frac{1}$ of $x_1$ and $broken^",
    "_hidden_name_with_many_parts_joined_by_underscores_and_more",
    "B",
]
LONG_GROUPS = ["10x Chromium v3 (3' chemistry), donor A", "Smart-seq2 $5, full length"]
CASES: dict[str, dict[str, Any]] = {
    "dark": {},
    "clusters": {"n_cells": 1500, "n_clusters": 40, "n_groups": 3},
    "groups": {"n_cells": 1500, "n_clusters": 8, "n_groups": 40},
    "long": {"type_names": LONG_TYPES, "group_names": LONG_GROUPS},
}
PLOTS: dict[str, Callable[[AnnData], Any]] = {
    "umap": lambda a: sf.pl.umap(a, ["fair_cluster", "tech", "cell_type", "depth"], ncols=2, show=False),
    "composition": lambda a: sf.pl.composition(a, "cell_type", "tech", show=False),
    "n_clusters": lambda a: sf.pl.n_clusters(a, show=False),
    "tree": lambda a: sf.pl.tree(a, show=False),
    "diagnose": lambda a: sf.pl.diagnose(a, show=False),
    "confidence": lambda a: sf.pl.confidence(a, show=False),
    "reliability": lambda a: sf.pl.reliability(a, "cell_type", show=False),
    "alluvial": lambda a: sf.pl.compare(a, "fair_cluster", "cell_type", show=False),
    "confusion": lambda a: sf.pl.compare(a, "cell_type", "fair_cluster", kind="confusion", show=False),
    "summary": lambda a: sf.pl.summary(a, show=False),
}
RUNS: dict[str, AnnData] = {}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, make: Callable[..., AnnData]) -> Any:
    if request.param not in RUNS:
        RUNS[request.param] = make(**CASES[request.param])
    with plt.style.context("dark_background" if request.param == "dark" else "default"):
        yield RUNS[request.param]


def axes_of(drawn: Any) -> list[Axes]:
    return [drawn] if isinstance(drawn, Axes) else list(drawn)


def drawn_texts(figure: Figure) -> list[Text]:
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text().strip() != "")
    # Ticks outside of the limits exist, but are not drawn.
    hidden = set()
    for ax in figure.findobj(Axes):
        for axis in (ax.xaxis, ax.yaxis):
            shown = {id(tick) for tick in axis._update_ticks()}
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if id(tick) not in shown or not ax.axison:
                    hidden |= {id(tick.label1), id(tick.label2)}
            if not ax.axison:
                hidden.add(id(axis.label))
    return [one for one in found if id(one) not in hidden]


def overlap(a: Bbox, b: Bbox) -> bool:
    both = Bbox.intersection(a, b)
    return both is not None and both.width > 1 and both.height > 1.5


@pytest.mark.parametrize("name", PLOTS)
def test_all_is_on_the_page_once_and_apart(case: AnnData, name: str) -> None:
    axes = axes_of(PLOTS[name](case))
    figure = axes[0].figure
    figure.canvas.draw()
    check_page(figure, axes)
    for ax in axes:
        check_names(ax)
    if mpl.rcParams["axes.facecolor"] == "black":
        on_tiles = {id(text) for ax in axes for text in ax.texts if "shared" in ax.get_title(loc="left")}
        dim = [text for text in drawn_texts(figure) if max(mpl.colors.to_rgb(text.get_color())) < 0.35]
        assert not [text.get_text() for text in dim if id(text) not in on_tiles]


def check_page(figure: Figure, axes: list[Axes]) -> None:
    """Every text and legend lies within the figure, and no panel with its labels on another."""
    page = Bbox([[-1, -1], np.add(figure.canvas.get_width_height(), 1)])
    legends = [legend for ax in axes if (legend := ax.get_legend()) is not None]
    for artist in [*drawn_texts(figure), *legends]:
        box = artist.get_window_extent()
        assert box.x0 >= page.x0 and box.y0 >= page.y0 and box.x1 <= page.x1 and box.y1 <= page.y1, artist
    for one, other in itertools.combinations(axes, 2):
        assert not overlap(one.get_tightbbox(), other.get_tightbbox())


def check_names(ax: Axes) -> None:
    """No two labels of one kind are the same or touch."""
    legend = ax.get_legend()
    kinds = {
        "rows": [label for label in ax.get_yticklabels() if label.get_text()],
        "columns": [label for label in ax.get_xticklabels() if label.get_text()],
        "legend": [] if legend is None else list(legend.get_texts()),
        "inside": [text for text in ax.texts if text.get_weight() == "bold"],
    }
    for kind, texts in kinds.items():
        words = [text.get_text() for text in texts]
        assert len(set(words)) == len(words), kind
        boxes = [text.get_window_extent() for text in texts]
        touching = [
            (words[i], words[j]) for i, j in itertools.combinations(range(len(words)), 2) if overlap(boxes[i], boxes[j])
        ]
        assert not touching, kind


@pytest.mark.parametrize("name", PLOTS)
def test_data_are_left_alone_files_are_as_good_and_points_are_pixels(name: str, run: AnnData, tmp_path: Path) -> None:
    before = set(run.obs), set(run.obsm), set(run.uns)
    run.write_h5ad(tmp_path / "run.h5ad")
    stored = ad.read_h5ad(tmp_path / "run.h5ad")
    pages = []
    for one in (run, stored):
        axes = axes_of(PLOTS[name](one))
        points = [p for ax in axes for p in ax.findobj(PathCollection) if len(p.get_offsets()) == run.n_obs]
        assert all(p.get_rasterized() for p in points)
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "fixed"}):
            axes[0].figure.savefig(buffer, format="svg", metadata={"Date": None})
        pages.append(buffer.getvalue().decode())
    assert (set(run.obs), set(run.obsm), set(run.uns)) == before
    assert pages[0] == pages[1]
    if name in ("umap", "summary"):
        assert "<image " in pages[0]


def test_panels_of_a_row_are_level(make: Callable[..., AnnData]) -> None:
    run = make(1500, 12, 40)
    axes = axes_of(sf.pl.umap(run, ["tech", "fair_cluster", "depth", "cell_type"], ncols=2, show=False))
    boxes = [ax.get_position().extents for ax in axes]
    for a, b in ((0, 1), (2, 3)):
        np.testing.assert_allclose(boxes[a][[1, 3]], boxes[b][[1, 3]])
    for a, b in ((0, 2), (1, 3)):
        np.testing.assert_allclose(boxes[a][[0, 2]], boxes[b][[0, 2]])
