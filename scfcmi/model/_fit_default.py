"""The fit of the default preset: two walks over the matrix, registration, communities, and every cell to its leaf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi.communities import Landmarks, find_communities, landmarks, with_leaves
from scfcmi.front import Front
from scfcmi.registration import Design, Positions, Registration, register, registered
from scfcmi.source import Block, Continuous, Groups, MatrixSource, stratified_sketch

from ._state import Assignment, Registered, best_leaf, largest_first

# Directions of the front layer, its pole in typical lengths, and the cells that it is estimated from.
N_COMPS, HEIGHT, FRONT_CELLS = 50, 0.7, 20_000
# Cells among which communities are looked for.
LANDMARKS = 30_000
# Cells whose votes are held at once.
ASSIGNED = {"cpu": 2**16, "mps": 2**17, "cuda": 2**20}


@dataclass(frozen=True)
class DefaultFit:
    """A fit, and what it found for the cells that it was fitted to.

    Parameters
    ----------
    state
        What is kept.
    registration
        The mixture of the first look with its history.
    assignment
        Of the cells of the fit.
    deviation
        How far cells of each group were moved in each cluster on top of what their group was moved as a whole, in
        standard deviations of the prior, shape (n_groups, n_clusters); not a number where a group has no cells.
    """

    state: Registered
    registration: Registration
    assignment: Assignment
    deviation: NDArray[np.float64]


def fit_default(
    source: MatrixSource,
    groups: Groups,
    values: Continuous,
    *,
    n_clusters: int | None,
    resolution: float,
    fairness: float,
    standardize: bool,
    random_state: int,
    device: torch.device | str,
    tell: Callable[[str], None] | None = None,
) -> DefaultFit:
    """Fit to all cells of a source.

    Parameters
    ----------
    source
        Rows, shape (n_cells, n_columns); values that are still to be checked are checked in the first walk.
    groups, values
        Attributes of every cell.
    n_clusters, resolution
        Where the tree is cut: into so many clusters if their number is given, at a resolution otherwise.
    fairness
        β, the weight of I(G;C) in the free energy.
    standardize
        Whether columns are brought to unit variance.
    random_state
        Seed.
    device
        Where to compute.
    tell
        Called with a few words at every step.
    """
    say = tell or (lambda words: None)
    rng = np.random.default_rng(random_state)
    some = stratified_sketch(groups.codes, FRONT_CELLS, rng)
    block = source.gather(some)
    design = Design.of(groups, values)
    levels = np.hstack([groups.level_codes[some], values.take(some).bins()])
    front = Front.fit(block, levels, N_COMPS, standardize=standardize, height=HEIGHT)
    del block
    say("front layer")
    smooth = design.smooth(values.values)
    cells = Positions.empty(groups.codes, groups.n, front.n_comps, smooth, device)
    for rows, part in source.chunks():
        cells.put(rows, front.transform_on(device, part))
    fit = register(cells, design, fairness=fairness, bins=values.bins(), random_state=random_state, tell=tell)
    say("registration")
    position, component, likelihood = registered(fit.mixture, cells, fairness)
    picked = landmarks(component.cpu().numpy(), LANDMARKS, rng)
    stand = cells.take(picked)
    places = registered(fit.mixture, stand, fairness, fit.own)[:2]
    chosen = Landmarks(
        source.gather(picked),
        groups.codes[picked],
        values.values[picked],
        design,
        fairness,
        standardize,
        HEIGHT,
        random_state,
    )
    tree, look = find_communities(chosen, front, fit.mixture, stand.in_order, *places)
    say("communities")
    if n_clusters is not None:
        tree, look = with_leaves(tree, look, n_clusters)
    k = tree.n_clusters(resolution) if n_clusters is None else n_clusters
    state = Registered(look, tree, tree.cut(k), design, fairness, fit.typical)
    parts = []
    step = ASSIGNED[position.device.type]
    for start in range(0, len(position), step):
        rows = slice(start, start + step)
        votes = state.votes(
            position[rows], component[rows], partial(_rows, source, start), groups.codes[rows], smooth[rows]
        )
        parts.append(votes.matrix(tree.n_leaves))
    leaves = sp.vstack(parts, format="csr")
    del parts
    leaf = best_leaf(leaves)
    state = replace(state, cluster_of_leaf=largest_first(leaf, state.cluster_of_leaf, k))
    labels = state.cluster_of_leaf[leaf]
    deviation = _deviation(cells, position, groups, labels, k, float(fit.prior.local))
    del cells  # before probabilities, which are as large again, are made
    found = state.assignment(leaves, labels, position, likelihood)
    if found.unlike is not None and len(source.empty):
        found.unlike[source.empty] = True
    return DefaultFit(state, fit, found, deviation)


def _rows(source: MatrixSource, start: int, rows: NDArray[np.int64]) -> Block:
    return source.rows(rows + start)


def _deviation(
    cells: Positions, position: Tensor, groups: Groups, labels: NDArray[np.int64], n_clusters: int, local: float
) -> NDArray[np.float64]:
    """Distance of mean displacements, per group and cluster, from those of groups, in units of the prior's scale."""
    n, d = groups.n * n_clusters, position.shape[1]
    pair = torch.from_numpy(groups.codes * n_clusters + labels).to(position.device)
    sums = position.new_zeros(n, d)
    slot = torch.from_numpy(cells.slot).to(position.device)
    for rows in torch.arange(len(position), device=position.device).split(ASSIGNED[position.device.type]):
        sums.index_add_(0, pair[rows], cells.z[slot[rows]] - position[rows])
    moved = sums.reshape(groups.n, n_clusters, d).double()
    count = torch.bincount(pair, minlength=n).reshape(groups.n, n_clusters, 1).double()
    of_group = moved.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp_min(1)
    distance = (moved / count.clamp_min(1) - of_group).norm(dim=2) / np.sqrt(d * max(local, 1e-12))
    return torch.where(count[..., 0] > 0, distance, torch.nan).cpu().numpy()
