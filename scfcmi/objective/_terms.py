"""The loss, term by term. Every function returns named, unweighted terms; weights live in the settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ._information import assignment_entropy, entropy, global_mean, joint_table, mutual_information, pair_information


@dataclass(frozen=True)
class Pairs:
    """Soft assignments of the anchors' partners.

    Parameters
    ----------
    proba
        p(c|x') of each anchor's partner, shape (n_anchors, n_clusters).
    codes
        Group of the partner, shape (n_anchors,).
    weights
        Trust in each pair, 0 where an anchor has no partner, shape (n_anchors,).
    """

    proba: Tensor
    codes: Tensor
    weights: Tensor


def fcmi_terms(
    x: Tensor, decoded: Tensor, proba: Tensor, codes: Tensor, weights: Tensor, n_groups: int
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
        Levels of the sensitive attribute.

    Returns
    -------
    `reconstruction` (mean squared error), `h_c`, `h_c_given_x`, `i_gc` and `i_xc_given_g` = H(C) − H(C|X) − I(G;C).
    """
    onehot = F.one_hot(codes, n_groups) * weights[:, None]
    table = joint_table(proba, onehot)
    h_c = entropy(table.sum(1))
    h_c_given_x = assignment_entropy(proba)
    i_gc = mutual_information(table)
    return {
        "reconstruction": global_mean((x.float() - decoded.float()).square().mean(1), weights),
        "h_c": h_c,
        "h_c_given_x": h_c_given_x,
        "i_gc": i_gc,
        "i_xc_given_g": h_c - h_c_given_x - i_gc,
    }


def agreement_terms(proba: Tensor, pairs: Pairs, name: str) -> dict[str, Tensor]:
    """I(C;C') between the clusters of partners, and the entropy H(C) of the clusters among them."""
    information, marginal = pair_information(proba, pairs.proba, pairs.weights)
    return {f"i_{name}": information, f"h_{name}": marginal}


def matched_independence(proba: Tensor, codes: Tensor, pairs: Pairs, n_groups: int) -> Tensor:
    """I(G;C) measured only where groups overlap: over the two ends of cross-group matches."""
    both = joint_table(proba, F.one_hot(codes, n_groups) * pairs.weights[:, None]) + joint_table(
        pairs.proba, F.one_hot(pairs.codes, n_groups) * pairs.weights[:, None]
    )
    return mutual_information(both / 2)
