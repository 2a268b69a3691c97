"""A fit that learns of groups that come later: every look gets their displacements, and all else stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi.communities import Look, vote
from scfcmi.front import Front
from scfcmi.registration import Design, Positions, expected_moves, registered, with_group
from scfcmi.source import Block

from ._state import Registered

# Cells of a group by which its displacement is found.
SAMPLE = 20_000
# Nearest landmarks among which one of the branch is looked for: as many as vote.
N_NEAREST = 15


def restricted(state: Registered, columns: NDArray[np.bool_]) -> Registered:
    """The same fit for cells of which some columns are not known, and stand at their mean in every look.

    Parameters
    ----------
    state
        A fit.
    columns
        Which columns are there, shape (n_columns,).
    """

    def front(of: Front) -> Front:
        return replace(of, mean=of.mean[columns], scale=of.scale[columns], loadings=of.loadings[columns])

    def look(of: Look) -> Look:
        return replace(of, front=front(of.front), closer={branch: look(part) for branch, part in of.closer.items()})

    return replace(state, look=look(state.look))


def with_new_group(
    state: Registered,
    levels: NDArray[np.int64],
    n_cells: int,
    rows_of: Callable[[NDArray[np.int64]], Block],
    values_of: Callable[[NDArray[np.int64]], NDArray[np.float64]] | None = None,
    *,
    random_state: int = 0,
) -> Registered:
    """The same fit with one more group, the last.

    Parameters
    ----------
    state
        A fit.
    levels
        Level of the group in each attribute, −1 where it is new, shape (n_factors,).
    n_cells
        Cells of the group.
    rows_of, values_of
        Give some of them, by increasing positions among the group's cells, and their numbers.
    random_state
        Seed.
    """
    rng = np.random.default_rng(random_state)
    some = np.arange(n_cells) if n_cells <= SAMPLE else np.sort(rng.choice(n_cells, SAMPLE, replace=False))
    if values_of is None:
        smooth = np.zeros((len(some), state.design.n_smooth), np.float32)
    else:
        smooth = state.design.smooth(values_of(some))
    look = _learned(state, state.look, levels, rows_of(some), smooth, None, random_state)
    new = np.where(levels >= 0, levels, state.design.levels.max(axis=0) + 1)
    return replace(state, look=look, design=Design(np.vstack([state.design.levels, new]), state.design.knots))


def _learned(
    state: Registered,
    look: Look,
    levels: NDArray[np.int64],
    block: Block,
    smooth: NDArray[np.float32],
    labels: Tensor | None,
    random_state: int,
) -> Look:
    """A look and all closer ones with the new group.

    A closer look starts from what was registered before, as it did in the fit: a cell has the component of the landmark
    of that look that it was nearest to.
    """
    z = look.front.transform_on(state.device, block)
    mixture = with_group(
        look.mixture,
        z,
        torch.from_numpy(smooth).to(z),
        expected_moves(look.mixture, state.design, levels),
        state.fairness,
        points=(look.position, look.component) if labels is None else None,
        labels=labels,
        random_state=random_state,
    )
    learned = replace(look, mixture=mixture)
    if not look.closer:
        return learned
    branch, near = np.empty(0, np.int64), np.empty((0, 1), np.int64)
    if len(z):
        n_groups = len(mixture.moves)
        cells = Positions.of(z, np.full(len(z), n_groups - 1), n_groups, smooth, z.device)
        position, component = registered(mixture, cells, state.fairness)[:2]
        branch = vote(learned, position, component)[1]
        near = learned.index.search(position, N_NEAREST, component)[0].cpu().numpy()
    closer = {}
    for which, part in look.closer.items():
        inside = np.flatnonzero(branch == which)
        # Landmarks of a closer look are those of its branch, in the same order.
        of_branch = look.branch == which
        own = of_branch[near[inside]]
        nearest = near[inside, own.argmax(axis=1)] if len(inside) else np.empty(0, np.int64)
        index = torch.from_numpy((np.cumsum(of_branch) - 1)[nearest]).to(part.component.device)
        closer[which] = _learned(
            state, part, levels, block[inside], smooth[inside], part.component[index], random_state
        )
    return replace(learned, closer=closer)
