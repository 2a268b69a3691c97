"""Seconds, memory and scores against the number of cells, beside PCA or Harmony with Leiden, in one run.

    python benchmarks/scale.py [--cells 2000 20000 100000] [--genes 2000] [--out DIR]

Every method runs in a process of its own on the same simulated atlas, from the normalised CSR matrix to the labels, so
that peak memory is its own. Leiden runs at scanpy's default resolution; scfcmi is given the number of types.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
METHODS = ("scfcmi", "PCA + Leiden", "Harmony + Leiden")


def work(method: str, n_cells: int, n_genes: int) -> dict[str, float]:
    """Simulate, normalise, then time one method; runs in a process of its own."""
    import numpy as np
    import scanpy as sc

    import scfcmi

    adata = scfcmi.datasets.simulated_atlas(n_cells=n_cells, n_genes=n_genes, random_state=0)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if method == "scfcmi":
        n_types = adata.obs["cell_type"].nunique()
        scfcmi.tl.fair_cluster(adata, "tech", n_types, device="cpu", progress_bar=False)
        labels = adata.obs["fair_cluster"]
    else:
        sc.pp.pca(adata, n_comps=30)
        representation = "X_pca"
        if method.startswith("Harmony"):
            import harmonypy

            harmony = harmonypy.run_harmony(adata.obsm["X_pca"], adata.obs, "tech", verbose=False)
            corrected = np.asarray(harmony.Z_corr)
            representation = "X_harmony"
            adata.obsm[representation] = corrected if len(corrected) == n_cells else corrected.T
        sc.pp.neighbors(adata, use_rep=representation)
        sc.tl.leiden(adata, flavor="igraph", n_iterations=2)
        labels = adata.obs["leiden"]
    seconds = time.perf_counter() - start
    scores = scfcmi.metrics.clustering_scores(labels, adata.obs["tech"], adata.obs["cell_type"])
    matrix = (adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes) / 2**30
    return {
        "seconds": seconds,
        "matrix_gib": matrix,
        "rss_before_gib": before / 2**20,
        "rss_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **{name: scores[name] for name in ("nmi", "ari", "conditional_fairness")},
    }


def main() -> None:
    """Run every method at every size and print ratios of seconds to scfcmi's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 20_000, 100_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "CELLS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(work(arguments.one[0], int(arguments.one[1]), arguments.genes)))
        return
    rows = []
    for n_cells in arguments.cells:
        for method in METHODS:
            command = [sys.executable, __file__, "--genes", str(arguments.genes), "--one", method, str(n_cells)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"cells": n_cells, "method": method, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    ours = frame[frame["method"] == "scfcmi"].set_index("cells")["seconds"]
    frame["times_ours"] = frame["seconds"] / frame["cells"].map(ours)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / "scale.csv", index=False)
    print(frame.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
