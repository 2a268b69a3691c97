"""The published network: one encoder for every group, and a decoder whose last stage each group has to itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scfcmi._device import world_size

from ._shared import global_sum
from ._slots import Slots

NORM_EPS, MOMENTUM = 1e-5, 0.1
# On a GPU, so many branches and more are one padded product per layer, fewer are a loop.
MANY_BRANCHES = 5


class Norm(nn.Module):
    """Batch norm of one network, or of several that lie side by side, each with the statistics of its own rows.

    Unlike PyTorch's it takes a single row, as the authors' code arranges by doubling it, and with several processes
    the statistics are those of the batch of all, on any device.

    Parameters
    ----------
    width
        Columns.
    n
        Networks side by side.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, n: int = 1) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n, width)), nn.Parameter(torch.empty(n, width))
        self.register_buffer("running_mean", torch.empty(n, width))
        self.register_buffer("running_var", torch.empty(n, width))

    def reset(self) -> None:
        """Start as the identity."""
        for value, tensor in zip(
            (1, 0, 0, 1), (self.weight, self.bias, self.running_mean, self.running_var), strict=True
        ):
            nn.init.constant_(tensor, value)

    def one(self, x: Tensor, which: int, weight: Tensor, bias: Tensor) -> Tensor:
        """Normalise rows of one of the networks, shape (n_rows, width)."""
        mean, var = self.running_mean[which], self.running_var[which]
        if not self.training or (len(x) > 1 and world_size() == 1):
            return F.batch_norm(x, mean, var, weight, bias, self.training, MOMENTUM, NORM_EPS)
        return self._by_hand(x[None], x.new_ones(1, len(x), 1), slice(which, which + 1), weight, bias)[0]

    def padded(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalise all of them at once; rows outside of the mask count for nothing.

        Parameters
        ----------
        x
            Shape (n_networks, n_rows, width).
        mask
            1 for rows, 0 for padding, shape (n_networks, n_rows, 1).
        """
        return self._by_hand(x, mask, slice(None), self.weight[:, None], self.bias[:, None])

    def _by_hand(self, x: Tensor, mask: Tensor, which: slice, weight: Tensor, bias: Tensor) -> Tensor:
        running_mean, running_var = self.running_mean[which], self.running_var[which]
        if not self.training:
            scale = torch.rsqrt(running_var + NORM_EPS)[:, None]
            return (x - running_mean[:, None]) * scale * weight + bias
        # Half precision is too coarse for sums.
        wide = x.to(running_mean.dtype)
        count, total = global_sum(torch.cat([mask.to(wide.dtype).sum(1), (wide * mask).sum(1)], 1)).split(
            [1, wide.shape[2]], 1
        )
        mean = total / count.clamp_min(1)
        centred = (wide - mean[:, None]) * mask
        var = global_sum(centred.square().sum(1)) / count.clamp_min(1)
        with torch.no_grad():
            # Of a network without rows in this batch the statistics stay as they are. Gradients do not need them, but
            # those of PyTorch's own norm, beside this one, would take offence at a change that they know of.
            step = MOMENTUM * (count > 0).to(wide.dtype)
            running_mean.data.add_(step * (mean - running_mean))
            running_var.data.add_(step * (var * count / (count - 1).clamp_min(1) - running_var))
        return (centred * torch.rsqrt(var + NORM_EPS)[:, None] * weight + bias).to(x.dtype)


class _Grouped(torch.autograd.Function):
    """Rows ordered by group, each through the weights of its group; gradients are written where they belong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.counts = counts
        out = x.new_empty(len(x), weight.shape[1])
        for i, (rows, own) in enumerate(zip(x.split(counts), out.split(counts), strict=True)):
            torch.addmm(bias[i], rows, weight[i].T, out=own)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        (up,) = gradients
        of_x, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[:2])
        parts = zip(*(tensor.split(ctx.counts) for tensor in (up.contiguous(), x, of_x)), strict=True)
        for i, (grad, rows, own) in enumerate(parts):
            torch.mm(grad, weight[i], out=own)
            torch.mm(grad.T, rows, out=of_weight[i])
            torch.sum(grad, 0, out=of_bias[i])
        return of_x, of_weight, of_bias, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor, counts: list[int]) -> Tensor:
    """Linear layers side by side, each on its rows."""
    if len(counts) == 1:
        return F.linear(x, weight[0], bias[0])
    if torch.is_autocast_enabled(x.device.type):
        parts = zip(x.split(counts), weight.unbind(), bias.unbind(), strict=True)
        return torch.cat([F.linear(*part) for part in parts])
    return _Grouped.apply(x, weight, bias, counts)


