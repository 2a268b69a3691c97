"""Cluster centres from the embeddings themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from scfcmi.source._matrix import unit_rows


def kmeans_centres(
    embedding: NDArray[np.float32],
    n_centres: int,
    *,
    random_state: int,
    start: NDArray[np.float32] | None = None,
    n_init: int = 10,
) -> NDArray[np.float32]:
    """k-means of unit-length embeddings, centres brought back to unit length.

    Parameters
    ----------
    embedding
        Unit-length rows, shape (n_cells, n_latent).
    n_centres
        How many.
    random_state
        Seed.
    start
        Centres to continue from, so that clusters keep their number as training goes, shape (n_centres, n_latent).
    n_init
        Restarts when there is nothing to continue from.
    """
    fit = KMeans(
        n_centres,
        init="k-means++" if start is None else start,
        n_init=n_init if start is None else 1,
        random_state=random_state,
    ).fit(embedding)
    return unit_rows(fit.cluster_centers_)
