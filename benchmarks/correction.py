"""How much of the technical variance `tl.correct` takes out of expression, and what it leaves of marker genes.

Per cell type: the share of variance between batches, less what chance gives. Per pair of types: rank correlation of
marker log-fold changes (beyond 0.5) between cells of all batches with those within batches before correction, and of
those of all genes within batches before and after. Run as `python benchmarks/correction.py --data DIR`; the table goes
to `benchmarks/results/correction.csv`.
"""

from __future__ import annotations

import argparse
import warnings
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import spearmanr

import scfcmi as sf

HERE = Path(__file__).resolve().parent
FILES = {"cellmix": "cellmix_3cl_3protocol.h5ad", "pancreas": "pancreas_panc8_nebula_1k.h5ad"}
MIN_CELLS = 10


def explained(x: np.ndarray, batch: np.ndarray, kind: np.ndarray, *, chance: bool) -> float:
    between = total = 0.0
    for k in np.unique(kind):
        levels = [b for b in np.unique(batch) if ((kind == k) & (batch == b)).sum() >= 5]
        if len(levels) < 2:
            continue
        cells = (kind == k) & np.isin(batch, levels)
        y, own = x[cells], batch[cells]
        mean = y.mean(0)
        all_of_it = ((y - mean) ** 2).sum()
        part = sum((own == b).sum() * ((y[own == b].mean(0) - mean) ** 2).sum() for b in levels)
        noise = (len(levels) - 1) * (all_of_it - part) / (len(y) - len(levels)) if chance else 0.0
        between, total = between + part - noise, total + all_of_it
    return between / total


def markers(before: np.ndarray, after: np.ndarray, batch: np.ndarray, kind: np.ndarray) -> tuple[float, float]:
    pooled, within = [], []
    for one, two in combinations(np.unique(kind), 2):
        pairs = [((kind == one) & (batch == b), (kind == two) & (batch == b)) for b in np.unique(batch)]
        pairs = [(i, j) for i, j in pairs if min(i.sum(), j.sum()) >= MIN_CELLS]
        if not pairs:
            continue
        fold = [np.mean([x[i].mean(0) - x[j].mean(0) for i, j in pairs], axis=0) for x in (before, after)]
        strong = np.abs(fold[0]) > 0.5
        of_all = after[kind == one].mean(0) - after[kind == two].mean(0)
        pooled.append(spearmanr(fold[0][strong], of_all[strong])[0])
        within.append(spearmanr(*fold)[0])
    return float(np.mean(pooled)), float(np.mean(within))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name, file in FILES.items():
        adata = ad.read_h5ad(arguments.data / file)
        adata.obs_names_make_unique()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        batch, kind = (adata.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
        model = sf.tl.fair_cluster(adata, "batch", len(np.unique(kind)), progress_bar=False, return_model=True)
        x = adata.X.toarray()
        versions = {"uncorrected": x}
        decoded = np.stack([model.decode(adata.obsm["X_fair_cluster"], g) for g in model.groups_.levels])
        own = decoded[model.groups_.encode(batch), np.arange(len(x))]
        versions["decoder's difference, mean"] = np.maximum(x + decoded.mean(0) - own, 0)
        for reference in ("mean", *model.groups_.levels):
            sf.tl.correct(adata, model=model, reference=reference)
            versions[f"correct, {reference}"] = adata.layers["fair_cluster_corrected"]
        for method, y in versions.items():
            pooled, within = markers(x, y, batch, kind)
            rows.append(
                {
                    "data": name,
                    "method": method,
                    "batch variance": explained(y, batch, kind, chance=False),
                    "less chance": explained(y, batch, kind, chance=True),
                    "markers, all batches": pooled,
                    "fold changes within batches": within,
                }
            )
    table = pd.DataFrame(rows).round(3)
    (HERE / "results").mkdir(exist_ok=True)
    table.to_csv(HERE / "results" / "correction.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
