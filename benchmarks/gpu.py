"""A fit on a GPU from a matrix in host memory: seconds by part, how busy the GPU is while training, and with what.

    python benchmarks/gpu.py [--cells 1000000] [--genes 2000] [--device cuda] [--out DIR]

The atlas, the given number of clusters and what is counted, from the normalised CSR matrix to the labels, are those of
`scale.py`. The fit runs three times: on a few cells, to start the device; timed; and profiled, of which only the
training is looked at. On the CPU it shows that the script works, and the profile is that of the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from scale import simulate
from step import HERE, fit, fit_by_part, parts_table, synchronise
from torch.profiler import ProfilerActivity, profile

import scfcmi
from scfcmi.model import _estimator


def profiled(adata: Any, n_types: int, device: str) -> tuple[float, list[tuple[str, float, int]]]:
    """Seconds of the training in a fit, and seconds and number of calls of everything that the device did in it."""
    original, seconds = _estimator.train, 0.0
    on_gpu = device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    profiler = profile(activities=kinds)

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        with profiler:
            synchronise(device)
            start = time.perf_counter()
            found = original(*args, **kwargs)
            synchronise(device)
            seconds = time.perf_counter() - start
        return found

    with patch.object(_estimator, "train", watched):
        fit(adata, n_types, device)
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [(event.key, getattr(event, kind) / 1e6, event.count) for event in profiler.key_averages()]
    return seconds, sorted((event for event in events if event[1] > 0), key=lambda event: -event[1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    device = arguments.device
    adata = simulate(arguments.cells, arguments.genes)
    n_types = adata.obs["cell_type"].nunique()
    parts = fit_by_part(adata, n_types, device)
    scores = scfcmi.metrics.clustering_scores(adata.obs["fair_cluster"], adata.obs["tech"], adata.obs["cell_type"])
    training, events = profiled(adata, n_types, device)
    busy = sum(taken for _, taken, _ in events)
    size = f"{arguments.cells:,} cells × {arguments.genes:,} genes"
    good = f"ARI {scores['ari']:.3f}, conditional fairness {scores['conditional_fairness']:.3f}"
    lines = [
        f"# One fit on {torch.cuda.get_device_name() if device.startswith('cuda') else 'the CPU'}",
        f"Made by `benchmarks/gpu.py`: {size} from host memory, fitted and labelled in {parts.sum():.1f} s, {good}.",
        parts_table(parts),
        f"Profiled, training takes {training:.2f} s, in {busy / training:.0%} of which the device computes:",
        "| what | seconds | calls |\n| --- | ---: | ---: |\n"
        + "\n".join(f"| `{name[:60]}` | {taken:.3f} | {count} |" for name, taken, count in events[:12]),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.md").write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines))


if __name__ == "__main__":
    main()
