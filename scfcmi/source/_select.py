"""Which matrix of an AnnData is clustered, and whether its values can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, Raw
from numpy.typing import ArrayLike, NDArray

from scfcmi._keys import DEFAULT_MASK

from ._check import ExpressionCheck
from ._matrix import MatrixSource, as_source, numbers_of
from ._storage import check_numeric


def select_source(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    layer: str | None = None,
    mask_var: str | Sequence[str] | NDArray[np.bool_] | None = DEFAULT_MASK,
    use_raw: bool = False,
    deferred: bool = False,
) -> tuple[MatrixSource, list[str]]:
    """Choose the matrix to cluster, and check that it can be.

    Parameters
    ----------
    adata
        Annotated data.
    use_rep
        Entry of `obsm`, or `"X"`; expression (`X`, `layer` or `raw`) when absent.
    layer
        Layer with log-normalised expression instead of `X`.
    mask_var
        Column of `var`, boolean array or names of the genes to use; the default column is used only if it exists.
    use_raw
        Whether to take the matrix and the genes of `adata.raw` instead of `X`. A column of `var` or an array for the
        genes of `adata` selects the genes of these names.
    deferred
        Whether values are checked not now but in the first walk through the source, so that none is made for it alone.

    Returns
    -------
    The source and the names of its columns.

    Raises
    ------
    KeyError
        If a layer, representation, column or gene does not exist.
    TypeError
        If the matrix does not hold numbers.
    ValueError
        If there is no such matrix, it has no cells or columns, or more than one is asked for; or if values are NaN,
        infinite or, of expression, negative or all 0.
    """
    if adata.n_obs == 0:
        msg = "adata has no cells."
        raise ValueError(msg)
    use_rep = None if use_rep == "X" else use_rep
    given = {"use_rep": use_rep, "layer": layer, "use_raw": use_raw or None}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        msg = f"Give either {' or '.join(f'{name}={value!r}' for name, value in given.items())}, not both."
        raise ValueError(msg)
    if use_rep is not None:
        return _select_rep(adata, use_rep, deferred=deferred)
    if layer is not None and layer not in adata.layers:
        msg = f"layer={layer!r} is not in adata.layers; there are {_names(adata.layers)}."
        raise KeyError(msg)
    if use_raw and adata.raw is None:
        msg = "use_raw=True, but adata.raw is empty."
        raise ValueError(msg)
    genes = adata.raw.var_names if use_raw else adata.var_names
    if len(genes) == 0:
        msg = "adata has no genes."
        raise ValueError(msg)
    matrix = adata.raw.X if use_raw else adata.X if layer is None else adata.layers[layer]
    where = "adata.raw.X" if use_raw else "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if matrix is None:
        msg = "adata.X is empty: choose a matrix with `layer` or `use_rep`."
        raise ValueError(msg)
    check_numeric(matrix, where)
    mask = _raw_mask(adata, mask_var) if use_raw else _mask(adata, mask_var)
    instead = "keep the log-normalised matrix in a layer and pass `layer`, or use_rep='X_pca' for principal components."
    if adata.raw is not None and not use_raw:
        instead = f"pass use_raw=True if adata.raw holds what it was before; otherwise {instead}"
    instead = f"If it was scaled, {instead}"
    source = MatrixSource(matrix, mask, check=lambda columns: ExpressionCheck(where, genes, columns, instead))
    if not deferred:
        source.settle()
    names = genes if mask is None else genes[mask]
    return source, [str(name) for name in names]


def _select_rep(adata: AnnData, use_rep: str, *, deferred: bool) -> tuple[MatrixSource, list[str]]:
    if use_rep not in adata.obsm:
        msg = f"use_rep={use_rep!r} is not in adata.obsm; there are {_names(adata.obsm)}."
        raise KeyError(msg)
    matrix: Any = adata.obsm[use_rep]
    where = f"adata.obsm[{use_rep!r}]"
    if hasattr(matrix, "columns"):
        matrix = matrix if isinstance(matrix, pd.DataFrame) else matrix.to_memory()
        names, _ = numbers_of(matrix, where)
        source = as_source(matrix, where)
    else:
        source = as_source(matrix, where)
        names = [f"{use_rep}_{i}" for i in range(source.shape[1])]
    if not deferred:
        source.settle()
    return source, names


def _raw_mask(adata: AnnData, mask_var: str | Sequence[str] | NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Genes of `raw`, by a column of its own table, or by name of those chosen among the genes of `adata`."""
    raw = adata.raw
    by_name = not isinstance(mask_var, str) and mask_var is not None and _are_names(mask_var)
    if by_name or (isinstance(mask_var, str) and mask_var in raw.var):
        return _mask(raw, mask_var)
    mask = _mask(adata, mask_var)
    if mask is None:
        return None
    mask = np.asarray(raw.var_names.isin(adata.var_names[mask]))
    if not mask.any():
        msg = f"No gene of adata.raw has the name of one that mask_var={mask_var!r} selects."
        raise ValueError(msg)
    return mask


def _mask(adata: AnnData | Raw, mask_var: str | Sequence[str] | NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if mask_var is None:
        return None
    column: Any
    if isinstance(mask_var, str):
        if mask_var not in adata.var:
            if mask_var == DEFAULT_MASK:
                return None
            msg = f"mask_var={mask_var!r} is not a column of adata.var; there are {_names(adata.var)}."
            raise KeyError(msg)
        column, what = adata.var[mask_var], f"adata.var[{mask_var!r}]"
        if column.ndim != 1:
            msg = f"adata.var has more than one column called {mask_var!r}. Rename them."
            raise ValueError(msg)
        column = column.to_numpy()
    elif _are_names(mask_var):
        column, what = _named(adata, mask_var), "mask_var"
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


def _are_names(values: Any) -> bool:
    return np.ndim(values) == 1 and len(values) > 0 and all(isinstance(value, str) for value in values)


def _named(adata: AnnData | Raw, names: ArrayLike) -> NDArray[np.bool_]:
    """Which genes have these names."""
    wanted = pd.Index(np.asarray(names, object)).unique()
    missing = wanted.difference(adata.var_names, sort=False)
    if len(missing):
        msg = f"mask_var names {len(missing)} genes that are not in adata.var_names (first {missing[0]!r})."
        raise KeyError(msg)
    found = np.asarray(adata.var_names.isin(wanted))
    if found.sum() > len(wanted):
        twice = adata.var_names[found]
        msg = f"mask_var names {twice[twice.duplicated()][0]!r}, which more than one gene is called."
        raise ValueError(msg)
    return found


def _names(mapping: Any) -> list[str]:
    return [str(name) for name in mapping.keys() if name is not None]  # layers have X under None in newer AnnData
