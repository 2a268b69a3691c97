"""Networks: one encoder for every group, unit-norm centres, and a decoder with one branch per group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scfcmi.objective import global_sum, world_size


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """Batch norm whose statistics are those of the batch of all processes, on any device.

    PyTorch's synchronised version needs CUDA; with one process this is `torch.nn.BatchNorm1d`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, D102
        if not self.training or world_size() == 1:
            return super().forward(input)
        count = global_sum(torch.tensor(float(len(input)), device=input.device))
        mean = global_sum(input.sum(0)) / count
        var = global_sum((input - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = self.momentum or 0.1
            self.running_mean.lerp_(mean.detach().float(), momentum)
            self.running_var.lerp_((var * count / (count - 1).clamp_min(1)).detach().float(), momentum)
        return (input - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias


def _trunk(sizes: Sequence[int], *, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), *([GlobalBatchNorm1d(n_out)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


class GroupLinear(nn.Module):
    """One linear layer per group, applied to all groups in a single batched product.

    Parameters
    ----------
    n_groups, n_in, n_out
        Branches, input and output width.
    """

    def __init__(self, n_groups: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_groups, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_groups, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map shape (n_groups, n_rows, n_in) to (n_groups, n_rows, n_out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class BranchedDecoder(nn.Module):
    """θ_g(h): a shared stage, then a branch for every group.

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
        self.n_groups = n_groups
        self.shared = _trunk(shared, norm=False)
        layers: list[nn.Module] = []
        widths = list(zip(branch[:-1], branch[1:], strict=True))
        for i, (n_in, n_out) in enumerate(widths):
            layers += [GroupLinear(n_groups, n_in, n_out), *([nn.ReLU()] if i < len(widths) - 1 else [])]
        self.branches = nn.Sequential(*layers)

    def forward(self, h: Tensor, codes: Tensor) -> Tensor:
        """Decode each row of `h`, shape (n, m), through the branch of its group."""
        order = torch.argsort(codes, stable=True)
        counts = torch.bincount(codes, minlength=self.n_groups)
        start = counts.cumsum(0) - counts
        sorted_codes = codes[order]
        slot = torch.arange(len(codes), device=h.device) - start[sorted_codes]
        stage = self.shared(h)
        padded = stage.new_zeros(self.n_groups, int(counts.max()), stage.shape[1])
        padded[sorted_codes, slot] = stage[order]
        decoded = self.branches(padded)[sorted_codes, slot]
        return decoded[torch.argsort(order)]


class FCMINet(nn.Module):
    """Encoder φ, centres U and decoder θ of equation L = ‖x − θ_g(φ(x))‖² − α[H(C) − H(C|X)] + β I(G;C).

    Parameters
    ----------
    n_input
        Columns of x.
    n_groups
        Levels of the sensitive attribute.
    n_centres
        Rows of U.
    n_latent
        Width m of the embedding.
    hidden
        Widths of the encoder's trunk.
    n_shared
        How many of the decoder's mirrored layers, counted from the embedding, are shared by the groups.
    temperature
        τ in p(c|x) = softmax(h·Uᵀ/τ).
    """

    def __init__(
        self,
        n_input: int,
        n_groups: int,
        n_centres: int,
        *,
        n_latent: int,
        hidden: Sequence[int],
        n_shared: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.trunk = _trunk([n_input, *hidden], norm=True)
        self.head = nn.Linear(hidden[-1], n_latent)
        mirrored = [n_latent, *reversed(hidden), n_input]
        self.decoder = BranchedDecoder(mirrored[: n_shared + 1], mirrored[n_shared:], n_groups)
        self.centres = nn.Parameter(F.normalize(torch.randn(n_centres, n_latent), dim=1))

    def embed(self, x: Tensor) -> Tensor:
        """h = φ(x), unit length, shape (n, m)."""
        return F.normalize(self.head(self.trunk(x)).float(), dim=1)

    def assign(self, h: Tensor) -> Tensor:
        """p(c|x) from embeddings, shape (n, n_centres)."""
        return F.softmax(h @ F.normalize(self.centres, dim=1).T / self.temperature, dim=1)

    def forward(self, x: Tensor, codes: Tensor, n_decode: int) -> tuple[Tensor, Tensor]:
        """Soft assignments of all rows, and the reconstruction of the first `n_decode`."""
        h = self.embed(x)
        return self.assign(h), self.decoder(h[:n_decode], codes[:n_decode])
