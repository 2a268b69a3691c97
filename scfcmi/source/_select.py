"""Which matrix of an AnnData is clustered, and whether its values can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._warn import warn

from ._matrix import MatrixSource

DEFAULT_MASK = "highly_variable"


def select_source(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    layer: str | None = None,
    mask_var: str | NDArray[np.bool_] | None = DEFAULT_MASK,
) -> tuple[MatrixSource, list[str]]:
    """Choose and validate the matrix to cluster.

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
        return _select_rep(adata, use_rep)
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
    source = MatrixSource(matrix, mask)
    _check_expression(source, MatrixSource(matrix), where)
    names = adata.var_names if mask is None else adata.var_names[mask]
    return source, [str(name) for name in names]


def _select_rep(adata: AnnData, use_rep: str) -> tuple[MatrixSource, list[str]]:
    if use_rep not in adata.obsm:
        msg = f"use_rep={use_rep!r} is not in adata.obsm; there are {_names(adata.obsm)}."
        raise KeyError(msg)
    matrix: Any = adata.obsm[use_rep]
    names = [f"{use_rep}_{i}" for i in range(matrix.shape[1])]
    if hasattr(matrix, "to_numpy"):
        names, matrix = [str(name) for name in matrix.columns], matrix.to_numpy()
    source = MatrixSource(matrix)
    for rows, block in source.chunks():
        _check_finite(block, rows, f"adata.obsm[{use_rep!r}]")
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


def _check_expression(source: MatrixSource, unmasked: MatrixSource, where: str) -> None:
    """One pass over the values: finite, non-negative, no empty cells, and not raw counts."""
    all_integer, largest, empty = True, 0.0, []
    for rows, block in source.chunks():
        values = block.data if sp.issparse(block) else block
        _check_finite(block, rows, where)
        if values.size:
            lowest = float(values.min())
            if lowest < 0:
                msg = (
                    f"{where} has negative values (smallest {lowest:.3g}), so it is not log-normalised expression. "
                    "If it was scaled, keep the log-normalised matrix in a layer and pass `layer`, "
                    "or cluster principal components with use_rep='X_pca'."
                )
                raise ValueError(msg)
            largest = max(largest, float(values.max()))
            all_integer = all_integer and bool((values == np.rint(values)).all())
        totals = np.asarray(block.sum(axis=1)).ravel()
        empty.extend((np.flatnonzero(totals == 0) + rows.start).tolist())
    if empty:
        _check_empty(np.asarray(empty), source, unmasked, where)
    if all_integer and largest > 1:
        msg = (
            f"{where} holds integers, probably raw counts, where log-normalised values are expected. "
            "Run `sc.pp.normalize_total(adata)` and `sc.pp.log1p(adata)` first, or choose a log-normalised `layer`."
        )
        warn(msg)


def _check_finite(block: Any, rows: slice, where: str) -> None:
    values = block.data if sp.issparse(block) else block
    # The sum is finite if and only if every value is (float32 sums of expression do not overflow in float64).
    with np.errstate(invalid="ignore"):  # infinities of both signs
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total):
        bad = ~np.isfinite(block.toarray() if sp.issparse(block) else block)
        row = int(np.flatnonzero(bad.any(axis=1))[0]) + rows.start
        msg = (
            f"{where} has NaN or infinite values (first in the cell at position {row}). "
            "Remove or impute them before clustering."
        )
        raise ValueError(msg)


def _check_empty(empty: NDArray[np.int64], source: MatrixSource, unmasked: MatrixSource, where: str) -> None:
    is_masked = unmasked.shape[1] != source.shape[1]
    totals = np.asarray(unmasked.rows(empty).sum(axis=1)).ravel() if is_masked else np.zeros(len(empty))
    if (totals == 0).any():
        first = int(empty[totals == 0][0])
        msg = (
            f"{where} has {int((totals == 0).sum())} all-zero cells (first at position {first}). "
            "Remove them first with `sc.pp.filter_cells(adata, min_counts=1)`."
        )
        raise ValueError(msg)
    msg = (
        f"{len(empty)} cells have no counts in the selected genes (first at position {int(empty[0])}); "
        "their cluster says nothing. Select more genes or remove these cells."
    )
    warn(msg)


def _names(mapping: Any) -> list[str]:
    return [str(name) for name in mapping.keys() if name is not None]  # layers have X under None in newer AnnData
