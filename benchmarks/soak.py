"""The same fits, maps and figures over and over, for minutes: memory, threads and open files must not grow.

    python benchmarks/soak.py [--minutes 5] [--out DIR]

Every round fits, cuts again, diagnoses, corrects, maps later cells, saves and loads a model, writes into a file, draws
figures and a page, and fits the published network once. The first rounds, in which libraries set themselves up, are not
counted. It ends with an error if memory grows by more than MEGABYTES an hour and more than its own noise, or if there
are more threads, open files or figures at the end than after the first rounds.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _results import HERE, markdown, provenance

WARM_UP, MEGABYTES = 10, 60.0


def one_round(folder: Path, seed: int) -> None:
    """What a user does in a day."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    import scfcmi as sf
    from scfcmi.model import FCMI
    from scfcmi.published import NetworkOptions

    adata = sf.datasets.simulated_atlas(400, 120, 4, random_state=seed)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    model = sf.tl.fair_cluster(adata, "tech", label_key="cell_type", return_model=True, progress_bar=False)
    sf.tl.recut(adata, n_clusters=3)
    sf.tl.diagnose(adata)
    sf.tl.correct(adata)
    adata.obsm["X_fair_cluster_umap"] = adata.obsm["X_fair_cluster"][:, :2].copy()
    path = folder / "cells.h5ad"
    adata.write_h5ad(path)
    model.save(folder / "model.safetensors", overwrite=True)
    loaded = FCMI.load(folder / "model.safetensors")
    sf.tl.map_query(adata, loaded, sensitive_key="tech", key_added="mapped")
    sf.tl.predict_on_disk(path, loaded, sensitive_key="tech", key_added="again")
    for draw in (sf.pl.umap, sf.pl.tree, sf.pl.summary, sf.pl.composition, sf.pl.confidence, sf.pl.diagnose):
        draw(adata, show=False)
        plt.close("all")
    sf.report(adata, folder / "page.html")
    network = NetworkOptions(hidden=(16, 8), max_epochs=2, warmup_epochs=1, batch_size=200)
    sf.tl.fair_cluster(adata, "tech", 4, preset="paper", network=network, key_added="paper", progress_bar=False)


def held() -> dict[str, float]:
    """What this process holds at the moment."""
    import matplotlib.pyplot as plt

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": len(os.listdir("/proc/self/task")),
        "python threads": threading.active_count(),
        "open files": len(os.listdir("/proc/self/fd")),
        "figures": len(plt.get_fignums()),
    }


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, default=5.0)
    made.add_argument("--out", type=Path, default=HERE / "results")
    given = made.parse_args()
    import matplotlib as mpl

    mpl.use("Agg")
    warnings.simplefilter("ignore")
    start, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        while len(rows) < WARM_UP + 5 or time.monotonic() < start + 60 * given.minutes:
            one_round(Path(folder), len(rows))
            rows.append({"minute": (time.monotonic() - start) / 60, **held()})
            print(*(f"{name}={value:.1f}" for name, value in rows[-1].items()), flush=True)
    table = pd.DataFrame(rows[WARM_UP:])
    first, last = table.iloc[0], table.iloc[-1]
    slope, offset = np.polyfit(table["minute"], table["megabytes"], 1)
    noise = float(np.std(table["megabytes"] - slope * table["minute"] - offset))
    grown = slope * float(last["minute"] - first["minute"])
    shown = pd.DataFrame({"after the first rounds": first, "at the end": last}).drop("minute").rename_axis("held")
    text = [
        "# Soak",
        f"{len(rows)} rounds in {rows[-1]['minute']:.1f} minutes. By a straight line, memory changed by {grown:+.1f} "
        f"MB from round {WARM_UP + 1} to the last; single rounds scatter about it by {noise:.1f} MB.",
        markdown(shown, digits=0),
        provenance("soak.py"),
    ]
    (given.out / "soak.md").write_text("\n\n".join(text) + "\n")
    if slope * 60 > MEGABYTES and grown > 3 * noise:
        raise SystemExit(f"memory grows by {slope * 60:.0f} MB an hour")
    for name in ("threads", "python threads", "open files", "figures"):
        if last[name] > first[name]:
            raise SystemExit(f"{name} grew from {first[name]:.0f} to {last[name]:.0f}")


if __name__ == "__main__":
    main()
