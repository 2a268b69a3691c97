"""Every kind of storage gives the same rows, whole and in pieces, and is not read more often than said."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions
from scfcmi.source import MatrixSource, as_source, select_source
from scfcmi.source import _storage as storage
from scfcmi.source._matrix import dense

N, M = 300, 40
QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu"}


def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.poisson(0.4, size=(N, M)) + (rng.random((N, M)) < 0.05)
    for k in range(3):
        x[k::3, 8 * k : 8 * (k + 1)] += rng.poisson(3.0, size=(N // 3, 8))
    return np.log1p(x).astype(np.float32)


GROUPS = np.array(["a", "b"])[np.arange(N) // 3 % 2]
VALUES = values()


def dask_array(x: Any, chunks: tuple[int, int]) -> Any:
    return pytest.importorskip("dask.array").from_array(x, chunks=chunks, asarray=False)


def collection(folder: Path, as_sparse: bool) -> Any:
    """An annbatch collection of several data sets, in the order of the cells."""
    annbatch = pytest.importorskip("annbatch")
    AnnData(sparse.csr_matrix(VALUES) if as_sparse else VALUES).write_zarr(folder / "a.zarr")
    made = annbatch.DatasetCollection(folder / "collection.zarr", mode="a")
    return made.add_adatas([folder / "a.zarr"], shuffle=False, dataset_size=110, shuffle_chunk_size=110)


def stored(root: Any, form: Callable[[np.ndarray], Any]) -> Any:
    write_elem(root, "m", form(VALUES))
    return root["m"] if form is np.asarray else sparse_dataset(root["m"])


def hdf5(folder: Path) -> h5py.File:
    return h5py.File(folder / "a.h5", "w")


def zarr_group(folder: Path) -> zarr.Group:
    return zarr.open_group(folder / "a.zarr", mode="w")


KINDS: dict[str, Callable[[Path], Any]] = {
    "csr": lambda _: sparse.csr_matrix(VALUES),
    "csc": lambda _: sparse.csc_array(VALUES),
    "coo": lambda _: sparse.coo_matrix(VALUES),
    "float64": lambda _: VALUES.astype(np.float64),
    "h5 csr": lambda folder: stored(hdf5(folder), sparse.csr_matrix),
    "h5 csc": lambda folder: stored(hdf5(folder), sparse.csc_matrix),
    "h5 dense": lambda folder: stored(hdf5(folder), np.asarray),
    "zarr csr": lambda folder: stored(zarr_group(folder), sparse.csr_matrix),
    "zarr csc": lambda folder: stored(zarr_group(folder), sparse.csc_matrix),
    "zarr dense": lambda folder: stored(zarr_group(folder), np.asarray),
    "zarr group": lambda folder: stored(zarr_group(folder), sparse.csr_matrix).group,
    "dask dense": lambda _: dask_array(VALUES, (70, 11)),
    "dask csr": lambda _: dask_array(sparse.csr_matrix(VALUES), (70, M)),
    "dask csc": lambda _: dask_array(sparse.csc_matrix(VALUES), (N, 11)),
    "annbatch csr": lambda folder: collection(folder, True),
    "annbatch dense": lambda folder: collection(folder, False),
}
DENSE = {"float64", "h5 dense", "zarr dense", "dask dense", "annbatch dense"}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("columns", [None, np.arange(M) % 3 == 0, np.array([7, 0, 3])], ids=["all", "mask", "order"])
@pytest.mark.parametrize("strip", [10**9, 500], ids=["whole", "strips"])
def test_rows_and_chunks(
    kind: str, columns: np.ndarray | None, strip: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STRIP_ENTRIES", strip)
    monkeypatch.setattr(storage, "PIECE_ENTRIES", strip // 5)
    want = VALUES if columns is None else VALUES[:, columns]
    source = as_source(KINDS[kind](tmp_path))
    source = source if columns is None else source.restricted(columns)
    assert source.shape == want.shape
    for index in (np.array([250, 3, 2, 2, 251]), np.array([0, 290]), np.arange(100, 180, 2)):
        block = source.rows(index)
        assert block.dtype == np.float32
        assert sparse.issparse(block) == (kind not in DENSE)
        np.testing.assert_array_equal(dense(block), want[index])
    np.testing.assert_array_equal(dense(source.rows(slice(60, 230))), want[60:230])
    for size in (None, 64, N):
        parts = list(source.chunks(size))
        assert [(rows.start, rows.stop) for rows, _ in parts] == list(
            itertools.pairwise([*range(0, N, size or source.chunk_size), N])
        )
        np.testing.assert_array_equal(np.concatenate([dense(block) for _, block in parts]), want)


@pytest.fixture(scope="module")
def expected() -> dict[bool, FCMI]:
    """The results for matrices in memory: sparse and dense ones differ by rounding."""
    models = {s: FCMI(3, **QUICK).fit(sparse.csr_matrix(VALUES) if s else VALUES, GROUPS) for s in (True, False)}
    assert np.bincount(models[True].assignment_.labels).tolist() == [100, 100, 100]
    return models


def test_same_labels(kind: str, expected: dict[bool, FCMI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STRIP_ENTRIES", 2000)
    want = expected[kind not in DENSE]
    matrix = KINDS[kind](tmp_path)
    model = FCMI(3, **QUICK).fit(matrix, GROUPS)
    np.testing.assert_array_equal(model.assignment_.labels, want.assignment_.labels)
    np.testing.assert_array_equal(model.assignment_.proba, want.assignment_.proba)
    np.testing.assert_array_equal(model.assignment_.labels, expected[True].assignment_.labels)
    np.testing.assert_array_equal(model.predict(matrix), want.assignment_.labels)


class Counting:
    """A matrix on disk, as far as anyone can tell, that counts how often each row is asked for."""

    def __init__(self, matrix: Any) -> None:
        self._matrix, self.shape = matrix, matrix.shape
        self.reads, self.calls = np.zeros(matrix.shape[0], int), 0

    def __getitem__(self, rows: Any) -> Any:
        self.reads[rows] += 1
        self.calls += 1
        return self._matrix[rows]


def small_chunks(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(MatrixSource, "chunk_size", rows)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_how_often_rows_are_read(preset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, 32)
    matrix = Counting(sparse.csr_matrix(VALUES))
    network = NetworkOptions(max_epochs=1) if preset == "paper" else None
    model = FCMI(3, preset=preset, network=network, **QUICK).fit(matrix, GROUPS)
    if preset == "default":
        # For the sketch and its checks, for their positions, and once more those that are landmarks, here all.
        assert (matrix.reads <= 3).all()
    before = matrix.reads.copy()
    model.assign(matrix)
    assert (matrix.reads == before + 1).all()


def test_values_are_checked_before_training_and_in_the_same_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, 32)
    x = VALUES.copy()
    x[N - 1, 4] = np.nan

    def unchecked(*_: Any, **__: Any) -> None:
        pytest.fail("worked on values that were not checked")

    monkeypatch.setattr("scfcmi.model._fit_default.register", unchecked)
    monkeypatch.setattr("scfcmi.published._fit.train", unchecked)
    for preset in ("default", "paper"):
        matrix = Counting(sparse.csr_matrix(x))
        with pytest.raises(ValueError, match=r"X has NaN or infinite values .*position 299, column 4"):
            FCMI(3, preset=preset, **QUICK).fit(matrix, GROUPS)
        assert (matrix.reads == 1).all()


def test_few_rows_are_read_alone_and_many_in_spans() -> None:
    source = MatrixSource(matrix := Counting(np.zeros((10_000, 1000), np.float32)))
    source.rows(np.array([5, 8000]))
    assert matrix.reads.sum() == 2
    source.rows(np.arange(0, 4000, 2))
    assert matrix.calls == 2
    assert matrix.reads.sum() == 2 + 3999


def test_columns_of_a_matrix_stored_by_columns_are_read_in_few_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STRIP_ENTRIES", sparse.csc_matrix(VALUES).nnz // 3 + 1)
    source = as_source(stored(hdf5(tmp_path), sparse.csc_matrix))
    strips = list(source._storage.strips(8))
    assert strips == [(0, 100), (100, 200), (200, 300)]
    assert source.restricted(np.arange(5))._storage.n_strips == 1


def test_dask_chunks_are_computed_once_per_walk() -> None:
    da = pytest.importorskip("dask.array")
    computed: list[int] = []

    def seen(block: Any) -> Any:
        computed.append(len(block))
        return block

    lazy = da.from_array(VALUES, chunks=(70, M)).map_blocks(seen, meta=np.empty((0, 0), np.float32))
    parts = list(as_source(lazy).chunks(64))
    assert computed == [70, 70, 70, 70, 20]
    assert [rows.stop for rows, _ in parts] == [64, 128, 192, 256, 300]


def test_dask_array_of_unknown_size() -> None:
    da = pytest.importorskip("dask.array")
    lazy = da.from_array(VALUES, chunks=(70, M))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        as_source(lazy[lazy[:, 0] > 0])


def test_a_mask_does_not_copy_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, 1000)
    big = sparse.random(20_000, 400, 0.2, format="csr", dtype=np.float32, random_state=0)
    big.data += 0.5
    atlas = AnnData(big)
    mask = np.arange(400) % 2 == 0
    tracemalloc.start()
    source, _ = select_source(atlas, mask_var=mask)
    source.gather(np.arange(10))
    for _ in source.chunks():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * big.data.nbytes
