"""Looking at all cells from afar, and then at every cluster once more in directions of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import rows_at_once, side_by_side, smaller_when_full
from scfcmi.front import Front
from scfcmi.registration import Design, Mixture, Positions, register_again, registered
from scfcmi.source import Block

from ._leiden import connectivities, small_clusters
from ._neighbours import Index, local_dimension
from ._tree import Links, Tree, merge_tree, widest_first
from ._valley import TELLING, Valleys, by_label

N_NEIGHBOURS = 15
# Directions in which a cluster is looked at, of few cells so many fewer at a time, and how often looks follow.
OWN_COMPS, COMPS_STEP, MAX_DEPTH = 30, 5, 3
# Rounds of the registration there.
CLOSER_ROUNDS = 8
# Fewer cells than this are not looked at again.
FEWEST = 60
# Entries of a table of cells × leaves that are held at once.
TABLE_ENTRIES = 2**25
# In a closer look links count for so much more: what it splits has to be farther apart.
STRICT = 1.5


@dataclass(frozen=True)
class Look:
    """Landmarks in directions of their own, what they belong to, and closer looks at some of the branches.

    Parameters
    ----------
    front
        From rows to positions.
    mixture
        From positions to registered ones.
    position
        Registered positions of the landmarks, shape (n_landmarks, n_dims).
    component
        Their likeliest components, shape (n_landmarks,).
    leaf, branch
        Leaf of the whole tree, and cluster of this look, that each landmark belongs to, shapes (n_landmarks,).
    closer
        Closer looks, by branch.
    """

    front: Front
    mixture: Mixture
    position: Tensor
    component: Tensor
    leaf: NDArray[np.int64]
    branch: NDArray[np.int64]
    closer: dict[int, Look] = field(default_factory=dict)

    @property
    def index(self) -> Index:
        """Landmarks to search among."""
        return Index(self.position, self.component, self.mixture.means)

    def to(self, device: torch.device | str) -> Look:
        """The same, with all that is closer, on another device."""
        return replace(
            self,
            mixture=self.mixture.to(device),
            position=self.position.to(device),
            component=self.component.to(device),
            closer={branch: part.to(device) for branch, part in self.closer.items()},
        )

    def walk(self) -> Iterator[Look]:
        """Yield the look itself and all closer ones, depth first."""
        yield self
        for branch in sorted(self.closer):
            yield from self.closer[branch].walk()


@dataclass(frozen=True)
class Landmarks:
    """Cells that stand for all.

    Parameters
    ----------
    rows
        As they were measured, shape (n_landmarks, n_columns).
    codes
        Their groups, shape (n_landmarks,).
    values
        Numbers they should not depend on, shape (n_landmarks, n_numbers).
    design
        What displaces cells.
    fairness
        β of the mixtures.
    standardize
        Whether columns are brought to unit variance.
    height
        Of the front layers.
    random_state
        Seed.
    """

    rows: Block
    codes: NDArray[np.int64]
    values: NDArray[np.float64]
    design: Design
    fairness: float
    standardize: bool
    height: float
    random_state: int


def find_communities(
    landmarks: Landmarks, front: Front, mixture: Mixture, measured: Tensor, position: Tensor, component: Tensor
) -> tuple[Tree, Look]:
    """Communities of the landmarks, inside each of them the same again, and the tree over all of it.

    Parameters
    ----------
    landmarks
        The cells.
    front, mixture, position, component
        Of the first look, see :class:`Look`.
    measured
        Positions before registration, shape (n_landmarks, n_dims).
    """
    everyone = np.arange(len(landmarks.codes))
    (found,) = _looks(landmarks, [_View(everyone, front, mixture, measured, position, component)], depth=0)
    forest, nodes = found.forest, list(found.nodes)
    for i, j, link in zip(*found.upper.merges.T, found.upper.link, strict=True):
        nodes.append(forest.join(nodes[i], nodes[j], float(link)))
    tree, leaf_of_node = forest.tree()
    look = _renumbered(found.look, leaf_of_node)
    return widest_first(tree, look.leaf, position.cpu().numpy()), look.to(position.device)


class _Forest:
    """Nodes as they come: leaves, and unions of two nodes."""

    def __init__(self) -> None:
        self._children: list[tuple[int, int] | None] = []
        self._link: list[float] = []

    def leaf(self) -> int:
        self._children.append(None)
        self._link.append(np.inf)
        return len(self._link) - 1

    def join(self, i: int, j: int, link: float) -> int:
        self._children.append((i, j))
        # What holds parts that are farther apart is no closer than they are.
        self._link.append(min(link, self._link[i], self._link[j]))
        return len(self._link) - 1

    @property
    def weakest(self) -> float:
        """The weakest link that joins any two nodes."""
        return min(self._link)

    def adopt(self, other: _Forest) -> int:
        """Take in the nodes of another forest: how far their numbers move."""
        offset = len(self._link)
        self._children += [pair and (pair[0] + offset, pair[1] + offset) for pair in other._children]
        self._link += other._link
        return offset

    def tree(self) -> tuple[Tree, NDArray[np.int64]]:
        """The whole as one tree, joined from the strongest link on, and the leaf that every node is."""
        is_leaf = np.array([pair is None for pair in self._children])
        steps = np.flatnonzero(~is_leaf)
        steps = steps[np.argsort(-np.array(self._link)[steps], kind="stable")]
        number = np.empty(len(is_leaf), np.int64)
        number[is_leaf] = np.arange(is_leaf.sum())
        number[steps] = is_leaf.sum() + np.arange(len(steps))
        merges = np.array([number[list(self._children[step] or ())] for step in steps], np.int64)
        return Tree(merges.reshape(-1, 2), np.array(self._link)[steps]), number


@dataclass(frozen=True)
class _View:
    """Some of the landmarks in directions of their own, measured and registered; see :class:`Look`."""

    members: NDArray[np.int64]
    front: Front
    mixture: Mixture
    measured: Tensor
    position: Tensor
    component: Tensor


@dataclass(frozen=True)
class _Split:
    """Small clusters of a view, and the branches that they belong to."""

    graph: sp.csr_matrix
    inverse_dimension: NDArray[np.float64]
    small: NDArray[np.int64]
    valleys: Valleys
    tree: Tree
    branch_of_small: NDArray[np.int64]

    @classmethod
    def of(cls, view: _View, codes: NDArray[np.int64], strict: float, random_state: int) -> _Split:
        """Neighbours, small clusters, and the tree that joins them."""
        points = Index(view.position, view.component, view.mixture.means)
        index, distance = points.search(view.position, N_NEIGHBOURS, view.component, skip_self=True)
        graph, inverse_dimension = connectivities(index, distance), local_dimension(distance).cpu().numpy()
        small = small_clusters(graph, random_state)
        registered, measured = (view.front.raised(z).cpu().numpy() for z in (view.position, view.measured))
        valleys = Valleys(registered, measured, codes, small, random_state)
        tree = merge_tree(Links.between(small, graph, inverse_dimension), valleys, TELLING)
        return cls(graph, inverse_dimension, small, valleys, tree, tree.cut(tree.n_clusters(1 / strict)))

    @property
    def branch(self) -> NDArray[np.int64]:
        """Branch of every cell, shape (n_cells,)."""
        return self.branch_of_small[self.small]


@dataclass(frozen=True)
class _Found:
    look: Look
    forest: _Forest
    cluster: NDArray[np.int64]  # of every cell that was looked at
    nodes: list[int]  # node of the forest that is each cluster
    upper: Tree  # joins the clusters


def _looks(landmarks: Landmarks, views: Sequence[_View], depth: int) -> list[_Found]:
    """What is found in each of several views, and inside every branch of all of them."""
    strict = STRICT if depth else 1.0
    splits = [_Split.of(view, landmarks.codes[view.members], strict, landmarks.random_state) for view in views]
    inside = [by_label(split.branch) for split in splits]
    # Where all cells are one branch in their own directions, there is no closer to get.
    places = [
        (i, b)
        for i, branches in enumerate(inside)
        for b, cells in enumerate(branches)
        if len(cells) >= FEWEST and not (depth and len(branches) == 1) and depth + 1 < MAX_DEPTH
    ]
    cells = [(views[i].members[inside[i][b]], views[i].position[inside[i][b]].cpu()) for i, b in places]
    found = _looks(landmarks, _closer(landmarks, *zip(*cells, strict=True)), depth + 1) if cells else []
    # One cluster whose parts are linked less than those of a homogeneous one can be cut there, if more are asked for.
    kept = [len(one.nodes) > 1 or one.forest.weakest < STRICT for one in found]
    again = {place: one for place, one, keep in zip(places, found, kept, strict=True) if keep}
    return [
        _joined(view, split, inside[i], {b: one for (j, b), one in again.items() if j == i}, strict)
        for i, (view, split) in enumerate(zip(views, splits, strict=True))
    ]


def _closer(
    landmarks: Landmarks, members: Sequence[NDArray[np.int64]], registered_before: Sequence[Tensor]
) -> list[_View]:
    """Closer looks at branches.

    Their registration starts from what was registered before: alone, groups that lie apart would look like types.
    Branches are small, and on any device all of this stays on the CPU.
    """

    def of(own: NDArray[np.int64]) -> tuple[Front, Positions]:
        rows, codes = landmarks.rows[own], landmarks.codes[own]
        # In steps: branches with as many directions are registered at once.
        n_comps = min(OWN_COMPS, len(own) // (4 * COMPS_STEP) * COMPS_STEP)
        levels = landmarks.design.levels[codes]
        front = Front.fit(rows, levels, n_comps, standardize=landmarks.standardize, height=landmarks.height)
        smooth = landmarks.design.smooth(landmarks.values[own])
        return front, Positions.of(front.transform(rows), codes, landmarks.design.n_groups, smooth)

    fronts, cells = zip(*side_by_side(of, members), strict=True)
    fits = register_again(
        cells,
        registered_before,
        landmarks.design,
        fairness=landmarks.fairness,
        rounds=CLOSER_ROUNDS,
        random_state=landmarks.random_state,
    )

    def placed(found: tuple[NDArray[np.int64], Front, Positions, tuple[Mixture, Tensor]]) -> _View:
        own, front, part, (mixture, leverage) = found
        position, component, _ = registered(mixture, part, landmarks.fairness, leverage)
        return _View(own, front, mixture, part.in_order, position, component)

    return list(side_by_side(placed, zip(members, fronts, cells, fits, strict=True)))


def _joined(
    view: _View, split: _Split, inside: list[NDArray[np.int64]], again: dict[int, _Found], strict: float
) -> _Found:
    """A look, with what closer ones have found in some of its branches."""
    n = len(view.members)
    cluster, leaf = np.empty(n, np.int64), np.empty(n, np.int64)
    forest = _Forest()
    nodes: list[int] = []
    known: list[NDArray[np.float64]] = []
    closer: dict[int, Look] = {}
    for b, cells in enumerate(inside):
        if b in again:
            finer = again[b]
            offset = forest.adopt(finer.forest)
            closer[b] = _renumbered(finer.look, offset)
            leaf[cells], cluster[cells] = closer[b].leaf, finer.cluster + len(nodes)
            nodes += [node + offset for node in finer.nodes]
            known.append(_joined_at(finer.upper))
        else:
            own, root = _as_it_is(split.tree, split.branch_of_small, b, forest, strict)
            leaf[cells], cluster[cells] = own[split.small[cells]], len(nodes)
            nodes.append(root)
            known.append(np.full((1, 1), np.nan))
    links = Links.between(cluster, split.graph, split.inverse_dimension)
    links.known = _block_diagonal(known)
    upper = merge_tree(links, replace(split.valleys, small=cluster), TELLING)
    look = Look(view.front, view.mixture, view.position, view.component, leaf, split.branch, closer)
    return _Found(look, forest, cluster, nodes, replace(upper, link=upper.link * strict))


def _as_it_is(
    tree: Tree, branch_of_small: NDArray[np.int64], branch: int, forest: _Forest, strict: float
) -> tuple[NDArray[np.int64], int]:
    """Put the small clusters of a branch, and the steps that join them, into the forest: their nodes, and its root."""
    own = np.full(tree.n_leaves, -1)
    node: dict[int, int] = {}
    for small in np.flatnonzero(branch_of_small == branch).tolist():
        own[small] = node[small] = root = forest.leaf()
    for step, (i, j) in enumerate(tree.merges.tolist()):
        if i in node and j in node:
            node[tree.n_leaves + step] = root = forest.join(node[i], node[j], float(tree.link[step]) * strict)
    return own, root


def _joined_at(tree: Tree) -> NDArray[np.float64]:
    """Link at which every two leaves are joined, shape (n_leaves, n_leaves)."""
    n = tree.n_leaves
    found = np.full((n, n), np.nan)
    members: list[list[int]] = [[i] for i in range(n)]
    for (i, j), link in zip(tree.merges.tolist(), tree.link, strict=True):
        found[np.ix_(members[i], members[j])] = link
        found[np.ix_(members[j], members[i])] = link
        members.append(members[i] + members[j])
    return found


def _block_diagonal(blocks: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    total = sum(len(block) for block in blocks)
    found, first = np.full((total, total), np.nan), 0
    for block in blocks:
        found[first : first + len(block), first : first + len(block)] = block
        first += len(block)
    return found


def _renumbered(look: Look, number: NDArray[np.int64] | int) -> Look:
    """The look with other numbers of its leaves: those of a table, or all moved on by as much."""
    closer = {branch: _renumbered(part, number) for branch, part in look.closer.items()}
    leaf = look.leaf + number if isinstance(number, int) else number[look.leaf]
    return replace(look, leaf=leaf, closer=closer)


def with_leaves(tree: Tree, look: Look, n_leaves: int) -> tuple[Tree, Look]:
    """The same tree with at least so many leaves: those of most landmarks are halved along their longest direction."""
    while tree.n_leaves < n_leaves:
        holders = list(look.walk())
        # The closest look that holds a leaf knows it best.
        sizes, where = np.zeros(tree.n_leaves, np.int64), np.zeros(tree.n_leaves, np.int64)
        for i, part in enumerate(holders):
            count = np.bincount(part.leaf, minlength=tree.n_leaves)
            sizes[count > 0], where[count > 0] = count[count > 0], i
        leaf = int(sizes.argmax())
        if sizes[leaf] < 2:
            msg = f"n_clusters={n_leaves} is more than the {tree.n_leaves} cells that stand for all. Ask for fewer."
            raise ValueError(msg)
        inside = np.flatnonzero(holders[where[leaf]].leaf == leaf)
        points = holders[where[leaf]].position[torch.from_numpy(inside)].double().cpu()
        centred = points - points.mean(0)
        along = centred @ torch.linalg.svd(centred, full_matrices=False)[2][0]
        upper = inside[np.argsort(along.numpy(), kind="stable")[len(inside) // 2 :]]
        number = np.arange(2 * tree.n_leaves - 1)
        number[tree.n_leaves :] += 2  # the new leaf, and the step that joins the halves
        both = tree.n_leaves + 1
        number[leaf] = both
        merges = np.vstack([[leaf, tree.n_leaves], number[tree.merges]]) if len(tree.merges) else np.array([[0, 1]])
        link = np.concatenate([[max(np.max(tree.link, initial=0.0), 1.0)], tree.link])
        look = _halved(look, holders[where[leaf]], upper, tree.n_leaves)
        tree = Tree(merges.astype(np.int64), link)
    return tree, look


def _halved(look: Look, holder: Look, upper: NDArray[np.int64], new: int) -> Look:
    """Give some landmarks of one look a new leaf, and the same cells in the looks around it."""
    if look is holder:
        leaf = look.leaf.copy()
        leaf[upper] = new
        return replace(look, leaf=leaf)
    for branch, part in look.closer.items():
        changed = _halved(part, holder, upper, new)
        if changed is not part:
            # Landmarks of a closer look are those of its branch, in the same order.
            leaf = look.leaf.copy()
            leaf[look.branch == branch] = changed.leaf
            return replace(look, leaf=leaf, closer=look.closer | {branch: changed})
    return look


@dataclass(frozen=True)
class Votes:
    """p(leaf | cell), as some leaves and their probabilities per cell; a leaf may stand in a row several times.

    Parameters
    ----------
    leaf, proba
        Shapes (n_cells, n_votes); the probabilities of a row sum to one.
    """

    leaf: Tensor
    proba: Tensor

    def refined(self, closer: Sequence[tuple[NDArray[np.int64], Votes, NDArray[np.int64]]]) -> Votes:
        """What closer looks say of some cells, in place of what was said of them, with the same total.

        Parameters
        ----------
        closer
            Of each closer look the rows it is about, no row in two of them; its votes for these; and the leaves that it
            stands for.
        """
        if not closer:
            return self
        n, k = self.leaf.shape
        more = max(finer.leaf.shape[1] for _, finer, _ in closer)
        leaf = torch.cat([self.leaf, self.leaf.new_zeros(n, more)], 1)
        proba = torch.cat([self.proba, self.proba.new_zeros(n, more)], 1)
        for which, finer, leaves in closer:
            rows, width = torch.from_numpy(which).to(leaf.device), k + finer.leaf.shape[1]
            before = self.proba[rows]
            replaced = torch.isin(self.leaf[rows], torch.from_numpy(np.unique(leaves)).to(leaf.device))
            total = torch.where(replaced, before, 0).sum(1, keepdim=True)
            leaf[rows, k:width] = finer.leaf
            proba[rows, :width] = torch.cat([torch.where(replaced, 0, before), total * finer.proba], 1)
        return Votes(leaf, proba)

    @smaller_when_full
    def matrix(self, n_leaves: int) -> sp.csr_matrix:
        """Sparse matrix of shape (n_cells, n_leaves)."""
        n, k = self.leaf.shape
        if self.leaf.device.type == "cpu":
            # Copies, since duplicates are summed up in place.
            data, columns = self.proba.numpy().flatten(), self.leaf.numpy().astype(np.int32).ravel()
            matrix = sp.csr_matrix((data, columns, np.arange(0, n * k + 1, k)), shape=(n, n_leaves))
            matrix.sum_duplicates()
            matrix.eliminate_zeros()
            return matrix
        # On other devices tables with a place for every leaf.
        step = rows_at_once(max(1, TABLE_ENTRIES // max(n_leaves, 1)))
        count, indices, values = [], [], []
        for leaf, proba in zip(self.leaf.split(step), self.proba.split(step), strict=True):
            table = proba.new_zeros(len(leaf), n_leaves).scatter_add_(1, leaf, proba)
            row, column = table.nonzero(as_tuple=True)
            count.append(torch.bincount(row, minlength=len(leaf)).cpu().numpy())
            indices.append(column.to(torch.int32).cpu().numpy())
            values.append(table[row, column].cpu().numpy())
        first = np.concatenate([[0], np.cumsum(np.concatenate(count))])
        parts = np.concatenate(values), np.concatenate(indices), first
        return sp.csr_matrix(parts, shape=(n, n_leaves))


def vote(look: Look, position: Tensor, component: Tensor) -> tuple[Votes, NDArray[np.int64]]:
    """What the nearest landmarks say of registered cells: leaves, and the branch of this look.

    Parameters
    ----------
    look
        Landmarks.
    position, component
        Registered positions and likeliest components, shapes (n_cells, n_dims) and (n_cells,).
    """
    index, distance = look.index.search(position, N_NEIGHBOURS, component)
    width = distance[:, -1:].clamp_min(1e-12)
    weight = torch.exp(-((distance / width) ** 2))
    proba = weight / weight.sum(1, keepdim=True)
    leaf, of_branch = (torch.from_numpy(part).to(index.device)[index] for part in (look.leaf, look.branch))
    support = torch.stack(
        [torch.where(of_branch == of_branch[:, i : i + 1], proba, 0).sum(1) for i in range(proba.shape[1])], 1
    )
    branch = of_branch.gather(1, support.argmax(1, keepdim=True))[:, 0]
    return Votes(leaf, proba), branch.cpu().numpy()
