"""The published network on cells, every part of its objective left out in turn, beside the default of the package.

    python benchmarks/paper/cells.py [--folder DIR] [--n-sets 6] [--epochs 300] [--seeds 0] [--device auto]

On the smallest sets of a folder of `.h5ad` files with `obs["batch"]` and curated `obs["cell_type"]`, with the curated
number of types; the first row has the curated types themselves. Writes `paper_cells.md` and `.csv`, after every run;
with `--resume`, runs that are there already are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import images
import numpy as np
import pandas as pd
import scanpy as sc

import scfcmi
from scfcmi.published import NetworkOptions, fit_published
from scfcmi.source import as_source, read_groups

COLUMNS = ["nmi", "ari", "mnce", "f_beta", "conditional_fairness"]
CURATED, DEFAULT = "the curated types", "default of scfcmi"

# Larger values are no logarithms of counts.
MAX_LOG = 20


def read(path: Path) -> ad.AnnData:
    """Log-normalised values of at most 2,000 genes."""
    adata = ad.read_h5ad(path)
    if (adata.X.data == adata.X.data.round()).mean() > 0.5 or adata.X.max() > MAX_LOG:
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000, subset=True)
    return adata


def published(adata: ad.AnnData, n_types: int, seed: int, given: Any, changes: dict[str, Any]) -> np.ndarray:
    source = as_source(adata.X)
    schedule = {"max_epochs": given.epochs, "warmup_epochs": given.warmup, "batch_size": given.batch}
    options = NetworkOptions(**schedule, **changes)
    groups = read_groups(adata.obs["batch"], "batch")
    device = images.resolve_device(given.device)
    found = fit_published(source, groups, n_types, options, random_state=seed, device=device, progress_bar=False)
    labels, _, h = found.assign(adata.X)
    if not (options.alpha or options.beta):
        labels = images.KMeans(n_types, n_init=10, random_state=seed).fit_predict(h)
    return labels.astype(str)


def default(adata: ad.AnnData, n_types: int, seed: int, given: Any) -> np.ndarray:
    copy = adata.copy()
    scfcmi.tl.fair_cluster(copy, "batch", n_types, random_state=seed, device=given.device, progress_bar=False)
    return copy.obs["fair_cluster"].to_numpy(str)


def main() -> None:
    parser = images.arguments(__doc__, None, resumable=True)
    parser.add_argument("--folder", type=Path, default=images.ROOT.parent / "shared" / "data")
    parser.add_argument("--n-sets", type=int, default=6)
    parser.add_argument("--no-default", action="store_true")
    given = images.parsed(parser)
    files = sorted(given.folder.glob("*.h5ad"))
    smallest = sorted(files, key=lambda path: ad.read_h5ad(path, backed="r").n_obs)[: given.n_sets]
    rows = images.kept(given.out / "paper_cells.csv", given)
    done = {(row["data"], row["variant"], row["seed"]) for row in rows}
    for path in smallest[: 1 if given.quick else None]:
        adata, name = read(path), path.stem
        truth, batch = adata.obs["cell_type"], adata.obs["batch"]
        size = f"{adata.n_obs:,} cells, {batch.nunique()} batches, {truth.nunique()} types"
        for seed in given.seeds:
            for variant in [CURATED, *images.VARIANTS, *([] if given.no_default else [DEFAULT])]:
                if (name, variant, seed) in done:
                    continue
                if variant == CURATED:
                    labels = truth.to_numpy(str)
                elif variant == DEFAULT:
                    labels = default(adata, truth.nunique(), seed, given)
                else:
                    labels = published(adata, truth.nunique(), seed, given, images.VARIANTS[variant])
                scores = scfcmi.metrics.clustering_scores(labels, batch, truth)
                row = {"data": name, "size": size, "variant": variant, "seed": seed}
                rows.append(row | {c: scores[c] for c in COLUMNS})
                print(rows[-1], flush=True)
                write(pd.DataFrame(rows), given)
    write(pd.DataFrame(rows), given)


def write(frame: pd.DataFrame, given: Any) -> None:
    frame.to_csv(given.out / "paper_cells.csv", index=False)
    lines = [
        "# The published network on cells",
        f"Made by `benchmarks/paper/cells.py`: {given.epochs} epochs of which {given.warmup} warm-up, batches of "
        f"{given.batch}, {images.seeds(frame)}; {images.machine(given.device)}. The curated "
        "number of types is given.",
    ]
    if frame["data"].nunique() > 1:
        means = frame.groupby(["variant", "data"], sort=False)[COLUMNS].mean().reset_index()
        lines += ["## Means over data sets", images.table(means, "variant", COLUMNS, over="sets")]
    for name, part in frame.groupby("data", sort=False):
        lines += [f"## {name}: {part['size'].iloc[0]}", images.table(part, "variant", COLUMNS)]
    (given.out / "paper_cells.md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
