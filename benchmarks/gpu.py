"""Fits on a GPU from data in host memory: seconds to the labels, whether twice the same, and how busy the GPU is.

    python benchmarks/gpu.py [--sets counts components] [--cells N] [--device cuda] [--out DIR]

*counts*: a million cells × 2,000 genes as normalised CSR, of which 5 % are not zero. *components*: ten million cells ×
50 components. After a fit of a few cells, which starts the device, each case is fitted and labelled twice and a third
time under the profiler, whose kernels and copies tell for what share of that time the device worked. On the CPU the
script shows that it works, and the profile is that of the processor.
"""

from __future__ import annotations

import argparse
import time
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

CELLS = {"counts": 1_000_000, "components": 10_000_000}
LONGEST = 12


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


def section(case: str, n_cells: int, device: str) -> list[str]:
    """What one case gives."""
    timed(made(case, 5000), device)
    adata = made(case, n_cells)
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
    busy = sum(taken for _, taken, _ in events)
    table = [f"| `{name[:60]}` | {taken:.3f} | {count} |" for name, taken, count in events[:LONGEST]]
    return [
        *lines,
        f"Under the profiler it takes {seconds:.1f} s, in {busy / seconds:.0%} of which the device works:",
        "\n".join(["| what | seconds | calls |", "| --- | ---: | ---: |", *table]),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--cells", type=int, help="instead of what each case has")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "the CPU"
    lines = [f"# Fits on {name}", provenance("gpu.py")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in arguments.sets:
        lines += section(case, arguments.cells or CELLS[case], arguments.device)
        # written after each case: the second one can run out of memory
        (arguments.out / "gpu.md").write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines))


if __name__ == "__main__":
    main()
