"""Any form of a matrix gives the same rows as its plain one, or an error of ours that names the culprit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scfcmi.source import MatrixSource, as_source, dense, leave_on_disk, open_store, read_groups, select_source

from .conftest import times

DTYPES = ["float64", "float32", "int64", "int32", "uint8", "bool"]


def with_duplicates(x: np.ndarray, form: type) -> Any:
    """A compressed matrix in which every value stands as two entries, among them explicit zeros, in no order."""
    rows, columns = np.nonzero(np.ones_like(x))
    if form is sparse.csc_matrix:
        return with_duplicates(x.T.copy(), sparse.csr_matrix).T
    half = (
        x[rows, columns] // 2 if x.dtype.kind in "iu" else x[rows, columns] / 2 if x.dtype != bool else x[rows, columns]
    )
    data = np.stack([half.astype(x.dtype), (x[rows, columns] - half if x.dtype != bool else half).astype(x.dtype)], 1)
    indices = np.repeat(columns.reshape(x.shape)[:, ::-1], 2, axis=1)
    data = data.reshape(*x.shape, 2)[:, ::-1].reshape(x.shape[0], -1)
    indptr = np.arange(len(x) + 1) * 2 * x.shape[1]
    return form((data.ravel(), indices.ravel(), indptr), shape=x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def frozen(matrix: Any) -> Any:
    for part in (matrix.data, matrix.indices, matrix.indptr):
        part.flags.writeable = False
    return matrix


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": np.asarray,
    "columns first": np.asfortranarray,
    "read-only": read_only,
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "masked": np.ma.masked_array,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "coo": sparse.coo_matrix,
    "csr duplicates": lambda x: with_duplicates(x, sparse.csr_matrix),
    "csc duplicates": lambda x: with_duplicates(x, sparse.csc_matrix),
    "read-only csr duplicates": lambda x: frozen(with_duplicates(x, sparse.csr_matrix)),
    "read-only csr": lambda x: frozen(sparse.csr_matrix(x)),
    "table": pd.DataFrame,
    "nested lists": lambda x: x.tolist(),
}


def values(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    return (rng.poisson(0.8, shape) * (1.5 if dtype.startswith("f") else 1)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**31), st.integers(1, 7), st.booleans())
@settings(max_examples=6 * times(20), deadline=None)
def test_all_forms_give_the_same_rows(
    form: str, dtype: str, n: int, m: int, seed: int, size: int, few_columns: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = values(rng, (n, m), dtype)
    matrix = FORMS[form](x)
    before = matrix.data.tobytes() if sparse.issparse(matrix) else None
    source = as_source(matrix)
    want = x.astype(np.float32)
    if few_columns:
        columns = rng.permutation(m)[: max(1, m // 2)]
        source, want = source.restricted(columns), want[:, columns]
    found = [dense(block) for _, block in source.chunks(size)]
    np.testing.assert_allclose(np.concatenate(found), want, rtol=1e-6)
    index = rng.integers(0, n, 5)
    block = source.rows(index)
    np.testing.assert_allclose(dense(block), want[index], rtol=1e-6)
    assert block.dtype == np.float32
    assert not sparse.issparse(block) or block.has_canonical_format
    assert before is None or matrix.data.tobytes() == before


def test_entries_that_cancel_are_not_negative() -> None:
    data, indices = np.array([3.0, -2.0, 1.0, 4.0]), np.array([0, 0, 1, 1])
    cells = AnnData(sparse.csr_matrix((data, indices, [0, 2, 4]), shape=(2, 2)))
    source, _ = select_source(cells, mask_var=None)
    np.testing.assert_array_equal(dense(source.rows(slice(None))), [[1, 0], [0, 5]])


# empty cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("deferred", [False, True])
def test_empty_cells_are_reported(form: Callable[[np.ndarray], Any], deferred: bool) -> None:
    x = np.ones((700, 3)) * 1.5
    x[[4, 300, 699]] = 0
    x[7, :2] = 0
    cells = AnnData(form(x))
    with pytest.warns(UserWarning, match=r"adata\.X has 3 cells without counts in the genes in use .*position 4"):
        source, _ = select_source(cells, mask_var=None, deferred=deferred)
        assert source.empty.tolist() == [4, 300, 699]
    with pytest.warns(UserWarning, match="4 cells without counts"):
        source, _ = select_source(cells, mask_var=np.array([True, True, False]), deferred=True)
        for _ in source.chunks(100):
            pass
        assert source.empty.tolist() == [4, 7, 300, 699]
    assert source.empty.dtype == np.int64


def test_a_representation_has_no_empty_cells() -> None:
    cells = AnnData(obsm={"X_pca": np.zeros((5, 2))})
    assert select_source(cells, use_rep="X_pca", deferred=True)[0].empty.tolist() == []
    assert MatrixSource(np.zeros((5, 2))).empty.tolist() == []


# what is no matrix of numbers -----------------------------------------------------------------------------------------


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"ok": np.arange(4.0)} | columns, index=[f"c{i}" for i in range(4)])


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (table(word=list("abcd")), TypeError, r"Column 'word' of adata\.obsm\['r'\] must hold numbers"),
        (table(kind=pd.Categorical(list("aabb"))), TypeError, "Column 'kind' of .* must hold numbers, not category"),
        (table(gap=[1, None, 2, 3]), ValueError, "NaN or infinite values .*position 1, column 'gap'"),
        (table(gap=pd.array([1, None, 2, 3], "Int64")), ValueError, "position 1, column 'gap'"),
        (table()[[]], ValueError, r"adata\.obsm\['r'\] has no columns"),
        (np.empty((4, 0)), ValueError, r"adata\.obsm\['r'\] has no columns"),
        (np.array([[0, np.nan]] * 4), ValueError, r"adata\.obsm\['r'\] has NaN .*position 0, column 1"),
        (np.array([[1e300]] * 4), ValueError, "NaN or infinite values .*position 0, column 0"),
        (np.array([["a"]] * 4), TypeError, r"adata\.obsm\['r'\] must hold numbers, not <U1"),
        (np.ones((4, 2, 2)), ValueError, r"must be a matrix with two dimensions .*not shape \(4, 2, 2\)"),
        (np.ma.masked_array(np.ones((4, 1)), [[0], [1], [0], [0]]), ValueError, "NaN .*position 1, column 0"),
    ],
)
def test_representations_that_cannot_be_clustered(entry: Any, error: type[Exception], message: str) -> None:
    cells = AnnData(obs=table()[[]])
    cells.obsm._data["r"] = entry  # as files and older versions may hold it
    with pytest.raises(error, match=message):
        select_source(cells, use_rep="r")


def test_numbers_of_any_kind_in_a_table() -> None:
    entry = table(a=pd.array([1, 2, 3, 4], "Int64"), b=[True, False] * 2)
    source, names = select_source(AnnData(obs=table()[[]], obsm={"r": entry}), use_rep="r")
    assert names == ["ok", "a", "b"]
    np.testing.assert_array_equal(source.rows(slice(None))[:, 2], [1, 0, 1, 0])


@pytest.mark.parametrize("data", [[["a", "b"]], np.array([[None, 1]], object), np.array([[1j]])])
def test_what_is_not_made_of_numbers(data: Any) -> None:
    with pytest.raises(TypeError, match="X must hold numbers, not"):
        as_source(data)


# genes ----------------------------------------------------------------------------------------------------------------


def genes(**raw: Any) -> AnnData:
    x = np.arange(1.0, 13).reshape(3, 4)
    return AnnData(x, var=pd.DataFrame({"hvg": [True, False, True, False]}, index=list("abcd")), **raw)


@pytest.mark.parametrize("names", [["c", "a"], ("a", "c", "a"), pd.Index(["a", "c"]), np.array(["c", "a"])])
def test_genes_by_name(names: Any) -> None:
    source, found = select_source(genes(), mask_var=names)
    assert found == ["a", "c"]
    np.testing.assert_array_equal(source.rows(slice(None)), genes().X[:, [0, 2]])


def test_genes_that_are_not_there_or_stand_twice() -> None:
    with pytest.raises(KeyError, match=r"mask_var names 2 genes that are not in adata\.var_names \(first 'x'\)"):
        select_source(genes(), mask_var=["a", "x", "y"])
    twice = genes()
    twice.var_names = ["a", "a", "b", "c"]
    with pytest.raises(ValueError, match="mask_var names 'a', which more than one gene is called"):
        select_source(twice, mask_var=["a", "b"])


@pytest.mark.parametrize("on_disk", [False, True])
def test_raw_where_the_matrix_is_scaled(tmp_path: Path, on_disk: bool) -> None:
    scaled = genes()
    scaled.raw = AnnData(sparse.csr_matrix(np.ones((3, 6)) * 1.5), var=pd.DataFrame(index=list("fedcba")))
    scaled.X = scaled.X - 5
    with pytest.raises(ValueError, match=r"negative values \(smallest -4\).*pass use_raw=True if adata\.raw"):
        select_source(scaled)
    with pytest.raises(ValueError, match=r"use_raw=True, but adata\.raw is empty"):
        select_source(genes(), use_raw=True)
    with pytest.raises(ValueError, match="either layer='x' or use_raw=True, not both"):
        select_source(scaled, use_raw=True, layer="x")
    if not on_disk:
        check_raw(scaled)
        return
    scaled.write_h5ad(tmp_path / "a.h5ad")
    with open_store(tmp_path / "a.h5ad") as root:
        check_raw(leave_on_disk(root))


def check_raw(cells: AnnData) -> None:
    for mask, names in ((None, "fedcba"), ("hvg", "ca"), (["f", "a"], "fa"), (np.array([1, 0, 0, 1], bool), "da")):
        source, found = select_source(cells, mask_var=mask, use_raw=True)
        assert "".join(found) == names
        assert dense(source.rows(slice(None))).shape == (3, len(names))


def test_raw_without_the_genes_that_are_selected() -> None:
    cells = genes(raw={"X": np.ones((3, 2)), "var": pd.DataFrame(index=["x", "b"])})
    with pytest.raises(ValueError, match=r"No gene of adata\.raw has the name of one that mask_var='hvg' selects"):
        select_source(cells, mask_var="hvg", use_raw=True)


# groups × storage -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "integers": lambda codes: codes,
    "floats": lambda codes: codes.astype(float),
    "strings": lambda codes: codes.astype(str),
    "objects": lambda codes: codes.astype(str).astype(object),
    "categories": lambda codes: pd.Categorical(codes.astype(str), categories=[str(i) for i in range(2000)]),
    "ordered": lambda codes: pd.Categorical(codes, categories=range(9, -1, -1), ordered=True),
    "nullable": lambda codes: pd.array(codes, "Int64"),
    "pandas strings": lambda codes: pd.array(codes.astype(str), "string"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["memory", "h5ad", "zarr2", "zarr3"])
def test_groups_of_any_kind_are_the_same_from_anywhere(tmp_path: Path, kind: str, where: str) -> None:
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 9], 5))
    cells = AnnData(np.ones((20, 1)), obs=pd.DataFrame({"g": KINDS[kind](codes)}, index=[f"c{i}" for i in range(20)]))
    if where != "memory":
        with ad.settings.override(allow_write_nullable_strings=True, zarr_write_format=3 if where == "zarr3" else 2):
            path = tmp_path / f"a.{where[:4]}"
            cells.write_zarr(path) if where.startswith("zarr") else cells.write_h5ad(path)
        with open_store(path) as root:
            cells = leave_on_disk(root)
    groups = read_groups(cells.obs["g"])
    assert groups.levels == ("0", "1", "2", "9")
    assert np.array([0, 1, 2, 9])[groups.codes].tolist() == codes.tolist()
