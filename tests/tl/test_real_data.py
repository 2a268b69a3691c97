"""Published data sets, preprocessed as most people do."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData

from scfcmi.tl import fair_cluster


def read(data_dir: Path, name: str) -> AnnData:
    path = data_dir / name
    if not path.exists():
        pytest.skip(f"{name} is not among the data sets")
    adata = ad.read_h5ad(path)
    sc.pp.filter_cells(adata, min_counts=1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def check_on_disk(adata: AnnData, path: Path) -> None:
    adata.write_h5ad(path)
    back = ad.read_h5ad(path)
    assert back.obs["fair_cluster"].tolist() == adata.obs["fair_cluster"].tolist()
    for name in ("X_fair_cluster", "fair_cluster_proba"):
        np.testing.assert_array_equal(back.obsm[name], adata.obsm[name])
    for name, values in adata.uns["fair_cluster"]["history"].items():
        np.testing.assert_array_equal(back.uns["fair_cluster"]["history"][name], values)
    assert back.uns["fair_cluster"]["metrics"] == adata.uns["fair_cluster"]["metrics"]


def test_cell_lines_of_three_protocols(data_dir: Path, tmp_path: Path) -> None:
    adata = read(data_dir, "cellmix_3cl_3protocol.h5ad")
    fair_cluster(adata, "batch", 3, label_key="cell_type", progress_bar=False, device="cpu")
    metrics = adata.uns["fair_cluster"]["metrics"]
    assert metrics["ari"] > 0.95
    assert metrics["conditional_fairness"] > 0.95
    check_on_disk(adata, tmp_path / "a.h5ad")


@pytest.fixture
def pancreas(data_dir: Path) -> AnnData:
    adata = read(data_dir, "pancreas_panc8_nebula_1k.h5ad")
    sc.pp.highly_variable_genes(adata, n_top_genes=600)
    return adata


def test_pancreas_of_five_technologies(pancreas: AnnData, tmp_path: Path) -> None:
    fair_cluster(pancreas, "batch", 13, label_key="cell_type", progress_bar=False, device="cpu")
    uns = pancreas.uns["fair_cluster"]
    assert uns["params"]["n_vars"] == 600
    assert list(pancreas.obs["fair_cluster"].cat.categories) == [str(k) for k in range(13)]
    assert pancreas.obsm["fair_cluster_proba"].shape == (pancreas.n_obs, 13)
    # Principal components and Leiden reach 0.50 and 0.23 on these cells.
    assert uns["metrics"]["nmi"] > 0.57
    assert uns["metrics"]["conditional_fairness"] > 0.8
    check_on_disk(pancreas, tmp_path / "a.h5ad")


@pytest.mark.xfail(reason="the number chosen stays far below that of the curated types", strict=False)
def test_number_of_clusters_in_the_pancreas(pancreas: AnnData) -> None:
    fair_cluster(pancreas, "batch", progress_bar=False, device="cpu")
    assert 7 <= pancreas.uns["fair_cluster"]["n_clusters"]["chosen"] <= 20


def test_type_missing_from_one_protocol_stays_apart(data_dir: Path) -> None:
    adata = read(data_dir, "cellmix_3cl_3protocol.h5ad")
    line = adata.obs["cell_type"].astype(str).mode()[0]
    adata = adata[~((adata.obs["batch"] == "10x") & (adata.obs["cell_type"] == line)).to_numpy()].copy()
    fair_cluster(adata, "batch", 3, label_key="cell_type", progress_bar=False, device="cpu")
    assert adata.uns["fair_cluster"]["metrics"]["ari"] > 0.9
