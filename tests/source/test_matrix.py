"""Rows of every kind of matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from anndata.io import write_elem
from scipy import sparse

from scfcmi.source import MatrixSource, as_source, select_source
from scfcmi.source._matrix import dense

VALUES = np.random.default_rng(0).poisson(0.7, size=(50, 12)).astype(np.float64)
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.asarray,
    "int": lambda v: v.astype(np.int32),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_matrix,
    "csr_array": sparse.csr_array,
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("columns", [None, np.arange(12) % 3 == 0, np.array([7, 0, 3])])
def test_rows(form: str, columns: np.ndarray | None) -> None:
    source = MatrixSource(FORMS[form](VALUES), columns)
    want = VALUES if columns is None else VALUES[:, columns]
    assert source.shape == want.shape
    assert source.in_memory
    index = np.array([30, 2, 2, 41])
    block = source.rows(index)
    assert block.dtype == np.float32
    assert sparse.issparse(block) == (form not in ("dense", "int"))
    np.testing.assert_array_equal(dense(block), want[index])
    np.testing.assert_array_equal(dense(source.rows(slice(10, 20))), want[10:20])


@pytest.mark.parametrize("size", [None, 7, 50])
def test_chunks_cover_all_rows_in_order(size: int | None) -> None:
    parts = list(MatrixSource(sparse.csr_matrix(VALUES)).chunks(size))
    np.testing.assert_array_equal(np.concatenate([dense(block) for _, block in parts]), VALUES)
    assert [rows.start for rows, _ in parts] == list(range(0, 50, size or 50))
    assert parts[-1][0].stop == 50


def test_wide_matrices_are_read_in_small_chunks() -> None:
    wide = MatrixSource(sparse.csr_matrix((3000, 100_000), dtype=np.float32))
    sizes = [rows.stop - rows.start for rows, _ in wide.chunks()]
    assert max(sizes) * 100_000 * 4 <= 256 * 100_000 * 4
    assert sum(sizes) == 3000


@pytest.mark.parametrize("as_sparse", [True, False])
def test_rows_of_a_file_in_any_order(tmp_path: Path, as_sparse: bool) -> None:
    AnnData(sparse.csr_matrix(VALUES) if as_sparse else VALUES).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    source = as_source(backed.X)
    assert not source.in_memory
    index = np.array([30, 2, 41, 7])
    np.testing.assert_array_equal(dense(source.rows(index)), VALUES[index])
    np.testing.assert_array_equal(np.concatenate([dense(block) for _, block in source.chunks(20)]), VALUES)
    backed.file.close()


def test_rows_of_a_file_asked_for_twice(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        source = as_source(file.create_dataset("x", data=VALUES))
        index = np.array([30, 2, 2, 30])
        np.testing.assert_array_equal(dense(source.rows(index)), VALUES[index])


def test_as_source() -> None:
    source = as_source(VALUES.tolist())
    assert source.shape == (50, 12)
    assert as_source(source) is source
    with pytest.raises(ValueError, match=r"two dimensions.*not shape \(50,\)"):
        as_source(VALUES[:, 0])


def test_a_table_is_its_values(adata: AnnData) -> None:
    table = adata.to_df()
    source = as_source(table)
    np.testing.assert_array_equal(dense(source.rows(np.array([5, 1]))), table.to_numpy()[[5, 1]])


def test_selected_names(adata: AnnData) -> None:
    adata.obsm["X_pca"] = np.ones((300, 3))
    assert select_source(adata)[1] == list(adata.var_names)
    assert select_source(adata, use_rep="X_pca")[1] == ["X_pca_0", "X_pca_1", "X_pca_2"]
    source, names = select_source(adata, mask_var=np.arange(100) >= 97)
    assert names == ["gene97", "gene98", "gene99"]
    assert source.shape == (300, 3)
    with pytest.raises(ValueError, match="adata has no cells"):
        select_source(adata[:0])


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_what_lies_in_a_store_is_a_matrix(tmp_path: Path, kind: str) -> None:
    x = sparse.random(20, 5, 0.4, format="csr", dtype=np.float32, random_state=0)
    root = zarr.open_group(tmp_path / "a.zarr", mode="w") if kind == "zarr" else h5py.File(tmp_path / "a.h5", "w")
    write_elem(root, "sparse", x)
    write_elem(root, "dense", x.toarray())
    for name in ("sparse", "dense"):
        np.testing.assert_array_equal(dense(as_source(root[name]).rows(slice(3, 9))), x[3:9].toarray())


def test_a_series_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="X must be a matrix with two dimensions"):
        as_source(pd.Series([1.0, 2.0]))
