"""Networks: one encoder for every group, unit-norm centres, and a decoder with one branch per group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scfcmi.objective import global_sum, wide, world_size


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """Batch norm whose statistics are those of the batch of all processes, on any device.

    PyTorch's synchronised version needs CUDA; with one process this is `torch.nn.BatchNorm1d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = wide(input)
        count = global_sum(torch.tensor(float(len(x)), device=x.device))
        mean = global_sum(x.sum(0)) / count
        var = global_sum((x - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = self.momentum or 0.1
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_((var * count / (count - 1).clamp_min(1)).detach(), momentum)
        return ((x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(input.dtype)


def _trunk(sizes: Sequence[int], *, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), *([GlobalBatchNorm1d(n_out)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


class BranchedDecoder(nn.Module):
    """θ_g(h) as published: a shared stage, then a full branch for every group.

    Parameters
    ----------
    shared
        Widths from the embedding up to where branches part.
    branch
        Widths from there to the output, the same for every group.
    n_groups
        Number of branches.
    """

    def __init__(self, shared: Sequence[int], branch: Sequence[int], n_groups: int) -> None:
        super().__init__()
        self.shared = _trunk(shared, norm=False)
        self.branches = nn.ModuleList(
            nn.Sequential(*_trunk(branch[:-1], norm=False), nn.Linear(branch[-2], branch[-1])) for _ in range(n_groups)
        )

    def forward(self, h: Tensor, codes: Tensor) -> Tensor:
        """Decode each row of `h`, shape (n, m), through the branch of its group."""
        order = torch.argsort(codes, stable=True)
        counts = torch.bincount(codes, minlength=len(self.branches)).tolist()
        parts = self.shared(h)[order].split(counts)
        # Full branches differ in their number of cells: padding them to one product costs more than this loop.
        decoded = torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)])
        return decoded[torch.argsort(order)]


class AffineDecoder(nn.Module):
    """θ_g(h) with one network for all groups, whose hidden units and outputs each group scales and shifts.

    Its cost does not depend on the number of groups, and a group of few cells has few numbers to learn.

    Parameters
    ----------
    widths
        From the embedding to the output.
    levels
        Level of each group in every attribute, counted over all attributes, shape (n_groups, n_attributes): their
        scales and shifts add up. Or the number of groups, where these are the levels of one attribute.
    """

    levels: Tensor

    def __init__(self, widths: Sequence[int], levels: NDArray[np.int64] | int) -> None:
        super().__init__()
        levels = np.arange(levels)[:, None] if isinstance(levels, int) else levels
        n_levels, n_factors = int(levels.max()) + 1, levels.shape[1]
        # Follows from the groups, and is no part of what is learned or saved.
        self.register_buffer("levels", torch.from_numpy(levels), persistent=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.scale = nn.ParameterList(torch.full((n_levels, width), 1 / n_factors) for width in widths[1:])
        self.shift = nn.ParameterList(torch.zeros(n_levels, width) for width in widths[1:])

    def forward(self, h: Tensor, codes: Tensor) -> Tensor:
        """Decode each row of `h`, shape (n, m), with the scales and shifts of its group."""
        # A product rather than indexing, whose gradient is not repeatable on GPUs.
        levels = F.one_hot(self.levels[codes], len(self.scale[0])).sum(1).to(h.dtype)
        for i, layer in enumerate(self.layers):
            h = layer(h) * (levels @ self.scale[i]) + levels @ self.shift[i]
            if i < len(self.layers) - 1:
                h = F.relu(h)
        return h


class FCMINet(nn.Module):
    """Encoder φ, centres U and decoder θ of equation L = ‖x − θ_g(φ(x))‖² − α[H(C) − H(C|X)] + β I(G;C).

    Parameters
    ----------
    n_input
        Columns of x.
    levels
        Level of each group in every sensitive attribute, see :class:`AffineDecoder`, or the number of groups.
    n_centres
        Rows of U.
    n_latent
        Width m of the embedding.
    hidden
        Widths of the encoder's trunk.
    n_shared
        How many of the decoder's mirrored layers, counted from the embedding, are shared before full branches part; if
        absent, groups differ by scales and shifts alone.
    temperature
        τ in p(c|x) = softmax(h·Uᵀ/τ).
    """

    def __init__(
        self,
        n_input: int,
        levels: NDArray[np.int64] | int,
        n_centres: int,
        *,
        n_latent: int,
        hidden: Sequence[int],
        n_shared: int | None,
        temperature: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.trunk = _trunk([n_input, *hidden], norm=True)
        self.head = nn.Linear(hidden[-1], n_latent)
        mirrored = [n_latent, *reversed(hidden), n_input]
        n_groups = levels if isinstance(levels, int) else len(levels)
        self.decoder = (
            AffineDecoder(mirrored, levels)
            if n_shared is None
            else BranchedDecoder(mirrored[: n_shared + 1], mirrored[n_shared:], n_groups)
        )
        self.centres = nn.Parameter(F.normalize(torch.randn(n_centres, n_latent), dim=1))

    def embed(self, x: Tensor) -> Tensor:
        """h = φ(x), unit length, shape (n, m)."""
        return F.normalize(wide(self.head(self.trunk(x))), dim=1)

    def assign(self, h: Tensor) -> Tensor:
        """p(c|x) from embeddings, shape (n, n_centres)."""
        return F.softmax(h @ F.normalize(self.centres, dim=1).T / self.temperature, dim=1)

    def forward(self, x: Tensor, codes: Tensor, *, learn_centres: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding, soft assignments, and reconstruction through the branch of each cell's group."""
        h = self.embed(x)
        # Processes that train together must know from the graph that centres get no gradient.
        with torch.set_grad_enabled(learn_centres and torch.is_grad_enabled()):
            proba = self.assign(h)
        return h, proba, self.decoder(h, codes)
