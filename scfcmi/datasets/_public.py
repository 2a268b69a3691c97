"""Public data sets as AnnData."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._fetch import fetch

LINES = ["H2228", "H1975", "HCC827"]


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
    for protocol, file in protocols.items():
        counts = pd.read_csv(fetch(f"{name}_{file}_counts", cache_dir=cache_dir), index_col=0)
        cells = pd.read_csv(fetch(f"{name}_{file}_cells", cache_dir=cache_dir), index_col=0)
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
