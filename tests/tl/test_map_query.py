"""Later cells on a fitted model: genes by name, known and new groups, and cells unlike any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scfcmi.model import FCMI
from scfcmi.model._anchors import align_to_anchors
from scfcmi.tl import fair_cluster, map_query

N_CELLS, N_GENES = 540, 60


def cells(kinds: int = 3, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    kind, tech = np.arange(N_CELLS) % kinds, (np.arange(N_CELLS) // kinds) % 3
    mean = 1.5 + np.zeros((N_CELLS, N_GENES))
    for k in range(kinds):
        mean[kind == k, 10 * k : 10 * (k + 1)] += 2.5
    mean += (0.5 * np.random.default_rng(9).normal(size=(3, N_GENES)))[tech]
    x = np.maximum(mean + 0.5 * rng.normal(size=mean.shape), 0).astype(np.float32)
    obs = pd.DataFrame({"tech": np.array(list("abc"))[tech], "kind": np.array(list("uvwxyz"))[kind]})
    return AnnData(
        sparse.csr_matrix(x),
        obs=obs.set_index("cell" + obs.index.astype(str)),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]),
    )


@pytest.fixture(scope="module")
def reference() -> tuple[AnnData, FCMI]:
    adata = cells()
    adata = adata[adata.obs["tech"] != "c"].copy()
    return adata, fair_cluster(adata, "tech", 3, max_epochs=30, progress_bar=False, device="cpu", return_model=True)


def query(tech: str, seed: int = 1, kinds: int = 3) -> AnnData:
    adata = cells(kinds, seed)
    return adata[adata.obs["tech"] == tech].copy()


def test_the_reference_maps_onto_itself(reference: tuple[AnnData, FCMI]) -> None:
    adata, model = reference
    found = map_query(adata, model, sensitive_key="tech", copy=True)
    assert found.obs["fair_cluster"].astype(str).equals(adata.obs["fair_cluster"].astype(str))
    np.testing.assert_allclose(found.obsm["X_fair_cluster"], adata.obsm["X_fair_cluster"], atol=1e-5)
    np.testing.assert_allclose(found.obsm["fair_cluster_proba"], adata.obsm["fair_cluster_proba"], atol=1e-4)
    assert found.obs["fair_cluster_unlike"].mean() < 0.1


@pytest.mark.parametrize("tech", ["a", "c"], ids=["known", "new"])
def test_types_are_found(reference: tuple[AnnData, FCMI], tech: str) -> None:
    adata, found = query(tech), reference[0].obs
    before = adata.X.copy()
    map_query(adata, reference[1], sensitive_key="tech", new_groups="fit")
    assert adjusted_rand_score(adata.obs["kind"], adata.obs["fair_cluster"]) > 0.95
    names = found.groupby("fair_cluster", observed=True)["kind"].agg(lambda kinds: kinds.mode()[0])
    assert (adata.obs["fair_cluster"].map(names).astype(str) == adata.obs["kind"]).mean() > 0.95
    assert (before != adata.X).nnz == 0
    np.testing.assert_allclose(np.linalg.norm(adata.obsm["X_fair_cluster"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(adata.obsm["fair_cluster_proba"].sum(1), 1, atol=1e-5)
    mapping = adata.uns["fair_cluster"]["mapping"]
    assert mapping["new_groups"].tolist() == (["c"] if tech == "c" else [])
    assert mapping["n_genes"] == N_GENES and mapping["n_genes_imputed"] == 0


def test_genes_by_name(reference: tuple[AnnData, FCMI]) -> None:
    model, adata = reference[1], query("a")
    whole = map_query(adata, model, sensitive_key="tech", copy=True)
    shuffled = adata[:, np.random.default_rng(0).permutation(N_GENES)].copy()
    map_query(shuffled, model, sensitive_key="tech")
    np.testing.assert_allclose(shuffled.obsm["X_fair_cluster"], whole.obsm["X_fair_cluster"], atol=1e-4)
    fewer = adata[:, ::2].copy()
    with pytest.warns(UserWarning, match="30 of 60 genes"):
        map_query(fewer, model, sensitive_key="tech")
    assert fewer.uns["fair_cluster"]["mapping"]["n_genes_imputed"] == 30
    assert adjusted_rand_score(fewer.obs["kind"], fewer.obs["fair_cluster"]) > 0.9
    few = adata[:, :29].copy()
    with pytest.raises(ValueError, match="Only 29 of 60 genes"):
        map_query(few, model, sensitive_key="tech")
    assert "fair_cluster" not in few.obs


def test_a_type_that_the_reference_lacks_is_noticed(reference: tuple[AnnData, FCMI]) -> None:
    adata = query("a", kinds=5)
    map_query(adata, reference[1], sensitive_key="tech")
    new = adata.obs["kind"].isin(["x", "y"])
    distance = adata.obs["fair_cluster_distance"]
    assert distance[new].median() > distance[~new].median()
    assert adata.obs.loc[new, "fair_cluster_unlike"].mean() > adata.obs.loc[~new, "fair_cluster_unlike"].mean()


def test_saved_models_and_files(reference: tuple[AnnData, FCMI], tmp_path: Path) -> None:
    reference[1].save(tmp_path / "m.safetensors")
    again = FCMI.load(tmp_path / "m.safetensors")
    one, two = query("c"), query("c")
    map_query(one, reference[1], sensitive_key="tech", new_groups="fit")
    map_query(two, again, sensitive_key="tech", new_groups="fit")
    np.testing.assert_array_equal(one.obsm["X_fair_cluster"], two.obsm["X_fair_cluster"])
    one.write_h5ad(tmp_path / "q.h5ad")
    read = ad.read_h5ad(tmp_path / "q.h5ad")
    assert read.uns["fair_cluster"]["mapping"]["new_groups"].tolist() == ["c"]


def test_large_groups_follow_a_sample() -> None:
    rng = np.random.default_rng(0)
    centre = 5 * np.eye(6)[np.arange(400) % 3]
    anchors = (centre + 0.3 * rng.normal(size=centre.shape)).astype(np.float32)
    z = (centre + 0.3 * rng.normal(size=centre.shape) + 2 * np.eye(6)[5]).astype(np.float32)
    settings = {"n_neighbors": 10, "n_candidates": 10, "random_state": 0}
    whole, n_whole = align_to_anchors(z, anchors, max_cells=1000, **settings)
    part, n_part = align_to_anchors(z, anchors, max_cells=200, **settings)
    assert n_whole > n_part > 0
    assert np.linalg.norm(whole - part, axis=1).mean() < 0.1
    target = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    start = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert np.linalg.norm(part - target, axis=1).mean() < 0.6 * np.linalg.norm(start - target, axis=1).mean()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"sensitive_key": "donor"}, KeyError, "donor"),
        ({"model": "m"}, TypeError, "must be a fitted scfcmi.model.FCMI, not str"),
        ({"model": FCMI(3)}, RuntimeError, "not fitted"),
        ({"new_groups": "ignore"}, ValueError, "new_groups='ignore' is unknown"),
        ({"new_groups": "error"}, ValueError, r"not fitted with: \['c'\]; known are \['a', 'b'\]"),
        ({"key_added": "tech"}, ValueError, "would overwrite"),
        ({"layer": "log"}, KeyError, "log"),
    ],
)
def test_refused(
    reference: tuple[AnnData, FCMI], arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    adata = query("c")
    given = {"model": reference[1], "sensitive_key": "tech", "new_groups": "fit"} | arguments
    with pytest.raises(error, match=match):
        map_query(adata, **given)
    assert list(adata.obs) == ["tech", "kind"] and not adata.uns and not adata.obsm


def test_what_a_model_must_have() -> None:
    adata = query("a")
    x, groups = adata.X.toarray(), np.array(["a", "b"])[np.arange(adata.n_obs) % 2]
    nameless = FCMI(3, max_epochs=1, progress_bar=False).fit(x, groups)
    with pytest.raises(ValueError, match="no gene names"):
        map_query(adata, nameless, sensitive_key="tech")
    paper = FCMI(3, preset="paper", max_epochs=1, progress_bar=False, device="cpu")
    paper.fit(x, groups, feature_names=list(adata.var_names))
    with pytest.raises(ValueError, match="keeps no cells"):
        map_query(query("c"), paper, sensitive_key="tech", new_groups="fit")
    map_query(adata, paper, sensitive_key="tech")
    assert adata.obs["fair_cluster_distance"].isna().all()
