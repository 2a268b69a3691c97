"""The paper's images, the convolutional network for them as options of the package, and what all commands share."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from reference import ImageNet, train
from sklearn.cluster import KMeans

import scfcmi
from scfcmi._device import resolve_device
from scfcmi.published import GroupBranches, NetworkOptions, PublishedFit, fit_published
from scfcmi.source import Groups, as_source

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "paper" / "mnist_usps.npz"
RESULTS = ROOT / "benchmarks" / "results"
N_CLASSES = 10
SETS = {"mnist-usps": ("MNIST", "USPS"), "reverse-mnist": ("MNIST", "negative")}
# ACC, NMI, Balance, MNCE and F_β of the paper's Table 1.
PAPER = {"mnist-usps": (0.967, 0.918, 0.107, 0.945, 0.920), "reverse-mnist": (0.884, 0.864, 0.995, 0.999, 0.927)}


def load(name: str, path: Path, rows: int | None, seed: int = 0) -> tuple[NDArray[np.float32], Groups, NDArray]:
    """Images in [−1, 1] of shape (n, 784), their groups and digits; of `rows` drawn at random, if given."""
    with np.load(path) as stored:
        x, group, label = stored["X"], stored["group"].astype(np.int64), stored["label"]
    if name == "reverse-mnist":
        first = group == 0
        x, label = x[first], label[first]
        group = np.repeat([0, 1], len(x))
        x, label = np.concatenate([x, 255 - x]), np.concatenate([label, label])
    if rows is not None and rows < len(x):
        some = np.sort(np.random.default_rng(seed).choice(len(x), rows, replace=False))
        x, group, label = x[some], group[some], label[some]
    return (x / np.float32(127.5) - 1).astype(np.float32), Groups(group, SETS[name]), label


def image_net(n_groups: int, seed: int) -> ImageNet:
    """The convolutional network with PyTorch's own start, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        # This layout of the weights is quicker on CPUs, and makes no difference otherwise.
        return ImageNet(n_groups, N_CLASSES).to(memory_format=torch.channels_last)


def options(seed: int, n_groups: int, **changes: object) -> NetworkOptions:
    """The published options with the convolutional network; a single branch where that is asked for."""
    net = image_net(1 if changes.get("branches") == "single" else n_groups, seed)
    return NetworkOptions(encoder=net.encoder, decoder=GroupBranches(net.shared, list(net.branches)), **changes)


SCORES = ["acc", "nmi", "balance", "mnce", "f_beta"]
# What is left out or changed, by what the paper's tables call it.
VARIANTS: dict[str, dict[str, Any]] = {
    "FCMI": {},
    "without L_fair": {"beta": 0},
    "without L_clu": {"alpha": 0},
    "without L_rec": {"reconstruction": 0},
    "autoencoder + k-means": {"alpha": 0, "beta": 0},
    "single-branch decoder": {"branches": "single"},
}


def arguments(
    description: str | None, name: str | None = "mnist-usps", *, resumable: bool = False
) -> argparse.ArgumentParser:
    """Options that all commands have; `--rows` and `--epochs` make them small, `--quick` very small."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if name is not None:
        parser.add_argument("--set", choices=list(SETS), default=name)
        parser.add_argument("--data", type=Path, default=DATA, help="npz file with X, group and label")
        parser.add_argument("--rows", type=int, help="images, drawn at random; all when absent")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--batch", type=int, default=512, help="smaller ones make more steps of few images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    if resumable:
        parser.add_argument("--resume", action="store_true", help="keep rows that are there, made with equal options")
    parser.add_argument("--quick", action="store_true", help="to see that the command works: few images and epochs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    if found.quick:
        found.rows, found.epochs, found.seeds = 1100, 4, found.seeds[:1]
    found.warmup = min(20, found.epochs // 2)
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def kept(path: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows that an earlier call wrote, where they are to be kept."""
    return pd.read_csv(path).to_dict("records") if given.resume and path.exists() else []


def clock(device: str) -> float:
    """Processor time on the CPU, which others on the machine do not lengthen; else time that passes."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def fit(
    x: NDArray[np.float32], groups: Groups, seed: int, given: argparse.Namespace, **changes: Any
) -> tuple[PublishedFit, NDArray[np.int64], float]:
    """The package's fit, its labels, and seconds of an epoch."""
    schedule = {"max_epochs": given.epochs, "warmup_epochs": given.warmup, "batch_size": given.batch}
    chosen = options(seed, groups.n, **schedule, **changes)
    device = resolve_device(given.device)
    start = clock(device)
    found = fit_published(as_source(x), groups, N_CLASSES, chosen, random_state=seed, device=device, progress_bar=False)
    seconds = (clock(device) - start) / given.epochs
    return found, found.assign(x)[0], seconds


def transcription(
    x: NDArray[np.float32], groups: Groups, seed: int, given: argparse.Namespace
) -> tuple[NDArray[np.int64], float]:
    """The transcription's labels, from the same weights, and seconds of an epoch."""
    device = resolve_device(given.device)
    net = image_net(groups.n, seed).to(device)
    rows, codes = torch.from_numpy(x).to(device), torch.from_numpy(groups.codes).to(device)
    start = clock(device)
    schedule = {"epochs": given.epochs, "warmup": given.warmup, "batch": given.batch}
    labels = train(net, rows, codes, N_CLASSES, seed=seed, **schedule)
    return labels, (clock(device) - start) / given.epochs


def kmeans_labels(x: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    return KMeans(N_CLASSES, n_init=10, random_state=seed).fit_predict(x)


def score(labels: NDArray[np.int64], groups: Groups, truth: NDArray) -> dict[str, float]:
    scores = scfcmi.metrics.clustering_scores(labels, groups.values, truth)
    return {name: scores[name] for name in SCORES}


def machine(device: str) -> str:
    """Where figures were made."""
    device = resolve_device(device)
    what = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
    return f"{what}, {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}"


def size(x: NDArray, given: argparse.Namespace) -> str:
    return f"{len(x):,} images, {given.epochs} epochs of which {given.warmup} warm-up, batches of {given.batch}"


def seeds(frame: pd.DataFrame) -> str:
    return "seeds " + ", ".join(map(str, sorted(frame["seed"].unique())))


def table(frame: pd.DataFrame, by: str, columns: Sequence[str], digits: int = 3, over: str = "seeds") -> str:
    """Means over seeds and their spread, in Markdown."""
    lines = ["| " + " | ".join([by, over, *columns]) + " |", "| --- |" + " ---: |" * (1 + len(columns))]
    for name, part in frame.groupby(by, sort=False):
        cells = []
        for column in columns:
            mean, low, high = part[column].mean(), part[column].min(), part[column].max()
            spread = f" ({low:.{digits}f}–{high:.{digits}f})" if len(part) > 1 else ""
            cells.append("" if np.isnan(mean) else f"{mean:.{digits}f}{spread}")
        lines.append("| " + " | ".join([str(name), str(len(part)), *cells]) + " |")
    return "\n".join(lines)
