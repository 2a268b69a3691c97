"""What `fair_cluster` refuses: the message names the culprit, and the data stay as they were."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scfcmi.published import NetworkOptions
from scfcmi.tl import fair_cluster

QUICK = {"progress_bar": False, "device": "cpu"}


def contents(value: Any) -> Any:
    """Everything that an AnnData or a part of it holds, as nested plain values that compare bit by bit."""
    if isinstance(value, AnnData):
        parts = ("X", "obs", "var", "obsm", "varm", "obsp", "layers", "uns")
        return {name: contents(getattr(value, name)) for name in parts}
    if sparse.issparse(value):
        return (type(value), value.shape, *(contents(a) for a in (value.data, value.indices, value.indptr)))
    if isinstance(value, np.ndarray):
        return (value.dtype, value.shape, value.tobytes() if value.dtype != object else value.tolist())
    if isinstance(value, pd.DataFrame):
        columns = {name: (column.dtype, contents(column.tolist())) for name, column in value.items()}
        return (contents(value.index.tolist()), columns)
    if isinstance(value, list):
        return [None if isinstance(v, float) and np.isnan(v) else v for v in value]
    if hasattr(value, "items"):
        return {name: contents(v) for name, v in value.items()}
    return value


def refused(adata: AnnData, error: type[Exception], match: str, *args: Any, **kwargs: Any) -> None:
    before = contents(adata)
    with pytest.raises(error, match=match):
        fair_cluster(adata, *(args or ("tech", 3)), **(QUICK | kwargs))
    assert contents(adata) == before


def test_the_comparison_sees_changes(adata: AnnData) -> None:
    before = contents(adata)
    assert contents(adata.copy()) == before
    adata.X.data[0] += 1
    assert contents(adata) != before


# The sensitive attribute


def test_sensitive_key_missing(adata: AnnData) -> None:
    refused(
        adata,
        KeyError,
        r"sensitive_key='batch' is not a column of adata\.obs; there are \['tech', 'cell_type'\]",
        "batch",
        3,
    )


def test_sensitive_key_with_missing_values(adata: AnnData) -> None:
    adata.obs.loc[adata.obs_names[[4, 7]], "tech"] = np.nan
    refused(adata, ValueError, r"obs\['tech'\] has 2 missing values \(first at position 4\)")


def test_one_group_only(adata: AnnData) -> None:
    adata.obs["tech"] = "droplet"
    refused(adata, ValueError, r"obs\['tech'\] has a single group, \['droplet'\]")


def test_one_group_left_in_a_view(adata: AnnData) -> None:
    view = adata[adata.obs["tech"] == "tech0"]
    with pytest.raises(ValueError, match=r"single group, \['tech0'\]"):
        fair_cluster(view, "tech", 3, **QUICK)
    assert view.is_view


def test_measurement_as_sensitive_attribute(adata: AnnData) -> None:
    adata.obs["depth"] = np.linspace(0, 1, adata.n_obs)
    refused(adata, ValueError, r"obs\['depth'\] is numeric with 300 distinct values", "depth", 3)


def test_group_of_one_cell_warns_once(adata: AnnData) -> None:
    adata.obs["tech"] = ["lonely", *adata.obs["tech"].astype(str)[1:]]
    with pytest.warns(UserWarning, match=r"groups of a single cell: \['lonely'\]") as seen:
        fair_cluster(adata, "tech", 3, **QUICK)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert adata.obs["fair_cluster"].notna().all()


# Values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_not_finite(adata: AnnData, bad: float, form: str) -> None:
    values = adata.X.toarray()
    values[11, 5] = bad
    adata.X = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[form](values)
    refused(adata, ValueError, r"adata\.X has NaN or infinite values .*at position 11, column 'gene5'")


def test_both_infinities_at_once(adata: AnnData) -> None:
    values = adata.X.toarray()
    values[3, :2] = [np.inf, -np.inf]
    adata.X = values
    refused(adata, ValueError, "NaN or infinite values .* position 3")


@pytest.mark.parametrize("as_sparse", [False, True])
def test_negative_values(adata: AnnData, as_sparse: bool) -> None:
    values = adata.X.toarray() - 0.5
    adata.X = sparse.csr_matrix(values) if as_sparse else values
    refused(adata, ValueError, r"adata\.X has negative values \(smallest -0\.5\).*layer")


def test_not_finite_in_obsm(adata: AnnData) -> None:
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(adata.n_obs, 5))
    adata.obsm["X_pca"][200, 1] = np.nan
    refused(adata, ValueError, r"obsm\['X_pca'\] has NaN or infinite values .* position 200", use_rep="X_pca")


def test_bad_layer_is_named(adata: AnnData) -> None:
    adata.layers["scaled"] = adata.X.toarray() - 1
    refused(adata, ValueError, r"adata\.layers\['scaled'\] has negative values", layer="scaled")


def test_empty_cells_warn(adata: AnnData) -> None:
    values = adata.X.toarray()
    values[[7, 9]] = 0
    adata.X = sparse.csr_matrix(values)
    with pytest.warns(UserWarning, match=r"2 cells without counts .*\(first at position 7\).*filter_cells"):
        fair_cluster(adata, "tech", 3, **QUICK)
    assert adata.obs["fair_cluster"].notna().all()


def test_cell_without_counts_in_the_selected_genes_warns(adata: AnnData) -> None:
    values = adata.X.toarray()
    values[7, :50] = 0
    adata.X = sparse.csr_matrix(values)
    with pytest.warns(UserWarning, match=r"1 cells without counts in the genes in use \(first at position 7\)"):
        fair_cluster(adata, "tech", 3, mask_var=np.arange(100) < 50, **QUICK)


def test_no_cell_with_counts(adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    refused(adata, ValueError, r"adata\.X has no value other than 0 in the genes in use")


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.astype(np.int64), lambda x: x.toarray()])
def test_counts_warn(adata: AnnData, convert: Callable[[Any], Any]) -> None:
    adata.X = convert(adata.layers["counts"])
    with pytest.warns(UserWarning, match="adata.X holds integers.*normalize_total.*log1p") as seen:
        fair_cluster(adata, "tech", 3, **QUICK)
    assert len(seen) == 1


def test_a_binary_matrix_is_not_taken_for_counts(adata: AnnData) -> None:
    adata.X = (adata.X > 0).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fair_cluster(adata, "tech", 3, **QUICK)


# Parameters


@pytest.mark.parametrize(
    ("n_clusters", "complaint"),
    [(-2, "at least 1"), (0, "at least 1"), (301, "between 1 and the number of cells, 300")],
)
def test_n_clusters_out_of_range(adata: AnnData, n_clusters: int, complaint: str) -> None:
    refused(adata, ValueError, f"n_clusters={n_clusters} must be {complaint}", "tech", n_clusters)


@pytest.mark.parametrize("n_clusters", [3.5, "3", True, np.nan])
def test_n_clusters_is_not_an_integer(adata: AnnData, n_clusters: Any) -> None:
    refused(adata, (TypeError, ValueError), rf"n_clusters={n_clusters!r} must be an integer", "tech", n_clusters)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"resolution": -1}, "resolution=-1 must be between 0"),
        ({"resolution": np.nan}, "resolution=nan must be between 0"),
        ({"n_init": 0}, "n_init=0 must be at least 1"),
        ({"random_state": -1}, "random_state=-1 must be between"),
        ({"network": NetworkOptions()}, "pass preset='paper' with it"),
    ],
)
def test_options_out_of_range(adata: AnnData, given: dict[str, Any], complaint: str) -> None:
    refused(adata, ValueError, complaint, **given)


def test_numpy_integers_are_integers(adata: AnnData) -> None:
    fair_cluster(adata, "tech", np.int64(3), random_state=np.int32(1), **QUICK)
    assert adata.obsm["fair_cluster_proba"].shape == (300, 3)


@pytest.mark.parametrize("fairness", [-0.1, 1.5, np.nan])
def test_fairness_out_of_range(adata: AnnData, fairness: float) -> None:
    refused(adata, ValueError, f"fairness={fairness} must be between 0", fairness=fairness)


@pytest.mark.parametrize("device", ["tpu", "cpu:0", "cuda:99", "cuda:", ""])
def test_unknown_device(adata: AnnData, device: str) -> None:
    refused(adata, ValueError, f"device='{device}' is (unknown|not available)", device=device)


def test_unknown_preset(adata: AnnData) -> None:
    refused(adata, ValueError, r"preset='best' is unknown: use one of \['default', 'paper'\]", preset="best")


# Names


def test_unknown_layer(adata: AnnData) -> None:
    refused(adata, KeyError, r"layer='logged' is not in adata\.layers; there are \['counts'\]", layer="logged")


def test_unknown_representation(adata: AnnData) -> None:
    adata.obsm["X_umap"] = np.zeros((adata.n_obs, 2))
    refused(adata, KeyError, r"use_rep='X_pca' is not in adata\.obsm; there are \['X_umap'\]", use_rep="X_pca")


def test_representation_and_layer(adata: AnnData) -> None:
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    refused(adata, ValueError, "either use_rep='X_pca' or layer='counts'", use_rep="X_pca", layer="counts")


def test_label_key_missing(adata: AnnData) -> None:
    refused(adata, KeyError, "label_key='truth' is not a column", label_key="truth")


def test_label_key_with_missing_values(adata: AnnData) -> None:
    adata.obs.loc[adata.obs_names[:5], "cell_type"] = np.nan
    fair_cluster(adata, "tech", 3, label_key="cell_type", **QUICK)
    assert adata.uns["fair_cluster"]["metrics"]["n_labelled"] == 295


def test_label_key_without_values(adata: AnnData) -> None:
    adata.obs["cell_type"] = np.nan
    refused(adata, ValueError, "label_key='cell_type' has no values", label_key="cell_type")


@pytest.mark.parametrize("key", ["tech", "cell_type"])
def test_results_do_not_overwrite_what_they_came_from(adata: AnnData, key: str) -> None:
    refused(adata, ValueError, f"key_added='{key}'.*overwrite", label_key="cell_type", key_added=key)


# Genes


def test_mask_selects_nothing(adata: AnnData) -> None:
    adata.var["highly_variable"] = False
    refused(adata, ValueError, r"adata\.var\['highly_variable'\] selects no genes")
    refused(adata, ValueError, "mask_var selects no genes", mask_var=np.zeros(100, bool))


def test_mask_unknown(adata: AnnData) -> None:
    adata.var["mine"] = True
    refused(adata, KeyError, r"mask_var='hvg' is not a column of adata\.var; there are \['mine'\]", mask_var="hvg")


@pytest.mark.parametrize("shape", [(99,), (100, 1), ()])
def test_mask_of_wrong_shape(adata: AnnData, shape: tuple[int, ...]) -> None:
    refused(adata, ValueError, r"mask_var has shape .* adata has 100 genes", mask_var=np.ones(shape, bool))


def test_mask_is_not_boolean(adata: AnnData) -> None:
    adata.var["score"] = np.linspace(0, 1, 100)
    adata.var["word"] = ["True", "False"] * 50
    adata.var["holes"] = [True, None] * 50
    refused(adata, ValueError, r"adata\.var\['score'\] must be boolean, not float64", mask_var="score")
    refused(adata, ValueError, r"adata\.var\['word'\] must be boolean", mask_var="word")
    refused(adata, ValueError, r"adata\.var\['holes'\] must be boolean", mask_var="holes")


# The object itself


def test_not_an_anndata(adata: AnnData) -> None:
    for other, name in [(adata.X, "csr_matrix"), (adata.to_df(), "DataFrame"), (None, "NoneType")]:
        with pytest.raises(TypeError, match=f"must be an AnnData, not {name}"):
            fair_cluster(other, "tech", 3, **QUICK)


def test_no_cells(adata: AnnData) -> None:
    refused(adata[:0].copy(), ValueError, "adata has no cells")


def test_no_genes(adata: AnnData) -> None:
    refused(adata[:, :0].copy(), ValueError, "adata has no genes")


def test_no_matrix(adata: AnnData) -> None:
    refused(AnnData(obs=adata.obs, var=adata.var), ValueError, r"adata\.X is empty: choose a matrix")


def test_duplicate_names_of_cells(adata: AnnData) -> None:
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]
    refused(adata, ValueError, r"obs_names has duplicates \(first 'twin'\)")


def test_copy_of_backed_data(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"copy=True is not possible for backed data.*to_memory"):
        fair_cluster(backed, "tech", 3, copy=True, **QUICK)
    assert list(backed.obs) == ["tech", "cell_type"]
    backed.file.close()


def test_failure_in_the_middle(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    fair_cluster(adata, "tech", 3, **QUICK)
    adata.uns["fair_cluster_colors"] = np.array(["#000000"] * 3)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise FloatingPointError("half-way")

    monkeypatch.setattr("scfcmi.model._fit_default.find_communities", fail)
    refused(adata, FloatingPointError, "half-way", "tech", 4)


def test_failure_in_scoring(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("late")

    monkeypatch.setattr("scfcmi.tl._fair_cluster.clustering_scores", fail)
    refused(adata, RuntimeError, "late")
