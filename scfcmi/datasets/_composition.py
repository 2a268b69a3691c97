"""How many cells of each type each group has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def drawn_composition(
    n_cells: int,
    n_types: int,
    n_groups: int,
    *,
    group_sizes: Sequence[float] | None,
    size_ratio: float,
    unevenness: float,
    n_missing: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A table of types × groups with the given size, imbalance and holes."""
    sizes = np.ones(n_groups) if group_sizes is None else np.asarray(group_sizes, dtype=float)
    if sizes.shape != (n_groups,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        msg = f"group_sizes must hold one positive number for each of the {n_groups} groups, not {group_sizes!r}."
        raise ValueError(msg)
    if not 0 <= n_missing <= n_types or (n_missing and n_groups == 1):
        msg = f"n_missing must lie between 0 and n_types ({n_types}) and needs two groups, not {n_missing}."
        raise ValueError(msg)
    log_share = np.linspace(0.0, -np.log(size_ratio), n_types)[:, None] + unevenness * rng.normal(
        size=(n_types, n_groups)
    )
    share = np.exp(log_share)
    # the groups take turns at lacking a type, so that none is emptied before the others
    lacking = rng.permutation(n_types)[:n_missing]
    share[lacking, (rng.integers(n_groups) + np.arange(n_missing)) % n_groups] = 0.0
    if not share.sum(axis=0).all():
        msg = f"n_missing={n_missing} leaves a group without cells. Take fewer, or more types."
        raise ValueError(msg)
    table = share / share.sum(axis=0) * (sizes / sizes.sum())
    return pd.DataFrame(
        apportioned(table, n_cells),
        index=[f"type{k}" for k in range(n_types)],
        columns=[f"tech{g}" for g in range(n_groups)],
    )


def checked_composition(composition: object, n_cells: int | None) -> pd.DataFrame:
    """A given table with plain integers and unique names, scaled to `n_cells` if asked for."""
    if not isinstance(composition, pd.DataFrame):
        msg = f"composition must be a DataFrame of types × groups, not {type(composition).__name__}."
        raise TypeError(msg)
    try:
        counts = composition.to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        msg = "composition must hold numbers only: one row per type, one column per group, types in the index."
        raise ValueError(msg) from error
    types, groups = composition.index.astype(str), composition.columns.astype(str)
    if not (types.is_unique and groups.is_unique):
        msg = "composition must have unique names of types (index) and groups (columns)."
        raise ValueError(msg)
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts == counts.round()).all()):
        msg = "composition must hold numbers of cells: whole, finite and not negative."
        raise ValueError(msg)
    if not (counts.size and counts.any(axis=0).all() and counts.any(axis=1).all()):
        msg = "composition must have cells in each row and in each column."
        raise ValueError(msg)
    table = counts.astype(np.int64) if n_cells is None else apportioned(counts, n_cells)
    return pd.DataFrame(table, index=types, columns=groups)


def apportioned(share: NDArray[np.float64], n_cells: int) -> NDArray[np.int64]:
    """Whole numbers that sum to `n_cells`, in proportion to `share`, at least one wherever it is positive."""
    wanted = share.ravel()
    present = wanted > 0
    if n_cells < present.sum():
        msg = f"n_cells={n_cells} is too few: {int(present.sum())} combinations of type and group need a cell each."
        raise ValueError(msg)
    exact = wanted / wanted.sum() * n_cells
    table = np.where(present, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    while (lacking := n_cells - int(table.sum())) != 0:
        # largest remainders first; after rounding up rare ones, cells are taken where most are to spare
        order = np.argsort((table - exact) * np.sign(lacking), kind="stable")
        can_move = present if lacking > 0 else table > 1
        chosen = order[can_move[order]][: abs(lacking)]
        table[chosen] += np.sign(lacking)
    return table.reshape(share.shape)


def ranked_composition(
    n_cells: int,
    n_types: int,
    n_groups: int,
    *,
    exponent: float,
    unevenness: float,
    missing: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A table of types × groups of equal size, in which the r-th type has a share of about r to the power −exponent.

    The share `missing` of all types is absent from each group, never the same type from all of them.
    """
    rank = np.arange(1, n_types + 1)[:, None]
    share = rank**-exponent * np.exp(unevenness * rng.normal(size=(n_types, n_groups)))
    share[absent(n_types, n_groups, round(missing * n_types), rng)] = 0.0
    table = apportioned(share / share.sum(axis=0), n_cells)
    return pd.DataFrame(
        table, index=[f"type{k}" for k in range(n_types)], columns=[f"tech{g}" for g in range(n_groups)]
    )


def absent(n_types: int, n_groups: int, n_missing: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which types are missing from which group: `n_missing` from each, while every type stays in some group.

    Where that is impossible, as with a single group, fewer are missing.
    """
    gone = np.zeros((n_types, n_groups), dtype=bool)
    for group in rng.permutation(n_groups):
        can_go = np.flatnonzero(gone.sum(axis=1) < n_groups - 1)
        gone[rng.permutation(can_go)[: min(n_missing, n_types - 1)], group] = True
    return gone
