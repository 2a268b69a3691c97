"""Another cut of a tree that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scfcmi._adata import (
    check_adata,
    drop_results,
    obs_continuous,
    obs_groups,
    obs_labels,
    params_of,
    probabilities,
    stale_results,
    writable,
)
from scfcmi._keys import CORRECTED, DEFAULT_KEY, MAPPING, TREE, Keys
from scfcmi._numbers import check_count, check_real
from scfcmi.communities import Tree
from scfcmi.model import Assignment, best_leaf, evidence_of, largest_first, proba_of_clusters

from ._fair_cluster import clusters_of, scores_of, write_assignment

# What a record says of the labels that were there, and nobody can say of those of another cut.
OF_OTHER_LABELS = ("metrics", "metrics_by_attribute", "registration", "stability")


def recut(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    n_clusters: int | None = None,
    resolution: float | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Cut the tree of a clustering again, without the matrix.

    Cuts of one tree are nested: with a larger resolution, or more clusters, every cluster is one of before or a part of
    one.

    Parameters
    ----------
    adata
        Annotated data that :func:`scfcmi.tl.fair_cluster` wrote to.
    key
        Name under which it wrote.
    n_clusters
        Number of clusters.
    resolution
        Resolution, if not their number; 1 when both are absent.
    key_added
        Name under which the cut is written; that of the clustering when absent, whose labels it replaces.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the labels, their confidence and probabilities, and in `uns` the record, as
    :func:`scfcmi.tl.fair_cluster` does. Diagnoses and colours of the clustering that is replaced are removed.

    Raises
    ------
    KeyError
        If there is no tree of this name.
    TypeError
        If `n_clusters` is no integer or `resolution` no number.
    ValueError
        If both are given, or more clusters are asked for than the tree has leaves.

    Examples
    --------
    >>> import scanpy as sc, scfcmi
    >>> adata = scfcmi.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> scfcmi.tl.fair_cluster(adata, "tech", progress_bar=False)
    >>> scfcmi.tl.recut(adata, n_clusters=3)
    >>> adata.obs["fair_cluster"].nunique()
    3
    """
    check_adata(adata, copy=copy)
    tree, leaves, record = kept_tree(adata, key)
    keys = Keys.checked(key if key_added is None else key_added, adata)
    if n_clusters is not None and resolution is not None:
        msg = f"Give either n_clusters={n_clusters} or resolution={resolution}, not both."
        raise ValueError(msg)
    resolution = 1.0 if resolution is None else check_real(resolution, "resolution", 0, np.inf)
    if n_clusters is not None:
        check_count(n_clusters, "n_clusters", least=1, most=tree.n_leaves)
    k = tree.n_clusters(resolution) if n_clusters is None else int(n_clusters)
    found = _cut(tree, leaves, k)
    clusters = clusters_of(found.labels)
    params = dict(params_of(adata, key)) | {"resolution": resolution, "n_clusters": k}
    elsewhere = keys.key_added != key
    record = {name: value for name, value in record.items() if name not in OF_OTHER_LABELS}
    if elsewhere:
        record = {name: value for name, value in record.items() if name not in (CORRECTED, MAPPING)}
    record |= {
        "params": params,
        "n_clusters": evidence_of(tree, n_clusters, resolution) | {"chosen": k},
    }
    sensitive_key = params.get("sensitive_key")
    names = [] if sensitive_key is None else [str(name) for name in np.atleast_1d(sensitive_key)]
    if names and all(name in adata.obs for name in names):
        label_key = params.get("label_key")
        labels = obs_labels(adata, label_key) if label_key is not None and label_key in adata.obs else None
        numbers = [str(name) for name in np.atleast_1d(params.get("continuous_keys", []))]
        numbers = [name for name in numbers if name in adata.obs]
        record |= scores_of(clusters, obs_groups(adata, names), labels, obs_continuous(adata, numbers, names))
    target = writable(adata, copy=copy)
    embedding = np.asarray(target.obsm[Keys(key).embedding])
    unlike = target.obs[Keys(key).unlike].to_numpy()
    drop_results(target, stale_results(keys, target.uns) if elsewhere else keys.of_a_cut)
    write_assignment(target, keys, Assignment(found.labels, found.proba, embedding, leaves, unlike), clusters)
    target.uns[keys.uns] = record
    return target if copy else None


def kept_tree(adata: AnnData, key: str) -> tuple[Tree, sp.csr_matrix, dict[str, Any]]:
    """The tree of a clustering, p(leaf | cell), and its record."""
    keys = Keys(key)
    record = adata.uns.get(keys.uns)
    if not isinstance(record, Mapping) or TREE not in record or keys.leaves not in adata.obsm:
        msg = (
            f"There is no tree under the name {key!r}: run `scfcmi.tl.fair_cluster` with key_added={key!r} first "
            "(the published network, `preset='paper'`, makes none)."
        )
        raise KeyError(msg)
    tree = _stored_tree(record[TREE], key)
    leaves = probabilities(adata, keys.leaves)
    if leaves.shape[1] != tree.n_leaves:
        msg = (
            f"adata.uns[{key!r}]['tree'] has {tree.n_leaves} leaves, but adata.obsm[{keys.leaves!r}] has "
            f"{leaves.shape[1]} columns: they are not of one run. Cluster again."
        )
        raise ValueError(msg)
    return tree, leaves, dict(record)


def _stored_tree(stored: Any, key: str) -> Tree:
    try:
        merges, link = (np.asarray(stored[name], np.float64) for name in ("merges", "link"))
        tree = Tree(merges.reshape(-1, 2).astype(np.int64), link)
        wrong = tree.fault()
    except (KeyError, TypeError, ValueError, IndexError):
        wrong = "it has no numbers for `merges` and `link`"
    if wrong:
        msg = f"adata.uns[{key!r}]['tree'] is damaged: {wrong}. Run `scfcmi.tl.fair_cluster` again."
        raise ValueError(msg)
    return tree


def _cut(tree: Tree, leaves: sp.csr_matrix, k: int) -> Assignment:
    """Clusters of a cut, the largest first."""
    leaf = best_leaf(leaves)
    cluster_of_leaf = largest_first(leaf, tree.cut(k), k)
    proba = proba_of_clusters(leaves, cluster_of_leaf, k)
    return Assignment(cluster_of_leaf[leaf], proba, np.empty((len(leaf), 0), np.float32))
