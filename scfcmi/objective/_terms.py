"""The loss, term by term. Every function returns named, unweighted terms; weights live in the settings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ._information import (
    EPS,
    assignment_entropy,
    entropy,
    global_mean,
    global_sum,
    joint_table,
    mutual_information,
    wide,
)

# Up to so many groups, one product for each is the quicker way to sums by group.
FEW_GROUPS = 16


def fcmi_terms(
    x: Tensor,
    decoded: Tensor,
    proba: Tensor,
    codes: Tensor,
    weights: Tensor,
    n_groups: int,
    *,
    factors: Mapping[str, tuple[Tensor, float]] | None = None,
) -> dict[str, Tensor]:
    """Terms of the FCMI objective (Zeng et al., CVPR 2023).

    Parameters
    ----------
    x, decoded
        Input and its reconstruction through the decoder branch of the cell's group, shape (n_cells, n_input).
    proba
        p(c|x), shape (n_cells, n_clusters).
    codes, weights
        Group and weight of each cell, shape (n_cells,).
    n_groups
        Levels of the sensitive attribute, or combinations of several.
    factors
        With several attributes: the level of each group as indicators, shape (n_groups, n_levels), and the weight of
        each attribute, by name.

    Returns
    -------
    `reconstruction` (mean squared error), `h_c`, `h_c_given_x`, `i_gc` and `i_xc_given_g` = H(C) − H(C|X) − I(G;C),
    where G is the group. With several attributes, `i_gc_<name>` for each, and `i_gc` is their weighted sum.
    """
    table = joint_table(proba, F.one_hot(codes, n_groups) * weights[:, None])
    h_c = entropy(table.sum(1))
    h_c_given_x = assignment_entropy(proba, weights)
    joint = mutual_information(table)
    by_factor = {f"i_gc_{name}": mutual_information(table @ levels) for name, (levels, _) in (factors or {}).items()}
    total = sum(weight * by_factor[f"i_gc_{name}"] for name, (_, weight) in (factors or {}).items())
    return {
        "reconstruction": global_mean((wide(x) - wide(decoded)).square().mean(1), weights),
        "h_c": h_c,
        "h_c_given_x": h_c_given_x,
        "i_gc": total if isinstance(total, Tensor) else joint,
        "i_xc_given_g": h_c - h_c_given_x - joint,
        **by_factor,
    }


def continuous_terms(proba: Tensor, soft_bins: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """What clusters say about continuous attributes.

    Parameters
    ----------
    proba
        p(c|x), shape (n_cells, n_clusters).
    soft_bins
        How far each cell belongs to each bin, shape (n_cells, n_bins), by the name of the attribute.
    weights
        Weight of each cell, shape (n_cells,).

    Returns
    -------
    `i_vc_<name>`, the mutual information of cluster and bin, for each.
    """
    return {
        f"i_vc_{name}": mutual_information(joint_table(proba, bins * weights[:, None]))
        for name, bins in soft_bins.items()
    }


def leakage_term(h: Tensor, proba: Tensor, indicators: Tensor, weights: Tensor) -> Tensor:
    """How far the mean embeddings of groups lie apart within clusters.

    Parameters
    ----------
    h
        Embedding, unit length, shape (n_cells, n_latent).
    proba
        p(c|x), shape (n_cells, n_clusters).
    indicators
        Group of each cell, shape (n_cells, n_groups).
    weights
        Weight of each cell, shape (n_cells,).

    Returns
    -------
    Mean squared distance between the centre of a group and that of all groups in a cluster, over cells.
    """
    mass, total = (global_sum(part) for part in _sums(wide(proba) * weights[:, None], wide(h), indicators))
    of_group = total / mass.clamp_min(EPS)[..., None]
    of_all = total.sum(0) / mass.sum(0).clamp_min(EPS)[:, None]
    return (mass * (of_group - of_all).square().sum(2)).sum() / mass.sum().clamp_min(EPS)


def _sums(share: Tensor, h: Tensor, indicators: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of `share` and of `share` ⊗ h over the cells of each group, (n_groups, n_clusters) and (…, n_latent).

    Both ways are repeatable on GPUs, as adding by index is not; the cost of the second does not depend on their number.
    """
    if indicators.shape[1] <= FEW_GROUPS:
        of_group = indicators.to(share.dtype).T[:, :, None] * share
        return of_group.sum(1), (of_group.transpose(1, 2).flatten(0, 1) @ h).view(*of_group.shape[::2], -1)
    order = torch.argsort(indicators.argmax(1), stable=True)
    lengths = indicators.sum(0).long()
    share, h = share[order], h[order]
    mass = torch.segment_reduce(share, "sum", lengths=lengths)
    return mass, torch.segment_reduce(share[:, :, None] * h[:, None, :], "sum", lengths=lengths)


def consensus_terms(
    h: Tensor, proba: Tensor, target_h: Tensor, target_proba: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """Agreement with where neighbours and matches say a cell belongs.

    Parameters
    ----------
    h, target_h
        Embedding and aligned position, unit length, shape (n_cells, n_latent).
    proba, target_proba
        p(c|x), and p(c|aligned position), shape (n_cells, n_clusters).
    weights
        Weight of each cell, shape (n_cells,).

    Returns
    -------
    `alignment`, 1 − cos(h, target), and `consensus`, the cross-entropy between the two assignments.
    """
    return {
        "alignment": global_mean(1 - (wide(h) * target_h).sum(1), weights),
        "consensus": global_mean(-(target_proba * wide(proba).clamp_min(EPS).log()).sum(1), weights),
    }
