"""Fits on a GPU from data in host memory: seconds to the labels, whether twice the same, and how busy the GPU is.

    python benchmarks/gpu.py [--sets counts components] [--cells N] [--device cuda] [--out DIR]

*counts*: a million cells × 2,000 genes as normalised CSR, of which 5 % are not zero. *components*: ten million cells ×
50 components. *small*: 2,000 cells × 1,000 genes, on the device and on the CPU in turns. After a fit of a few cells,
which starts the device, each large case is fitted and labelled twice and a third time under the profiler, whose kernels
and copies tell for what share of that time the device worked. On the CPU the script shows that it works, and the
profile is that of the processor. Data are made beside it, in processes of their own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from _peers import ours
from _results import HERE, provenance
from _scores import scores
from torch.profiler import ProfilerActivity, profile

from scfcmi import datasets
from scfcmi.source import as_source

CELLS = {"counts": 1_000_000, "components": 10_000_000}
LONGEST = 12
SMALL_CELLS, SMALL_GENES, SMALL_FITS = 2000, 1000, 5


def made(case: str, n_cells: int) -> ad.AnnData:
    """The data of one case, in host memory."""
    if case == "components":
        return datasets.many_types(n_cells, n_comps=50, random_state=0)
    adata = datasets.many_types_counts(n_cells, depth=130, random_state=0)
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def timed(adata: ad.AnnData, device: str) -> tuple[np.ndarray, float]:
    """Labels, and wall seconds until they are there."""
    start = time.perf_counter()
    labels = ours(adata, "tech", None, 0, device=device)
    return labels, time.perf_counter() - start


def profiled(adata: ad.AnnData, device: str) -> tuple[float, list[tuple[str, float, int]]]:
    """Seconds of a fit, and seconds and number of calls of everything that the device did in it."""
    on_gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        seconds = timed(adata, device)[1]
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [(event.key, getattr(event, kind) / 1e6, event.count) for event in profiler.key_averages()]
    return seconds, sorted((event for event in events if event[1] > 0), key=lambda event: -event[1])


def reading(adata: ad.AnnData) -> float:
    """Seconds of the walks over a matrix in memory that a fit makes, values checked in the first, and nothing else."""
    start = time.perf_counter()
    source = as_source(adata.obsm["X_pca"] if "X_pca" in adata.obsm else adata.X)
    for _ in range(2):
        for _ in source.chunks():
            pass
    return time.perf_counter() - start


def small(device: str) -> list[str]:
    """Seconds of small fits on the device and on the CPU."""
    adata = datasets.simulated_atlas(SMALL_CELLS, SMALL_GENES, 8, n_groups=4, random_state=0)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    seconds = np.array([[timed(adata, where)[1] for where in (device, "cpu")] for _ in range(SMALL_FITS + 1)][1:])
    there, here = np.median(seconds, axis=0)
    ratio = np.median(seconds[:, 0] / seconds[:, 1])
    return [
        f"## Small, {SMALL_CELLS:,} cells × {SMALL_GENES:,} genes",
        f"Medians of {SMALL_FITS} fits in turns: {there:.2f} s on {device}, {here:.2f} s on the CPU; ratio {ratio:.2f}",
    ]


def section(case: str, adata: ad.AnnData, device: str) -> list[str]:
    """What one large case gives."""
    timed(made(case, 5000), device)
    (first, one), (second, two) = timed(adata, device), timed(adata, device)
    found = scores(first, adata.obs["tech"], adata.obs["cell_type"])
    good = ", ".join(f"{name} {found[name]:.3f}" for name in ("ari", "f1", "f1_rare"))
    differ = int((first != second).sum())
    lines = [
        f"## {case.capitalize()}, {adata.n_obs:,} cells",
        f"Fitted and labelled in {one:.1f} s and {two:.1f} s; {differ} labels differ between the two. "
        f"{found['k']} clusters of 80 types, {good}.",
    ]
    if device.startswith("cuda"):
        lines[-1] += f" Peak memory on the device {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB."
    seconds, events = profiled(adata, device)
    busy, walks = sum(taken for _, taken, _ in events), reading(adata)
    table = [f"| `{name[:60]}` | {taken:.3f} | {count} |" for name, taken, count in events[:LONGEST]]
    return [
        *lines,
        f"Two walks over the matrix alone take {walks:.1f} s. Under the profiler a fit takes {seconds:.1f} s, in "
        f"{busy / seconds:.0%} of which the device works, {busy / max(seconds - walks, 1e-9):.0%} without the walks:",
        "\n".join(["| what | seconds | calls |", "| --- | ---: | ---: |", *table]),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=["small", *CELLS], default=["small", *CELLS])
    parser.add_argument("--cells", type=int, help="instead of what each case has")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "the CPU"
    lines = [f"# Fits on {name}", provenance("gpu.py")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    large = [case for case in arguments.sets if case != "small"]
    with ProcessPoolExecutor(max(len(large), 1), multiprocessing.get_context("spawn")) as pool:
        data = {case: pool.submit(made, case, arguments.cells or CELLS[case]) for case in large}
        for case in arguments.sets:
            lines += (
                small(arguments.device) if case == "small" else section(case, data.pop(case).result(), arguments.device)
            )
            # written after each case: the second one can run out of memory
            (arguments.out / "gpu.md").write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines))


if __name__ == "__main__":
    main()
