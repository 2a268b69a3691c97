"""Results written into a file chunk by chunk: the same as in memory, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfcmi as sf
from scfcmi.model import FCMI
from scfcmi.source import MatrixSource
from scfcmi.source._store import Changes, leave_on_disk, open_store

QUICK: dict[str, Any] = {"max_epochs": 5, "progress_bar": False, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(params=["h5ad", "zarr"])
def suffix(request: pytest.FixtureRequest) -> str:
    return request.param


def write(adata: AnnData, path: Path) -> Path:
    adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files}


def read(path: Path) -> AnnData:
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def assert_equal(a: AnnData, b: AnnData) -> None:
    """Everything in two objects that were read from files."""
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert set(a.obsm) == set(b.obsm) and set(a.uns) == set(b.uns) and set(a.layers) == set(b.layers)
    for key in a.obsm:
        np.testing.assert_allclose(a.obsm[key], b.obsm[key], atol=1e-6)
    assert str(a.uns) == str(b.uns)
    assert (a.X != b.X).nnz == 0


@pytest.fixture
def model(adata: AnnData) -> FCMI:
    return sf.tl.fair_cluster(adata.copy(), "tech", 3, return_model=True, **QUICK)


def test_file_reads_as_if_clustered_in_memory(
    adata: AnnData, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.uns["note"] = "stays"
    path = write(adata, tmp_path / f"a.{suffix}")
    model = sf.tl.fair_cluster(adata, "tech", 3, label_key="cell_type", return_model=True, **QUICK)
    want = read(write(adata, tmp_path / f"b.{suffix}"))
    monkeypatch.setattr(MatrixSource, "chunk_size", 64)
    sf.tl.predict_on_disk(path, model, sensitive_key="tech", label_key="cell_type")
    assert_equal(read(path), want)
    sf.tl.predict_on_disk(path, model, sensitive_key="tech", label_key="cell_type")
    assert_equal(read(path), want)


def test_genes_are_found_by_name(adata: AnnData, model: FCMI, tmp_path: Path, suffix: str) -> None:
    want = model.predict(adata.X)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    more = ad.concat([adata[:, order].copy(), AnnData(sparse.csr_matrix((300, 5)), adata.obs)], axis=1)
    more.obs = adata.obs
    path = write(more, tmp_path / f"a.{suffix}")
    sf.tl.predict_on_disk(path, model, key_added="again")
    found = read(path)
    assert found.obs["again"].astype(int).tolist() == want.tolist()
    assert "metrics" not in found.uns["again"]


def test_representation_and_layer(adata: AnnData, tmp_path: Path, suffix: str) -> None:
    adata.obsm["X_some"] = np.random.default_rng(0).normal(size=(300, 6)) + 4 * np.eye(6)[np.arange(300) % 3]
    adata.layers["logged"] = adata.X.copy()
    adata.X = adata.layers["counts"]
    path = write(adata, tmp_path / f"a.{suffix}")
    for given in ({"use_rep": "X_some"}, {"layer": "logged"}):
        model = sf.tl.fair_cluster(adata, "tech", 3, return_model=True, **given, **QUICK)
        sf.tl.predict_on_disk(path, model, **given)
        assert read(path).obs["fair_cluster"].tolist() == adata.obs["fair_cluster"].tolist()


def test_what_an_earlier_run_left_goes(adata: AnnData, model: FCMI, tmp_path: Path, suffix: str) -> None:
    adata.obs["fair_cluster_stability"] = 1.0
    adata.obsm["X_fair_cluster_umap"] = np.zeros((300, 2))
    adata.obs["fair_cluster_unlike"], adata.obs["fair_cluster_distance"] = True, 1.0
    adata.obsm["fair_cluster_leaves"] = np.zeros((300, 2))
    adata.layers["fair_cluster_corrected"], adata.layers["mine"] = adata.X, adata.X
    adata.uns["fair_cluster_colors"] = ["#000000"]
    adata.uns["fair_cluster"] = {"corrected": {"layer_added": "mine"}}
    adata.uns["fair_cluster_diagnosis"] = {"n": 1}
    adata.obs["fair_cluster"] = "0"
    path = write(adata, tmp_path / f"a.{suffix}")
    sf.tl.predict_on_disk(path, model)
    found = read(path)
    assert set(found.obs) == {"tech", "cell_type", "fair_cluster", "fair_cluster_confidence"}
    assert set(found.obsm) == {"X_fair_cluster", "fair_cluster_proba"}
    assert set(found.uns) == {"fair_cluster"} and "corrected" not in found.uns["fair_cluster"]
    assert set(found.layers) == {"counts"}


def test_leaves_and_unlike_cells(
    adata: AnnData, model: FCMI, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model says about the leaves of its tree, and about cells unlike all others, is written as it comes."""
    path = write(adata, tmp_path / f"a.{suffix}")
    leaves = sparse.random(300, 9, 0.3, format="csr", dtype=np.float32, random_state=0)
    unlike = np.arange(300) % 50 == 0
    walk = FCMI.assign_chunks

    def more(self: FCMI, X: Any) -> Any:
        for rows, part in walk(self, X):
            yield rows, SimpleNamespace(**vars(part), leaves=leaves[rows], unlike=unlike[rows])

    monkeypatch.setattr(MatrixSource, "chunk_size", 64)
    monkeypatch.setattr(FCMI, "assign_chunks", more)
    for _ in range(2):
        sf.tl.predict_on_disk(path, model)
        found = read(path)
        assert (found.obsm["fair_cluster_leaves"] != leaves).nnz == 0
        assert found.obs["fair_cluster_unlike"].tolist() == unlike.tolist()


