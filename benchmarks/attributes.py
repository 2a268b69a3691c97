"""Several attributes, continuous attributes, what the embedding gives away, and memory with many groups.

    python benchmarks/attributes.py [--data DIR] [--sets several continuous leakage memory] [--seeds 0 1] [--resume]

Without data sets in the folder, only what runs on simulations is measured. The number of clusters is the curated one.
"""

from __future__ import annotations

import resource
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _peers import OURS, PEERS, applies, normalised, ours, read, variable
from _results import Rows, in_own_process, markdown, parser, provenance
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import scfcmi
from scfcmi.metrics import clustering_scores, conditional_fairness, continuous_dependence, group_leakage, nce

PARTS = {
    "several": ["data", "fitted_on", "seed"],
    "continuous": ["simulation", "keys"],
    "leakage": ["data", "embedding", "seed"],
    "memory": ["groups"],
}
FILES = {
    "pancreas": "pancreas_panc8_nebula_1k.h5ad",
    "PBMC": "pbmc_10x_3tech_symphony.h5ad",
    "stimulated PBMC": "kang_ifnb_combined.h5ad",
}
N_DONORS, MANY_GROUPS, CELLS_PER_GROUP, N_SIMULATIONS = 4, 200, 20, 5


def with_donors(path: Path, seed: int) -> ad.AnnData:
    """Assign cells to donors at random, and multiply a third of the genes of each by random factors."""
    adata = read(path)
    rng = np.random.default_rng(seed)
    donor = rng.integers(0, N_DONORS, adata.n_obs)
    shape = (N_DONORS, adata.n_vars)
    factors = np.exp(rng.normal(size=shape) * (rng.random(shape) < 0.3))
    adata.X = adata.layers["counts"].multiply(factors[donor]).tocsr().astype(np.float32)
    adata.obs["donor"] = pd.Categorical([f"d{d}" for d in donor])
    return variable(normalised(adata))


def several(rows: Rows, folder: Path, seeds: list[int]) -> None:
    """Two attributes together, as their product, and one at a time."""
    for name, file in FILES.items():
        for seed in seeds:
            for design in ("curated", "simulated") if name == "pancreas" else ("simulated",):
                adata = read(folder / file) if design == "curated" else with_donors(folder / file, seed)
                adata.obs["product"] = adata.obs["batch"].astype(str) + " | " + adata.obs["donor"].astype(str)
                labels, n_types = adata.obs["cell_type"], adata.obs["cell_type"].nunique()
                for how in (["batch", "donor"], "product", "batch", "donor"):
                    fitted_on = how if isinstance(how, str) else "both"
                    key = {"data": f"{name}, {design} donors", "fitted_on": fitted_on, "seed": seed}
                    if rows.done(**key):
                        continue
                    found = ours(adata, how, n_types, seed)
                    joint = clustering_scores(found, adata.obs["product"], labels)
                    row = {"nmi": joint["nmi"], "ari": joint["ari"], "cf": joint["conditional_fairness"]}
                    for column in ("batch", "donor"):
                        row[f"nce_{column}"] = nce(found, adata.obs[column])
                        row[f"nce_{column}_labels"] = nce(labels, adata.obs[column])
                        row[f"cf_{column}"] = conditional_fairness(found, adata.obs[column], labels)
                    rows.add(key | row)


def continuous(rows: Rows, folder: Path, seeds: list[int]) -> None:
    """Depth that shows in plain logarithms of counts, with and without naming it."""
    for simulation in range(100, 100 + N_SIMULATIONS):
        adata = scfcmi.datasets.simulated_atlas(1200, 500, 6, depth_spread=0.7, random_state=simulation)
        total = np.asarray(adata.X.sum(axis=1)).ravel()
        adata = adata[total > 0].copy()
        adata.obs["log_counts"] = np.log(total[total > 0])
        adata.X = adata.X.log1p()
        for name in (None, "log_counts"):
            key = {"simulation": simulation, "keys": name or "none"}
            if rows.done(**key):
                continue
            found = ours(adata, "tech", 6, simulation, continuous_keys=name)
            scores = clustering_scores(found, adata.obs["tech"], adata.obs["cell_type"])
            rows.add(key | {"dependence": continuous_dependence(found, adata.obs["log_counts"]), "ari": scores["ari"]})


def leakage(rows: Rows, folder: Path, seeds: list[int]) -> None:
    """What embeddings give away about the batch within curated types, and how well they keep the types."""
    for name in ("pancreas", "PBMC"):
        adata = read(folder / FILES[name])
        batch, labels = adata.obs["batch"], adata.obs["cell_type"]
        for seed in seeds:
            for method in (OURS, *PEERS):
                key = {"data": name, "embedding": method.removesuffix(" + Leiden"), "seed": seed}
                if rows.done(**key) or not applies(method, adata):
                    continue
                if method == OURS:
                    ours(adata, "batch", labels.nunique(), seed)
                    embedding = np.asarray(adata.obsm["X_fair_cluster"])
                else:
                    embedding = PEERS[method](adata, "batch", seed)
                near = cross_val_score(KNeighborsClassifier(15), embedding, labels.astype(str), cv=3)
                given_away = group_leakage(embedding, batch, labels)
                rows.add(key | {"leakage": float(given_away), "types_by_neighbours": float(near.mean())})


def memory(rows: Rows, n_groups: int) -> None:
    """Peak memory that one run adds to what was there before, in MiB; for a process of its own."""
    n_cells = MANY_GROUPS * CELLS_PER_GROUP
    adata = normalised(scfcmi.datasets.simulated_atlas(n_cells, 500, 6, n_groups=2, random_state=0))
    adata.obs["sample"] = (np.arange(adata.n_obs) % n_groups).astype(str)
    ours(adata[:300].copy(), "tech", 6, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(adata, ["tech", "sample"] if n_groups > 2 else "tech", 6, 0)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    rows.add({"groups": n_groups, "peak_memory_added_mib": added})


def report(tables: dict[str, pd.DataFrame]) -> str:
    """One page, means over seeds."""
    titles = {
        "several": "Several attributes",
        "continuous": "Continuous attributes",
        "leakage": "What the embedding gives away",
        "memory": "Memory with many groups",
    }
    parts = ["# Attributes", provenance("attributes.py", "Means over seeds.")]
    for part, frame in tables.items():
        keys = [key for key in PARTS[part] if key != "seed"]
        table = frame.groupby(keys, sort=False).mean(numeric_only=True).drop(columns="seed", errors="ignore")
        parts += [f"## {titles[part]}", markdown(table)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure and write one page."""
    arguments = parser(__doc__, sets=list(PARTS)).parse_args()
    rows = {
        part: Rows(arguments.out / f"attributes_{part}.csv", keys, resume=arguments.resume)
        for part, keys in PARTS.items()
    }
    at_hand = all((arguments.data / file).exists() for file in FILES.values())
    for part in [] if arguments.report else arguments.sets:
        if part == "memory":
            for n_groups in (2, MANY_GROUPS):
                if not rows[part].done(groups=n_groups):
                    in_own_process(memory, rows[part], n_groups, threads=arguments.threads)
        elif part == "continuous" or at_hand:
            work = {"several": several, "continuous": continuous, "leakage": leakage}[part]
            in_own_process(work, rows[part], arguments.data, arguments.seeds, threads=arguments.threads)
        else:
            print(f"{part} is left out: it needs {list(FILES.values())} in {arguments.data}")
    tables = {part: table.read() for part, table in rows.items()}
    page = report({part: table for part, table in tables.items() if len(table)})
    (arguments.out / "attributes.md").write_text(page)


if __name__ == "__main__":
    main()
