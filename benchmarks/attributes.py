"""Several attributes, continuous attributes, what the embedding gives away, and memory with many groups.

    python benchmarks/attributes.py [--data DIR] [--seeds 0 1] [--simulations 5] [--out DIR]

Without data sets in the folder, only what runs on simulations is measured. The number of clusters is the curated one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import scfcmi
from scfcmi.metrics import clustering_scores, conditional_fairness, group_leakage, nce

HERE = Path(__file__).resolve().parent
FILES = {
    "pancreas": "pancreas_panc8_nebula_1k.h5ad",
    "PBMC": "pbmc_10x_3tech_symphony.h5ad",
    "stimulated PBMC": "kang_ifnb_combined.h5ad",
}
N_DONORS, MANY_GROUPS, CELLS_PER_GROUP = 4, 200, 20


def normalised(adata: ad.AnnData) -> ad.AnnData:
    """Log-normalise counts, and keep at most 2,000 genes."""
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000, subset=True)
    return adata


def counts(path: Path) -> ad.AnnData:
    """Read counts."""
    adata = ad.read_h5ad(path)
    if "counts" in adata.layers:
        adata.X = adata.layers["counts"].copy()
    return adata


def with_donors(adata: ad.AnnData, seed: int) -> ad.AnnData:
    """Assign cells to donors at random, and multiply a third of the genes of each by random factors."""
    rng = np.random.default_rng(seed)
    donor = rng.integers(0, N_DONORS, adata.n_obs)
    shape = (N_DONORS, adata.n_vars)
    factors = np.exp(rng.normal(size=shape) * (rng.random(shape) < 0.3))
    adata.X = adata.X.multiply(factors[donor]).tocsr().astype(np.float32)
    adata.obs["donor"] = pd.Categorical([f"d{d}" for d in donor])
    return adata


def several(folder: Path, seeds: list[int]) -> pd.DataFrame:
    """Two attributes together, as their product, and one at a time."""
    rows = []
    for name, file in FILES.items():
        for seed in seeds:
            for design in ("curated", "simulated") if name == "pancreas" else ("simulated",):
                adata = counts(folder / file)
                adata = normalised(adata if design == "curated" else with_donors(adata, seed))
                adata.obs["product"] = adata.obs["batch"].astype(str) + " | " + adata.obs["donor"].astype(str)
                labels, n_types = adata.obs["cell_type"], adata.obs["cell_type"].nunique()
                for how in (["batch", "donor"], "product", "batch", "donor"):
                    scfcmi.tl.fair_cluster(adata, how, n_types, random_state=seed, progress_bar=False)
                    found = adata.obs["fair_cluster"]
                    joint = clustering_scores(found, adata.obs["product"], labels)
                    row = {"data": f"{name}, {design} donors", "fitted on": how if isinstance(how, str) else "both"}
                    row |= {score: joint[score] for score in ("nmi", "ari", "conditional_fairness")}
                    for key in ("batch", "donor"):
                        row[f"nce {key}"] = nce(found, adata.obs[key])
                        row[f"nce {key}, labels"] = nce(labels, adata.obs[key])
                        row[f"cf {key}"] = conditional_fairness(found, adata.obs[key], labels)
                    rows.append(row)
    return pd.DataFrame(rows).groupby(["data", "fitted on"], sort=False).mean()


def continuous(n_simulations: int) -> pd.DataFrame:
    """Depth that shows in plain logarithms of counts, with and without naming it."""
    rows = []
    for seed in range(100, 100 + n_simulations):
        adata = scfcmi.datasets.simulated_atlas(1200, 500, 6, depth_spread=0.7, random_state=seed)
        total = np.asarray(adata.X.sum(axis=1)).ravel()
        adata = adata[total > 0].copy()
        adata.obs["log_counts"] = np.log(total[total > 0])
        adata.X = adata.X.log1p()
        row: dict[str, float] = {"simulation": seed}
        for name, keys in (("without", None), ("with", "log_counts")):
            scfcmi.tl.fair_cluster(
                adata, "tech", 6, continuous_keys=keys, label_key="cell_type", random_state=seed, progress_bar=False
            )
            found = adata.obs["fair_cluster"]
            row[f"dependence {name}"] = scfcmi.metrics.continuous_dependence(found, adata.obs["log_counts"])
            row[f"ari {name}"] = adata.uns["fair_cluster"]["metrics"]["ari"]
        row["falls by"] = 1 - row["dependence with"] / row["dependence without"]
        rows.append(row)
    return pd.DataFrame(rows).set_index("simulation")


def leakage(folder: Path, seeds: list[int]) -> pd.DataFrame:
    """What embeddings give away about the batch within curated types, and how well they keep the types."""
    from dataclasses import replace
    from unittest.mock import patch

    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    from scfcmi.train import PRESETS

    rows = []
    for name in ("pancreas", "PBMC"):
        adata = normalised(counts(folder / FILES[name]))
        batch, labels = adata.obs["batch"], adata.obs["cell_type"]
        scaled = sc.pp.scale(adata, max_value=10, copy=True)
        for seed in seeds:
            sc.pp.pca(scaled, n_comps=30, random_state=seed)
            found = {"PCA": scaled.obsm["X_pca"]}
            if find_spec("harmonypy"):
                import harmonypy

                moved = np.asarray(
                    harmonypy.run_harmony(found["PCA"], scaled.obs, "batch", verbose=False, random_state=seed).Z_corr
                )
                found["Harmony"] = moved if len(moved) == adata.n_obs else moved.T
            default = PRESETS["default"]
            scores = {}
            for label, weight in (("scfcmi without the penalty", 0.0), ("scfcmi", default.leakage)):
                with patch.dict(PRESETS, default=replace(default, leakage=weight)):
                    scfcmi.tl.fair_cluster(
                        adata, "batch", labels.nunique(), label_key="cell_type", random_state=seed, progress_bar=False
                    )
                found[label] = adata.obsm["X_fair_cluster"].copy()
                scores[label] = adata.uns["fair_cluster"]["metrics"]
            for label, embedding in found.items():
                near = cross_val_score(KNeighborsClassifier(15), embedding, labels.astype(str), cv=3)
                row = {"data": name, "embedding": label, "leakage": group_leakage(embedding, batch, labels)}
                row |= {"types by neighbours": near.mean()}
                row |= {key: scores.get(label, {}).get(key, np.nan) for key in ("nmi", "ari", "conditional_fairness")}
                rows.append(row)
    return pd.DataFrame(rows).groupby(["data", "embedding"], sort=False).mean()


def peak_growth(n_groups: int) -> float:
    """Peak memory that one run adds to what was there before, in MiB; for a process of its own."""
    n_cells = MANY_GROUPS * CELLS_PER_GROUP
    adata = normalised(scfcmi.datasets.simulated_atlas(n_cells, 500, 6, n_groups=2, random_state=0))
    adata.obs["sample"] = (np.arange(n_cells) % n_groups).astype(str)
    warmed = adata[:300].copy()
    scfcmi.tl.fair_cluster(warmed, "tech", 6, max_epochs=1, progress_bar=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scfcmi.tl.fair_cluster(adata, ["tech", "sample"] if n_groups > 2 else "tech", 6, progress_bar=False)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory() -> pd.DataFrame:
    """Few groups and many, the same cells, each in a process of its own."""
    rows = []
    for n_groups in (2, MANY_GROUPS):
        done = subprocess.run(
            [sys.executable, __file__, "--measure", str(n_groups)], check=True, capture_output=True, text=True
        )
        rows.append({"groups": n_groups, "peak memory added (MiB)": float(done.stdout.split()[-1])})
    return pd.DataFrame(rows).set_index("groups")


def markdown(frame: pd.DataFrame) -> str:
    """A table in text."""

    def text(value: object) -> str:
        return ("–" if np.isnan(value) else f"{value:.3f}") if isinstance(value, float) else str(value)

    rows = [[text(value) for value in row] for row in frame.astype(object).to_numpy()]
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "×") for cell in line) + " |" for line in lines)


def main() -> None:
    """Measure and write one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--simulations", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(peak_growth(arguments.measure))
        return
    found = {
        "Memory with many groups": memory(),
        f"Continuous attributes, {arguments.simulations} simulations": continuous(arguments.simulations),
    }
    if all((arguments.data / file).exists() for file in FILES.values()):
        n_seeds = f"means over {len(arguments.seeds)} seeds"
        found[f"What the embedding gives away, {n_seeds}"] = leakage(arguments.data, arguments.seeds)
        found[f"Several attributes, {n_seeds}"] = several(arguments.data, arguments.seeds)
    else:
        print(f"left out what needs {list(FILES.values())} in {arguments.data}")
    page = ["# Attributes", "", *(f"{__doc__.splitlines()[0]} Written by `benchmarks/attributes.py`.",)]
    for title, table in found.items():
        page += ["", f"## {title}", "", markdown(table.reset_index())]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "attributes.md").write_text("\n".join(page) + "\n")
    print("\n".join(page))


if __name__ == "__main__":
    main()
