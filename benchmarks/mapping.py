"""Hold out each technology, fit on the others, map it: how well do clusters of held-out cells agree with cell types?

Run as `python benchmarks/mapping.py --data DIR`; the table goes to `benchmarks/results/mapping.csv`.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestCentroid

import scfcmi as sf

HERE = Path(__file__).resolve().parent
FILE = "pancreas_panc8_nebula_1k.h5ad"
KEY = "fair_cluster"


def cluster(adata: ad.AnnData, seed: int) -> sf.model.FCMI:
    n_types = adata.obs["cell_type"].nunique()
    return sf.tl.fair_cluster(adata, "batch", n_types, random_state=seed, progress_bar=False, return_model=True)


def nearest_centroid(reference: ad.AnnData, query: ad.AnnData, seed: int) -> np.ndarray:
    x, y = reference.X.toarray(), query.X.toarray()
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    pca = PCA(30, random_state=seed).fit((x - mean) / scale)
    labels = reference.obs[KEY].astype(str)
    return NearestCentroid().fit(pca.transform((x - mean) / scale), labels).predict(pca.transform((y - mean) / scale))


def ingest(reference: ad.AnnData, query: ad.AnnData, seed: int) -> np.ndarray:
    reference, query = reference.copy(), query.copy()
    sc.pp.pca(reference, n_comps=30, random_state=seed)
    sc.pp.neighbors(reference, random_state=seed)
    sc.tl.umap(reference, random_state=seed)
    sc.tl.ingest(query, reference, obs=KEY)
    return query.obs[KEY].astype(str).to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = ad.read_h5ad(arguments.data / FILE)
    adata.obs_names_make_unique()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    rows = []
    for seed in range(arguments.seeds):
        whole = adata.copy()
        cluster(whole, seed)
        for tech in adata.obs["batch"].unique():
            held = (adata.obs["batch"] == tech).to_numpy()
            reference, query = adata[~held].copy(), adata[held].copy()
            model = cluster(reference, seed)
            sf.tl.map_query(query, model, sensitive_key="batch", new_groups="fit")
            raw = adata[held].copy()
            found = {
                "fit on all": whole.obs[KEY][held],
                "map_query": query.obs[KEY],
                "encoder alone": model.predict(raw.X),
                "PCA + nearest centroid": nearest_centroid(reference, raw, seed),
                "scanpy ingest": ingest(reference, raw, seed),
            }
            for method, labels in found.items():
                score = adjusted_rand_score(raw.obs["cell_type"], np.asarray(labels).astype(str))
                rows.append({"seed": seed, "held out": tech, "cells": raw.n_obs, "method": method, "ari": score})
    table = pd.DataFrame(rows)
    (HERE / "results").mkdir(exist_ok=True)
    table.round(4).to_csv(HERE / "results" / "mapping.csv", index=False)
    print(table.pivot_table(index="method", columns="held out", values="ari", margins=True, sort=False).round(3))


if __name__ == "__main__":
    main()
