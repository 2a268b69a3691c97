"""Expression as it would be, had every cell been measured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._adata import check_adata, groups_of_run, obs_groups, params_of, probabilities, storable_keys, writable
from scfcmi._keys import CORRECTED, DEFAULT_KEY, Keys, checked_name
from scfcmi._numbers import check_real
from scfcmi.model import best_leaf
from scfcmi.source import Groups, MatrixSource, dense, normalise_rows, select_source

# Cells of a group in a place at which its own deviation there counts half, next to that of the group as a whole.
PRIOR_CELLS = 5.0
MEAN = "mean"
# No logarithm of normalised counts is larger.
MOST = 1e3
# Numbers per gene and group and leaf that are held at once.
EFFECTS = 2**24


def correct(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    sensitive_key: str | Sequence[str] | None = None,
    reference: str = MEAN,
    layer: str | None = None,
    layer_added: str | None = None,
    sparse_threshold: float | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Take the technical effect out of the expression of every gene.

    The leaves of the tree, small clusters of registered cells, say which cells of different groups are alike. For every
    gene, the effect of a group is estimated as what its cells have more or less than like cells of the other groups:
    one shift for the group, and a deviation from it in each leaf, shrunken where there are few cells. A cell is then
    moved by the difference between the effect of the reference and that of its own group, weighted by its probabilities
    of leaves. It keeps what makes it differ from the cells around it, and a cluster that only one group has keeps what
    makes it differ from other clusters. Where the expected expression falls, values are multiplied, so that zeros stay
    zeros; where it rises, the difference is added.

    The effect comes from gene expression itself and not from :meth:`scfcmi.model.FCMI.decode`, which sees the few
    directions along which cells *within* groups differ, and so only a part of what groups differ in. Corrected values
    are for figures and for looking at genes; test for differential expression on uncorrected values, with the group as
    a covariate, or with :func:`scfcmi.tl.markers`.

    Parameters
    ----------
    adata
        Annotated data that :func:`scfcmi.tl.fair_cluster` or :func:`scfcmi.tl.map_query` wrote to.
    key
        Name under which it wrote. Where it wrote no leaves, as with the published network, clusters stand for them.
    sensitive_key
        Column of `obs` with the groups, or several whose combinations are; that of the clustering when absent.
    reference
        Group that all cells are to look like, or `"mean"` for the average over groups.
    layer
        Layer to correct instead of that of the clustering, log-normalised.
    layer_added
        Where to write; `key + "_corrected"` when absent.
    sparse_threshold
        Values below it become zero, and the layer sparse.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `adata.layers[layer_added]` : :class:`numpy.ndarray`, or :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Corrected expression of all genes in the units of the input, not negative.
    `adata.uns[key]["corrected"]` : :class:`dict`
        `layer_added`, `reference`, `sensitive_key`, and `variance`: the share of variance within leaves that
        groups explained before and explain after, corrected for chance.

    Raises
    ------
    KeyError
        If a column, a layer or the results of the run do not exist.
    TypeError
        If `adata` or an argument is of another type.
    ValueError
        If `reference` is not a group, or an argument is out of range.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> sf.tl.fair_cluster(adata, "tech", 4, progress_bar=False)
    >>> sf.tl.correct(adata)
    >>> adata.layers["fair_cluster_corrected"].shape
    (300, 200)
    """
    keys = Keys(checked_name(key, "key"))
    check_adata(adata, copy=copy)
    proba = _proba(adata, keys)
    sensitive_key = groups_of_run(adata, key) if sensitive_key is None else sensitive_key
    groups = obs_groups(adata, sensitive_key)
    weights = _weights(reference, groups)
    layer_added = keys.corrected if layer_added is None else checked_name(layer_added, "layer_added")
    layer = layer if layer is not None else params_of(adata, key).get("layer")
    if layer_added == layer:
        msg = f"layer_added={layer_added!r} would overwrite the layer that is corrected. Choose another name."
        raise ValueError(msg)
    if sparse_threshold is not None:
        check_real(sparse_threshold, "sparse_threshold", 0, MOST)
    source, _ = select_source(adata, layer=layer, mask_var=None)
    # All genes of few groups at once, or as many at a time as fit.
    width = max(1, EFFECTS // (groups.n * proba.shape[1]))
    full = np.empty(source.shape, np.float32) if sparse_threshold is None else None
    thin, sums = [], np.zeros(3)
    for first in range(0, source.shape[1], width):
        genes = np.arange(first, min(first + width, source.shape[1]))
        part = source.restricted(genes)
        effects, before = _effects(part, proba, groups)
        after = _Scatter(*before.count.shape, len(genes))
        labels, parts = best_leaf(proba), []
        for rows, block in part.chunks():
            moved = effects.apply(dense(block), proba[rows].toarray(), groups.codes[rows], weights)
            after.add(moved, groups.codes[rows], labels[rows])
            if full is not None:
                full[rows, genes[0] : genes[-1] + 1] = moved
            else:
                assert sparse_threshold is not None
                parts.append(sp.csr_matrix(np.where(moved < sparse_threshold, 0, moved)))
        thin += [sp.vstack(parts, format="csr")] if parts else []
        sums += before.between(), after.between(), before.within()
    before_and_after = np.maximum(sums[:2] / max(sums[2], 1e-12), 0)
    target = writable(adata, copy=copy)
    target.layers[layer_added] = sp.hstack(thin, format="csr") if full is None else full
    record = {
        "layer_added": layer_added,
        "reference": reference,
        "sensitive_key": storable_keys(sensitive_key),
        "variance": dict(zip(("before", "after"), before_and_after.tolist(), strict=True)),
    }
    target.uns[keys.uns] = {**target.uns.get(keys.uns, {}), CORRECTED: record}
    return target if copy else None


def _proba(adata: AnnData, keys: Keys) -> sp.csr_matrix:
    """p(leaf | cell), or p(cluster | cell) where there are no leaves; columns that no cell has are left out."""
    name = keys.leaves if keys.leaves in adata.obsm else keys.proba
    if name not in adata.obsm:
        msg = (
            f"adata.obsm has no {name!r}. Run `scfcmi.tl.fair_cluster` or `scfcmi.tl.map_query` "
            f"with key_added={keys.key_added!r} first."
        )
        raise KeyError(msg)
    proba = probabilities(adata, name)
    return normalise_rows(proba[:, np.unique(best_leaf(proba))])


class _Scatter:
    """Sums per group and leaf, for all genes."""

    def __init__(self, n_groups: int, n_fine: int, n_genes: int) -> None:
        self.count = np.zeros((n_groups, n_fine))
        self.sum = np.zeros((n_groups * n_fine, n_genes))
        self.squares = np.zeros((n_fine, n_genes))

    def add(self, block: NDArray[np.float32], codes: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """Count one block of cells."""
        n, n_fine = len(codes), self.count.shape[1]
        cell = codes * n_fine + labels
        rows = np.arange(n + 1)
        self.sum += sp.csr_matrix((np.ones(n), cell, rows), shape=(n, len(self.sum))).T @ block
        self.squares += sp.csr_matrix((np.ones(n), labels, rows), shape=(n, n_fine)).T @ np.square(block)
        self.count += np.bincount(cell, minlength=len(self.sum)).reshape(self.count.shape)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean per group and leaf, shape (n_groups, n_fine, n_genes)."""
        mean = self.sum / np.maximum(self.count.ravel(), 1)[:, None]
        return mean.reshape(*self.count.shape, -1)

    def within(self) -> float:
        """Sum of squares within leaves."""
        return float((self.squares - self._of_clusters()).sum())

    def between(self) -> float:
        """Part of it that lies between groups, less what chance would give."""
        of_groups = (
            (self.sum**2 / np.maximum(self.count.ravel(), 1)[:, None]).reshape(*self.count.shape, -1).sum(axis=0)
        )
        inside = (self.squares - of_groups).sum(axis=1)
        n, n_groups = self.count.sum(axis=0), (self.count > 0).sum(axis=0)
        noise = inside / np.maximum(n - n_groups, 1) * (n_groups - 1)
        known = n > n_groups
        return float(((of_groups - self._of_clusters()).sum(axis=1) - noise)[known].sum())

    def _of_clusters(self) -> NDArray[np.float64]:
        sums = self.sum.reshape(*self.count.shape, -1).sum(axis=0)
        return sums**2 / np.maximum(self.count.sum(axis=0), 1)[:, None]


@dataclass(frozen=True)
class _Effects:
    """What the expression of a gene is made of.

    Parameters
    ----------
    profile
        Mean of the leaves, had they been measured by the average group, shape (n_fine, n_genes).
    effect
        What each group adds in each of them, shape (n_groups, n_fine, n_genes).
    """

    profile: NDArray[np.float32]
    effect: NDArray[np.float32]

    def apply(
        self,
        block: NDArray[np.float32],
        proba: NDArray[np.float32],
        codes: NDArray[np.int64],
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Move cells from their group's effect to the weighted mean of effects."""
        base = proba @ self.profile
        wanted = np.maximum(base + proba @ np.tensordot(weights, self.effect, 1), 0)
        own = np.empty_like(base)
        for group in np.unique(codes):
            members = codes == group
            own[members] = np.maximum(base[members] + proba[members] @ self.effect[group], 0)
        falls = wanted < own
        return np.where(falls, block * (wanted / np.where(falls, own, 1)), block + (wanted - own)).astype(np.float32)


def _effects(source: MatrixSource, proba: sp.csr_matrix, groups: Groups) -> tuple[_Effects, _Scatter]:
    """Fit group effects per gene: additive over groups and leaves, with shrunken deviations."""
    labels = best_leaf(proba)
    scatter = _Scatter(groups.n, proba.shape[1], source.shape[1])
    for rows, block in source.chunks():
        scatter.add(dense(block), groups.codes[rows], labels[rows])
    count, mean = scatter.count, scatter.mean
    # Weighted least squares of mean[g, c] = profile[c] + shift[g], after the profiles are eliminated. A group that
    # shares no leaf with others has no shift that could be known: the prior lets it stay where it is.
    share = count / np.maximum(count.sum(axis=0), 1)
    gram = np.diag(count.sum(axis=1) + PRIOR_CELLS) - share @ count.T
    total = scatter.sum.reshape(mean.shape)
    shift = np.linalg.solve(gram, total.sum(axis=1) - np.einsum("gc,cj->gj", share, total.sum(axis=0)))
    profile = np.einsum("gc,gcj->cj", share, mean - shift[:, None])
    deviation = (mean - profile - shift[:, None]) * (count / (count + PRIOR_CELLS))[..., None]
    return _Effects(profile.astype(np.float32), (shift[:, None] + deviation).astype(np.float32)), scatter


def _weights(reference: str, groups: Groups) -> NDArray[np.float32]:
    """Share of each group in what cells are to look like."""
    if reference in groups.levels:
        return np.eye(groups.n, dtype=np.float32)[groups.levels.index(reference)]
    if reference != MEAN:
        msg = f"reference={reference!r} is not a group: use {MEAN!r} or one of {list(groups.levels)}."
        raise ValueError(msg)
    return np.full(groups.n, 1 / groups.n, np.float32)
