"""The gates, seen from the functions that users call: names, stale results, groups of later data, seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfcmi as sf
from scfcmi.cli import main

QUICK = {"progress_bar": False, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("default")


def cluster(adata: AnnData, key: Any = "tech", **given: Any) -> Any:
    return sf.tl.fair_cluster(adata, key, 3, **(QUICK | given))


def fields(adata: AnnData) -> dict[str, list[str]]:
    return {slot: sorted(map(str, getattr(adata, slot))) for slot in ("obs", "obsm", "uns", "layers")}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"key_added": "pca", "use_rep": "X_pca"}, ValueError, r"would overwrite obsm\['X_pca'\], which the result"),
        ({"key_added": "pca"}, ValueError, r"would overwrite obsm\['X_pca'\], which no earlier run"),
        ({"key_added": "neighbors"}, ValueError, r"would overwrite uns\['neighbors'\], which no earlier run"),
        ({"key_added": "barcode"}, ValueError, "would overwrite the names of the cells"),
        ({"key_added": "run", "layer": "run_corrected"}, ValueError, r"would overwrite layers\['run_corrected'\]"),
        ({"key_added": "_index"}, ValueError, "it is reserved"),
        ({"key_added": "pct/mito"}, ValueError, "contains '/'"),
        ({"key_added": ""}, ValueError, "it is empty"),
        ({"key_added": "."}, ValueError, "it consists of dots"),
        ({"key_added": 3}, TypeError, "key_added=3 must be a string"),
        ({"random_state": -1}, ValueError, "random_state=-1 must be between"),
        ({"random_state": 2**64}, ValueError, "random_state=18446744073709551616 must be between"),
    ],
)
def test_refused_before_any_work(
    adata: AnnData, given: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.obs_names.name = "barcode"
    adata.obsm["X_pca"] = adata.X[:, :5].toarray()
    adata.uns["neighbors"] = {"params": {}}
    adata.layers["run_corrected"] = adata.X.copy()
    before = fields(adata)
    with monkeypatch.context() as patch:
        patch.setattr(sf.model.FCMI, "fit", lambda *_args, **_kwargs: pytest.fail("it was fitted"))
        with pytest.raises(error, match=message):
            cluster(adata, **given)
    assert fields(adata) == before


@pytest.mark.parametrize("key", ["pct/mito", "", "pca"])
def test_mapping_and_correction_refuse_the_same(adata: AnnData, key: str) -> None:
    model = cluster(adata, return_model=True)
    adata.obsm["X_pca"] = np.ones((300, 2))
    with pytest.raises(ValueError, match="key_added="):
        sf.tl.map_query(adata, model, sensitive_key="tech", key_added=key)
    with pytest.raises(ValueError, match="layer_added="):
        sf.tl.correct(adata, layer_added=key if key != "pca" else "a\\b")


@pytest.mark.parametrize("again", ["run", "mapping"])
def test_what_an_earlier_run_left_goes(adata: AnnData, again: str) -> None:
    model = cluster(adata, return_model=True)
    sf.tl.correct(adata)
    sf.tl.correct(adata, layer_added="mine")
    for name in ("stability", "unlike", "distance"):
        adata.obs[f"fair_cluster_{name}"] = 1.0
    adata.obsm["fair_cluster_leaves"] = adata.obsm["X_fair_cluster_umap"] = np.ones((300, 2))
    adata.uns["fair_cluster_diagnosis"], adata.uns["fair_cluster_colors"] = {"n": 1}, ["#000000"] * 3
    if again == "run":
        cluster(adata)
    else:
        sf.tl.map_query(adata, model, sensitive_key="tech")
    fresh = adata[:, :].copy()
    for slot in ("obs", "obsm", "uns", "layers"):
        for name in [name for name in getattr(fresh, slot) if "fair_cluster" in name]:
            del getattr(fresh, slot)[name]
    cluster(fresh) if again == "run" else sf.tl.map_query(fresh, model, sensitive_key="tech")
    assert fields(adata) == fields(fresh)
    assert list(adata.layers) == ["counts"]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_columns_called_like_paths(adata: AnnData, tmp_path: Path, suffix: str) -> None:
    adata.obs["donor/sample"] = pd.Categorical(np.array(list("xyz"))[np.arange(300) // 6 % 3])
    adata.obs["pct/mito"] = np.linspace(0, 1, 300)
    cluster(adata, ["tech", "donor/sample"], continuous_keys="pct/mito")
    path, record = tmp_path / f"a.{suffix}", adata.uns["fair_cluster"]
    del adata.obs["donor/sample"], adata.obs["pct/mito"]  # AnnData has an opinion of its own on these
    adata.write_h5ad(path) if suffix == "h5ad" else adata.write_zarr(path)
    found = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path).uns["fair_cluster"]

    def names(entry: Any) -> Any:
        return {name: names(value) for name, value in entry.items()} if isinstance(entry, dict) else None

    assert names(found) == names(record)


@pytest.mark.parametrize("later", [lambda g: g.astype(float), lambda g: g == 1], ids=["floats", "booleans"])
def test_groups_of_later_data_meet_those_of_the_fit(adata: AnnData, later: Callable[[pd.Series], pd.Series]) -> None:
    adata.obs["tech"] = adata.obs["tech"].cat.codes.astype(int)
    model = cluster(adata, return_model=True)
    query = adata.copy()
    query.obs["tech"] = later(query.obs["tech"])
    sf.tl.map_query(query, model, sensitive_key="tech")
    assert len(query.uns["fair_cluster"]["mapping"]["new_groups"]) == 0


def test_a_column_of_text_is_one_line_on_the_command_line(
    adata: AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata.obs["word"] = "a"
    adata.write_h5ad(tmp_path / "a.h5ad")
    given = ["--sensitive-key", "tech", "--continuous-keys", "word", "-o", str(tmp_path / "b.h5ad")]
    assert main(["cluster", str(tmp_path / "a.h5ad"), *given]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("scfcmi: error: word is not numeric")


def test_a_diagnosis_needs_no_matrix(adata: AnnData) -> None:
    """It looks at positions, so genes are neither read nor made dense."""
    cluster(adata)
    want = sf.tl.diagnose(adata)
    without = AnnData(obs=adata.obs, obsm=dict(adata.obsm), uns=adata.uns)
    pd.testing.assert_frame_equal(sf.tl.diagnose(without).clusters, want.clusters)


def test_many_clusters_of_few_cells() -> None:
    """No step takes all pairs of cells or clusters again for every cluster, which took longer than a test may take."""
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(3000, 10)), np.array(["a", "b"] * 1500)
    found = sf.model.FCMI(300, standardize=False, **QUICK).fit(x, groups)
    assert len(np.unique(found.labels_)) > 290
