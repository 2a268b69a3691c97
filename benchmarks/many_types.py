"""Atlases of many and of rare types, and samples of one, two and three, beside what people use today.

    python benchmarks/many_types.py [--sets components …] [--cells 100000] [--seeds 0 1 2] [--methods …] [--resume]

The simulations are `datasets.many_types`, `many_types_counts` and `rare_types`, one for every seed; a method runs with
the same seed, in a warm process of its own, with the same number of threads. Rows are kept in `results/many_types.csv`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import anndata as ad
import numpy as np
import pandas as pd
from _peers import METHODS, NUMBERS, OURS, applies, clustered, normalised, warm_up
from _results import Rows, in_own_process, markdown, parser, provenance
from _scores import f1_per_type, scores

from scfcmi import datasets

KEYS = ["data", "cells", "method", "number", "seed"]
# Median molecules per cell of the many types: about a fifth of the entries are not zero.
DEPTH = 1000
SCALED = ("components", "counts")
RAREST = 0.002
FEW = {"one_type": 1, "two_types": 2, "three_types": 3}
CASES: dict[str, Callable[[int, int], ad.AnnData]] = {
    "components": lambda n_cells, seed: datasets.many_types(n_cells, random_state=seed),
    "counts": lambda n_cells, seed: normalised(datasets.many_types_counts(n_cells, depth=DEPTH, random_state=seed)),
    "rare_types": lambda _, seed: normalised(datasets.rare_types(random_state=seed)),
    **{name: lambda _, seed, n=n: datasets.many_types(10_000, n, 4, random_state=seed) for name, n in FEW.items()},
    **{
        f"{name}_counts": lambda _, seed, n=n: normalised(
            datasets.simulated_atlas(5000, 1000, n, n_groups=4, random_state=seed)
        )
        for name, n in FEW.items()
    },
}


def run(
    method: str, rows: Rows, cases: list[str], n_cells: int, seeds: list[int], numbers: list[str], timed: bool
) -> None:
    """All rows of one method."""
    if timed:
        warm_up(method)
    for case, seed in product(cases, seeds):
        key = {"data": case, "cells": n_cells if case in SCALED else "own", "method": method, "seed": seed}
        wanted = [number for number in numbers if not rows.done(**key, number=number)]
        if case.startswith("one_type"):
            wanted = [number for number in wanted if number == "unknown"]
        if not wanted:
            continue
        adata = CASES[case](n_cells, seed)
        if not applies(method, adata):
            print(f"{method} is left out on {case}: no counts there, or not installed")
            continue
        types, groups = adata.obs["cell_type"].astype(str), adata.obs["tech"]
        share = types.value_counts(normalize=True)
        for number, (labels, seconds) in clustered(method, adata, "tech", types.nunique(), seed, wanted).items():
            rarest = f1_per_type(labels, types)[share[share < RAREST].index].mean()
            found = scores(labels, groups, types) | {"f1_rarest": rarest, "seconds": seconds if timed else np.nan}
            rows.add(key | {"number": number} | found)


def report(frame: pd.DataFrame) -> str:
    """Means over seeds, one table per simulation."""
    columns = ["k", "log2_k", "nmi", "ari", "balanced_ari", "f1", "f1_rare", "f1_rarest", "cf", "seconds"]
    parts = [
        "# Many types, rare types, few types",
        provenance(
            "many_types.py",
            f"Means over {frame['seed'].nunique()} simulations. *f1* is the mean of F1 over types, each in its best "
            "cluster, *f1_rare* that of types below 1 % of the cells, *f1_rarest* below 0.2 %, *cf* is "
            "1 − I(G;C|Y)/H(G|Y). Leiden runs at resolution 1 where the number is unknown. Seconds are wall time from "
            "components or normalised counts to labels, in a warm process, without Leiden's search for a resolution.",
        ),
    ]
    for (case, cells), part in frame.groupby(["data", "cells"], sort=False):
        means = part.groupby(["number", "method"], sort=False)[columns].mean().dropna(axis=1, how="all")
        title = f"{case.replace('_', ' ')}, {int(cells):,} cells" if case in SCALED else case.replace("_", " ")
        parts += [f"## {title.capitalize()}", markdown(means, k=1, seconds=1)]
        if "seconds" in means:
            parts += ratios(means["seconds"])
    return "\n\n".join(parts) + "\n"


def ratios(seconds: pd.Series) -> list[str]:
    """Our time as a share of that of each peer, for each way to choose the number of clusters."""
    wide = seconds.unstack("method")
    if OURS not in wide:
        return []
    return [
        f"Number {number}: {OURS} takes {row[OURS] / other:.2f} of the time of {name}."
        for number, row in wide.iterrows()
        for name, other in row.drop(OURS).dropna().items()
    ]


def main() -> None:
    """Run what is asked for and write the table."""
    made = parser(__doc__, METHODS, list(CASES))
    made.add_argument("--cells", type=int, default=100_000, help="of the simulations of many types")
    made.add_argument("--numbers", nargs="+", choices=NUMBERS, default=list(NUMBERS))
    made.add_argument("--scores-only", action="store_true", help="no seconds, where the machine is not free")
    arguments = made.parse_args()
    rows = Rows(arguments.out / "many_types.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        for method in arguments.methods:
            asked = (arguments.sets, arguments.cells, arguments.seeds, arguments.numbers, not arguments.scores_only)
            in_own_process(run, method, rows, *asked, threads=arguments.threads)
    (arguments.out / "many_types.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
