"""A technical effect of known size, made in real cells: one batch in random halves, genes of one of them distorted.

    python benchmarks/effects.py [--sets …] [--seeds 0 1 2] [--methods …] [--sizes 0 0.7 1.5] [--resume] [--report]

The largest batch of every data set that has counts, its cells assigned to one of two halves at random. In one half the
counts of two fifths of the genes, drawn at random, are multiplied by exp(N(0, size²)) before anything is normalised;
once as it is, and once without its second largest type in that half. The truth is known: with an effect or without,
the same cells are of the same types, and labels should be what they were.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _peers import OURS, SETS, clustered, normalised, read_counts, variable
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance
from _scores import scores
from scipy import sparse

METHODS = [OURS, "PCA + Leiden", "Harmony2 + Leiden"]
KEYS = ["data", "method", "seed", "size", "missing", "number"]
SHOWN = ["nmi", "ari", "cf", "k"]
DISTORTED = 0.4
MIN_CELLS = 200


def halves(adata: ad.AnnData, size: float, missing: bool, seed: int) -> ad.AnnData:
    """The batch in two halves, one of them distorted and, if asked for, without a type; normalised."""
    rng = np.random.default_rng(seed)
    half = rng.permutation(adata.n_obs) % 2
    factor = np.exp(size * rng.normal(size=adata.n_vars) * (rng.random(adata.n_vars) < DISTORTED))
    made = adata.copy()
    made.obs["half"] = pd.Categorical(np.where(half == 1, "distorted", "as it was"))
    made.X = sparse.csr_matrix(made.X, dtype=np.float32)
    made.X.data *= np.where(np.repeat(half, np.diff(made.X.indptr)) == 1, factor[made.X.indices], 1.0)
    if missing:
        types = made.obs["cell_type"].astype(str)
        made = made[~((half == 1) & (types == types.value_counts().index[1]).to_numpy())].copy()
    return variable(normalised(made))


def run(method: str, rows: Rows, folder: Path, sets: list[str], seeds: list[int], sizes: list[float]) -> None:
    """All sizes of the effect, for one method."""
    for name in sets:
        adata = read_counts(folder / f"{name}.h5ad")
        if adata is None or adata.n_obs < MIN_CELLS or adata.obs["cell_type"].nunique() < 2:
            continue
        for seed in seeds:
            for size, missing in [(size, missing) for size in sizes for missing in (False, True)]:
                key = {"data": name, "method": method, "seed": seed, "size": f"{size:g}", "missing": missing}
                if all(rows.done(**key, number=number) for number in ("given", "unknown")):
                    continue
                made = halves(adata, size, missing, seed)
                types = made.obs["cell_type"].astype(str)
                for number, (labels, _) in clustered(method, made, "half", types.nunique(), seed).items():
                    rows.add(key | {"number": number, "cells": made.n_obs} | scores(labels, made.obs["half"], types))


def report(frame: pd.DataFrame) -> str:
    """Means over data sets and seeds, and by data set."""
    frame = frame.rename(columns={"missing": "type missing"})
    frame = frame.sort_values(
        ["size", "type missing", "method"], key=lambda c: c.map(METHODS.index) if c.name == "method" else c
    )
    about = (
        "Random halves of the largest batch; in one of them the counts of two fifths of the genes are multiplied by "
        "exp(N(0, *size*²)). *type missing*: that half without its second largest type. *cf* is 1 − I(G;C|Y)/H(G|Y)."
    )
    n = frame["data"].nunique()
    parts = ["# An effect of known size", provenance("effects.py", about, f"Means over {n} data sets.")]
    for number in ("given", "unknown"):
        of = frame[frame["number"] == number]
        overall = of.groupby(["size", "type missing", "method"], sort=False)[SHOWN].mean()
        parts += [f"## Number of clusters {number}", markdown(overall)]
    of = frame[frame["number"] == "given"]
    by_set = of.pivot_table("ari", ["data", "method"], ["size", "type missing"], sort=False)
    by_set.columns = [f"{size}{', missing' if missing == 'True' else ''}" for size, missing in by_set.columns]
    parts += ["## By data set: ARI, number given", markdown(by_set)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run what is asked for and write the table."""
    made = parser(__doc__, METHODS, SETS)
    made.add_argument("--sizes", type=float, nargs="+", default=[0, 0.7, 1.5])
    arguments = made.parse_args()
    rows = Rows(arguments.out / "effects.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        sets = at_hand(arguments)
        for method in arguments.methods:
            asked = (method, rows, arguments.data, sets, arguments.seeds, arguments.sizes)
            in_own_process(run, *asked, threads=arguments.threads)
    (arguments.out / "effects.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
