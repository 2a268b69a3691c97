"""How well embeddings integrate batches and keep types, by scib-metrics, beside PCA, Harmony and scVI, in one run.

    python benchmarks/integration.py [--data DIR] [--files NAME ...] [--methods …] [--out DIR]

Scores are those of `scib_metrics.benchmark.Benchmarker` with its defaults, not rescaled between methods. The embedding
of scfcmi is `obsm["X_fair_cluster"]`, with the curated number of types given.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _peers import METHODS, OURS, PEERS, applies, ours, pca, read
from _results import HERE

FILES = ["cellmix_3cl_3protocol", "pancreas_panc8_nebula_1k"]


def add_embeddings(adata: ad.AnnData, seed: int, methods: list[str]) -> list[str]:
    """Write one embedding per method to `obsm` and return their keys."""
    names = []
    for method in methods:
        if not applies(method, adata):
            continue
        if method == OURS:
            ours(adata, "batch", adata.obs["cell_type"].nunique(), seed)
            adata.obsm[OURS] = np.asarray(adata.obsm["X_fair_cluster"])
        else:
            adata.obsm[method] = PEERS[method](adata, "batch", seed)
        names.append(method)
    return names


def main() -> None:
    """Score every file and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--files", nargs="+", default=FILES, help="stems of the files to use")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    files = [p for p in sorted(arguments.data.glob("*.h5ad")) if p.stem in arguments.files]
    if not files:
        print(f"skipped: no such .h5ad files in {arguments.data}")
        return
    from scib_metrics.benchmark import Benchmarker

    warnings.filterwarnings("ignore")
    tables = []
    for path in files:
        adata = read(path)
        adata.obsm["raw"] = pca(adata, "batch", arguments.seed)
        names = add_embeddings(adata, arguments.seed, arguments.methods)
        bench = Benchmarker(
            adata, "batch", "cell_type", names, pre_integrated_embedding_obsm_key="raw", n_jobs=1, progress_bar=False
        )
        bench.benchmark()
        scores = bench.get_results(min_max_scale=False).drop("Metric Type")
        tables.append(scores.astype(float).assign(data=path.stem).reset_index(names="method"))
        print(tables[-1].round(3).to_string(), flush=True)
    frame = pd.concat(tables)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / "integration.csv", index=False)
    columns = [c for c in frame.columns if c not in ("data", "method")]
    lines = ["| data | method | " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * len(columns)]
    lines += [
        f"| {row['data']} | {row['method']} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |"
        for _, row in frame.iterrows()
    ]
    head = "# Integration scores\n\nMade by `benchmarks/integration.py` with scib-metrics, in one run.\n\n"
    (arguments.out / "integration.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
