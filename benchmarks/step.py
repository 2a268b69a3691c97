"""Where the time of a default fit goes, by part.

    python benchmarks/step.py [--cells 20000] [--genes 2000] [--device cpu] [--out DIR]

Seconds of an epoch and of a step of the published network: `benchmarks/paper/speed.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import anndata as ad
import pandas as pd
import torch
from slopes import simulate

import scfcmi
from scfcmi.model import _estimator

HERE = Path(__file__).resolve().parent
PARTS = {
    "cut and validate the sample": ("as_source", "stratified_sketch"),
    "align groups": ("align",),
    "neighbours for merging": ("merge_affinity",),
    "small clusters": ("representative_draw",),
    "train the network": ("train",),
}


@contextmanager
def recorded(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the time spent in the estimator's parts."""
    patches = []
    for part, names in PARTS.items():
        for name in names:
            original = getattr(_estimator, name)

            def timed(*args: object, _original: Callable = original, _part: str = part, **kwargs: object) -> object:
                start = time.perf_counter()
                try:
                    return _original(*args, **kwargs)
                finally:
                    seconds[_part] = seconds.get(_part, 0.0) + time.perf_counter() - start

            patches.append(patch.object(_estimator, name, timed))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def fit_by_part(adata: ad.AnnData, n_clusters: int, device: str) -> pd.Series:
    """Seconds of each part of a default fit."""
    fit(adata[:1000].copy(), n_clusters, device)  # warm up
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    with recorded(seconds):
        fit(adata, n_clusters, device)
    total = time.perf_counter() - start
    return pd.Series(seconds | {"the rest: projection, labels of all cells, writing": total - sum(seconds.values())})


def fit(adata: ad.AnnData, n_clusters: int, device: str) -> None:
    scfcmi.tl.fair_cluster(adata, "tech", n_clusters, device=device, progress_bar=False)


def parts_table(parts: pd.Series) -> str:
    """Seconds and share of each part, in Markdown."""
    rows = (f"| {name} | {taken:.2f} | {taken / parts.sum():.0%} |" for name, taken in parts.items())
    return "| part | seconds | share |\n| --- | ---: | ---: |\n" + "\n".join(rows)


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    parts = fit_by_part(simulate(arguments.cells, arguments.genes, 2, 10), 10, arguments.device)
    lines = [
        "# Where the time goes",
        f"Made by `benchmarks/step.py` on device {arguments.device}.",
        f"A default fit of {arguments.cells:,} cells × {arguments.genes:,} genes:",
        parts_table(parts),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "step.md" if arguments.device == "cpu" else "step_gpu.md"
    (arguments.out / name).write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines))


if __name__ == "__main__":
    main()
