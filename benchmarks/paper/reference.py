"""FCMI (Zeng et al., CVPR 2023) transcribed as plainly as it can be: network, objective and schedule.

It shares no code with the package. Tests compare the two step by step, benchmarks run both side by side. Groups are
picked by their indices in a loop, batches are drawn by PyTorch's permutation, k-means is Lloyd's, one start at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn


class VectorNet(nn.Module):
    """d→1024→1024→512→256→m and back; batch norm after 1024, 1024 and 512 and inside every group's branch."""

    def __init__(self, n_input: int, n_groups: int, n_latent: int, hidden: Sequence[int] = (1024, 1024, 512, 256)):
        super().__init__()
        layers: list[nn.Module] = []
        width = n_input
        for out in hidden[:-1]:
            layers += [nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU()]
            width = out
        layers += [nn.Linear(width, hidden[-1]), nn.ReLU(), nn.Linear(hidden[-1], n_latent)]
        self.encoder = nn.Sequential(*layers)
        self.shared = nn.Sequential(
            nn.Linear(n_latent, hidden[-1]), nn.ReLU(), nn.Linear(hidden[-1], hidden[-2]), nn.ReLU()
        )
        self.branches = nn.ModuleList()
        for _ in range(n_groups):
            layers, width = [], hidden[-2]
            for out in reversed(hidden[:-2]):
                layers += [nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU()]
                width = out
            self.branches.append(nn.Sequential(*layers, nn.Linear(width, n_input), nn.Tanh()))


class ImageNet(nn.Module):
    """28 × 28 pixels, four convolutions of 16, 32, 32 and 16 channels to 7 × 7, 784→256→m, and back; no batch norm."""

    def __init__(self, n_groups: int, n_latent: int):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(784, 256),
            nn.ReLU(),
            nn.Linear(256, n_latent),
        )
        self.shared = nn.Sequential(
            nn.Linear(n_latent, 256), nn.ReLU(), nn.Linear(256, 784), nn.ReLU(), nn.Unflatten(1, (16, 7, 7))
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(16, 32, 3, stride=2, padding=1, output_padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(32, 32, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 1, 3, padding=1),
                nn.Tanh(),
                nn.Flatten(),
            )
            for _ in range(n_groups)
        )


def embed(net: nn.Module, x: Tensor) -> Tensor:
    h = net.encoder(x)
    return h / h.norm(dim=1, keepdim=True)


def decode(net: nn.Module, h: Tensor, g: Tensor, n_input: int) -> Tensor:
    shared = net.shared(h)
    out = torch.zeros(len(h), n_input, dtype=h.dtype, device=h.device)
    for group in torch.unique(g):
        own = g == group
        if own.sum() == 1:  # batch norm needs two
            out[own] = net.branches[group](torch.cat([shared[own], shared[own]]))[:1]
        else:
            out[own] = net.branches[group](shared[own])
    return out


def terms(x: Tensor, decoded: Tensor, h: Tensor, g: Tensor, centres: Tensor, n_groups: int, tau: float) -> dict:
    """Every term of the objective, from its definition."""
    p = torch.softmax(h @ centres.T / tau, dim=1)
    table = torch.stack([p[g == group].sum(0) for group in range(n_groups)], dim=1)
    empty = table <= 0
    table = torch.where(empty, table[~empty].min() / 10, table)
    table = table / table.sum()
    p_c, p_g = table.sum(1), table.sum(0)
    return {
        "reconstruction": ((x - decoded) ** 2).mean(),
        "h_c": -(p_c * p_c.log()).sum(),
        "h_c_given_x": -(p * p.log()).sum(1).mean(),
        "i_gc": (table * (table / (p_c[:, None] * p_g[None, :])).log()).sum(),
    }


def loss(parts: dict, alpha: float, beta: float, *, warm: bool) -> Tensor:
    if warm:
        return parts["reconstruction"]
    return parts["reconstruction"] - alpha * (parts["h_c"] - parts["h_c_given_x"]) + beta * parts["i_gc"]


def kmeans(h: Tensor, n_clusters: int, seed: int) -> Tensor:
    """10 random starts, at most 300 rounds, at most 1,000 rows per centre; centres brought to unit length."""
    generator = torch.Generator().manual_seed(seed)
    rows = h[torch.randperm(len(h), generator=generator)[: 1000 * n_clusters].to(h.device)]
    best, lowest = rows[:n_clusters], float("inf")
    for _ in range(10):
        centres = rows[torch.randperm(len(rows), generator=generator)[:n_clusters].to(h.device)]
        before = None
        for _ in range(300):
            distance, nearest = torch.cdist(rows, centres).min(1)
            if before is not None and torch.equal(nearest, before):
                break
            before = nearest
            member = nn.functional.one_hot(nearest, n_clusters).to(rows)
            count = member.sum(0)[:, None]
            # A centre without rows goes to the row that is farthest from its own.
            centres = torch.where(count > 0, member.T @ rows / count.clamp(min=1), rows[distance.argmax()])
        cost = float((distance**2).sum())
        if cost < lowest:
            best, lowest = centres, cost
    return best / best.norm(dim=1, keepdim=True)


def train(
    net: nn.Module,
    x: Tensor,
    g: Tensor,
    n_clusters: int,
    *,
    seed: int,
    epochs: int = 300,
    warmup: int = 20,
    batch: int = 512,
    alpha: float = 0.04,
    beta: float = 0.20,
    tau: float = 0.1,
    callback: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Train on rows in [−1, 1] and label every one by the centres of the last epoch."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    n_groups = int(g.max()) + 1

    def embed_all() -> Tensor:
        net.eval()
        with torch.no_grad():
            return torch.cat([embed(net, part) for part in x.split(512)])

    h_all = embed_all()
    labels = np.empty(0)
    for epoch in range(epochs):
        centres = kmeans(h_all, n_clusters, seed + epoch)
        net.train()
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            h = embed(net, x[rows])
            decoded = decode(net, h, g[rows], x.shape[1])
            parts = terms(x[rows], decoded, h, g[rows], centres, n_groups, tau)
            optimizer.zero_grad()
            loss(parts, alpha, beta, warm=epoch < warmup).backward()
            optimizer.step()
        h_all = embed_all()
        labels = (h_all @ centres.T).argmax(1).cpu().numpy()
        if callback is not None:
            callback(epoch + 1, labels)
    return labels
