"""Confidence of every cell, and what several runs agree on."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData

import scfcmi as sf
from scfcmi.model._several import agrees


def cluster(adata: AnnData, **settings: object) -> None:
    sf.tl.fair_cluster(adata, "tech", **{"n_clusters": 3, "progress_bar": False} | settings)


def test_confidence_is_the_probability_of_the_own_cluster(adata: AnnData) -> None:
    cluster(adata)
    confidence = adata.obs["fair_cluster_confidence"]
    assert confidence.dtype == np.float32
    labels = adata.obs["fair_cluster"].astype(int)
    np.testing.assert_array_equal(confidence, adata.obsm["fair_cluster_proba"][np.arange(300), labels])
    assert confidence.between(0, 1 + 1e-6).all() and confidence.mean() > 0.9
    assert "fair_cluster_stability" not in adata.obs
    assert "stability" not in adata.uns["fair_cluster"]


def test_several_runs_agree_on_clear_types(adata: AnnData, tmp_path: Path) -> None:
    cluster(adata, n_init=3)
    stability = adata.obs["fair_cluster_stability"]
    assert stability.dtype == np.float32
    assert set(np.rint(3 * stability)) <= {1, 2, 3}
    assert stability.mean() > 0.95
    assert 0.9 < adata.uns["fair_cluster"]["stability"] <= 1
    assert adata.uns["fair_cluster"]["params"]["n_init"] == 3
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert back.uns["fair_cluster"]["stability"] == adata.uns["fair_cluster"]["stability"]


def test_the_kept_run_is_one_of_the_runs(adata: AnnData) -> None:
    cluster(adata, n_init=3, random_state=5)
    seed = int(adata.uns["fair_cluster"]["params"]["random_state"])
    assert seed in {5, 6, 7}
    alone = adata.copy()
    cluster(alone, random_state=seed)
    assert (alone.obs["fair_cluster"] == adata.obs["fair_cluster"]).all()
    assert "fair_cluster_stability" not in alone.obs, "that of an earlier run does not belong to this one"


def test_the_number_of_clusters_is_the_first_runs(adata: AnnData) -> None:
    first = adata.copy()
    cluster(first, n_clusters=None)
    cluster(adata, n_clusters=None, n_init=2)
    for entry in ("method", "chosen"):
        assert adata.uns["fair_cluster"]["n_clusters"][entry] == first.uns["fair_cluster"]["n_clusters"][entry]


def test_clusters_correspond_one_to_one() -> None:
    ours, other = np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 3, 3, 3, 3])
    assert agrees(ours, other).tolist() == [True, True, False, True, True, False]
    assert agrees(ours, ours + 7).all()


@pytest.mark.parametrize(("n_init", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_bad_number_of_runs_is_refused(adata: AnnData, n_init: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="n_init="):
        cluster(adata, n_init=n_init)
    assert not adata.uns


@pytest.mark.parametrize("suffix", ["confidence", "stability"])
def test_no_column_that_was_read_is_overwritten(adata: AnnData, suffix: str) -> None:
    adata.obs[f"x_{suffix}"] = adata.obs["tech"]
    with pytest.raises(ValueError, match="would overwrite"):
        sf.tl.fair_cluster(adata, f"x_{suffix}", 3, key_added="x")
