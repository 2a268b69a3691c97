"""Seconds and peak memory of clustering a matrix in memory, in an h5ad file and in a zarr store, in one run.

    python benchmarks/on_disk.py [--cells 100000] [--genes 2000] [--storage memory h5ad zarr columns] [--repeats 3]

Counts of many types with about 5 % non-zero entries are simulated and written once, below $TMPDIR, and removed in the
end. Every case runs in a process of its own, from the opened file to the labels, so that peak memory is its own; it
holds Python and all libraries too, which `rss_imports_gib` tells alone. Cases take turns; of all repeats the shortest
time counts, and the largest memory. On a busy machine, compare seconds of CPU. "columns" is an h5ad file with X as CSC.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
STORAGE = ("memory", "h5ad", "zarr", "columns")
GIB = 2**30
MEASURED = (
    "seconds",
    "cpu_seconds",
    "load_seconds",
    "matrix_gib",
    "rss_imports_gib",
    "rss_peak_gib",
)


def make(folder: Path, n_cells: int, n_genes: int, storage: list[str]) -> dict[str, float]:
    """Simulate, normalise and write, in a process that ends with it."""
    import numpy as np
    import scanpy as sc
    from scipy import sparse

    import scfcmi

    adata = scfcmi.datasets.many_types_counts(n_cells, n_genes, depth=130, random_state=0)
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    del adata.uns["log1p"]
    matrix = adata.X
    if {"memory", "h5ad"} & set(storage):
        adata.write_h5ad(folder / "atlas.h5ad")
    if "zarr" in storage:
        adata.write_zarr(folder / "atlas.zarr")
    if "columns" in storage:
        adata.X = sparse.csc_matrix(matrix)
        adata.write_h5ad(folder / "columns.h5ad")
    return {"density": matrix.nnz / np.prod(matrix.shape)}


def peak() -> float:
    """Largest resident size so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def work(folder: Path, storage: str) -> dict[str, float]:
    """Cluster from one kind of storage."""
    import anndata as ad
    import numpy as np
    import zarr

    import scfcmi

    rss_imports = peak()
    start = time.perf_counter()
    if storage == "zarr":
        root = zarr.open_group(folder / "atlas.zarr", mode="r")
        adata = ad.AnnData(ad.io.sparse_dataset(root["X"]), ad.io.read_elem(root["obs"]), ad.io.read_elem(root["var"]))
    else:
        path = folder / ("columns.h5ad" if storage == "columns" else "atlas.h5ad")
        adata = ad.read_h5ad(path, backed=None if storage == "memory" else "r")
    opened, cpu_opened = time.perf_counter(), time.process_time()
    scfcmi.tl.fair_cluster(adata, "tech", device="cpu", progress_bar=False)
    done, cpu_done = time.perf_counter(), time.process_time()
    rss = peak()
    np.save(folder / f"{storage}.npy", adata.obs["fair_cluster"].astype(int).to_numpy())
    matrix = adata.X
    size = (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / GIB if storage == "memory" else np.nan
    times = (done - opened, cpu_done - cpu_opened, opened - start)
    return dict(zip(MEASURED, (*times, size, rss_imports, rss), strict=True))


def in_own_process(*arguments: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--storage", nargs="+", choices=STORAGE, default=list(STORAGE))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "STORAGE"), help=argparse.SUPPRESS)
    parser.add_argument("--make", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(work(Path(arguments.one[0]), arguments.one[1])))
        return
    if arguments.make:
        print(json.dumps(make(arguments.make, arguments.cells[0], arguments.genes, arguments.storage)))
        return

    import numpy as np
    import pandas as pd
    from _results import markdown, provenance

    rows = []
    for n_cells in arguments.cells:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            options = ["--cells", n_cells, "--genes", arguments.genes, "--storage", *arguments.storage]
            made = in_own_process("--make", folder, *options)
            for repeat, storage in product(range(arguments.repeats), arguments.storage):
                case = {"cells": n_cells, "storage": storage, "repeat": repeat, **made}
                case |= in_own_process("--one", folder, storage)
                first = np.load(folder / f"{arguments.storage[0]}.npy")
                case["labels_that_differ"] = int((np.load(folder / f"{storage}.npy") != first).sum())
                rows.append(case)
                print(case, flush=True)
    frame = pd.DataFrame(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.out / "on_disk.csv", index=False, float_format="%.4g")
    most = ("rss_peak_gib", "labels_that_differ")
    by = frame.groupby(["cells", "storage"], sort=False)
    table = by.agg(
        {name: "max" if name in most else "min" for name in frame.columns.drop(["cells", "storage", "repeat"])}
    )
    table["cells_per_second"] = (table.index.get_level_values("cells") / table["seconds"]).astype(int)
    head = provenance(
        "on_disk.py",
        f"{arguments.genes:,} genes of 80 types in 8 groups, the number of clusters unknown, on the CPU. Of "
        f"{arguments.repeats} repeats the shortest time and the largest memory; `rss_imports_gib` is the memory before "
        "anything is read.",
    )
    text = "\n\n".join(["# A matrix in memory and on disk", head, markdown(table, 2)]) + "\n"
    (arguments.out / "on_disk.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
