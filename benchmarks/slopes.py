"""What the time of a fit depends on: cells, genes, groups and clusters, each with a log-log slope.

    python benchmarks/slopes.py [--cells 20000] [--genes 2000] [--repeats 3] [--device cpu] [--out DIR]

One quantity varies, the others stay. All fits run in one process, in turn, and the fastest of a few repeats counts,
because whatever else the machine does can only add time. On a CPU, seconds are those of the processor, because a fit
runs on one thread there and a shared machine makes it wait. The slope is that of a straight line through log seconds
against the log of the quantity: 1 is proportional, 0 is no dependence.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc

import scfcmi

HERE = Path(__file__).resolve().parent
DEPTH_PER_GENE = 130 / 2000


def simulate(n_cells: int, n_genes: int, n_groups: int, n_types: int) -> ad.AnnData:
    """A normalised atlas of which about 5 % of the entries are not zero."""
    adata = scfcmi.datasets.simulated_atlas(
        n_cells, n_genes, n_types, n_groups=n_groups, depth=DEPTH_PER_GENE * n_genes, unevenness=0, random_state=0
    )
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def seconds(adata: ad.AnnData, n_clusters: int, device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    scfcmi.tl.fair_cluster(adata, "tech", n_clusters, device=device, progress_bar=False)
    return clock() - start


def main() -> None:
    """Time every case a few times in turn, and write a table and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    base = {"cells": arguments.cells, "genes": arguments.genes, "groups": 2, "clusters": 10}
    varied = {
        "cells": [2000, 6000, 20_000, 60_000, 200_000],
        "genes": [500, 1000, 2000, 4000],
        "groups": [2, 20, 200],
        "clusters": [10, 30, 100],
    }
    rows = []
    for name, values in varied.items():
        for value in values:
            case = base | {name: value}
            adata = simulate(case["cells"], case["genes"], case["groups"], min(case["clusters"], 30))
            for repeat in range(arguments.repeats):
                taken = seconds(adata, case["clusters"], arguments.device)
                rows.append({"varied": name, **case, "repeat": repeat, "seconds": taken})
                print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / "slopes.csv", index=False)
    parts, fig = [], plt.figure(figsize=(10, 2.8), layout="constrained")
    axes = fig.subplots(1, len(varied), sharey=True)
    for ax, name in zip(axes, varied, strict=True):
        best = frame[frame["varied"] == name].groupby(name)["seconds"].min()
        slope = np.polyfit(np.log(best.index.to_numpy(float)), np.log(best.to_numpy()), 1)[0]
        ax.loglog(best.index, best, "o-")
        ax.set(xlabel=name, title=f"slope {slope:.2f}")
        listed = ", ".join(f"{value:,}: {taken:.1f} s" for value, taken in best.items())
        parts.append(f"| {name} | {slope:.2f} | {listed} |")
    axes[0].set_ylabel("seconds")
    fig.savefig(arguments.out / "slopes.svg", metadata={"Date": None})
    head = (
        "# What the time of a fit depends on\n\n"
        f"Made by `benchmarks/slopes.py` on device {arguments.device}; unless varied, {arguments.cells:,} cells, "
        f"{arguments.genes:,} genes, 2 groups and 10 clusters. Fastest of {arguments.repeats}.\n\n"
        "| varied | log-log slope | seconds |\n| --- | ---: | --- |\n"
    )
    (arguments.out / "slopes.md").write_text(head + "\n".join(parts) + "\n")
    print("\n".join(parts))


if __name__ == "__main__":
    main()
