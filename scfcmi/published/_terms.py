"""The objective of FCMI, term by term: what the step adds up, the stopping rule watches and figures name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scfcmi._device import world_size

from ._shared import global_sum

EPS = 1e-30
# An empty entry of the joint table is filled with this share of the smallest that is not.
FILL = 0.1


@dataclass(frozen=True)
class Batch:
    """What terms are computed from.

    Parameters
    ----------
    x, decoded
        Input in [−1, 1] and its reconstruction through the branch of each cell's group, shape (n_cells, n_columns).
    log_proba
        ln p(c|x), shape (n_cells, n_clusters).
    table
        P(c, g) of the batch, see :func:`joint_table`.
    """

    x: Tensor
    decoded: Tensor
    log_proba: Tensor
    table: Tensor


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Parameters
    ----------
    name
        Its key in the history.
    label
        What figures call it.
    weight
        Factor in the loss; a term of weight 0 is reported alone.
    function
        Computes it from a batch.
    in_warmup
        Whether it belongs to the loss from the first epoch on.
    """

    name: str
    label: str
    weight: float
    function: Callable[[Batch], Tensor]
    in_warmup: bool = False


def joint_table(proba: Tensor, indicators: Tensor) -> Tensor:
    """P(c, g): soft assignments summed over the cells of each group, normalised.

    As in the authors' code, an entry that is zero, as all are of a group that is absent from the batch, counts as a
    tenth of the smallest that is not. With several processes the table is that of the batch of all.

    Parameters
    ----------
    proba
        p(c|x), shape (n_cells, n_clusters).
    indicators
        Group of each cell, shape (n_cells, n_groups).

    Returns
    -------
    Table of shape (n_clusters, n_groups) that sums to one.
    """
    table = global_sum(proba.T @ indicators)
    there = table > 0
    lowest = torch.where(there, table, torch.inf).min()
    table = torch.where(there, table, FILL * lowest)
    return table / table.sum()


def entropy(p: Tensor) -> Tensor:
    """H = −Σ p ln p of a probability table of any shape."""
    return -(p * p.clamp_min(EPS).log()).sum()


def mutual_information(table: Tensor) -> Tensor:
    """I = H(rows) + H(columns) − H(table) of a two-way table."""
    return entropy(table.sum(1)) + entropy(table.sum(0)) - entropy(table)


def _mean(values: Tensor) -> Tensor:
    if world_size() == 1:
        return values.mean()
    total = global_sum(torch.stack([values.sum(), values.new_tensor(float(values.numel()))]))
    return total[0] / total[1]


def reconstruction(batch: Batch) -> Tensor:
    """Mean squared error over cells and columns."""
    return _mean((batch.x - batch.decoded).square())


def h_c(batch: Batch) -> Tensor:
    """H(C), large where clusters are of equal size."""
    return entropy(batch.table.sum(1))


def h_c_given_x(batch: Batch) -> Tensor:
    """H(C|X), small where every cell is near one centre."""
    return _mean(-(batch.log_proba.exp() * batch.log_proba).sum(1))


def i_gc(batch: Batch) -> Tensor:
    """I(G;C), what clusters say about the group."""
    return mutual_information(batch.table)


def i_xc_given_g(batch: Batch) -> Tensor:
    """I(X;C|G) = H(C) − H(C|X) − I(G;C), what clusters say about cells within a group."""
    return h_c(batch) - h_c_given_x(batch) - i_gc(batch)


def fcmi_terms(
    *, alpha: float, beta: float, reconstruction_weight: float, factors: Sequence[tuple[str, Tensor]] = ()
) -> tuple[Term, ...]:
    """Terms of L = ‖x − θ_g(φ(x))‖² − α[H(C) − H(C|X)] + β I(G;C).

    Parameters
    ----------
    alpha, beta, reconstruction_weight
        Weights.
    factors
        Name and indicators, shape (n_groups, n_levels), of each of several attributes. Then the loss has β I(G_f;C) for
        every one, and I(G;C) of their combinations is reported only.

    Returns
    -------
    All terms, those of weight 0 last.
    """
    several = len(factors) > 1
    by_factor = tuple(
        Term(f"i_gc_{name}", f"I({name};C)", beta, _of_factor(indicators))
        for name, indicators in (factors if several else ())
    )
    return (
        Term("reconstruction", "reconstruction", reconstruction_weight, reconstruction, in_warmup=True),
        Term("h_c", "H(C)", -alpha, h_c),
        Term("h_c_given_x", "H(C|X)", alpha, h_c_given_x),
        *by_factor,
        Term("i_gc", "I(G;C)", 0.0 if several else beta, i_gc),
        Term("i_xc_given_g", "I(X;C|G)", 0.0, i_xc_given_g),
    )


def _of_factor(indicators: Tensor) -> Callable[[Batch], Tensor]:
    return lambda batch: mutual_information(batch.table @ indicators.to(batch.table))


def total(terms: Sequence[Term], values: dict[str, Any], *, warm: bool) -> Any:
    """The loss: every term that takes part, by its weight."""
    return sum(term.weight * values[term.name] for term in terms if term.weight and (term.in_warmup or not warm))


LABELS = {"loss": "loss"} | {term.name: term.label for term in fcmi_terms(alpha=1, beta=1, reconstruction_weight=1)}
