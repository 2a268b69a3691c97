"""Hold out each group in turn, fit on the others, map it: do its clusters agree with cell types as in a fit on all?

    python benchmarks/mapping.py [--data DIR] [--sets …] [--seeds 0 1 2] [--methods …] [--resume] [--report]

ARI of the held-out cells alone, with the number of curated types given. *no shift*: each held-out cell gets the label
that most of its 15 nearest cells of the reference have, among principal components of the reference.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from _peers import Labels, ours, read
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

import scfcmi

FIVE = [
    "pancreas_panc8_nebula_1k",
    "pbmc_10x_3tech_symphony",
    "kang_6sample_distinct_100g",
    "pancreas_baron_human_4donor",
    "pbmc_tnk_brca_4batch",
]
METHODS = ["fit on all", "map_query", "no shift"]
KEYS = ["data", "seed", "held_out", "method"]
MIN_CELLS = 20
KEY = "fair_cluster"


def no_shift(reference: ad.AnnData, query: ad.AnnData, seed: int) -> Labels:
    """Nearest neighbours among components of the reference."""
    scaled = sc.pp.scale(ad.AnnData(reference.X.toarray()), max_value=10, copy=True)
    pca = PCA(min(30, *(size - 1 for size in scaled.shape)), random_state=seed).fit(scaled.X)
    mean, scale = scaled.var["mean"].to_numpy(), np.maximum(scaled.var["std"].to_numpy(), 1e-6)
    placed = pca.transform(np.clip((query.X.toarray() - mean) / scale, -10, 10))
    nearest = KNeighborsClassifier(15).fit(pca.transform(scaled.X), reference.obs[KEY].astype(str))
    return nearest.predict(placed)


def run(rows: Rows, folder: Path, sets: list[str], seeds: list[int], methods: list[str]) -> None:
    """All groups of all sets."""
    for name in sets:
        adata = read(folder / f"{name}.h5ad")
        batch, n_types = adata.obs["batch"].astype(str), adata.obs["cell_type"].nunique()
        groups = batch.value_counts()
        for seed in seeds:
            whole = None
            for group in groups.index[groups >= MIN_CELLS]:
                key = {"data": name, "seed": seed, "held_out": group}
                wanted = [method for method in methods if not rows.done(**key, method=method)]
                if not wanted:
                    continue
                held = (batch == group).to_numpy()
                reference, query = adata[~held].copy(), adata[held].copy()
                found: dict[str, Labels] = {}
                if "fit on all" in wanted:
                    whole = ours(adata, "batch", n_types, seed) if whole is None else whole
                    found["fit on all"] = whole[held]
                if {"map_query", "no shift"} & set(wanted):
                    model = scfcmi.tl.fair_cluster(
                        reference, "batch", n_types, random_state=seed, progress_bar=False, return_model=True
                    )
                if "map_query" in wanted:
                    mapped = query.copy()
                    scfcmi.tl.map_query(mapped, model, sensitive_key="batch", new_groups="fit")
                    found["map_query"] = mapped.obs[KEY].astype(str).to_numpy()
                if "no shift" in wanted:
                    found["no shift"] = no_shift(reference, query, seed)
                for method, labels in found.items():
                    score = adjusted_rand_score(query.obs["cell_type"].astype(str), labels)
                    rows.add(key | {"method": method, "cells": query.n_obs, "ari": score})


def report(frame: pd.DataFrame) -> str:
    """Means over seeds and groups."""
    table = frame.pivot_table(index="data", columns="method", values="ari", sort=False)
    table = table[[method for method in METHODS if method in table]]
    overall = pd.DataFrame([table.mean()], index=["mean"])
    detail = frame.pivot_table(index=["data", "held_out"], columns="method", values="ari", sort=False)
    head = provenance(
        "mapping.py",
        f"ARI of held-out cells with curated types, means over groups and {frame['seed'].nunique()} seeds. *no shift*: "
        "label of most of the 15 nearest reference cells, among components of the reference.",
    )
    parts = ["# A group that comes later", head, markdown(pd.concat([table, overall]).rename_axis("data"))]
    return "\n\n".join([*parts, "## By held-out group", markdown(detail[table.columns])]) + "\n"


def main() -> None:
    """Run what is asked for and write the table."""
    arguments = parser(__doc__, METHODS, FIVE).parse_args()
    rows = Rows(arguments.out / "mapping.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        sets = at_hand(arguments)
        asked = (rows, arguments.data, sets, arguments.seeds, arguments.methods)
        in_own_process(run, *asked, threads=arguments.threads)
    (arguments.out / "mapping.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
