"""Entropies and mutual information of soft assignments, in float32 or more and over the batch of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

EPS = 1e-12


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def wide(x: Tensor) -> Tensor:
    """Half precision is too coarse for sums and logarithms: at least float32."""
    return x if x.dtype == torch.float64 else x.float()


def global_sum(local: Tensor) -> Tensor:
    """Sum over all processes, with gradients; the identity when there is only one."""
    if world_size() > 1:
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(local)
    return local


def global_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean over the batch of all processes; 0 when the weights vanish."""
    values = wide(values)
    weights = torch.ones_like(values) if weights is None else weights.to(values.dtype)
    return global_sum((values * weights).sum()) / global_sum(weights.sum()).clamp_min(EPS)


def entropy(p: Tensor) -> Tensor:
    """H = −Σ p ln p of a probability table of any shape."""
    return -(p * p.clamp_min(EPS).log()).sum()


def joint_table(proba: Tensor, onehot: Tensor) -> Tensor:
    """P(c, g): soft assignments summed over the cells of each group, normalised.

    Parameters
    ----------
    proba
        p(c|x), shape (n_cells, n_clusters).
    onehot
        Group indicators, possibly weighted per cell, shape (n_cells, n_groups).

    Returns
    -------
    Table of shape (n_clusters, n_groups) that sums to one.
    """
    proba = wide(proba)
    table = global_sum(proba.T @ onehot.to(proba.dtype))
    return table / table.sum().clamp_min(EPS)


def mutual_information(joint: Tensor) -> Tensor:
    """I = H(rows) + H(columns) − H(joint) of a two-way table."""
    return entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint)


def assignment_entropy(proba: Tensor, weights: Tensor | None = None) -> Tensor:
    """H(C|X): mean entropy of the soft assignments, shape (n_cells, n_clusters) to a number."""
    proba = wide(proba)
    return global_mean(-(proba * proba.clamp_min(EPS).log()).sum(1), weights)
