"""What changes when nothing should: another run, threads, processes, orders of cells and genes, storage, device.

    python benchmarks/promises.py [--data DIR] [--sets NAME ...] [--device cuda] [--report]

The labels of every way of computing are compared with those of one process with one thread on the CPU: the ARI, the
share of cells with the same label, and the largest difference of a probability and of a coordinate of the embedding
(orders of cells are undone first). The number of clusters is given, so that labels can be compared one by one;
`free` is the ARI where it is not. Sets that are named come from `--data`; two simulations need no files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _results import Rows, markdown, parser, provenance
from sklearn.metrics import adjusted_rand_score

KEYS = ["set", "way", "seed"]
NAMES = ("labels", "proba", "embedding", "free")
SIMULATED = ("atlas", "many types")
# Threads, processes, device, and what is changed in the data.
WAYS = {
    "again": (1, 1, "cpu", "nothing"),
    "dense": (1, 1, "cpu", "storage"),
    "2 threads": (2, 1, "cpu", "nothing"),
    "2 processes": (1, 2, "cpu", "nothing"),
    "cells in another order": (1, 1, "cpu", "cells"),
    "genes in another order": (1, 1, "cpu", "genes"),
    "cuda": (1, 1, "cuda", "nothing"),
    "cuda again": (1, 1, "cuda", "nothing"),
    "published, again": (1, 1, "cpu", "published"),
    "published, 2 threads": (2, 1, "cpu", "published"),
    "published, 2 processes": (1, 2, "cpu", "published"),
}


def cells_of(name: str, folder: Path) -> ad.AnnData:
    """A normalised set with `obs["batch"]`, and the number of its types."""
    import scanpy as sc

    import scfcmi

    if name not in SIMULATED:
        found = ad.read_h5ad(folder / f"{name}.h5ad")
        found.obs["batch"] = found.obs["batch"].astype(str)
        return found
    make = scfcmi.datasets.simulated_atlas if name == "atlas" else scfcmi.datasets.many_types_counts
    found = make(3000, 1000, 12, random_state=0) if name == "atlas" else make(3000, 1000, 40, random_state=0)
    found.obs["batch"] = found.obs["tech" if "tech" in found.obs else "batch"].astype(str)
    sc.pp.normalize_total(found, target_sum=1e4)
    sc.pp.log1p(found)
    return found


def work(path: Path, out: Path, change: str, device: str, seed: int) -> None:
    """One way, in a process of its own: labels, probabilities and embedding, in the order of the file."""
    from scipy import sparse

    from scfcmi.model import FCMI
    from scfcmi.published import NetworkOptions

    cells = ad.read_h5ad(path)
    rng = np.random.default_rng(seed + 1)
    rows, columns = np.arange(cells.n_obs), np.arange(cells.n_vars)
    if change == "cells":
        rows = rng.permutation(rows)
    if change == "genes":
        columns = rng.permutation(columns)
    x = cells.X[rows][:, columns]
    if change == "storage" and sparse.issparse(x):
        x = x.toarray()
    groups = cells.obs["batch"].to_numpy()[rows]
    given = {"random_state": seed, "device": device, "progress_bar": False}
    if change == "published":
        given |= {"preset": "paper", "network": NetworkOptions(max_epochs=10, warmup_epochs=5)}
    k = cells.obs["cell_type"].nunique()
    model = FCMI(k, **given).fit(x, groups)
    free = model.labels_ if change == "published" else FCMI(**given).fit(x, groups).labels_
    if os.environ.get("RANK", "0") == "0":
        back = np.argsort(rows)
        found = model.assignment_
        parts = (found.labels, found.proba, found.embedding, free)
        np.savez(out, **{name: part[back] for name, part in zip(NAMES, parts, strict=True)})


def found_by(way: tuple[int, int, str, str], path: Path, folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Run one way."""
    threads, processes, device, change = way
    out = folder / "out.npz"
    threads_are = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    here = [__file__, "--work", str(path), str(out), change, device, str(seed)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run([sys.executable, *launcher, *here], check=True, env=os.environ | threads_are)
    with np.load(out) as saved:
        return dict(saved)


def measure(rows: Rows, name: str, data: Path, seed: int, ways: dict[str, tuple[int, int, str, str]]) -> None:
    """All ways on one set, each beside the plain one."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = folder / "cells.h5ad"
        cells = cells_of(name, data)
        cells.write_h5ad(path)
        plain: dict[str, dict[str, np.ndarray]] = {}
        for title, way in ways.items():
            if rows.done(set=name, way=title, seed=seed):
                continue
            base = "published" if way[3] == "published" else "nothing"
            if base not in plain:
                plain[base] = found_by((1, 1, "cpu", base), path, folder, seed)
            if title == "cuda again":
                plain["cuda"] = found_by((1, 1, "cuda", "nothing"), path, folder, seed)
            one = plain["cuda" if title == "cuda again" else base]
            other = found_by(way, path, folder, seed)
            same_shape = one["proba"].shape == other["proba"].shape
            rows.add(
                {"set": name, "way": title, "seed": seed, "cells": cells.n_obs}
                | {"ari": adjusted_rand_score(one["labels"], other["labels"])}
                | {"same": float(np.mean(one["labels"] == other["labels"]))}
                | {"proba": float(np.abs(one["proba"] - other["proba"]).max()) if same_shape else np.nan}
                | {"embedding": float(np.abs(one["embedding"] - other["embedding"]).max())}
                | {"free": adjusted_rand_score(one["free"], other["free"])}
            )


def report(rows: Rows, out: Path) -> None:
    """The worst of all sets and seeds, by way."""
    table = rows.read()
    grouped = table.groupby("way")
    worst = pd.DataFrame(
        {
            "fits": grouped.size(),
            "least ARI": grouped["ari"].min(),
            "median ARI": grouped["ari"].median(),
            "least ARI, number free": grouped["free"].min(),
            "largest difference of p": grouped["proba"].max().map("{:.1e}".format),
            "of the embedding": grouped["embedding"].max().map("{:.1e}".format),
        }
    )
    # Where columns change places, so do signs and axes of the embedding.
    worst.loc[worst.index.isin(["genes in another order", "cells in another order"]), "of the embedding"] = ""
    worst = worst.reindex([way for way in WAYS if way in worst.index])
    sets = ", ".join(sorted(table["set"].unique()))
    text = [
        "# What changes when nothing should",
        f"Beside one process with one thread on the CPU, over the sets {sets}.",
        markdown(worst),
        provenance("promises.py"),
    ]
    (out / "promises.md").write_text("\n\n".join(text) + "\n")


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        path, out, change, device, seed = sys.argv[2:]
        work(Path(path), Path(out), change, device, int(seed))
        return
    made = parser(__doc__ or "")
    made.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="measured as well")
    made.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    given = made.parse_args()
    rows = Rows(given.out / "promises.csv", KEYS, resume=given.resume)
    ways = {name: WAYS[name] for name in given.ways if given.device == "cuda" or WAYS[name][2] == "cpu"}
    if not given.report:
        for name in given.sets or SIMULATED:
            for seed in given.seeds:
                measure(rows, name, given.data, seed, ways)
    report(rows, given.out)


if __name__ == "__main__":
    main()
