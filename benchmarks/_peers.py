"""Reading data, and the methods that labels are compared with: one function from normalised data to positions each.

Preprocessing is the same for all: 10,000 counts per cell and log1p unless values are logarithms already, at most 2,000
highly variable genes. For the peers follow scaling, 30 principal components, scanpy's neighbours and its Leiden on
igraph with two iterations, at resolution 1, or at the one that gives a number of clusters.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from scipy import sparse

import scfcmi

N_COMPS = 30
OURS = "scfcmi"
Labels = NDArray[np.str_]
Positions = NDArray[np.floating]
Run = tuple[Labels, float]
NUMBERS = ("given", "unknown")

SETS = [
    "cell_lines_li_rca",
    "cellmix_3cl_3protocol",
    "cellmix_5protocol_mixology",
    "interneurons_zeisel_tasic",
    "kang_6sample_distinct_100g",
    "kang_ifnb_combined",
    "onek1k_40donor",
    "pancreas_baron_human_4donor",
    "pancreas_panc8_nebula_1k",
    "pancreas_xin_wang_scclassify",
    "pbmc_10x_3tech_symphony",
    "pbmc_dropseq_indrops_scannotate",
    "pbmc_tnk_brca_4batch",
    "tran_dataset3_simul2",
    "zeisel_47types_null",
]


def read(path: Path) -> ad.AnnData:
    """A data set as log-normalised values of at most 2,000 genes, with a layer of counts where there are any."""
    adata = ad.read_h5ad(path)
    adata.obs_names_make_unique()
    if "counts" not in adata.layers and is_counts(adata):
        adata = normalised(adata)
    return variable(adata)


def is_counts(adata: ad.AnnData) -> bool:
    """Whether `X` holds counts: FPKM and corrected counts are not whole, but no logarithm of normalised ones is 30."""
    values = adata.X.data
    return bool((values == values.round()).mean() > 0.5 or values.max() > 30)


def read_counts(path: Path) -> ad.AnnData | None:
    """The largest batch of a data set as counts of all genes, or nothing if there are none."""
    adata = ad.read_h5ad(path)
    adata.obs_names_make_unique()
    if "counts" in adata.layers:
        adata.X = adata.layers.pop("counts")
    elif not is_counts(adata):
        return None
    return largest_batch(adata)


def largest_batch(adata: ad.AnnData) -> ad.AnnData:
    """The cells of the largest batch alone."""
    return adata[(adata.obs["batch"] == adata.obs["batch"].value_counts().index[0]).to_numpy()].copy()


def normalised(adata: ad.AnnData) -> ad.AnnData:
    """Logarithms of normalised counts, the counts in a layer; cells without any are dropped."""
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def variable(adata: ad.AnnData) -> ad.AnnData:
    """At most 2,000 highly variable genes."""
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000, subset=True)
    return adata


def pca(adata: ad.AnnData, key: str, seed: int) -> Positions:
    """Principal components of scaled expression, or those that the data come with."""
    if "X_pca" in adata.obsm:
        return adata.obsm["X_pca"]
    scaled = ad.AnnData(adata.X.toarray() if sparse.issparse(adata.X) else adata.X.copy())
    sc.pp.scale(scaled, max_value=10)
    sc.pp.pca(scaled, n_comps=min(N_COMPS, *(size - 1 for size in scaled.shape)), random_state=seed)
    return scaled.obsm["X_pca"]


def harmony(adata: ad.AnnData, key: str, seed: int) -> Positions:
    """Principal components that Harmony has corrected."""
    import harmonypy

    scores = pca(adata, key, seed)
    found = harmonypy.run_harmony(scores, adata.obs, key, verbose=False, random_state=seed)
    corrected = np.asarray(found.Z_corr)
    return np.ascontiguousarray(corrected if len(corrected) == len(scores) else corrected.T, dtype=np.float32)


def scvi(adata: ad.AnnData, key: str, seed: int) -> Positions:
    """Latent space of scVI with its own defaults, stopping early, on counts rounded to whole numbers."""
    import scvi as tools

    tools.settings.seed = seed
    counts = ad.AnnData(adata.layers["counts"].copy(), obs=adata.obs[[key]].astype(str))
    counts.X.data = np.rint(counts.X.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools.model.SCVI.setup_anndata(counts, batch_key=key)
        model = tools.model.SCVI(counts)
        model.train(accelerator="cpu", early_stopping=True, enable_progress_bar=False, logger=False)
    return model.get_latent_representation()


PEERS: dict[str, Callable[[ad.AnnData, str, int], Positions]] = {
    "PCA + Leiden": pca,
    "Harmony2 + Leiden": harmony,
    "scVI + Leiden": scvi,
}
METHODS = [OURS, *PEERS]


def applies(method: str, adata: ad.AnnData) -> bool:
    """Whether the method can run here at all: its package is installed, and it has the counts that it needs."""
    if method == "Harmony2 + Leiden":
        return find_spec("harmonypy") is not None
    if method == "scVI + Leiden":
        return find_spec("scvi") is not None and "counts" in adata.layers
    return True


def neighbours(positions: Positions, seed: int) -> ad.AnnData:
    """Scanpy's graph of nearest neighbours, in an object of its own."""
    graph = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(positions))]), obsm={"X_rep": positions})
    sc.pp.neighbors(graph, use_rep="X_rep", random_state=seed)
    return graph


