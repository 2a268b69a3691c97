"""The map of an embedding: what is written, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from scfcmi.tl import umap


@pytest.fixture
def embedded() -> AnnData:
    rng = np.random.default_rng(0)
    centres = np.repeat(8 * np.eye(3, 6), 20, axis=0)
    return AnnData(obsm={"X_fair_cluster": (centres + rng.normal(size=(60, 6))).astype(np.float32)})


def test_only_the_map_is_written(embedded: AnnData) -> None:
    embedded.obsm["X_umap"] = np.zeros((60, 2))
    embedded.uns["neighbors"] = {"mine": 1}
    assert umap(embedded) is None
    assert set(embedded.obsm) == {"X_fair_cluster", "X_umap", "X_fair_cluster_umap"}
    assert dict(embedded.uns) == {"neighbors": {"mine": 1}}
    assert not embedded.obsp
    assert embedded.obs.empty or embedded.obs.shape[1] == 0
    assert not embedded.obsm["X_umap"].any()
    assert embedded.obsm["X_fair_cluster_umap"].shape == (60, 2)
    assert embedded.obsm["X_fair_cluster_umap"].dtype == np.float32


def test_blobs_stay_apart(embedded: AnnData) -> None:
    umap(embedded, n_neighbors=8)
    blobs = embedded.obsm["X_fair_cluster_umap"].reshape(3, 20, 2)
    centres = blobs.mean(axis=1)
    spread = np.linalg.norm(blobs - centres[:, None], axis=2).mean()
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(3, 1)]
    assert apart.min() > 2 * spread


def test_seed_and_random_state(embedded: AnnData) -> None:
    before = np.random.get_state()[1].copy()
    first, again = umap(embedded, random_state=1, copy=True), umap(embedded, random_state=1, copy=True)
    other = umap(embedded, random_state=2, copy=True)
    assert first is not None and again is not None and other is not None
    np.testing.assert_array_equal(first.obsm["X_fair_cluster_umap"], again.obsm["X_fair_cluster_umap"])
    assert not np.array_equal(first.obsm["X_fair_cluster_umap"], other.obsm["X_fair_cluster_umap"])
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_copy_key_and_view(embedded: AnnData) -> None:
    embedded.obsm["X_mine"] = embedded.obsm["X_fair_cluster"][:, :4]
    copied = umap(embedded, "mine", copy=True)
    assert copied is not None
    assert "X_mine_umap" in copied.obsm
    assert "X_mine_umap" not in embedded.obsm
    view = embedded[:30]
    umap(view, "mine")
    assert view.obsm["X_mine_umap"].shape == (30, 2)
    assert "X_mine_umap" not in embedded.obsm


def test_fewer_cells_than_neighbours(embedded: AnnData) -> None:
    few = embedded[:6].copy()
    umap(few)
    assert np.isfinite(few.obsm["X_fair_cluster_umap"]).all()


def test_errors_say_what_to_do(embedded: AnnData) -> None:
    with pytest.raises(KeyError, match=r"no 'X_other'.*fair_cluster.*key_added='other'"):
        umap(embedded, "other")
    with pytest.raises(ValueError, match="at least 4 cells, adata has 3"):
        umap(embedded[:3].copy())
    with pytest.raises(ValueError, match="n_neighbors=1 must be at least 2"):
        umap(embedded, n_neighbors=1)
