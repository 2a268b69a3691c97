"""Public data sets as AnnData: one that comes with scanpy, and others that are downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._fetch import fetch_all

LINES = ["H2228", "H1975", "HCC827"]
FILES = ("counts", "cells")


def pbmc() -> AnnData:
    """Peripheral blood mononuclear cells, 700 of the 68,000 of Zheng et al. 2017, as scanpy ships them: no download.

    One sample, so there is no batch; the phase of the cell cycle is an attribute that clusters should not follow
    either. The labels come from the correlation with sorted cells, and are soft between T cells.

    Returns
    -------
    Annotated data of 700 cells and 765 variable genes with log-normalised expression in `X` (CSR, `float32`), the
    columns `cell_type` and `phase` in `obs`, and the map of the original, `obsm["X_umap"]`.

    Examples
    --------
    >>> import scfcmi
    >>> adata = scfcmi.datasets.pbmc()
    >>> adata.shape, adata.obs["cell_type"].nunique(), list(adata.obs["phase"].cat.categories)
    ((700, 765), 10, ['G1', 'G2M', 'S'])
    """
    import scanpy as sc  # takes seconds, and simulators do without

    shipped = sc.datasets.pbmc68k_reduced()
    obs = shipped.obs[["bulk_labels", "phase", "n_genes", "n_counts", "percent_mito"]]
    return AnnData(
        X=sparse.csr_matrix(shipped.raw.X, dtype=np.float32),
        obs=obs.rename(columns={"bulk_labels": "cell_type"}),
        var=pd.DataFrame(index=shipped.raw.var_names.astype(str)),
        obsm={"X_umap": shipped.obsm["X_umap"]},
    )


def cell_mixture(*, cache_dir: str | os.PathLike[str] | None = None) -> AnnData:
    """Cells of three lung cancer lines, mixed and measured with CEL-seq2 and with Drop-seq (Tian et al. 2019).

    The lines are known from their genotypes, so that a clustering by line is the truth; an ordinary one follows the
    protocol. Downloads 3.5 MB the first time.

    Parameters
    ----------
    cache_dir
        Folder for downloads, see :func:`scfcmi.datasets.fetch`.

    Returns
    -------
    Annotated data of 499 cells with counts in `X` (CSR, `float32`), for the genes that both protocols measured, and the
    columns `cell_type` (the line) and `tech` in `obs`.

    Examples
    --------
    >>> import scfcmi
    >>> adata = scfcmi.datasets.cell_mixture()  # doctest: +SKIP
    """
    protocols = {"CEL-seq2": "celseq2", "Drop-seq": "dropseq"}
    return _joined("cell_mixture", protocols, lambda cells: cells["cell_line_demuxlet"], cache_dir)


def rna_mixture(*, cache_dir: str | os.PathLike[str] | None = None) -> AnnData:
    """RNA of three lung cancer lines in seven proportions, measured with CEL-seq2 and SORT-seq (Tian et al. 2019).

    A hard case: one mixture, of equal parts, lies in the middle of the others. Downloads 4.1 MB the first time.

    Parameters
    ----------
    cache_dir
        Folder for downloads, see :func:`scfcmi.datasets.fetch`.

    Returns
    -------
    Annotated data of 636 wells with counts in `X` (CSR, `float32`), for the genes that both protocols measured, and the
    columns `cell_type` (the shares of H2228, H1975 and HCC827, such as `"0.68/0.16/0.16"`) and `tech` in `obs`.

    Examples
    --------
    >>> import scfcmi
    >>> adata = scfcmi.datasets.rna_mixture()  # doctest: +SKIP
    """

    def proportions(cells: pd.DataFrame) -> pd.Series:
        return cells[[f"{line}_prop" for line in LINES]].map("{:.2f}".format).agg("/".join, axis=1)

    return _joined("rna_mixture", {"CEL-seq2": "celseq2", "SORT-seq": "sortseq"}, proportions, cache_dir)


def _joined(
    name: str,
    protocols: Mapping[str, str],
    kind: Callable[[pd.DataFrame], pd.Series],
    cache_dir: str | os.PathLike[str] | None,
) -> AnnData:
    """One data set of several protocols, whose files are `<name>_<protocol>_counts` and `_cells`."""
    parts = []
    paths = fetch_all([f"{name}_{file}_{what}" for file in protocols.values() for what in FILES], cache_dir=cache_dir)
    for protocol, pair in zip(protocols, zip(paths[::2], paths[1::2], strict=True), strict=True):
        counts, cells = (pd.read_csv(path, index_col=0) for path in pair)
        names = [f"{protocol}_{cell}" for cell in counts.columns]
        kinds = kind(cells).reindex(counts.columns).to_numpy()
        parts.append(
            AnnData(
                X=sparse.csr_matrix(counts.to_numpy(dtype=np.float32).T),
                obs=pd.DataFrame({"cell_type": kinds, "tech": protocol}, index=names),
                var=pd.DataFrame(index=counts.index.astype(str)),
            )
        )
    adata = ad.concat(parts, join="inner")
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    for key in ("cell_type", "tech"):
        adata.obs[key] = pd.Categorical(adata.obs[key])
    return adata
