"""Delete one cell type from one batch: is its cluster recognised as missing from that batch, and do others stay?

Run as `python benchmarks/deletion.py --data DIR`; tables go to `benchmarks/results/deletion.csv` and `.md`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from compare import harmony, leiden_at
from sklearn.metrics import adjusted_rand_score

import scfcmi as sf

HERE = Path(__file__).resolve().parent
FILES = {
    "cellmix": "cellmix_3cl_3protocol.h5ad",
    "pancreas": "pancreas_panc8_nebula_1k.h5ad",
    "pbmc": "pbmc_10x_3tech_symphony.h5ad",
}
LOGGED = {"pbmc"}
MIN_CELLS = 10


def load(folder: Path, name: str) -> ad.AnnData:
    adata = ad.read_h5ad(folder / FILES[name])
    adata.obs_names_make_unique()
    if name not in LOGGED:
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    return adata


def run(adata: ad.AnnData, n_clusters: int, seed: int) -> tuple[pd.Series, sf.tl.Diagnosis]:
    sf.tl.fair_cluster(adata, "batch", n_clusters, random_state=seed, device="cpu", progress_bar=False)
    return adata.obs["fair_cluster"].astype(str), sf.tl.diagnose(adata)


def harmony_leiden(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    scaled = sc.pp.scale(adata, max_value=10, copy=True)
    sc.pp.pca(scaled, n_comps=30, random_state=seed)
    scaled.obsm["X_harmony"] = harmony(scaled.obsm["X_pca"], scaled.obs, seed)
    sc.pp.neighbors(scaled, use_rep="X_harmony", random_state=seed)
    return leiden_at(scaled, n_clusters, seed)[0]


def one_data_set(name: str, folder: Path, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per deletion, and one per cluster and batch of the untouched data."""
    adata = load(folder, name)
    kind, batch = adata.obs["cell_type"].astype(str), adata.obs["batch"].astype(str)
    n_clusters = kind.nunique()
    counts = pd.crosstab(kind, batch)
    base, untouched = run(adata.copy(), n_clusters, seed)
    harmony_base = adjusted_rand_score(kind, harmony_leiden(adata, n_clusters, seed))
    majority = pd.Series({k: kind[base == k].mode().iloc[0] for k in base.unique()})
    alarms = untouched.groups.reset_index().assign(data=name)
    alarms["majority"] = alarms["cluster"].map(majority)
    alarms["n_majority_in_group"] = [counts.loc[k, g] for k, g in zip(alarms["majority"], alarms["group"], strict=True)]
    rows = []
    for deleted, source in ((k, b) for k in counts.index for b in counts.columns if counts.loc[k, b] >= MIN_CELLS):
        n_left = int(counts.loc[deleted].sum() - counts.loc[deleted, source])
        if n_left == 0:
            continue
        keep = ~((kind == deleted) & (batch == source))
        found, diagnosis = run(adata[keep].copy(), n_clusters, seed)
        left = (kind == deleted)[keep]
        host = found[left].mode().iloc[0]
        others = ~left
        rows.append(
            {
                "data": name,
                "deleted": deleted,
                "batch": source,
                "n_left": n_left,
                "purity": (kind[keep][found == host] == deleted).mean(),
                "status": diagnosis.groups.loc[(host, source), "status"],
                "ari": adjusted_rand_score(kind[keep], found),
                "ari_base": adjusted_rand_score(kind, base),
                "ari_base_same_cells": adjusted_rand_score(kind[keep], base[keep]),
                "harmony_ari": adjusted_rand_score(kind[keep], harmony_leiden(adata[keep].copy(), n_clusters, seed)),
                "harmony_ari_base": harmony_base,
                "ari_others": adjusted_rand_score(kind[keep][others], found[others]),
                "ari_others_base": adjusted_rand_score(kind[keep][others], base[keep][others]),
            }
        )
    return pd.DataFrame(rows), alarms


def summary(rows: pd.DataFrame, alarms: pd.DataFrame) -> pd.DataFrame:
    judged = alarms[alarms["n_majority_in_group"] >= MIN_CELLS]
    out = {}
    for name in [*rows["data"].unique(), "all"]:
        of = rows if name == "all" else rows[rows["data"] == name]
        clear = of[of["purity"] >= 0.5]
        kept = judged if name == "all" else judged[judged["data"] == name]
        out[name] = {
            "deletions": len(of),
            "named": (of["status"] == "absent").mean(),
            "with a cluster of their own": len(clear),
            "of these named": (clear["status"] == "absent").mean(),
            "untouched cluster × batch": len(kept),
            "false alarms": (kept["status"] == "absent").mean(),
            "ARI change": (of["ari"] - of["ari_base"]).mean(),
            "worst": (of["ari"] - of["ari_base"]).min(),
            "within .03": ((of["ari"] - of["ari_base"]).abs() < 0.03).mean(),
            "Harmony + Leiden, ARI change": (of["harmony_ari"] - of["harmony_ari_base"]).mean(),
            "its worst": (of["harmony_ari"] - of["harmony_ari_base"]).min(),
            "its within .03": ((of["harmony_ari"] - of["harmony_ari_base"]).abs() < 0.03).mean(),
            "ARI change, same cells": (of["ari"] - of["ari_base_same_cells"]).mean(),
            "ARI change, other types": (of["ari_others"] - of["ari_others_base"]).mean(),
        }
    return pd.DataFrame(out).T


def markdown(frame: pd.DataFrame) -> str:
    def cell(value: object) -> str:
        if isinstance(value, float | np.floating):
            return f"{value:.0f}" if value == round(value) and abs(value) > 1 else f"{value:.3f}"
        return str(value)

    frame = frame.reset_index(names="")
    lines = ["| " + " | ".join(frame.columns) + " |", "| " + " | ".join("---" for _ in frame.columns) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in frame.itertuples(index=False)])


NOTES = """# One cell type deleted from one batch

Every type with at least ten cells in a batch is deleted from that batch, if other batches have it; clustering with the
default settings and as many clusters as there are types in the untouched data. *Named*: the cluster that holds most of
the deleted type's remaining cells is reported as absent from that batch. *With a cluster of their own*: that type makes
up at least half of this cluster; where it does not, the cluster as a whole is not absent from the batch. *False
alarms*: the same report on untouched data, among pairs of cluster and batch where the batch has at least ten cells of
the cluster's majority type. ARI against curated types, change from the untouched run: on all cells that each run has,
on the cells that both have, and without the deleted type; the first also for Harmony + Leiden at the same number of
clusters.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder with the data"
    )
    parser.add_argument("--sets", nargs="+", choices=sorted(FILES), default=sorted(FILES), help="data sets to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the tables")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows, alarms = (
        pd.concat(parts) for parts in zip(*(one_data_set(s, args.data, args.seed) for s in args.sets), strict=True)
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rows.round(4).to_csv(args.out / "deletion.csv", index=False)
    details = rows.drop(columns=["ari_base", "harmony_ari_base", "ari_others_base"]).round(3).set_index("data")
    text = f"{NOTES}\n{markdown(summary(rows, alarms))}\n\n{markdown(details)}\n"
    (args.out / "deletion.md").write_text(text, encoding="utf-8")
    print(text, f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
