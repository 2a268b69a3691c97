"""Expression as it would be, had every cell been measured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi.model import FCMI
from scfcmi.source import Groups, MatrixSource, select_source
from scfcmi.source._matrix import dense

from ._adata import check_adata, model_embedding, obs_groups, storable_keys, writable

# Cells of a group in a place at which its own deviation there counts half, next to that of the group as a whole.
PRIOR_CELLS = 5.0
MEAN = "mean"
# Numbers per gene and group and small cluster that are held at once.
EFFECTS = 2**24


def correct(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    model: FCMI,
    sensitive_key: str | Sequence[str] | None = None,
    reference: str = MEAN,
    layer: str | None = None,
    layer_added: str | None = None,
    sparse_threshold: float | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Take the technical effect out of the expression of every gene.

    The small clusters of the model say which cells of different groups are alike. For every gene, the effect of a group
    is estimated as what its cells have more or less than like cells of the other groups: one shift for the group, and a
    deviation from it in each small cluster, shrunken where there are few cells. A cell is then moved by the difference
    between the effect of the reference and that of its own group, at its place in the embedding. It keeps what makes it
    differ from the cells around it, and a cluster that only one group has keeps what makes it differ from other
    clusters. Where the expected expression falls, values are multiplied, so that zeros stay zeros; where it rises, the
    difference is added.

    The effect comes from gene expression itself and not from :meth:`scfcmi.model.FCMI.decode`, which sees the few
    directions along which cells *within* groups differ, and so only a part of what groups differ in. Corrected values
    are for figures and for looking at genes; test for differential expression on uncorrected values, with the group as
    a covariate.

    Parameters
    ----------
    adata
        Annotated data that :func:`scfcmi.tl.fair_cluster` or :func:`scfcmi.tl.map_query` wrote to.
    key
        Name under which it wrote.
    model
        The fitted model, from `return_model=True` or :meth:`scfcmi.model.FCMI.load`.
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
        `layer_added`, `reference`, `sensitive_key`, and `variance`: the share of variance within small clusters that
        groups explained before and explain after, corrected for chance.

    Raises
    ------
    KeyError
        If a column, layer or the embedding does not exist.
    TypeError
        If `adata` or `model` is of another type.
    ValueError
        If the embedding is not of this model, or `reference` is not a group.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> model = sf.tl.fair_cluster(adata, "tech", 4, max_epochs=5, progress_bar=False, return_model=True)
    >>> sf.tl.correct(adata, model=model)
    >>> adata.layers["fair_cluster_corrected"].shape
    (300, 200)
    """
    keys = Keys(key)
    check_adata(adata, copy=copy)
    embedding = model_embedding(adata, keys, model)
    params = adata.uns.get(keys.uns, {}).get("params", {})
    sensitive_key = sensitive_key if sensitive_key is not None else params.get("sensitive_key")
    if sensitive_key is None:
        msg = f"adata.uns[{key!r}] does not say which column holds the groups: pass sensitive_key."
        raise ValueError(msg)
    groups = obs_groups(adata, sensitive_key)
    weights = _weights(reference, groups)
    layer_added = keys.corrected if layer_added is None else layer_added
    layer = layer if layer is not None else params.get("layer")
    if layer_added == layer:
        msg = f"layer_added={layer_added!r} would overwrite the layer that is corrected. Choose another name."
        raise ValueError(msg)
    if sparse_threshold is not None and not 0 <= sparse_threshold < np.inf:
        msg = f"sparse_threshold={sparse_threshold} must be a number from 0."
        raise ValueError(msg)
    source, _ = select_source(adata, layer=layer, mask_var=None)
    proba = model._fine_proba(embedding).cpu().numpy()
    # All genes of few groups at once, or as many at a time as fit.
    width = max(1, EFFECTS // (groups.n * proba.shape[1]))
    corrected = [
        _correct_genes(
            source.restricted(np.arange(first, min(first + width, source.shape[1]))),
            proba,
            groups,
            weights,
            sparse_threshold,
        )
        for first in range(0, source.shape[1], width)
    ]
    before, after, total = (sum(part[i] for part in corrected) for i in (1, 2, 3))
    values = [part[0] for part in corrected]
    target = writable(adata, copy=copy)
    target.layers[layer_added] = np.hstack(values) if sparse_threshold is None else sp.hstack(values, format="csr")
    record = {
        "layer_added": layer_added,
        "reference": reference,
        "sensitive_key": storable_keys(sensitive_key),
        "variance": {name: max(0.0, part / max(total, 1e-12)) for name, part in (("before", before), ("after", after))},
    }
    target.uns[keys.uns] = {**target.uns.get(keys.uns, {}), "corrected": record}
    return target if copy else None


def _correct_genes(
    source: MatrixSource,
    proba: NDArray[np.float32],
    groups: Groups,
    weights: NDArray[np.float32],
    sparse_threshold: float | None,
) -> tuple[Any, float, float, float]:
    """Correct some genes; also returns the variance that groups explain before and after, and all there was before."""
    effects, before = _effects(source, proba, groups)
    after = _Scatter(*before.count.shape, source.shape[1])
    labels = proba.argmax(1)
    parts = []
    for rows, block in source.chunks():
        moved = effects.apply(dense(block), proba[rows], groups.codes[rows], weights)
        after.add(moved, groups.codes[rows], labels[rows])
        parts.append(moved if sparse_threshold is None else sp.csr_matrix(np.where(moved < sparse_threshold, 0, moved)))
    values = np.concatenate(parts) if sparse_threshold is None else sp.vstack(parts, format="csr")
    return values, before.between(), after.between(), before.within()


class _Scatter:
    """Sums per group and small cluster, for all genes."""

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
        """Mean per group and small cluster, shape (n_groups, n_fine, n_genes)."""
        mean = self.sum / np.maximum(self.count.ravel(), 1)[:, None]
        return mean.reshape(*self.count.shape, -1)

    def within(self) -> float:
        """Sum of squares within small clusters."""
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
        Mean of the small clusters, had they been measured by the average group, shape (n_fine, n_genes).
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


def _effects(source: MatrixSource, proba: NDArray[np.float32], groups: Groups) -> tuple[_Effects, _Scatter]:
    """Fit group effects per gene: additive over groups and small clusters, with shrunken deviations."""
    labels = proba.argmax(1)
    scatter = _Scatter(groups.n, proba.shape[1], source.shape[1])
    for rows, block in source.chunks():
        scatter.add(dense(block), groups.codes[rows], labels[rows])
    count, mean = scatter.count, scatter.mean
    # Weighted least squares of mean[g, c] = profile[c] + shift[g], after the profiles are eliminated. A group that
    # shares no small cluster with others has no shift that could be known: the prior lets it stay where it is.
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
