"""Several sensitive attributes: what is written, what is said about the design, and who reads it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData

import scfcmi as sf

QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu"}
KEYS = ["tech", "donor"]


@pytest.fixture
def crossed(adata: AnnData) -> AnnData:
    adata.obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(adata.n_obs) // 6 % 3]
    return adata


def test_what_is_written(crossed: AnnData, tmp_path: Path) -> None:
    sf.tl.fair_cluster(crossed, KEYS, 3, label_key="cell_type", **QUICK)
    crossed.write_h5ad(tmp_path / "cells.h5ad")
    run = ad.read_h5ad(tmp_path / "cells.h5ad").uns["fair_cluster"]
    assert list(run["params"]["sensitive_key"]) == KEYS
    assert set(run["metrics_by_attribute"]) == set(KEYS)
    labels = crossed.obs["fair_cluster"]
    joint = crossed.obs["tech"].astype(str) + crossed.obs["donor"].astype(str)
    assert run["metrics"] == pytest.approx(sf.metrics.clustering_scores(labels, joint, crossed.obs["cell_type"]))
    assert run["metrics_by_attribute"]["donor"]["nce"] == pytest.approx(sf.metrics.nce(labels, crossed.obs["donor"]))
    assert list(run["design"]["attributes"]) == ["'tech' and 'donor' are crossed: 6 of 6 combinations of levels occur."]


def test_one_attribute_in_a_list_is_one_attribute(adata: AnnData) -> None:
    plain = sf.tl.fair_cluster(adata, "tech", 3, copy=True, **QUICK)
    listed = sf.tl.fair_cluster(adata, ["tech"], 3, copy=True, **QUICK)
    assert listed.uns["fair_cluster"]["params"]["sensitive_key"] == "tech"
    assert not {"metrics_by_attribute", "design"} & set(listed.uns["fair_cluster"])
    np.testing.assert_array_equal(plain.obsm["X_fair_cluster"], listed.obsm["X_fair_cluster"])


def test_everything_that_reads_it(crossed: AnnData) -> None:
    model = sf.tl.fair_cluster(crossed, KEYS, 3, return_model=True, **QUICK)
    assert isinstance(model, sf.model.FCMI)
    sf.tl.correct(crossed)
    assert list(crossed.uns["fair_cluster"]["corrected"]["sensitive_key"]) == KEYS
    found = sf.tl.diagnose(crossed)
    assert set(found.groups.index.get_level_values("group")) == set(model.groups_.levels)
    assert sf.pl.diagnose(crossed, show=False).get_xlabel() == "tech | donor"
    assert set(sf.tl.diagnose(crossed, sensitive_key="donor").groups.index.get_level_values("group")) == {
        "d1",
        "d2",
        "d3",
    }
    frame = sf.tl.tradeoff(crossed, KEYS, 3, fairness=(0,), progress_bar=False)
    assert len(frame) == 1
    sf.tl.umap(crossed)
    titles = [axis.get_title() for axis in sf.pl.umap(crossed, show=False)]
    assert titles == ["fair_cluster", *KEYS]


def test_mapping_sees_combinations(crossed: AnnData) -> None:
    known = ~((crossed.obs["tech"] == "tech1") & (crossed.obs["donor"] == "d3"))
    reference, query = crossed[known].copy(), crossed[~known | (np.arange(crossed.n_obs) < 30)].copy()
    model = sf.tl.fair_cluster(reference, KEYS, 3, return_model=True, **QUICK)
    with pytest.raises(ValueError, match=r"'tech1 \| d3'"):
        sf.tl.map_query(query, model, sensitive_key=KEYS)
    with pytest.raises(ValueError, match="fitted with 2"):
        sf.tl.map_query(query, model, sensitive_key="tech")
    sf.tl.map_query(query, model, sensitive_key=KEYS, new_groups="fit")
    assert list(query.uns["fair_cluster"]["mapping"]["new_groups"]) == ["tech1 | d3"]


def test_scores_of_each_attribute(crossed: AnnData) -> None:
    summary = sf.tl.evaluate(crossed, "cell_type", KEYS).summary
    assert list(summary["attribute"]) == ["tech | donor", *KEYS]
    assert summary["nce"].iloc[2] == pytest.approx(sf.metrics.nce(crossed.obs["cell_type"], crossed.obs["donor"]))
    assert "attribute" not in sf.tl.evaluate(crossed, "cell_type", ["tech"]).summary


def test_nested_is_said_and_identical_is_warned_of(crossed: AnnData) -> None:
    crossed.obs["lab"] = crossed.obs["tech"].map({"tech0": "x", "tech1": "y"})
    crossed.obs["sample"] = crossed.obs["tech"].astype(str) + crossed.obs["donor"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sf.tl.fair_cluster(crossed, ["tech", "sample"], 3, **QUICK)
    assert "'sample' is nested in 'tech'" in crossed.uns["fair_cluster"]["design"]["attributes"][0]
    with pytest.warns(UserWarning, match="'tech' and 'lab' are identical"):
        sf.tl.fair_cluster(crossed, ["tech", "lab"], 3, **QUICK)


def test_an_attribute_that_is_the_labels_is_warned_of(crossed: AnnData) -> None:
    crossed.obs["organ"] = crossed.obs["cell_type"].map({"type0": "x", "type1": "y", "type2": "y"})
    with pytest.warns(UserWarning, match="'organ' and the labels say nearly the same"):
        sf.tl.fair_cluster(crossed, "organ", 3, label_key="cell_type", **QUICK)


@pytest.mark.parametrize("keys", [[], ["tech", "tech"], ["tech", 1]])
def test_keys_that_are_no_keys(adata: AnnData, keys: Any) -> None:
    with pytest.raises(ValueError, match="sensitive_key"):
        sf.tl.fair_cluster(adata, keys, 3, **QUICK)


def with_depth() -> AnnData:
    """Counts whose depth varies so much that it shows in plain logarithms."""
    adata = sf.datasets.simulated_atlas(n_cells=500, n_genes=200, n_types=4, depth_spread=0.8, random_state=0)
    adata.obs["log_counts"] = np.log1p(np.asarray(adata.X.sum(axis=1)).ravel())
    adata.X = adata.X.log1p()
    return adata


def test_clusters_stop_depending_on_a_number(tmp_path: Path) -> None:
    adata, settings = with_depth(), {"progress_bar": False, "device": "cpu", "label_key": "cell_type"}
    sf.tl.fair_cluster(adata, "tech", 4, key_added="plain", **settings)
    sf.tl.fair_cluster(adata, "tech", 4, key_added="fair", continuous_keys="log_counts", **settings)
    before, after = (
        sf.metrics.continuous_dependence(adata.obs[key], adata.obs["log_counts"]) for key in ("plain", "fair")
    )
    assert after < 0.3 * before
    assert adata.uns["fair"]["metrics"]["ari"] > adata.uns["plain"]["metrics"]["ari"] - 0.02
    adata.write_h5ad(tmp_path / "cells.h5ad")
    run = ad.read_h5ad(tmp_path / "cells.h5ad").uns["fair"]
    assert run["metrics_by_attribute"]["log_counts"]["continuous_dependence"] == pytest.approx(after)
    assert list(run["params"]["continuous_keys"]) == ["log_counts"]


def test_the_published_loss_takes_no_numbers() -> None:
    adata = with_depth()
    with pytest.raises(ValueError, match="no place for continuous attributes"):
        sf.tl.fair_cluster(adata, "tech", 4, continuous_keys=["log_counts"], preset="paper", **QUICK)
    assert "fair_cluster" not in adata.uns


def test_numbers_of_a_query_are_used() -> None:
    adata = with_depth()
    model = sf.tl.fair_cluster(adata, "tech", 4, continuous_keys="log_counts", return_model=True, **QUICK)
    again = sf.tl.map_query(adata, model, sensitive_key="tech", copy=True)
    np.testing.assert_allclose(again.obsm["X_fair_cluster"], adata.obsm["X_fair_cluster"], atol=1e-4)
    del adata.obs["log_counts"]
    typical = sf.tl.map_query(adata, model, sensitive_key="tech", copy=True)
    assert not np.allclose(typical.obsm["X_fair_cluster"], again.obsm["X_fair_cluster"], atol=1e-2)


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        (["depth", "depth"], ValueError, "twice"),
        ("tech", ValueError, "sensitive_key names"),
        ("absent", KeyError, "continuous_keys='absent'"),
        ("cell_type", TypeError, "not numeric"),
        ("same", ValueError, "same is constant"),
    ],
)
def test_numbers_that_are_no_numbers(adata: AnnData, keys: Any, error: type[Exception], match: str) -> None:
    adata.obs["depth"], adata.obs["same"] = np.arange(adata.n_obs), 1.0
    with pytest.raises(error, match=match):
        sf.tl.fair_cluster(adata, "tech", 3, continuous_keys=keys, **QUICK)
    assert "fair_cluster" not in adata.uns
