"""Seconds, memory and scores against the number of cells, beside the methods people use today, in one run.

    python benchmarks/scale.py [--cells 2000 20000 100000] [--genes 2000] [--scvi] [--device cpu] [--out DIR]

Every method runs in a process of its own on the same simulated atlas (5 % of the entries are not zero), from the
normalised CSR matrix to the labels, so that peak memory is its own. Leiden runs at scanpy's default resolution; scfcmi
is given the number of types. With `--device cuda`, scfcmi and scVI use the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).resolve().parent
PEERS = ("PCA + Leiden", "Harmony + Leiden")
# Molecules per cell at which about 5 % of the entries of 2,000 genes are not zero.
DEPTH = 130


def simulate(n_cells: int, n_genes: int, *, keep_counts: bool = False) -> ad.AnnData:
    """A normalised atlas, on demand with a layer of counts."""
    import scanpy as sc

    import scfcmi

    adata = scfcmi.datasets.simulated_atlas(n_cells=n_cells, n_genes=n_genes, depth=DEPTH, random_state=0)
    if keep_counts:
        adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def work(method: str, n_cells: int, n_genes: int, device: str) -> dict[str, float]:
    """Simulate, normalise, then time one method; runs in a process of its own."""
    import numpy as np
    import scanpy as sc

    import scfcmi

    adata = simulate(n_cells, n_genes, keep_counts=method == "scVI + Leiden")
    matrix = (adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes) / 2**30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()
    if method == "scfcmi":
        n_types = adata.obs["cell_type"].nunique()
        scfcmi.tl.fair_cluster(adata, "tech", n_types, device=device, progress_bar=False)
        labels = adata.obs["fair_cluster"]
    else:
        if method == "scVI + Leiden":
            import scvi

            scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="tech")
            model = scvi.model.SCVI(adata)
            model.train(accelerator="cpu" if device == "cpu" else "gpu", enable_progress_bar=False, logger=False)
            adata.obsm["X_rep"] = model.get_latent_representation()
        else:
            sc.pp.pca(adata, n_comps=30)
            adata.obsm["X_rep"] = adata.obsm["X_pca"]
        if method == "Harmony + Leiden":
            import harmonypy

            harmony = harmonypy.run_harmony(adata.obsm["X_pca"], adata.obs, "tech", verbose=False)
            corrected = np.asarray(harmony.Z_corr)
            adata.obsm["X_rep"] = corrected if len(corrected) == n_cells else corrected.T
        sc.pp.neighbors(adata, use_rep="X_rep")
        sc.tl.leiden(adata, flavor="igraph", n_iterations=2)
        labels = adata.obs["leiden"]
    seconds, used = time.perf_counter() - start, time.process_time() - used
    scores = scfcmi.metrics.clustering_scores(labels, adata.obs["tech"], adata.obs["cell_type"])
    return {
        "seconds": seconds,
        "cpu_seconds": used,
        "matrix_gib": matrix,
        "rss_before_gib": before / 2**20,
        "rss_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **{name: scores[name] for name in ("nmi", "ari", "conditional_fairness")},
    }


def main() -> None:
    """Run every method at every size; write a table with ratios of seconds to scfcmi's, and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 20_000, 100_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--scvi", action="store_true", help="also scVI, with its own defaults (slow without a GPU)")
    parser.add_argument("--only", nargs="+", help="these methods alone, for example where the peers would take hours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--name", default="scale", help="stem of the files written")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "CELLS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(work(arguments.one[0], int(arguments.one[1]), arguments.genes, arguments.device)))
        return
    methods = arguments.only or ["scfcmi", *PEERS, *(["scVI + Leiden"] if arguments.scvi else [])]
    rows = []
    for n_cells in arguments.cells:
        for method in methods:
            command = [sys.executable, __file__, "--genes", str(arguments.genes), "--device", arguments.device]
            done = subprocess.run([*command, "--one", method, str(n_cells)], capture_output=True, text=True)
            if done.returncode:
                print(f"{method} failed at {n_cells} cells:\n{done.stderr[-2000:]}", file=sys.stderr)
                continue
            rows.append({"cells": n_cells, "method": method, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
            # Written after every row: the last ones can take hours.
            write(rows, arguments)


def write(rows: list[dict[str, float]], arguments: argparse.Namespace) -> None:
    """Table and figure of what has been measured so far."""
    frame = pd.DataFrame(rows)
    ours = frame[frame["method"] == "scfcmi"].set_index("cells")["seconds"]
    frame["times_ours"] = frame["seconds"] / frame["cells"].map(ours)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / f"{arguments.name}.csv", index=False)
    (arguments.out / f"{arguments.name}.md").write_text(report(frame, arguments))
    figure(frame, arguments.out / f"{arguments.name}.svg")


def report(frame: pd.DataFrame, arguments: argparse.Namespace) -> str:
    """The table in Markdown."""
    columns = [
        "cells",
        "method",
        "seconds",
        "times_ours",
        "cpu_seconds",
        "rss_peak_gib",
        "rss_before_gib",
        "matrix_gib",
    ]
    columns += ["nmi", "ari", "conditional_fairness"]
    head = (
        "# Cost against the number of cells\n\n"
        f"Made by `benchmarks/scale.py` in one run with {arguments.genes} genes on {platform.machine()}, device "
        f"{arguments.device}, on {len(os.sched_getaffinity(0))} core(s). Seconds are wall time on a shared machine: "
        "compare within the table only. "
        "`rss_before_gib` is the peak before the method starts, from simulating; `matrix_gib` is the CSR matrix.\n\n"
    )
    lines = ["| " + " | ".join(columns) + " |", "| ---: | --- |" + " ---: |" * (len(columns) - 2)]
    for _, row in frame.iterrows():
        cells = [f"{row[c]:.3f}" if isinstance(row[c], float) else f"{row[c]}" for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return head + "\n".join(lines) + "\n"


def figure(frame: pd.DataFrame, path: Path) -> None:
    """Seconds and peak memory against cells, on logarithmic axes."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, column, label in zip(axes, ["seconds", "rss_peak_gib"], ["seconds", "peak memory (GiB)"], strict=True):
        for method, part in frame.groupby("method", sort=False):
            ax.loglog(part["cells"], part[column], "o-", label=method)
        ax.set(xlabel="cells", ylabel=label)
    axes[0].legend(frameon=False)
    fig.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
