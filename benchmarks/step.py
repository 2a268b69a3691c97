"""Where the time of a fit and of one training step goes, and how far a step is from what the machine allows.

    python benchmarks/step.py [--cells 20000] [--genes 2000] [--device cpu] [--compile] [--out DIR]

First table: a default fit, by part. Second table: one step of either preset, by part, beside its limit: the larger of
its floating point operations over the rate of a large matrix product, and of the bytes that it has to move (weights,
gradients, optimiser state, activations) over the rate of a large copy, both measured on the same device just before,
in float32. On the CPU, seconds of a step are those of the processor, on one thread. With `--compile`, also what
`torch.compile` takes and brings, which on a GPU includes CUDA graphs; it needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import anndata as ad
import pandas as pd
import torch
from slopes import simulate

import scfcmi
from scfcmi.model import _estimator
from scfcmi.model._networks import FCMINet
from scfcmi.objective import consensus_terms, fcmi_terms, leakage_term
from scfcmi.train import PRESETS, Preset

HERE = Path(__file__).resolve().parent
PARTS = {
    "cut and validate the sample": ("as_source", "stratified_sketch"),
    "align groups": ("align",),
    "neighbours for merging": ("merge_affinity",),
    "small clusters": ("representative_draw",),
    "train the network": ("train",),
}


@contextmanager
def recorded(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the time spent in the estimator's parts."""
    patches = []
    for part, names in PARTS.items():
        for name in names:
            original = getattr(_estimator, name)

            def timed(*args: object, _original: Callable = original, _part: str = part, **kwargs: object) -> object:
                start = time.perf_counter()
                try:
                    return _original(*args, **kwargs)
                finally:
                    seconds[_part] = seconds.get(_part, 0.0) + time.perf_counter() - start

            patches.append(patch.object(_estimator, name, timed))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def fit_by_part(adata: ad.AnnData, n_clusters: int, device: str) -> pd.Series:
    """Seconds of each part of a default fit."""
    fit(adata[:1000].copy(), n_clusters, device)  # warm up
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    with recorded(seconds):
        fit(adata, n_clusters, device)
    total = time.perf_counter() - start
    return pd.Series(seconds | {"the rest: projection, labels of all cells, writing": total - sum(seconds.values())})


def fit(adata: ad.AnnData, n_clusters: int, device: str) -> None:
    scfcmi.tl.fair_cluster(adata, "tech", n_clusters, device=device, progress_bar=False)


def parts_table(parts: pd.Series) -> str:
    """Seconds and share of each part, in Markdown."""
    rows = (f"| {name} | {taken:.2f} | {taken / parts.sum():.0%} |" for name, taken in parts.items())
    return "| part | seconds | share |\n| --- | ---: | ---: |\n" + "\n".join(rows)


