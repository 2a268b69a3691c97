"""Seconds, memory and scores of many types against the number of cells, beside the usual chain, in one run.

    python benchmarks/scale.py [--cells 10000 100000 1000000] [--methods …] [--threads 2] [--device cpu] [--report]

Components of `datasets.many_types`, from the matrix to the labels, the number of clusters unknown. Every row is a
process of its own, which warms up on a few cells first, so that peak memory and seconds are its own. Peak memory holds
Python and all libraries; `rss_before_gib` is what it was once the matrix was there. `on_disk.py` measures files.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
from _peers import METHODS, OURS, PEERS, leiden, neighbours, ours, warm_up
from _results import Rows, in_own_process, markdown, parser, provenance
from _scores import f1_per_type, scores

from scfcmi import datasets

KEYS = ["cells", "method", "threads", "device"]


def peak() -> float:
    """Largest resident size so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def run(method: str, rows: Rows, n_cells: int, threads: int, device: str) -> None:
    """Simulate, warm up, then measure one method at one size."""
    adata = datasets.many_types(n_cells, random_state=0)
    warm_up(method)
    before = peak()
    start, used = time.perf_counter(), time.process_time()
    if method == OURS:
        labels = ours(adata, "tech", None, 0, device=device)
    else:
        labels = leiden(neighbours(PEERS[method](adata, "tech", 0), 0), 1.0, 0)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    most = peak()
    types = adata.obs["cell_type"].astype(str)
    share = types.value_counts(normalize=True)
    found = scores(labels, adata.obs["tech"], types)
    rows.add(
        {
            "cells": n_cells,
            "method": method,
            "threads": threads,
            "device": device,
            "seconds": seconds,
            "cpu_seconds": used,
            "matrix_gib": adata.obsm["X_pca"].nbytes / 2**30,
            "rss_before_gib": before,
            "rss_peak_gib": most,
            **{name: found[name] for name in ("k", "nmi", "ari", "f1", "cf")},
            "f1_rarest": f1_per_type(labels, types)[share[share < 0.002].index].mean(),
        }
    )


def report(frame: pd.DataFrame) -> str:
    """The table, with seconds as multiples of ours."""
    frame = frame.astype({"cells": int}).sort_values(["device", "cells"], kind="stable")
    ours_at = frame[frame["method"] == OURS].set_index(["cells", "threads"])["seconds"]
    where = pd.MultiIndex.from_frame(frame[["cells", "threads"]])
    base = ours_at.groupby(level=[0, 1]).min().reindex(where).to_numpy()
    frame.insert(5, "times_ours", frame["seconds"].to_numpy() / base)
    head = provenance(
        "scale.py",
        f"80 types, 8 groups, 30 components, the number of clusters unknown, {len(os.sched_getaffinity(0))} core(s). "
        "Wall seconds: compare within the table only. `rss_before_gib` is the peak when the matrix is there and the "
        "method has run on a few cells, `matrix_gib` the matrix alone.",
    )
    return "\n\n".join(["# Cost against the number of cells", head, markdown(frame.set_index("cells"))]) + "\n"


def figure(frame: pd.DataFrame) -> plt.Figure:
    """Seconds and peak memory against cells, on logarithmic axes."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, column, label in zip(axes, ["seconds", "rss_peak_gib"], ["seconds", "peak memory (GiB)"], strict=True):
        for (method, device), part in frame.astype({"cells": int}).groupby(["method", "device"], sort=False):
            part = part.sort_values("cells")
            ax.loglog(part["cells"], part[column], "o-", label=f"{method}, {device}" if method == OURS else method)
        ax.set(xlabel="cells", ylabel=label)
    axes[0].legend(frameon=False)
    return fig


def main() -> None:
    """Run every method at every size; write a table and a figure."""
    made = parser(__doc__, [method for method in METHODS if method != "scVI + Leiden"])
    made.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    made.add_argument("--device", default="cpu", help="of scfcmi; the peers run on the CPU")
    arguments = made.parse_args()
    rows = Rows(arguments.out / "scale.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        for n_cells, method in product(arguments.cells, arguments.methods):
            device = arguments.device if method == OURS else "cpu"
            if not rows.done(cells=n_cells, method=method, threads=arguments.threads, device=device):
                in_own_process(run, method, rows, n_cells, arguments.threads, device, threads=arguments.threads)
    (arguments.out / "scale.md").write_text(report(rows.read()))
    figure(rows.read()).savefig(arguments.out / "scale.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
