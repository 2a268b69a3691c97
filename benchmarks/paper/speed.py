"""Seconds of an epoch of the published schedule beside the transcription, in one run, taking turns.

    python benchmarks/paper/speed.py [--cells 4096] [--genes 1000] [--epochs 6] [--device cpu] [--no-images]

The network for vectors on random cells of two and of eight groups, and the convolutional one on images. On the CPU
seconds are those of the processor. A run of one epoch is taken off a run of several, so that what happens once
(weights, scaling, warm-up of kernels) does not count. On a GPU, also the limit of a step for vectors: its bytes and
operations over the rates of a large copy and a large product on the same device. Writes `paper_speed.md`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import images
import numpy as np
import pandas as pd
import torch
from reference import VectorNet, train

from scfcmi.published import NetworkOptions, fit_published
from scfcmi.source import Groups, as_source

K, ROUNDS = 10, 3


def seconds_of(run: Callable[[int], object], epochs: int, device: str) -> list[float]:
    """Seconds of a run of one epoch, and of one that has some more."""
    taken = []
    for n in (1, 1 + epochs):
        gc.collect()
        start = images.clock(device)
        run(n)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(images.clock(device) - start)
    return taken


def limit(n_input: int, n_groups: int, batch: int, device: str) -> float:
    """Least milliseconds of a step for vectors, by operations or by bytes."""
    a, b = torch.randn(8192, 8192, device=device), torch.randn(2**28, device=device)
    c = torch.empty_like(b)
    rates = []
    for work, amount in ((lambda: a @ a, 2 * 8192**3), (lambda: c.copy_(b), 2 * b.nbytes)):
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            start = images.clock(device)
            work()
            torch.cuda.synchronize()
            best = min(best, images.clock(device) - start)
        rates.append(amount / best)
    net = VectorNet(n_input, n_groups, K)
    weights = sum(p.numel() for p in net.parameters())
    used = weights - sum(p.numel() for branch in net.branches[1:] for p in branch.parameters())
    activations = batch * (n_input + 2 * (1024 + 1024 + 512 + 256))
    return 1000 * max(6 * batch * used / rates[0], 4 * (10 * weights + 4 * activations) / rates[1])


def main() -> None:
    parser = images.arguments(__doc__)
    parser.set_defaults(epochs=6, device="cpu")
    parser.add_argument("--cells", type=int, default=4096)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--no-images", action="store_true")
    given = images.parsed(parser)
    device = images.resolve_device(given.device)
    rng = np.random.default_rng(0)
    jobs: dict[str, tuple[Any, Groups, Callable[[int], torch.nn.Module], Callable[..., NetworkOptions]]] = {}
    x = np.tanh(rng.normal(size=(given.cells, given.genes))).astype(np.float32)
    for n_groups in (2, 8):
        groups = Groups(rng.integers(0, n_groups, len(x)), tuple(map(str, range(n_groups))))
        name = f"vectors, {len(x):,} × {given.genes:,}, {n_groups} groups"
        jobs[name] = (x, groups, lambda _, n=n_groups: VectorNet(given.genes, n, K), lambda _, **c: NetworkOptions(**c))
    if not given.no_images and given.data.exists():
        pictures, groups, _ = images.load(given.set, given.data, given.rows or given.cells)
        jobs[f"images, {len(pictures):,}"] = (
            pictures,
            groups,
            lambda seed: images.image_net(2, seed),
            lambda seed, **changes: images.options(seed, 2, **changes),
        )
    rows = []
    for name, (data, groups, net, options) in jobs.items():

        def ours(n: int, data: Any = data, groups: Groups = groups, options: Any = options) -> None:
            chosen = options(0, max_epochs=n, warmup_epochs=0, batch_size=given.batch)
            fit_published(as_source(data), groups, K, chosen, random_state=0, device=device, progress_bar=False)

        def theirs(n: int, data: Any = data, groups: Groups = groups, net: Any = net) -> None:
            tensors = torch.from_numpy(data).to(device), torch.from_numpy(groups.codes).to(device)
            train(net(0).to(device), *tensors, K, seed=0, epochs=n, warmup=0, batch=given.batch)

        taken: dict[str, list[list[float]]] = {"scfcmi": [], "transcription": []}
        for _ in range(1 if given.quick else ROUNDS):
            for who, run in (("scfcmi", ours), ("transcription", theirs)):
                taken[who].append(seconds_of(run, given.epochs, device))
        # The fastest run of either length: the least difference would be that whose short run was held up.
        best = {who: float(np.diff(np.min(times, axis=0))[0]) / given.epochs for who, times in taken.items()}
        steps = len(data) // given.batch
        row: dict[str, Any] = {"job": name, **best, "times faster": best["transcription"] / best["scfcmi"]}
        row["ms per step, with k-means"] = 1000 * best["scfcmi"] / steps
        if device.startswith("cuda") and name.startswith("vectors"):
            row["limit of a step, ms"] = limit(given.genes, groups.n, given.batch, device)
        rows.append(row)
        print(row, flush=True)
        frame = pd.DataFrame(rows)
        lines = ["| " + " | ".join(frame) + " |", "| --- |" + " ---: |" * (frame.shape[1] - 1)]
        for values in frame.itertuples(index=False):
            cells = ["" if isinstance(v, float) and np.isnan(v) else f"{v:.3f}" for v in values[1:]]
            lines.append("| " + " | ".join([str(values[0]), *cells]) + " |")
        head = (
            "# Seconds of an epoch beside the transcription\n\nMade by `benchmarks/paper/speed.py`: "
            f"{images.machine(given.device)}; the fastest of {ROUNDS} rounds in which they take turns.\n\n"
        )
        (given.out / "paper_speed.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
