"""Every published data set at hand goes through ordinary preprocessing, clustering with defaults, and both formats."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from anndata import AnnData

from scfcmi.tl import fair_cluster


def check_same(back: AnnData, adata: AnnData) -> None:
    for column in ("fair_cluster", "fair_cluster_confidence"):
        assert back.obs[column].tolist() == adata.obs[column].tolist()
    for name in ("X_fair_cluster", "fair_cluster_proba"):
        np.testing.assert_array_equal(back.obsm[name], adata.obsm[name])
    found, written = back.uns["fair_cluster"], adata.uns["fair_cluster"]
    assert sorted(found) == sorted(written)
    assert found["metrics"] == written["metrics"]
    assert sorted(found["params"]) == sorted(written["params"])
    for name, values in written["history"].items():
        np.testing.assert_array_equal(found["history"][name], values)


def test_every_data_set_is_clustered_and_kept(data_dir: Path, tmp_path: Path) -> None:
    paths = sorted(data_dir.glob("*.h5ad"))
    assert paths, f"no .h5ad files in {data_dir}"
    for path in paths:
        adata = ad.read_h5ad(path)
        # Some files mix whole molecules with estimates; logarithms of normalised counts stay small.
        is_counts = adata.X.data.max() > 20
        if is_counts:
            sc.pp.normalize_total(adata, target_sum=1e4)
            sc.pp.log1p(adata)
        if adata.n_vars > 2000:
            sc.pp.highly_variable_genes(adata, n_top_genes=2000)
        fair_cluster(adata, "batch", label_key="cell_type", progress_bar=False, device="cpu")
        assert adata.obs["fair_cluster"].cat.categories[0] == "0"
        assert adata.obs["fair_cluster"].nunique() >= 2
        assert np.isfinite(adata.obsm["X_fair_cluster"]).all()
        np.testing.assert_allclose(adata.obsm["fair_cluster_proba"].sum(axis=1), 1, atol=1e-4)
        adata.write_h5ad(tmp_path / f"{path.stem}.h5ad")
        check_same(ad.read_h5ad(tmp_path / f"{path.stem}.h5ad"), adata)
        adata.write_zarr(tmp_path / f"{path.stem}.zarr")
        check_same(ad.read_zarr(tmp_path / f"{path.stem}.zarr"), adata)