def per_call(works: Sequence[Callable[[], object]], device: str, repeats: int = 10) -> list[float]:
    """Seconds of one call of each, the fastest of a few rounds in which they take turns."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = [float("inf")] * len(works)
    for _ in range(7):
        for i, work in enumerate(works):
            synchronise(device)
            start = clock()
            for _ in range(repeats):
                work()
            synchronise(device)
            best[i] = min(best[i], (clock() - start) / repeats)
    return best


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def ceilings(device: str) -> tuple[float, float]:
    """Floating point operations and bytes per second that the device reaches."""
    n = 1024 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device)
    b = torch.randn(2**24 if device == "cpu" else 2**28, device=device)
    c = torch.empty_like(b)
    product, copy = per_call([lambda: a @ a, lambda: c.copy_(b)], device, 3)
    return 2 * n**3 / product, 2 * b.nbytes / copy


def step_by_part(
    preset: Preset, precision: str, n_input: int, n_groups: int, n_centres: int, device: str, *, compiled: bool = False
) -> dict[str, float]:
    """Milliseconds of a step's parts, the two limits, and seconds that the first step took, compiled or not."""
    settings = PRESETS[preset]
    n_latent = n_input if settings.consensus else n_centres
    net = FCMINet(
        n_input,
        n_groups,
        n_centres,
        n_latent=n_latent,
        hidden=settings.hidden,
        n_shared=settings.n_shared,
        temperature=settings.temperature,
    ).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, fused=True)
    n = settings.batch_size
    x = torch.randn(n, n_input, device=device)
    codes = torch.arange(n, device=device) % n_groups
    weight = torch.ones(n, device=device)
    position = torch.nn.functional.normalize(torch.randn(n, n_latent, device=device), dim=1)
    goal = torch.softmax(torch.randn(n, n_centres, device=device), dim=1)

    indicators = torch.eye(n_groups, device=device)[codes]
    half = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16-mixed")

    def forward() -> tuple[torch.Tensor, ...]:
        with half:
            return net(x, codes)

    def loss() -> torch.Tensor:
        h, proba, decoded = (part.float() for part in forward())
        terms = fcmi_terms(x, decoded, proba, codes, weight, n_groups)
        if settings.consensus:
            terms |= consensus_terms(h, proba, position, goal, weight)
            terms["leakage"] = leakage_term(h, proba, indicators, weight)
        return sum(terms.values(), torch.zeros((), device=device))

    objective = torch.compile(loss, mode=None if device == "cpu" else "reduce-overhead") if compiled else loss

    def backward() -> None:
        optimizer.zero_grad()
        objective().backward()

    def whole() -> None:
        backward()
        optimizer.step()

    start = time.perf_counter()
    whole()
    first = time.perf_counter() - start
    times = per_call([forward, objective, backward, whole], device, 20 if settings.consensus else 2)
    flops_rate, bytes_rate = ceilings(device)
    weights = sum(p.numel() for p in net.parameters())
    used = weights if settings.n_shared is None else weights_used(net)
    activations = sum(width for width in (*settings.hidden, n_latent, *settings.hidden, n_input)) * n
    flops = 6 * n * used
    # weights: read twice, gradient written and read, three times read and written by Adam; activations: out and back
    n_bytes = 4 * (10 * weights + 4 * activations)
    ms = [1000 * t for t in times]
    return {
        "forward": ms[0],
        "objective": ms[1] - ms[0],
        "backward": ms[2] - ms[1],
        "optimiser": ms[3] - ms[2],
        "step": ms[3],
        "limit by operations": 1000 * flops / flops_rate,
        "limit by bytes": 1000 * n_bytes / bytes_rate,
        "first step, s": first,
    }


def weights_used(net: FCMINet) -> int:
    """Weights that one cell meets: one branch of the decoder, not all."""
    branches = [sum(p.numel() for p in branch.parameters()) for branch in net.decoder.branches]
    return sum(p.numel() for p in net.parameters()) - sum(branches[1:])


def main() -> None:
    """Measure, print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    parts = fit_by_part(simulate(arguments.cells, arguments.genes, 2, 10), 10, arguments.device)
    if arguments.device == "cpu":
        torch.set_num_threads(1)  # as in a default fit
    sizes: dict[Preset, tuple[int, int, int]] = {"default": (31, 2, 60), "paper": (arguments.genes, 2, 10)}
    steps = {
        f"{preset}, {precision}": step_by_part(preset, precision, *size, arguments.device)
        for preset, size in sizes.items()
        for precision in ("32-true", "bf16-mixed")
    }
    if arguments.compile:
        compiled = step_by_part("default", "32-true", *sizes["default"], arguments.device, compiled=True)
        # Parts of a compiled step are not to be had one by one.
        parts_of_it = dict.fromkeys(("forward", "objective", "backward", "optimiser"), math.nan)
        steps["default, 32-true, compiled"] = compiled | parts_of_it
    lines = [
        "# Where the time goes",
        f"Made by `benchmarks/step.py` on device {arguments.device}.",
        f"A default fit of {arguments.cells:,} cells × {arguments.genes:,} genes:",
        parts_table(parts),
        "One step of 512 cells, in milliseconds; the first compiled one compiles, or takes that from a cache:",
        "| preset | "
        + " | ".join(steps["default, 32-true"])
        + " |\n| --- |"
        + " ---: |" * len(steps["default, 32-true"])
        + "\n"
        + "\n".join(
            f"| {name} | " + " | ".join("" if math.isnan(v) else f"{v:.2f}" for v in step.values()) + " |"
            for name, step in steps.items()
        ),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "step.md" if arguments.device == "cpu" else "step_gpu.md"
    (arguments.out / name).write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines))


if __name__ == "__main__":
    main()
