"""Corrected expression: what technology explains goes, what cell types differ in stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.stats import spearmanr

from scfcmi.source import _matrix, read_groups
from scfcmi.tl import _correct, correct, fair_cluster

N_CELLS, N_GENES = 360, 80


@pytest.fixture(scope="module")
def clustered() -> AnnData:
    rng = np.random.default_rng(0)
    kind, tech = np.arange(N_CELLS) % 3, (np.arange(N_CELLS) // 3) % 2
    mean = 1.5 + np.zeros((N_CELLS, N_GENES))
    for k in range(3):
        mean[kind == k, 10 * k : 10 * (k + 1)] += 2
    mean += (0.7 * rng.normal(size=(2, N_GENES)))[tech]
    x = np.maximum(mean + 0.5 * rng.normal(size=mean.shape), 0).astype(np.float32)
    x[x < 0.4] = 0
    adata = AnnData(sparse.csr_matrix(x))
    adata.obs_names = [f"cell{i}" for i in range(N_CELLS)]
    adata.var_names = [f"gene{i}" for i in range(N_GENES)]
    adata.obs["tech"] = np.array(["a", "b"])[tech]
    adata.obs["kind"] = np.array(["x", "y", "z"])[kind]
    fair_cluster(adata, "tech", 3, progress_bar=False, device="cpu")
    return adata


def values(adata: AnnData, layer: str | None = "fair_cluster_corrected") -> np.ndarray:
    x = adata.X if layer is None else adata.layers[layer]
    return x.toarray() if sparse.issparse(x) else x


def explained(x: np.ndarray, adata: AnnData) -> float:
    between = total = 0.0
    for kind in adata.obs["kind"].unique():
        cells = (adata.obs["kind"] == kind).to_numpy()
        tech = adata.obs["tech"].to_numpy()[cells]
        total += ((x[cells] - x[cells].mean(0)) ** 2).sum()
        between += sum(
            (tech == g).sum() * ((x[cells][tech == g].mean(0) - x[cells].mean(0)) ** 2).sum() for g in np.unique(tech)
        )
    return between / total


@pytest.mark.parametrize("reference", ["mean", "a", "b"])
def test_technology_goes_and_types_stay(clustered: AnnData, reference: str) -> None:
    adata = clustered
    found = correct(adata, reference=reference, copy=True)
    before, after = values(adata, None), values(found)
    assert after.shape == before.shape and after.dtype == np.float32
    assert (after >= 0).all()
    assert explained(after, adata) < 0.2 * explained(before, adata)
    variance = found.uns["fair_cluster"]["corrected"]["variance"]
    assert variance["after"] < 0.2 * variance["before"]
    for first, second in (("x", "y"), ("y", "z"), ("x", "z")):
        one, two = (adata.obs["kind"].to_numpy() == kind for kind in (first, second))
        within = np.mean(
            [
                before[one & tech].mean(0) - before[two & tech].mean(0)
                for tech in (adata.obs["tech"].to_numpy() == "a", adata.obs["tech"].to_numpy() == "b")
            ],
            axis=0,
        )
        markers = np.abs(within) > 0.5
        assert markers.sum() >= 15
        assert spearmanr(within[markers], (after[one].mean(0) - after[two].mean(0))[markers])[0] > 0.8
        np.testing.assert_array_equal(
            np.sign(within[markers]), np.sign((after[one].mean(0) - after[two].mean(0))[markers])
        )


def test_cells_of_the_reference_stay_as_they_are(clustered: AnnData) -> None:
    adata = clustered
    found = correct(adata, reference="b", copy=True)
    same = (adata.obs["tech"] == "b").to_numpy()
    np.testing.assert_allclose(values(found)[same], values(adata, None)[same], atol=1e-5)
    assert np.abs(values(found)[~same] - values(adata, None)[~same]).mean() > 0.1


def test_zeros_stay_where_expression_falls(clustered: AnnData) -> None:
    adata = clustered
    before, after = values(adata, None), values(correct(adata, copy=True))
    tech = adata.obs["tech"].to_numpy()
    falls = before[tech == "a"].mean(0) > before[tech == "b"].mean(0) + 0.5
    zero = before[tech == "a"][:, falls] == 0
    assert zero.any()
    assert (after[tech == "a"][:, falls][zero] == 0).mean() > 0.9


def test_a_group_without_counterpart_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    mean = np.where(np.arange(100)[:, None] < 50, 1.0, 3.0)
    x = (mean + 0.1 * rng.normal(size=(100, 4))).astype(np.float32)
    labels = np.arange(100) // 50
    proba = sparse.csr_matrix(np.eye(2, dtype=np.float32)[labels])
    groups = read_groups(np.array(["a", "b"])[labels])
    effects, _ = _correct._effects(_matrix.MatrixSource(x), proba, groups)
    moved = effects.apply(x, proba.toarray(), groups.codes, np.array([0.5, 0.5], np.float32))
    np.testing.assert_allclose(moved, x, atol=1e-5)


def test_blocks_of_cells_and_genes_change_nothing(clustered: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = clustered
    whole = correct(adata, copy=True)
    monkeypatch.setattr(_correct, "EFFECTS", 7 * 2 * adata.obsm["fair_cluster_leaves"].shape[1])
    monkeypatch.setattr(_matrix, "CHUNK_BYTES", 1)
    parts = correct(adata, copy=True)
    np.testing.assert_allclose(values(parts), values(whole), atol=1e-5)
    for name in ("before", "after"):
        one, other = (found.uns["fair_cluster"]["corrected"]["variance"][name] for found in (parts, whole))
        assert one == pytest.approx(other, abs=1e-4)


def test_sparse_threshold(clustered: AnnData) -> None:
    adata = clustered
    full = values(correct(adata, copy=True))
    thin = correct(adata, sparse_threshold=0.5, copy=True).layers["fair_cluster_corrected"]
    assert sparse.issparse(thin) and thin.format == "csr" and thin.dtype == np.float32
    np.testing.assert_allclose(thin.toarray(), np.where(full < 0.5, 0, full), atol=1e-6)


def test_only_the_layer_is_written(clustered: AnnData, tmp_path: Path) -> None:
    adata = clustered.copy()
    before = values(adata, None).copy()
    assert correct(adata, layer_added="flat") is None
    np.testing.assert_array_equal(values(adata, None), before)
    assert [name for name in adata.layers if name] == ["flat"]
    assert "params" in adata.uns["fair_cluster"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(again.layers["flat"], adata.layers["flat"])
    assert again.uns["fair_cluster"]["corrected"]["sensitive_key"] == "tech"


def test_views(clustered: AnnData) -> None:
    view = clustered[10:200]
    correct(view)
    assert not view.is_view and view.layers["fair_cluster_corrected"].shape == (190, N_GENES)
    assert "fair_cluster_corrected" not in clustered.layers


def test_clusters_stand_for_leaves_where_there_are_none(clustered: AnnData) -> None:
    adata = clustered.copy()
    del adata.obsm["fair_cluster_leaves"]
    correct(adata)
    assert explained(values(adata), adata) < 0.2 * explained(values(adata, None), adata)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"key": "other"}, KeyError, "no 'other_proba'"),
        ({"layer_added": "a/b"}, ValueError, "layer_added='a/b' cannot be a name"),
        ({"sensitive_key": "donor"}, KeyError, "donor"),
        ({"reference": "c"}, ValueError, "reference='c' is not a group.*'a', 'b'"),
        ({"layer": "counts"}, KeyError, "counts"),
        ({"sparse_threshold": -1}, ValueError, "sparse_threshold=-1"),
        ({"sparse_threshold": float("nan")}, ValueError, "sparse_threshold=nan"),
    ],
)
def test_refused(clustered: AnnData, arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    adata = clustered.copy()
    with pytest.raises(error, match=match):
        correct(adata, **arguments)
    assert "fair_cluster_corrected" not in adata.layers and "corrected" not in adata.uns["fair_cluster"]


def test_what_belongs_together(clustered: AnnData) -> None:
    adata = clustered.copy()
    adata.layers["log"] = adata.X.copy()
    with pytest.raises(ValueError, match="overwrite"):
        correct(adata, layer="log", layer_added="log")
    adata.obsm["fair_cluster_leaves"] = 0 * adata.obsm["fair_cluster_leaves"]
    with pytest.raises(ValueError, match="cells without probabilities"):
        correct(adata)
    adata.obsm["fair_cluster_leaves"] = clustered.obsm["fair_cluster_leaves"]
    del adata.uns["fair_cluster"]
    with pytest.raises(ValueError, match="does not name a sensitive attribute"):
        correct(adata)
    correct(adata, sensitive_key="tech")
    assert list(adata.uns["fair_cluster"]) == ["corrected"]
