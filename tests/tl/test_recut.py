"""Another cut of the tree: nested, without the matrix, and as the fit would have made it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scfcmi.published import NetworkOptions
from scfcmi.tl import correct, diagnose, fair_cluster, recut

CLUSTERED: list[AnnData] = []


@pytest.fixture
def clustered(adata: AnnData) -> AnnData:
    if not CLUSTERED:
        fair_cluster(adata, "tech", 3, label_key="cell_type", progress_bar=False, device="cpu")
        CLUSTERED.append(adata)
    return CLUSTERED[0].copy()


def n_leaves(adata: AnnData) -> int:
    return adata.obsm["fair_cluster_leaves"].shape[1]


def test_cuts_are_nested(clustered: AnnData) -> None:
    cuts = []
    for k in range(1, n_leaves(clustered) + 1):
        recut(clustered, n_clusters=k)
        cuts.append(clustered.obs["fair_cluster"].copy())
        assert clustered.obsm["fair_cluster_proba"].shape == (300, k)
        np.testing.assert_allclose(clustered.obsm["fair_cluster_proba"].sum(axis=1), 1, atol=1e-5)
        assert clustered.uns["fair_cluster"]["n_clusters"]["chosen"] == k
    for coarse, fine in zip(cuts, cuts[1:], strict=False):
        assert (pd.crosstab(fine, coarse) > 0).sum(axis=1).max() == 1


def test_clusters_only_become_more_with_the_resolution(clustered: AnnData) -> None:
    found = []
    for resolution in (0, 0.1, 0.5, 1, 2, 5, 100):
        recut(clustered, resolution=resolution, key_added="again")
        found.append(clustered.obsm["again_proba"].shape[1])
    assert found == sorted(found)
    assert found[0] == 1 and found[-1] == n_leaves(clustered)


def test_the_cut_of_the_fit_is_found_again(clustered: AnnData) -> None:
    again = recut(clustered, n_clusters=3, copy=True)
    assert again is not None
    assert again.obs["fair_cluster"].tolist() == clustered.obs["fair_cluster"].tolist()
    for name in ("fair_cluster_proba", "X_fair_cluster"):
        np.testing.assert_allclose(again.obsm[name], clustered.obsm[name], atol=1e-6)
    assert again.uns["fair_cluster"]["metrics"] == pytest.approx(clustered.uns["fair_cluster"]["metrics"])


def test_no_matrix_is_needed_and_it_is_quick(clustered: AnnData) -> None:
    clustered.X = None
    start = time.perf_counter()
    recut(clustered, n_clusters=5)
    assert time.perf_counter() - start < 1
    sizes = clustered.obs["fair_cluster"].value_counts()[["0", "1", "2", "3", "4"]]
    assert (np.diff(sizes) <= 0).all()


def test_what_belonged_to_the_first_cut_goes(clustered: AnnData) -> None:
    diagnose(clustered)
    clustered.uns["fair_cluster_colors"] = ["#000000"] * 3
    recut(clustered, n_clusters=4)
    assert not {"fair_cluster_diagnosis", "fair_cluster_colors"} & set(clustered.uns)
    assert set(diagnose(clustered).clusters.index) == set(clustered.obs["fair_cluster"].cat.categories)


def test_under_another_name(clustered: AnnData) -> None:
    before = clustered.obs["fair_cluster"].copy()
    recut(clustered, n_clusters=2, key_added="two")
    pd.testing.assert_series_equal(clustered.obs["fair_cluster"], before)
    assert clustered.obs["two"].nunique() == 2
    recut(clustered, "two", n_clusters=3)
    assert clustered.obs["two"].tolist() == before.tolist()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_after_a_file(clustered: AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    clustered.write_h5ad(path) if suffix == "h5ad" else clustered.write_zarr(path)
    back = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    recut(back, n_clusters=4)
    recut(clustered, n_clusters=4)
    assert back.obs["fair_cluster"].tolist() == clustered.obs["fair_cluster"].tolist()
    back.write_h5ad(tmp_path / "again.h5ad")


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"key": "absent"}, KeyError, "There is no tree under the name 'absent'"),
        ({"n_clusters": 2, "resolution": 1.0}, ValueError, "either n_clusters=2 or resolution=1.0"),
        ({"n_clusters": 0}, ValueError, "n_clusters=0 must be between 1"),
        ({"n_clusters": 10_000}, ValueError, "n_clusters=10000 must be between 1"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters=2.5 must be an integer"),
        ({"resolution": -1}, ValueError, "resolution=-1 must be between 0"),
        ({"n_clusters": 2, "key_added": "a/b"}, ValueError, "key_added='a/b'"),
    ],
)
def test_refused(clustered: AnnData, given: dict[str, Any], error: type[Exception], match: str) -> None:
    before = clustered.obs["fair_cluster"].copy()
    with pytest.raises(error, match=match):
        recut(clustered, **given)
    pd.testing.assert_series_equal(clustered.obs["fair_cluster"], before)


def test_leaves_of_another_run(clustered: AnnData) -> None:
    clustered.obsm["fair_cluster_leaves"] = clustered.obsm["fair_cluster_leaves"][:, :-1]
    with pytest.raises(ValueError, match="they are not of one run"):
        recut(clustered, n_clusters=2)


def test_the_published_network_has_no_tree(adata: AnnData) -> None:
    network = NetworkOptions(max_epochs=1)
    fair_cluster(adata, "tech", 3, preset="paper", network=network, progress_bar=False, device="cpu")
    with pytest.raises(KeyError, match="the published network, `preset='paper'`, makes none"):
        recut(adata, n_clusters=2)


@pytest.mark.parametrize("entry", [{}, {"merges": "text", "link": [1.0]}, 3, {"merges": [1, 2, 3], "link": [1]}])
def test_a_tree_that_is_none(clustered: AnnData, entry: Any) -> None:
    clustered.uns["fair_cluster"]["tree"] = entry
    before = clustered.obs["fair_cluster"].tolist()
    with pytest.raises(ValueError, match=r"uns\['fair_cluster'\]\['tree'\] is damaged: it has no numbers"):
        recut(clustered, n_clusters=2)
    assert clustered.obs["fair_cluster"].tolist() == before


def test_a_cut_without_the_columns_of_the_run_has_no_scores(clustered: AnnData) -> None:
    del clustered.obs["tech"], clustered.obs["cell_type"]
    recut(clustered, n_clusters=2)
    assert clustered.obs["fair_cluster"].nunique() == 2
    assert "metrics" not in clustered.uns["fair_cluster"]


def test_nothing_is_said_of_labels_that_are_gone(adata: AnnData) -> None:
    """Scores, also of numbers, are those of the new cut, and the agreement of runs was that of the old one."""
    adata.obs["depth"] = np.random.default_rng(0).normal(size=300) + 3 * (np.arange(300) % 3 == 0)
    fair_cluster(adata, "tech", 3, continuous_keys="depth", n_init=2, progress_bar=False, device="cpu")
    before = adata.uns["fair_cluster"]["metrics_by_attribute"]["depth"]["continuous_dependence"]
    recut(adata, n_clusters=1)
    record = adata.uns["fair_cluster"]
    assert before > 0.1
    assert record["metrics_by_attribute"]["depth"]["continuous_dependence"] == pytest.approx(0, abs=1e-6)
    assert "stability" not in record and "fair_cluster_stability" not in adata.obs
    del adata.obs["depth"]
    recut(adata, n_clusters=2)
    assert "metrics_by_attribute" not in adata.uns["fair_cluster"]


def test_a_cut_under_another_name_has_what_is_its_own(clustered: AnnData) -> None:
    """It replaces all of an earlier run of that name, and a later one of that name leaves the first run alone."""
    correct(clustered, layer_added="mine")
    clustered.obs["again"] = "0"
    clustered.obsm["X_again_umap"], clustered.layers["again_corrected"] = np.ones((300, 2)), clustered.X.copy()
    recut(clustered, n_clusters=2, key_added="again")
    assert "X_again_umap" not in clustered.obsm and list(clustered.layers) == ["counts", "mine"]
    assert "corrected" not in clustered.uns["again"]
    recut(clustered, n_clusters=3, key_added="again")
    assert list(clustered.layers) == ["counts", "mine"]
    assert clustered.uns["fair_cluster"]["corrected"]["layer_added"] == "mine"
