"""Clusters of public data sets beside curated types, and beside what people use today.

    python benchmarks/real_data.py [--data DIR] [--sets …] [--seeds 0 1 2] [--methods …] [--resume] [--report]

Every `.h5ad` file needs `obs["batch"]` and curated `obs["cell_type"]`. Every method runs in a process of its own, with
the number of clusters given and unknown (Leiden: at resolution 1). Rows are kept in `results/real_data.csv` as they
come. Not a word about seconds: `small.py` and `scale.py` measure those.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from _peers import METHODS, OURS, SETS, applies, clustered, read
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance
from _scores import SCORES, scores

KEYS = ["data", "method", "number", "seed"]


def run(method: str, rows: Rows, folder: Path, sets: list[str], seeds: list[int]) -> None:
    """All rows of one method."""
    for name in sets:
        if all(rows.done(data=name, method=method, number="unknown", seed=seed) for seed in seeds):
            continue
        adata = read(folder / f"{name}.h5ad")
        if not applies(method, adata):
            print(f"{method} is left out on {name}: no counts there, or not installed")
            continue
        types, groups = adata.obs["cell_type"], adata.obs["batch"]
        for seed in seeds:
            if rows.done(data=name, method=method, number="unknown", seed=seed):
                continue
            found = clustered(method, adata, "batch", types.nunique(), seed)
            for number, (labels, _) in found.items():
                key = {"data": name, "method": method, "number": number, "seed": seed}
                rows.add(key | scores(labels, groups, types))


def report(frame: pd.DataFrame) -> str:
    """Means over seeds per data set, over data sets, and how far ours is from the best peer."""
    frame = frame.assign(abs_log2_k=frame["log2_k"].abs())
    means = frame.groupby(["number", "data", "method"], sort=False)[[*SCORES, "abs_log2_k"]].mean()
    parts = [
        "# Public data sets",
        provenance(
            "real_data.py",
            f"Means over {frame['seed'].nunique()} seeds. *balanced_ari* counts types alike, *f1* is the mean of F1 "
            "over types, each in its best cluster, *f1_rare* that of types below 1 % of the cells, *cf* is "
            "1 − I(G;C|Y)/H(G|Y), in which curated labels have 1, *log2_k* log2 of clusters found over types curated.",
        ),
    ]
    for number in ("given", "unknown"):
        if number not in means.index.get_level_values(0):
            continue
        of = means.loc[number]
        overall = of.groupby("method", sort=False).mean()
        overall.insert(0, "sets", of.groupby("method", sort=False).size())
        parts += [f"## Number of clusters {number}: means over data sets", markdown(overall, k=1)]
        parts += margins(of)
    for name in means.index.get_level_values("data").unique():
        part = means.xs(name, level="data").swaplevel().sort_index(level=0, sort_remaining=False)
        parts += [f"## {name}", markdown(part, k=1)]
    return "\n\n".join(parts) + "\n"


def margins(of: pd.DataFrame) -> list[str]:
    """Ours beside the best single peer, and beside the best peer of every set."""
    wide = {score: of[score].unstack("method") for score in ("nmi", "ari")}
    names = wide["nmi"].columns
    if OURS not in names or len(names) == 1:
        return []
    full = [name for name in names.drop(OURS) if wide["nmi"][name].notna().all()]
    lines = []
    for score, table in wide.items():
        best = table[full].mean().idxmax()
        ahead = table[OURS].mean() - table[best].mean()
        lines.append(f"Mean {score.upper()} is {ahead:+.3f} from the best single peer that ran on all sets, {best}.")
        behind = (table[OURS] - table.drop(columns=OURS).max(axis=1)).sort_values()
        listed = ", ".join(f"{name} {gap:+.3f}" for name, gap in behind[behind < -0.03].items()) or "none"
        lines.append(f"Sets more than .03 {score.upper()} below the best peer there: {listed}.")
    return [" ".join(lines)]


def main() -> None:
    """Run what is asked for and write the table."""
    arguments = parser(__doc__, METHODS, SETS).parse_args()
    rows = Rows(arguments.out / "real_data.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        sets = at_hand(arguments)
        for method in arguments.methods:
            in_own_process(run, method, rows, arguments.data, sets, arguments.seeds, threads=arguments.threads)
    (arguments.out / "real_data.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
