"""How well embeddings integrate batches and keep types, by scib-metrics, beside PCA, Harmony and scVI, in one run.

    python benchmarks/integration.py [--data DIR] [--files NAME ...] [--no-scvi] [--out DIR]

Scores are those of `scib_metrics.benchmark.Benchmarker` with its defaults, not rescaled between methods. The embedding
of scfcmi is `obsm["X_fair_cluster"]`, with the curated number of types given.
"""

from __future__ import annotations

import argparse
import warnings
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from compare import HERE, harmony, read

import scfcmi

FILES = ["cellmix_3cl_3protocol", "pancreas_panc8_nebula_1k"]


def add_embeddings(adata: ad.AnnData, seed: int, *, scvi: bool) -> list[str]:
    """Write one embedding per method to `obsm` and return their keys."""
    scaled = adata.copy()
    sc.pp.scale(scaled, max_value=10)
    sc.pp.pca(scaled, n_comps=30, random_state=seed)
    adata.obsm["PCA"] = scaled.obsm["X_pca"]
    scfcmi.tl.fair_cluster(
        adata, "batch", adata.obs["cell_type"].nunique(), random_state=seed, device="cpu", progress_bar=False
    )
    adata.obsm["scfcmi"] = adata.obsm["X_fair_cluster"]
    names = ["PCA", "scfcmi"]
    if find_spec("harmonypy"):
        adata.obsm["Harmony"] = harmony(adata.obsm["PCA"], adata.obs, seed)
        names.append("Harmony")
    if scvi and find_spec("scvi") and "counts" in adata.layers:
        from scvi import settings
        from scvi.model import SCVI

        settings.seed = seed
        counts = adata.copy()
        counts.layers["counts"].data = np.rint(counts.layers["counts"].data)
        SCVI.setup_anndata(counts, layer="counts", batch_key="batch")
        model = SCVI(counts)
        model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
        adata.obsm["scVI"] = model.get_latent_representation()
        names.append("scVI")
    return names


def main() -> None:
    """Score every file and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--files", nargs="+", default=FILES, help="stems of the files to use")
    parser.add_argument("--no-scvi", action="store_true")
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
        names = add_embeddings(adata, arguments.seed, scvi=not arguments.no_scvi)
        bench = Benchmarker(
            adata, "batch", "cell_type", names, pre_integrated_embedding_obsm_key="PCA", n_jobs=1, progress_bar=False
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