class Dense(nn.Module):
    """A linear layer, with batch norm and ReLU where asked for, or several such side by side.

    Parameters
    ----------
    n_in, n_out
        Widths.
    n
        Layers side by side.
    norm, relu
        What follows the product.
    """

    def __init__(self, n_in: int, n_out: int, n: int = 1, *, norm: bool = False, relu: bool = True) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n, n_out, n_in)), nn.Parameter(torch.empty(n, n_out))
        self.norm = Norm(n_out, n) if norm else None
        self._relu = relu

    def reset(self, generator: torch.Generator) -> None:
        """Draw weights as PyTorch's own linear layer does, from a generator of one's own."""
        bound = 1 / math.sqrt(self.weight.shape[2])
        with torch.no_grad():
            for tensor in (self.weight, self.bias):
                tensor.uniform_(-bound, bound, generator=generator)
        if self.norm is not None:
            self.norm.reset()

    def forward(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Apply the layer, or each of several to the rows that `counts` gives it, in order, shape (n_rows, n_in)."""
        counts = [len(x)] if counts is None else list(counts)
        y = _linear(x, self.weight, self.bias, counts)
        if self.norm is not None:
            scales, shifts = self.norm.weight.unbind(), self.norm.bias.unbind()
            parts = enumerate(y.split(counts))
            # With several processes, one without rows of a group still has to take part in the sums.
            y = torch.cat([self.norm.one(p, i, scales[i], shifts[i]) for i, p in parts if len(p) or world_size() > 1])
        return F.relu(y) if self._relu else y

    def padded(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply all layers at once, each to its rows, shape (n_layers, n_rows, n_in)."""
        y = torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))
        if self.norm is not None:
            y = self.norm.padded(y, mask)
        return F.relu(y) if self._relu else y


class Encoder(nn.Sequential):
    """φ before it is brought to unit length: batch norm after every hidden layer but the last.

    Parameters
    ----------
    n_input
        Columns of x.
    hidden
        Widths.
    n_latent
        Width of the embedding.
    """

    def __init__(self, n_input: int, hidden: Sequence[int], n_latent: int) -> None:
        widths = [n_input, *hidden]
        trunk = [Dense(a, b, norm=i < len(hidden) - 1) for i, (a, b) in enumerate(pairwise(widths))]
        super().__init__(*trunk, Dense(hidden[-1], n_latent, relu=False))


class Decoder(nn.Module):
    """θ_g: the encoder mirrored, its last stage once per group, with batch norm in that stage and Tanh at the end.

    Parameters
    ----------
    n_latent, hidden, n_input
        Widths, `hidden` those of the encoder.
    n_branches
        Groups; 1 for one decoder for all.
    """

    def __init__(self, n_latent: int, hidden: Sequence[int], n_input: int, n_branches: int) -> None:
        super().__init__()
        *trunk, last = hidden
        back = [*reversed(trunk), n_input]
        self.n_branches = n_branches
        self.shared = nn.Sequential(Dense(n_latent, last), Dense(last, trunk[-1]))
        self.branches = nn.ModuleList(
            Dense(a, b, n_branches, norm=i < len(back) - 2, relu=i < len(back) - 2)
            for i, (a, b) in enumerate(pairwise(back))
        )

    def forward(self, h: Tensor, counts: Sequence[int]) -> Tensor:
        """Decode rows that are ordered by group, `counts` of them of each, shape (n_rows, n_latent)."""
        z = self.shared(h)
        if self.n_branches == 1:
            counts = [len(h)]
        if z.is_cuda and self.n_branches >= MANY_BRANCHES and world_size() == 1:
            return torch.tanh(self.all_at_once(z, Slots.of(counts, z.device)))
        for layer in self.branches:
            z = layer(z, counts)
        return torch.tanh(z)

    def slotted(self, h: Tensor, slots: Slots) -> Tensor:
        """What :meth:`forward` does, with shapes that do not depend on the batch; every group has as many slots."""
        if self.n_branches == 1:
            return self(h, [len(h)])
        return torch.tanh(self.all_at_once(self.shared(h), slots))

    def all_at_once(self, z: Tensor, slots: Slots) -> Tensor:
        """What the loop over branches does, as one padded product per layer."""
        y = slots.fill(z).unflatten(0, (self.n_branches, -1))
        mask = slots.mask.to(z.dtype).unflatten(0, (self.n_branches, -1))
        for layer in self.branches:
            y = layer.padded(y, mask)  # type: ignore[operator]
        return slots.empty(y.flatten(0, 1))


