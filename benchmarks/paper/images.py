"""The paper's images and the convolutional network for them, as options of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from reference import ImageNet

from scfcmi.published import GroupBranches, NetworkOptions
from scfcmi.source import Groups

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
        return ImageNet(n_groups, N_CLASSES)


def options(seed: int, n_groups: int, **changes: object) -> NetworkOptions:
    """The published options with the convolutional network; a single branch where that is asked for."""
    net = image_net(1 if changes.get("branches") == "single" else n_groups, seed)
    return NetworkOptions(encoder=net.encoder, decoder=GroupBranches(net.shared, list(net.branches)), **changes)