def spoil_value(adata: AnnData, _: pytest.MonkeyPatch) -> None:
    adata.X[290, 4] = np.nan


def break_writing(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Changes.put

    def full(self: Changes, where: str, value: Any) -> None:
        original(self, where, value)
        if where.startswith("uns"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Changes, "put", full)


def break_finishing(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Changes._name_columns

    def interrupted(self: Changes, dropped: set[str]) -> None:
        original(self, dropped)
        raise KeyboardInterrupt

    monkeypatch.setattr(Changes, "_name_columns", interrupted)


@pytest.mark.parametrize("fault", [spoil_value, break_writing, break_finishing])
def test_failure_leaves_the_file_as_it_was(
    fault: Callable[[AnnData, pytest.MonkeyPatch], None],
    adata: AnnData,
    model: FCMI,
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MatrixSource, "chunk_size", 64)
    adata.obs["fair_cluster"] = pd.Categorical(["old", "older"] * 150)
    adata.obsm["X_fair_cluster"] = np.ones((300, 2))
    fault(adata, monkeypatch)
    path = write(adata, tmp_path / f"a.{suffix}")
    before = read(path)
    with pytest.raises((ValueError, OSError, KeyboardInterrupt)):
        sf.tl.predict_on_disk(path, model)
    after = read(path)
    after.X.data, before.X.data = np.nan_to_num(after.X.data), np.nan_to_num(before.X.data)
    assert_equal(after, before)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sensitive_key": "plate"}, KeyError, "'plate' is not a column"),
        ({"label_key": "cell_type"}, ValueError, "need sensitive_key"),
        ({"key_added": "tech", "sensitive_key": "tech"}, ValueError, "would overwrite"),
        ({"layer": "none"}, KeyError, "layer='none'"),
        ({"use_rep": "X_none"}, KeyError, "use_rep='X_none'"),
        ({"key_added": "_index"}, ValueError, "key_added='_index' cannot be a name in a file: it is reserved"),
        ({"key_added": "barcode"}, ValueError, "would overwrite the names of the cells"),
        ({"key_added": "pct/mito"}, ValueError, "contains '/'"),
        ({"key_added": ""}, ValueError, "it is empty"),
        ({"key_added": 3}, TypeError, "key_added=3 must be a string"),
        ({"key_added": "some", "use_rep": "X_some"}, ValueError, r"would overwrite obsm\['X_some'\], which the result"),
        ({"key_added": "some"}, ValueError, r"would overwrite obsm\['X_some'\], which no earlier run"),
        ({"key_added": "log1p"}, ValueError, r"would overwrite uns\['log1p'\], which no earlier run"),
    ],
)
def test_refused_arguments(
    given: dict[str, Any], error: type[Exception], message: str, adata: AnnData, model: FCMI, tmp_path: Path
) -> None:
    adata.obs_names.name = "barcode"
    adata.obsm["X_some"] = np.ones((300, 3))
    adata.uns["log1p"] = {"base": 2.0}
    for path in (tmp_path / "a.h5ad", tmp_path / "a.zarr"):
        before = contents(write(adata, path))
        with pytest.raises(error, match=message):
            sf.tl.predict_on_disk(path, model, **given)
        assert contents(path) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5ad", "a.zarr"]


def test_refused_files_and_models(adata: AnnData, model: FCMI, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        sf.tl.predict_on_disk(tmp_path / "none.h5ad", model)
    with pytest.raises(OSError, match=r"cannot be read as \.zarr"):
        sf.tl.predict_on_disk(tmp_path, model)
    path = write(adata[:, 1:].copy(), tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"1 of 100 genes .*first 'gene0'.*map_query"):
        sf.tl.predict_on_disk(path, model)
    with pytest.raises(TypeError, match="must be a fitted"):
        sf.tl.predict_on_disk(path, "model.safetensors")  # type: ignore[arg-type]


def test_matrices_stay_on_disk(adata: AnnData, tmp_path: Path, suffix: str) -> None:
    adata.obsm["table"] = pd.DataFrame({"a": np.ones(300)}, index=adata.obs_names)
    adata.obsm["X_some"] = np.ones((300, 3))
    path = write(adata, tmp_path / f"a.{suffix}")
    with open_store(path) as root:
        opened = leave_on_disk(root)
        for matrix in (opened.X, opened.layers["counts"], opened.obsm["X_some"]):
            assert not isinstance(matrix, np.ndarray | sparse.spmatrix)
        assert list(opened.obsm["table"]) == ["a"]
        pd.testing.assert_frame_equal(opened.obs, adata.obs)
