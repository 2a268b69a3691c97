"""Seconds of a fit of one to three thousand cells, beside the usual chain of steps, in one warm process.

    python benchmarks/small.py [--cells 1000 2000 3000] [--genes 2000] [--repeats 7] [--threads 2] [--device cpu]

From the normalised CSR matrix to the labels, with the number of clusters unknown: `tl.fair_cluster`, and scanpy's PCA,
Harmony2, scanpy's neighbours and its Leiden. Both run once unmeasured, then in turn; what counts is the median of the
ratios of neighbouring runs, since a shared machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from _peers import N_COMPS, OURS, leiden, neighbours, normalised, ours
from _results import Rows, in_own_process, markdown, parser, provenance
from sklearn.metrics import adjusted_rand_score

import scfcmi

PEER = "PCA + Harmony2 + neighbours + Leiden"
KEYS = ["cells", "repeat", "method"]


def chain(adata: ad.AnnData, seed: int) -> np.ndarray:
    """What most people run: unscaled components, which is the quickest."""
    import harmonypy

    sc.pp.pca(adata, n_comps=N_COMPS, random_state=seed)
    found = harmonypy.run_harmony(adata.obsm["X_pca"], adata.obs, "tech", verbose=False, random_state=seed)
    corrected = np.asarray(found.Z_corr)
    corrected = corrected if len(corrected) == adata.n_obs else corrected.T
    return leiden(neighbours(np.ascontiguousarray(corrected, dtype=np.float32), seed), 1.0, seed)


def run(rows: Rows, cells: list[int], n_genes: int, repeats: int, device: str) -> None:
    """All sizes, both methods in turn."""
    methods: dict[str, Callable[[ad.AnnData, int], np.ndarray]] = {
        OURS: lambda adata, seed: ours(adata, "tech", None, seed, device=device),
        PEER: chain,
    }
    for n_cells in cells:
        made = normalised(
            scfcmi.datasets.simulated_atlas(n_cells, n_genes, 10, n_groups=4, n_missing=4, depth=3000, random_state=0)
        )
        for repeat in range(-1, repeats):
            for method, work in methods.items():
                adata = ad.AnnData(made.X, obs=made.obs[["tech"]], var=made.var)
                start, used = time.perf_counter(), time.process_time()
                labels = work(adata, max(repeat, 0))
                seconds, used = time.perf_counter() - start, time.process_time() - used
                if repeat < 0:
                    continue
                score = adjusted_rand_score(made.obs["cell_type"], labels)
                key = {"cells": n_cells, "repeat": repeat, "method": method}
                rows.add(key | {"seconds": seconds, "cpu_seconds": used, "ari": score})


def report(frame: pd.DataFrame, n_genes: int, threads: int, device: str) -> str:
    """Medians, and paired ratios."""
    wide = frame.pivot_table(index=["cells", "repeat"], columns="method", values="seconds")
    ratio = (wide[OURS] / wide[PEER]).rename("ratio").reset_index()
    ratio["cells"] = ratio["cells"].astype(int)
    by_size = frame.assign(cells=frame["cells"].astype(int)).groupby(["cells", "method"])
    table = by_size[["seconds", "cpu_seconds", "ari"]].median().unstack("method")
    table.columns = [f"{method}: {name}" for name, method in table.columns]
    groups = ratio.groupby("cells")["ratio"]
    table["ratio of seconds"], table["smallest"], table["largest"] = groups.median(), groups.min(), groups.max()
    head = provenance(
        "small.py",
        f"{n_genes:,} genes, 10 types, 4 technologies; {threads} threads, scfcmi on {device}. Medians of "
        f"{frame['repeat'].nunique()} repeats, wall seconds from normalised CSR to labels in one warm process; the "
        f"ratio is that of {OURS} to {PEER}, of runs that follow each other.",
    )
    return "\n\n".join(["# Small data", head, markdown(table)]) + "\n"


def main() -> None:
    """Measure and write the table."""
    made = parser(__doc__)
    made.add_argument("--cells", type=int, nargs="+", default=[1000, 2000, 3000])
    made.add_argument("--genes", type=int, default=2000)
    made.add_argument("--repeats", type=int, default=7)
    made.add_argument("--device", default="cpu")
    arguments = made.parse_args()
    rows = Rows(arguments.out / "small.csv", KEYS)
    if not arguments.report:
        asked = (rows, arguments.cells, arguments.genes, arguments.repeats, arguments.device)
        in_own_process(run, *asked, threads=arguments.threads)
    (arguments.out / "small.md").write_text(report(rows.read(), arguments.genes, arguments.threads, arguments.device))


if __name__ == "__main__":
    main()
