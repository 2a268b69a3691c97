"""What processes that train together share: sums with gradients over the batch of all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from scfcmi._device import world_size


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if world_size() > 1 else 0


class _Sum(torch.autograd.Function):
    """Sum over processes; as all of them add up the same loss, so is its gradient."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        out = local.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        out = gradients[0].clone()
        dist.all_reduce(out)
        return out


def global_sum(local: Tensor) -> Tensor:
    """Sum over all processes, with gradients; the identity when there is only one."""
    return _Sum.apply(local) if world_size() > 1 else local