def leiden(graph: ad.AnnData, resolution: float, seed: int) -> Labels:
    """Leiden as scanpy recommends it."""
    sc.tl.leiden(graph, resolution, flavor="igraph", n_iterations=2, random_state=seed, key_added="leiden")
    return graph.obs["leiden"].to_numpy(str)


def leiden_at(graph: ad.AnnData, n_clusters: int, seed: int) -> Run:
    """Bisect the resolution until the number of clusters is right, or as near as it gets; seconds of that run alone."""
    low, high, best, best_gap = 1e-3, 20.0, (np.empty(0, str), np.nan), np.inf
    for _ in range(20):
        resolution = float(np.sqrt(low * high))
        start = time.perf_counter()
        labels = leiden(graph, resolution, seed)
        seconds = time.perf_counter() - start
        gap = len(np.unique(labels)) - n_clusters
        if abs(gap) < best_gap:
            best, best_gap = (labels, seconds), abs(gap)
        if gap == 0:
            break
        low, high = (resolution, high) if gap < 0 else (low, resolution)
    return best


def ours(
    adata: ad.AnnData,
    key: str,
    n_clusters: int | None,
    seed: int,
    **options: Any,
) -> Labels:
    """Labels of `tl.fair_cluster`, on the components that the data come with or on their expression."""
    if "X_pca" in adata.obsm:
        options.setdefault("use_rep", "X_pca")
    scfcmi.tl.fair_cluster(adata, key, n_clusters, random_state=seed, progress_bar=False, **options)
    return adata.obs["fair_cluster"].to_numpy(str)


def clustered(
    method: str, adata: ad.AnnData, key: str, n_types: int, seed: int, numbers: Sequence[str] = NUMBERS
) -> dict[str, Run]:
    """Labels of one method with the number of clusters given and unknown, and wall seconds from normalised data.

    Neighbours are found once for both, and counted in both; the search for a resolution is not counted.
    """
    start = time.perf_counter()
    if method == OURS:
        found = {}
        for number in numbers:
            start = time.perf_counter()
            labels = ours(adata, key, n_types if number == "given" else None, seed)
            found[number] = (labels, time.perf_counter() - start)
        return found
    graph = neighbours(PEERS[method](adata, key, seed), seed)
    before = time.perf_counter() - start
    found = {}
    for number in numbers:
        if number == "given":
            labels, seconds = leiden_at(graph, n_types, seed)
        else:
            start = time.perf_counter()
            labels, seconds = leiden(graph, 1.0, seed), time.perf_counter() - start
        found[number] = (labels, before + seconds)
    return found


def warm_up(method: str) -> None:
    """Run a method once on little, so that imports and compilation are not timed."""
    adata = normalised(scfcmi.datasets.simulated_atlas(300, 100, 3, random_state=0))
    if applies(method, adata):
        clustered(method, adata, "tech", 3, 0)
    if method != OURS:
        # scanpy searches neighbours in another way, which compiles for long, from 8,192 cells on
        neighbours(np.random.default_rng(0).normal(size=(8192, N_COMPS)).astype(np.float32), 0)