class GroupBranches(nn.Module):
    """A decoder of one's own modules: a shared stage, and a branch for every group.

    Parameters
    ----------
    shared
        From embeddings, shape (n, n_latent), to what branches take.
    branches
        One module per group, or a single one for all; from there to rows of shape (n, n_columns) in [−1, 1].

    Examples
    --------
    >>> import torch
    >>> from scfcmi.published import GroupBranches
    >>> decoder = GroupBranches(torch.nn.Linear(3, 8), [torch.nn.Linear(8, 5), torch.nn.Linear(8, 5)])
    >>> decoder(torch.zeros(4, 3), [1, 3]).shape
    torch.Size([4, 5])
    """

    def __init__(self, shared: nn.Module, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.shared, self.branches = shared, nn.ModuleList(branches)

    def forward(self, h: Tensor, counts: Sequence[int]) -> Tensor:
        """Decode rows that are ordered by group, `counts` of them of each, shape (n, n_latent)."""
        z = self.shared(h)
        if len(self.branches) == 1:
            return self.branches[0](z)
        parts = zip(self.branches, z.split(list(counts)), strict=True)
        return torch.cat([branch(part) for branch, part in parts if len(part)])

    def slotted(self, h: Tensor, slots: Slots) -> Tensor:
        """What :meth:`forward` does, with shapes that do not depend on the batch."""
        z = self.shared(h)
        if len(self.branches) == 1:
            return self.branches[0](z)
        parts = zip(self.branches, slots.fill(z).split(list(slots.sizes)), strict=True)
        return slots.empty(torch.cat([branch(part) for branch, part in parts]))


class Network(nn.Module):
    """Encoder and decoder; with learned centres, these as well.

    Parameters
    ----------
    encoder
        From x, shape (n, n_columns), to (n, n_latent).
    decoder
        Called with embeddings ordered by group and the number of rows of each.
    centres
        Centres that are learned, shape (n_clusters, n_latent), if they are.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, centres: Tensor | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.centres = None if centres is None else nn.Parameter(centres)

    def embed(self, x: Tensor) -> Tensor:
        """h = φ(x), unit length, in float32 or more, shape (n, n_latent)."""
        h = self.encoder(x)
        return F.normalize(h if h.dtype == torch.float64 else h.float(), dim=1)


def is_recordable(network: Network) -> bool:
    """Whether a step can be recorded once and replayed: it does the same for every batch, and rows do not meet padding.

    Of a module that is neither PyTorch's nor ours nobody knows what its Python does from call to call, and PyTorch's
    batch norm in a branch would count padded rows.
    """
    if not isinstance(network.decoder, Decoder | GroupBranches):
        return False
    known = (Network, Encoder, Decoder, GroupBranches, Dense, Norm)
    for module in network.modules():
        if not (type(module) in known or type(module).__module__.startswith("torch.nn.")):
            return False
        if module._forward_hooks or module._forward_pre_hooks:
            return False
    return not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in network.decoder.branches.modules())


def log_assignments(h: Tensor, centres: Tensor, temperature: float) -> Tensor:
    """ln p(c|x), p(c|x) = softmax(h·Uᵀ/τ) with centres of unit length, shape (n, n_clusters)."""
    return F.log_softmax(h @ centres.T / temperature, dim=1)


def reset(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of our own layers, in their order; modules of others keep theirs."""
    for module in network.modules():
        if isinstance(module, Dense):
            module.reset(generator)
