"""Which matrix of an AnnData is clustered, and whether its values can be."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_MASK

from ._check import ExpressionCheck
from ._matrix import MatrixSource, as_source


def select_source(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    layer: str | None = None,
    mask_var: str | NDArray[np.bool_] | None = DEFAULT_MASK,
    deferred: bool = False,
) -> tuple[MatrixSource, list[str]]:
    """Choose the matrix to cluster, and check that it can be.

    Parameters
    ----------
    adata
        Annotated data.
    use_rep
        Entry of `obsm`, or `"X"`; expression (`X` or `layer`) when absent.
    layer
        Layer with log-normalised expression instead of `X`.
    mask_var
        Column of `var` or boolean array with the genes to use; the default column is used only if it exists.
    deferred
        Whether values are checked not now but in the first walk through the source, so that none is made for it alone.

    Returns
    -------
    The source and the names of its columns.
    """
    if adata.n_obs == 0:
        msg = "adata has no cells."
        raise ValueError(msg)
    if use_rep is not None and use_rep != "X":
        if layer is not None:
            msg = f"Give either use_rep={use_rep!r} or layer={layer!r}, not both."
            raise ValueError(msg)
        return _select_rep(adata, use_rep, deferred=deferred)
    if layer is not None and layer not in adata.layers:
        msg = f"layer={layer!r} is not in adata.layers; there are {_names(adata.layers)}."
        raise KeyError(msg)
    if adata.n_vars == 0:
        msg = "adata has no genes."
        raise ValueError(msg)
    matrix = adata.X if layer is None else adata.layers[layer]
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if matrix is None:
        msg = "adata.X is empty: choose a matrix with `layer` or `use_rep`."
        raise ValueError(msg)
    mask = _mask(adata, mask_var)
    all_genes = None if mask is None or mask.all() else MatrixSource(matrix).rows
    source = MatrixSource(matrix, mask, check=lambda: ExpressionCheck(where, all_genes))
    if not deferred:
        source.settle()
    names = adata.var_names if mask is None else adata.var_names[mask]
    return source, [str(name) for name in names]


def _select_rep(adata: AnnData, use_rep: str, *, deferred: bool) -> tuple[MatrixSource, list[str]]:
    if use_rep not in adata.obsm:
        msg = f"use_rep={use_rep!r} is not in adata.obsm; there are {_names(adata.obsm)}."
        raise KeyError(msg)
    matrix: Any = adata.obsm[use_rep]
    names = [f"{use_rep}_{i}" for i in range(matrix.shape[1])]
    if hasattr(matrix, "columns"):
        table = matrix if hasattr(matrix, "to_numpy") else matrix.to_memory()
        names, matrix = [str(name) for name in table.columns], table.to_numpy()
    source = as_source(matrix, f"adata.obsm[{use_rep!r}]")
    if not deferred:
        source.settle()
    return source, names


def _mask(adata: AnnData, mask_var: str | NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if mask_var is None:
        return None
    if isinstance(mask_var, str):
        if mask_var not in adata.var:
            if mask_var == DEFAULT_MASK:
                return None
            msg = f"mask_var={mask_var!r} is not a column of adata.var; there are {_names(adata.var)}."
            raise KeyError(msg)
        column, what = adata.var[mask_var].to_numpy(), f"adata.var[{mask_var!r}]"
    else:
        column, what = np.asarray(mask_var), "mask_var"
        if column.shape != (adata.n_vars,):
            msg = f"mask_var has shape {column.shape}, but adata has {adata.n_vars} genes."
            raise ValueError(msg)
    if column.dtype != bool:
        try:
            as_bool = column.astype(bool)
            same = bool((as_bool == column).all())
        except (TypeError, ValueError):
            same = False
        if not same:
            msg = f"{what} must be boolean, not {column.dtype}."
            raise ValueError(msg)
        column = as_bool
    if not column.any():
        msg = f"{what} selects no genes: nothing is left to cluster on."
        raise ValueError(msg)
    return column


def _names(mapping: Any) -> list[str]:
    return [str(name) for name in mapping.keys() if name is not None]  # layers have X under None in newer AnnData
