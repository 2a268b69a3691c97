"""What the time of a fit depends on: cells, groups, types and columns, each with a log-log slope.

    python benchmarks/slopes.py [--sets cells groups types columns] [--cells 20000] [--repeats 3] [--device cpu]

One quantity varies, the others stay. All fits run in one warm process, in turn, and the fastest of a few repeats
counts, because whatever else the machine does can only add time. The slope is that of a straight line through log
seconds against the log of the quantity: 1 is proportional, 0 is no dependence. Cells, groups and types vary in
components of `datasets.many_types`, columns are genes of `datasets.simulated_atlas`. The number of clusters is unknown.
"""

from __future__ import annotations

import time

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
from _peers import normalised, ours
from _results import Rows, in_own_process, parser, provenance

from scfcmi import datasets

KEYS = ["varied", "value", "repeat"]
VALUES = {
    "cells": [5000, 20_000, 80_000, 320_000],
    "groups": [2, 20, 200],
    "types": [10, 30, 100, 300],
    "columns": [500, 1000, 2000, 4000],
}
GROUPS, TYPES = 4, 30


def made(varied: str, value: int, n_cells: int) -> ad.AnnData:
    """The data of one point of a line."""
    if varied == "columns":
        # 5 % of the entries are not zero, however many genes there are
        depth = value * 130 / 2000
        atlas = datasets.simulated_atlas(n_cells, value, 10, n_groups=GROUPS, depth=depth, random_state=0)
        return normalised(atlas)
    n_groups, n_types = value if varied == "groups" else GROUPS, value if varied == "types" else TYPES
    return datasets.many_types(value if varied == "cells" else n_cells, n_types, n_groups, random_state=0)


def run(rows: Rows, sets: list[str], n_cells: int, repeats: int, device: str) -> None:
    """All lines."""
    ours(datasets.many_types(1000, 5, 2), "tech", None, 0, device=device)
    for varied in sets:
        wanted = [
            value
            for value in VALUES[varied]
            if not all(rows.done(varied=varied, value=value, repeat=repeat) for repeat in range(repeats))
        ]
        data = {value: made(varied, value, n_cells) for value in wanted}
        for repeat in range(repeats):
            for value, adata in data.items():
                start, used = time.perf_counter(), time.process_time()
                ours(adata, "tech", None, 0, device=device)
                taken, used = time.perf_counter() - start, time.process_time() - used
                key = {"varied": varied, "value": value, "repeat": repeat}
                k = adata.obs["fair_cluster"].nunique()
                rows.add(key | {"n_cells": adata.n_obs, "seconds": taken, "cpu_seconds": used, "k": k})


def main() -> None:
    """Time every case a few times in turn, and write a table and a figure."""
    options = parser(__doc__, sets=list(VALUES))
    options.add_argument("--cells", type=int, default=20_000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--device", default="cpu")
    arguments = options.parse_args()
    rows = Rows(arguments.out / "slopes.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        asked = (rows, arguments.sets, arguments.cells, arguments.repeats, arguments.device)
        in_own_process(run, *asked, threads=arguments.threads)
    frame = rows.read()
    frame["value"] = frame["value"].astype(int)
    lines, fig = [], plt.figure(figsize=(10, 2.8), layout="constrained")
    names = [name for name in VALUES if name in set(frame["varied"])]
    axes = fig.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        best = frame[frame["varied"] == name].groupby("value")["seconds"].min()
        slope = np.polyfit(np.log(best.index.to_numpy(float)), np.log(best.to_numpy()), 1)[0]
        ax.loglog(best.index, best, "o-")
        ax.set(xlabel=name, title=f"slope {slope:.2f}")
        listed = ", ".join(f"{value:,}: {taken:.1f} s" for value, taken in best.items())
        lines.append(f"| {name} | {slope:.2f} | {listed} |")
    axes[0].set_ylabel("seconds")
    fig.savefig(arguments.out / "slopes.svg", metadata={"Date": None})
    head = provenance(
        "slopes.py",
        f"On {arguments.device}, {arguments.threads} threads. Unless varied, {arguments.cells:,} cells, {TYPES} types "
        f"and {GROUPS} groups in components, 10 types where genes vary; the number of clusters is unknown. Fastest of "
        f"{frame['repeat'].nunique()}.",
    )
    table = ["| varied | log-log slope | seconds |", "| --- | ---: | --- |", *lines]
    (arguments.out / "slopes.md").write_text(
        "\n\n".join(["# What the time of a fit depends on", head, "\n".join(table)]) + "\n"
    )


if __name__ == "__main__":
    main()
