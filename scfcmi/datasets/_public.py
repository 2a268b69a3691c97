"""Public data sets as AnnData."""

from __future__ import annotations

import os

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._fetch import fetch

PROTOCOLS = {"CEL-seq2": "celseq2", "Drop-seq": "dropseq"}


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
    parts = [_read(protocol, file, cache_dir) for protocol, file in PROTOCOLS.items()]
    adata = ad.concat(parts, join="inner")
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    for key in ("cell_type", "tech"):
        adata.obs[key] = pd.Categorical(adata.obs[key])
    return adata


def _read(protocol: str, file: str, cache_dir: str | os.PathLike[str] | None) -> AnnData:
    counts = pd.read_csv(fetch(f"cell_mixture_{file}_counts", cache_dir=cache_dir), index_col=0)
    cells = pd.read_csv(fetch(f"cell_mixture_{file}_cells", cache_dir=cache_dir), index_col=0)
    names = [f"{protocol}_{cell}" for cell in counts.columns]
    lines = cells["cell_line_demuxlet"].reindex(counts.columns).to_numpy()
    return AnnData(
        X=sparse.csr_matrix(counts.to_numpy(dtype=np.float32).T),
        obs=pd.DataFrame({"cell_type": lines, "tech": protocol}, index=names),
        var=pd.DataFrame(index=counts.index.astype(str)),
    )
