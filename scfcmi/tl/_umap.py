"""A map of the learned embedding in two dimensions."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData

from scfcmi._adata import check_adata, writable
from scfcmi._device import threads_kept
from scfcmi._keys import DEFAULT_KEY, Keys, checked_name
from scfcmi._numbers import check_count, check_real, check_seed
from scfcmi.source import dense, select_source

MIN_CELLS = 4
# The spread of scanpy's layout, which no distance may exceed.
MAX_DIST = 1


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
        Smallest distance between points of the layout, from 0 to 1.
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
    TypeError
        If `adata` is no AnnData, the embedding not made of numbers, or a parameter of another type.
    ValueError
        If there are too few cells, the embedding has no columns or missing values, or a parameter is out of range.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfcmi as sf
    >>> embedding = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    >>> adata = ad.AnnData(obsm={"X_fair_cluster": embedding})
    >>> sf.tl.umap(adata)
    >>> adata.obsm["X_fair_cluster_umap"].shape
    (60, 2)
    """
    keys = Keys(checked_name(key, "key"))
    check_adata(adata, copy=copy)
    check_count(n_neighbors, "n_neighbors", least=2)
    check_real(min_dist, "min_dist", 0, MAX_DIST)
    check_seed(random_state)
    if keys.embedding not in adata.obsm:
        msg = (
            f"adata.obsm has no {keys.embedding!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first, "
            "or name another run with `key`."
        )
        raise KeyError(msg)
    if adata.n_obs < MIN_CELLS:
        msg = f"A map needs at least {MIN_CELLS} cells, adata has {adata.n_obs}."
        raise ValueError(msg)
    source, _ = select_source(adata, use_rep=keys.embedding)
    side = AnnData(obsm={keys.embedding: dense(source.rows(slice(None)))})
    n_neighbors = min(n_neighbors, adata.n_obs - 1)
    with threads_kept():
        sc.pp.neighbors(side, n_neighbors=n_neighbors, use_rep=keys.embedding, random_state=random_state)
        sc.tl.umap(side, min_dist=min_dist, random_state=random_state)
    target = writable(adata, copy=copy)
    target.obsm[keys.umap] = np.asarray(side.obsm["X_umap"], dtype=np.float32)
    return target if copy else None
