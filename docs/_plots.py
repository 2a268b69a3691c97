"""One picture of every plot, all of one small atlas, for the pages of the API: `draw(folder)`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import scanpy as sc

import scfcmi as sf


def draw(folder: Path) -> list[str]:
    """Save `<plot>.png` for every function in `scfcmi.pl`, and say which there are; pictures that are there stay."""
    missing = [name for name in sf.pl.__all__ if not (folder / f"{name}.png").is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with plt.rc_context(), warnings.catch_warnings(action="ignore"):
            plots = _plots()
            for name in missing:
                plots[name]()
                plt.gcf().savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
                plt.close("all")
    return list(sf.pl.__all__)


def _plots() -> dict[str, Callable[[], Any]]:
    adata = sf.datasets.simulated_atlas(1200, 500, 6, n_groups=2, n_missing=1, random_state=1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    model = sf.tl.fair_cluster(adata, "tech", progress_bar=False, return_model=True)
    sf.tl.diagnose(adata)
    frontier = sf.tl.tradeoff(adata, "tech", fairness=(0, 0.5, 1), label_key="cell_type")
    key: dict[str, Any] = {"show": False}
    return {
        "compare": lambda: sf.pl.compare(adata, "fair_cluster", "cell_type", **key),
        "composition": lambda: sf.pl.composition(adata, "fair_cluster", "tech", **key),
        "confidence": lambda: sf.pl.confidence(adata, **key),
        "counterfactual": lambda: sf.pl.counterfactual(adata, model=model, **key),
        "diagnose": lambda: sf.pl.diagnose(adata, **key),
        "n_clusters": lambda: sf.pl.n_clusters(adata, **key),
        "reliability": lambda: sf.pl.reliability(adata, "cell_type", **key),
        "summary": lambda: sf.pl.summary(adata, **key),
        "tradeoff": lambda: sf.pl.tradeoff(frontier, **key),
        "training": lambda: sf.pl.training(adata, **key),
        "tree": lambda: sf.pl.tree(adata, **key),
        "umap": lambda: sf.pl.umap(adata, ["fair_cluster", "tech"], **key),
    }
