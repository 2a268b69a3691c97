"""How well embeddings integrate batches and keep types, by scib-metrics, beside PCA, Harmony and scVI.

    python benchmarks/integration.py [--sets …] [--seeds 0] [--methods …] [--resume] [--report]

Scores are those of `scib_metrics.benchmark.Benchmarker` with its defaults, not rescaled between methods. The embedding
of scfcmi is `obsm["X_fair_cluster"]` as a user gets it, the number of clusters unknown. Types of one cell are left out:
the scores are not defined for them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _peers import METHODS, OURS, PEERS, SETS, applies, ours, pca, read
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance

KEYS = ["data", "method", "seed"]


def embedding(method: str, adata: ad.AnnData, seed: int) -> np.ndarray:
    """Positions of the cells, by one method."""
    if method != OURS:
        return PEERS[method](adata, "batch", seed)
    ours(adata, "batch", None, seed)
    return np.asarray(adata.obsm["X_fair_cluster"])


def run(rows: Rows, folder: Path, name: str, methods: list[str], seeds: list[int]) -> None:
    """Score all methods on one data set."""
    from scib_metrics.benchmark import Benchmarker

    warnings.filterwarnings("ignore")
    adata = read(folder / f"{name}.h5ad")
    counts = adata.obs["cell_type"].value_counts()
    adata = adata[adata.obs["cell_type"].isin(counts.index[counts > 1]).to_numpy()].copy()
    for column in ("batch", "cell_type"):
        adata.obs[column] = adata.obs[column].astype(str).astype("category")
    for seed in seeds:
        wanted = [m for m in methods if applies(m, adata) and not rows.done(data=name, method=m, seed=seed)]
        if not wanted:
            continue
        adata.obsm["raw"] = pca(adata, "batch", seed)
        for method in wanted:
            adata.obsm[method] = embedding(method, adata, seed)
        bench = Benchmarker(
            adata, "batch", "cell_type", wanted, pre_integrated_embedding_obsm_key="raw", n_jobs=1, progress_bar=False
        )
        bench.benchmark()
        scores = bench.get_results(min_max_scale=False).drop("Metric Type").astype(float)
        for method in wanted:
            rows.add({"data": name, "method": method, "seed": seed} | scores.loc[method].to_dict())


def report(frame: pd.DataFrame) -> str:
    """Means over data sets, and every data set."""
    about = "Scores of scib-metrics, larger is better; means over data sets, PCA as the start of all methods."
    columns = [name for name in frame.columns if name not in KEYS]
    by = frame.groupby("method", sort=False)
    means = by[columns].mean()
    means.insert(0, "sets", by["data"].nunique())
    return (
        "\n\n".join(
            [
                "# Integration scores",
                provenance("integration.py", about),
                markdown(means),
                markdown(frame.groupby(["data", "method"])[columns].mean()),
            ]
        )
        + "\n"
    )


def main() -> None:
    """Score every data set and write a table."""
    made = parser(__doc__, METHODS, SETS)
    made.set_defaults(seeds=[0])
    arguments = made.parse_args()
    rows = Rows(arguments.out / "integration.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        sets = at_hand(arguments)
        for name in sets:
            asked = (rows, arguments.data, name, arguments.methods, arguments.seeds)
            in_own_process(run, *asked, threads=arguments.threads)
    (arguments.out / "integration.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
