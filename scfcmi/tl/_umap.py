"""A map of the learned embedding in two dimensions."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData

from scfcmi._keys import DEFAULT_KEY, Keys

from ._adata import writable

MIN_CELLS = 4


def umap(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    *,
    n_neighbors: int = 15,
    min_dist: float = 0.5,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """UMAP of the embedding that :func:`scfcmi.tl.fair_cluster` learned.

    Neighbours and layout are scanpy's, computed on the side: existing neighbour graphs and `obsm["X_umap"]` stay as
    they are.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    n_neighbors
        Neighbours per cell; more of them show the whole, fewer the detail.
    min_dist
        Smallest distance between points of the layout.
    random_state
        Seed.
    copy
        Whether to work on a copy and return it.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following field:

    `adata.obsm["X_" + key + "_umap"]` : :class:`numpy.ndarray` (dtype `float32`)
        Coordinates, shape (n_cells, 2).

    Raises
    ------
    KeyError
        If there is no embedding of that name.
    ValueError
        If there are too few cells, or a parameter is out of range.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfcmi as sf
    >>> embedding = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    >>> adata = ad.AnnData(obsm={"X_fair_cluster": embedding})
    >>> sf.tl.umap(adata)
    >>> adata.obsm["X_fair_cluster_umap"].shape
    (60, 2)
    """
    keys = Keys(key)
    if keys.embedding not in adata.obsm:
        msg = (
            f"adata.obsm has no {keys.embedding!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first, "
            "or name another run with `key`."
        )
        raise KeyError(msg)
    if adata.n_obs < MIN_CELLS:
        msg = f"A map needs at least {MIN_CELLS} cells, adata has {adata.n_obs}."
        raise ValueError(msg)
    if n_neighbors < 2:
        msg = f"n_neighbors={n_neighbors} must be at least 2."
        raise ValueError(msg)
    if copy and adata.isbacked:
        msg = "copy=True is not possible for backed data. Use copy=False, or `adata.to_memory()` first."
        raise ValueError(msg)
    side = AnnData(obsm={keys.embedding: np.array(adata.obsm[keys.embedding], dtype=np.float32)})
    n_neighbors = min(n_neighbors, adata.n_obs - 1)
    sc.pp.neighbors(side, n_neighbors=n_neighbors, use_rep=keys.embedding, random_state=random_state)
    sc.tl.umap(side, min_dist=min_dist, random_state=random_state)
    target = writable(adata, copy=copy)
    target.obsm[keys.umap] = np.asarray(side.obsm["X_umap"], dtype=np.float32)
    return target if copy else None
