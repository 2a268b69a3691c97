"""Results written into a file chunk by chunk: the same as in memory, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfcmi as sf
from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions
from scfcmi.source import MatrixSource
from scfcmi.source._store import Changes, leave_on_disk, open_store

QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu"}
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
    pd.testing.assert_frame_equal(a.obs, b.obs, atol=1e-5)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert set(a.obsm) == set(b.obsm) and set(a.uns) == set(b.uns) and set(a.layers) == set(b.layers)
    for key in a.obsm:
        one, other = (m.toarray() if sparse.issparse(m) else m for m in (a.obsm[key], b.obsm[key]))
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert_same_record(a.uns, b.uns)
    assert (a.X != b.X).nnz == 0


def assert_same_record(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_record(a[key], b[key])
    elif isinstance(a, np.ndarray) and a.dtype.kind in "biuf":
        np.testing.assert_allclose(a, b, atol=1e-6)
    else:
        assert str(a) == str(b)


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


def test_cells_are_placed_as_cells_of_their_groups(adata: AnnData, model: FCMI, tmp_path: Path, suffix: str) -> None:
    adata.obs["plate"] = adata.obs["tech"].astype(object)
    path = write(adata, tmp_path / f"a.{suffix}")
    for given, groups in (({}, None), ({"sensitive_key": "plate"}, adata.obs["tech"])):
        sf.tl.predict_on_disk(path, model, **given)
        want, found = model.assign(adata.X, groups), read(path)
        np.testing.assert_allclose(found.obsm["X_fair_cluster"], want.embedding, atol=1e-5)
        assert found.obs["fair_cluster"].astype(int).tolist() == want.labels.tolist()
        assert found.obs["fair_cluster_unlike"].tolist() == want.unlike.tolist()
        assert abs(found.obsm["fair_cluster_leaves"] - want.leaves).max() < 1e-5
        np.testing.assert_array_equal(found.obs["fair_cluster_confidence"], want.confidence)


def test_cells_of_one_group_have_no_scores(adata: AnnData, model: FCMI, tmp_path: Path) -> None:
    path = write(adata[adata.obs["tech"] == "tech1"].copy(), tmp_path / "a.h5ad")
    sf.tl.predict_on_disk(path, model, sensitive_key="tech")
    found = read(path)
    assert found.obs["fair_cluster"].astype(int).tolist() == model.predict(found.X, found.obs["tech"]).tolist()
    assert "metrics" not in found.uns["fair_cluster"]


def test_several_attributes_and_numbers(adata: AnnData, tmp_path: Path) -> None:
    adata.obs["donor"] = np.array(["u", "v", "w"])[np.arange(300) // 6 % 3]
    adata.obs["depth"] = np.arange(300.0)[np.random.default_rng(0).permutation(300)]
    keys = {"sensitive_key": ["tech", "donor"], "continuous_keys": "depth"}
    path = write(adata, tmp_path / "a.h5ad")
    model = sf.tl.fair_cluster(adata, n_clusters=3, return_model=True, **keys, **QUICK)
    sf.tl.predict_on_disk(path, model, **keys)
    found = read(path)
    np.testing.assert_allclose(found.obsm["X_fair_cluster"], adata.obsm["X_fair_cluster"], atol=1e-4)
    assert set(found.uns["fair_cluster"]["metrics_by_attribute"]) == {"tech", "donor", "depth"}
    with pytest.raises(ValueError, match="names 1 columns, but the model was fitted with 2"):
        sf.tl.predict_on_disk(path, model, sensitive_key="tech")
    found.obs["other"] = found.obs["depth"]
    write(found, path)
    with pytest.raises(ValueError, match=r"continuous lacks \['depth'\]"):
        sf.tl.predict_on_disk(path, model, sensitive_key=["tech", "donor"], continuous_keys="other")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["other"] * 300, r"values that the model was not fitted with: \['other'\]"),
        ([None] + ["tech0"] * 299, "1 missing"),
    ],
)
def test_groups_that_are_not_those_of_the_fit(
    values: list[str | None], message: str, adata: AnnData, model: FCMI, tmp_path: Path
) -> None:
    adata.obs["tech"] = pd.Categorical(values)
    path = write(adata, tmp_path / "a.h5ad")
    before = contents(path)
    with pytest.raises(ValueError, match=message):
        sf.tl.predict_on_disk(path, model, sensitive_key="tech")
    assert contents(path) == before


def test_published_network_needs_no_groups(adata: AnnData, tmp_path: Path) -> None:
    network = NetworkOptions(hidden=(16, 8), max_epochs=2, warmup_epochs=1, batch_size=100)
    path = write(adata, tmp_path / "a.h5ad")
    model = sf.tl.fair_cluster(adata, "tech", 3, preset="paper", network=network, return_model=True, **QUICK)
    sf.tl.predict_on_disk(path, model, sensitive_key="tech")
    found = read(path)
    np.testing.assert_allclose(found.obsm["X_fair_cluster"], adata.obsm["X_fair_cluster"], atol=1e-6)
    assert not {"fair_cluster_leaves", "fair_cluster_unlike"} & {*found.obs, *found.obsm}


def test_representation_and_layer(adata: AnnData, tmp_path: Path, suffix: str) -> None:
    adata.obsm["X_some"] = np.random.default_rng(0).normal(size=(300, 6)) + 4 * np.eye(6)[np.arange(300) % 3]
    adata.layers["logged"] = adata.X.copy()
    adata.X = adata.layers["counts"]
    path = write(adata, tmp_path / f"a.{suffix}")
    for given in ({"use_rep": "X_some"}, {"layer": "logged"}):
        model = sf.tl.fair_cluster(adata, "tech", 3, return_model=True, **given, **QUICK)
        sf.tl.predict_on_disk(path, model, sensitive_key="tech", **given)
        assert read(path).obs["fair_cluster"].tolist() == adata.obs["fair_cluster"].tolist()


def test_what_an_earlier_run_left_goes(adata: AnnData, model: FCMI, tmp_path: Path, suffix: str) -> None:
    adata.obs["fair_cluster_stability"] = 1.0
    adata.obsm["X_fair_cluster_umap"] = np.zeros((300, 2))
    adata.obs["fair_cluster_unlike"], adata.obs["fair_cluster_distance"] = True, 1.0
    adata.obsm["fair_cluster_leaves"] = np.zeros((300, 2))
    adata.layers["fair_cluster_corrected"], adata.layers["mine"] = adata.X, adata.X
    adata.uns["fair_cluster_colors"] = ["#000000"]
    adata.obs["fair_cluster_kind"], adata.obs["fair_cluster_kind_confidence"] = "T", 1.0
    adata.uns["fair_cluster"] = {
        "corrected": {"layer_added": "mine"},
        "mapping": {"transferred": np.array(["kind"])},
    }
    adata.uns["fair_cluster_diagnosis"] = {"n": 1}
    adata.obs["fair_cluster"] = "0"
    path = write(adata, tmp_path / f"a.{suffix}")
    sf.tl.predict_on_disk(path, model)
    found = read(path)
    assert set(found.obs) == {"tech", "cell_type", *(f"fair_cluster{s}" for s in ("", "_confidence", "_unlike"))}
    assert set(found.obsm) == {"X_fair_cluster", "fair_cluster_proba", "fair_cluster_leaves"}
    assert set(found.uns) == {"fair_cluster"} and "corrected" not in found.uns["fair_cluster"]
    assert set(found.layers) == {"counts"}


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


def test_genes_that_stand_twice_cannot_be_found_by_name(adata: AnnData, model: FCMI, tmp_path: Path) -> None:
    adata.var_names = ["gene"] * adata.n_vars
    path = write(adata, tmp_path / "a.h5ad")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="var_names has duplicates, so that genes cannot be found by name"):
        sf.tl.predict_on_disk(path, model, sensitive_key="tech")
    assert path.read_bytes() == before
