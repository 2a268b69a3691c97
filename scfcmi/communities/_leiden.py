"""Small clusters: the Leiden algorithm on a graph of neighbours weighted by distance."""

from __future__ import annotations

import random
import threading

import igraph
import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

# Resolution at which clusters are small: what belongs together is joined afterwards.
FINE_RESOLUTION = 8.0
# Steps in which the width of each point's weights is bracketed and halved in: to a few millionths.
HALVINGS = 25
# igraph has one generator for all threads.
_LOCK = threading.Lock()


def connectivities(index: Tensor, distance: Tensor) -> sp.csr_matrix:
    """Symmetric weights of neighbours, those of UMAP (McInnes, Healy & Melville 2018), shape (n_points, n_points).

    A neighbour's weight falls exponentially with how much farther it is than the nearest one, at a rate at which every
    point has the same total.

    Parameters
    ----------
    index, distance
        Neighbours of every point, nearest first, shapes (n_points, k).
    """
    n, k = index.shape
    beyond = (distance - distance[:, :1]).double()
    low, high = torch.zeros(n, dtype=torch.double), torch.full((n,), torch.inf, dtype=torch.double)
    beyond = beyond.cpu()
    width = beyond.mean(1).clamp_min(1e-12)
    for _ in range(HALVINGS):
        too_wide = torch.exp(-beyond / width[:, None]).sum(1) > np.log2(max(k, 2))
        high, low = torch.where(too_wide, width, high), torch.where(too_wide, low, width)
        width = torch.where(torch.isinf(high), 2 * width, (low + high) / 2)
    width = width.clamp_min(1e-3 * float(distance.mean())).clamp_min(1e-12)
    weight = torch.exp(-beyond / width[:, None]).numpy()
    rows = np.repeat(np.arange(n), k)
    directed = sp.csr_matrix((weight.ravel(), (rows, index.cpu().numpy().ravel())), shape=(n, n))
    back = directed.T.tocsr()
    return (directed + back - directed.multiply(back)).tocsr()


def small_clusters(graph: sp.csr_matrix, random_state: int) -> NDArray[np.int64]:
    """Leiden communities (Traag, Waltman & van Eck 2019) at a high resolution, shape (n_points,).

    Parameters
    ----------
    graph
        Symmetric weights, shape (n_points, n_points).
    random_state
        Seed.
    """
    upper = sp.triu(graph, 1).tocoo()
    points = igraph.Graph(graph.shape[0])
    points.add_edges(np.stack([upper.row, upper.col], axis=1).astype(np.int64))
    with _LOCK:
        igraph.set_random_number_generator(random.Random(int(random_state)))
        try:
            found = points.community_leiden(
                "modularity", weights=upper.data, resolution=FINE_RESOLUTION, n_iterations=2
            )
        finally:
            igraph.set_random_number_generator(random)
    return np.unique(found.membership, return_inverse=True)[1].astype(np.int64)
