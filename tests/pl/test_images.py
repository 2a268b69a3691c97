"""A handful of figures compared with stored ones, pixel by pixel.

To store them anew after a change that was meant: `SCFCMI_WRITE_BASELINE=1 pytest tests/pl/test_images.py`, and look at
each of them before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib import ft2font
from matplotlib.axes import Axes
from matplotlib.testing.compare import compare_images

import scfcmi as sf

BASELINE = Path(__file__).parent / "baseline"
VERSIONS = BASELINE / "versions.txt"
WRITING = bool(os.environ.get("SCFCMI_WRITE_BASELINE"))
DRAWN_WITH = f"matplotlib {'.'.join(mpl.__version__.split('.')[:2])}, freetype {ft2font.__freetype_version__}"
# Root mean square difference of colours, from 0 to 255: letters that moved by a pixel stay below it.
TOLERANCE = 4.0
DPI = 55
LONG = ["CD8-positive, alpha-beta cytotoxic T cell", "plasmacytoid dendritic cell, human", "$x_1$", "_b", "c", "d"]
FIGURES: dict[str, tuple[dict[str, Any], Callable[[AnnData], Any]]] = {
    "umap": ({}, lambda a: sf.pl.umap(a, ["fair_cluster", "tech", "depth"], show=False)),
    "umap_dark": ({}, lambda a: sf.pl.umap(a, ["fair_cluster", "tech"], show=False)),
    "umap_many": ({"n_cells": 1500, "n_clusters": 40}, lambda a: sf.pl.umap(a, ["fair_cluster"], show=False)),
    "composition_long": ({"type_names": LONG}, lambda a: sf.pl.composition(a, "cell_type", "tech", show=False)),
    "composition_groups": ({"n_groups": 40}, lambda a: sf.pl.composition(a, show=False)),
    "n_clusters": ({}, lambda a: sf.pl.n_clusters(a, show=False)),
    "tree": ({"n_groups": 4}, lambda a: sf.pl.tree(a, show=False)),
    "diagnose_groups": ({"n_cells": 1500, "n_groups": 40}, lambda a: sf.pl.diagnose(a, show=False)),
    "confidence": ({}, lambda a: sf.pl.confidence(a, show=False)),
    "reliability": ({}, lambda a: sf.pl.reliability(a, "cell_type", show=False)),
    "alluvial_long": ({"type_names": LONG}, lambda a: sf.pl.compare(a, "fair_cluster", "cell_type", show=False)),
    "summary": ({}, lambda a: sf.pl.summary(a, show=False)),
}


@pytest.mark.skipif(
    not WRITING and VERSIONS.read_text(encoding="utf-8").strip() != DRAWN_WITH,
    reason=f"the stored figures were drawn with {VERSIONS.read_text(encoding='utf-8').strip()}, not with {DRAWN_WITH}",
)
@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_did(name: str, make: Callable[..., AnnData], tmp_path: Path) -> None:
    options, plot = FIGURES[name]
    adata = make(**options)
    mixed = np.random.default_rng(1).random(adata.n_obs) < 0.2
    adata.obs.loc[mixed, "cell_type"] = adata.obs["cell_type"].to_numpy()[np.roll(np.arange(adata.n_obs), 1)][mixed]
    folder = BASELINE if WRITING else tmp_path
    with plt.style.context("dark_background" if name.endswith("dark") else "default"):
        drawn = plot(adata)
        figure = (drawn if isinstance(drawn, Axes) else drawn[0]).figure
        figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
    if WRITING:
        VERSIONS.write_text(DRAWN_WITH + "\n", encoding="utf-8")
        return
    difference = compare_images(str(BASELINE / f"{name}.png"), str(tmp_path / f"{name}.png"), tol=TOLERANCE)
    assert difference is None, difference


def test_stored_figures_are_few_and_small() -> None:
    stored = list(BASELINE.glob("*.png"))
    assert {path.stem for path in stored} == set(FIGURES)
    assert sum(path.stat().st_size for path in stored) < 400_000
