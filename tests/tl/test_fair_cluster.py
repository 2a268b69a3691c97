"""`fair_cluster`: the inputs that work, the output it documents, and that it finds cell types."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions
from scfcmi.tl import fair_cluster

QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu"}

COMPUTED: list[AnnData] = []


@pytest.fixture
def expected(adata: AnnData) -> AnnData:
    """The result for the plain CSR matrix, computed once."""
    if not COMPUTED:
        COMPUTED.append(fair_cluster(adata, "tech", 3, copy=True, **QUICK))
    return COMPUTED[0].copy()


def check_output(adata: AnnData, n_clusters: int, key: str = "fair_cluster") -> None:
    """What the docstring promises."""
    labels = adata.obs[key]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert not labels.cat.ordered
    assert labels.notna().all()
    sizes = labels.value_counts()[list(labels.cat.categories)].to_numpy()
    assert list(labels.cat.categories) == [str(k) for k in range(len(sizes))]
    assert (np.diff(sizes) <= 0).all()
    assert (sizes > 0).all()
    assert len(sizes) <= n_clusters

    embedding = adata.obsm[f"X_{key}"]
    assert type(embedding) is np.ndarray
    assert embedding.dtype == np.float32
    assert len(embedding) == adata.n_obs
    assert np.isfinite(embedding).all()

    proba, leaves = adata.obsm[f"{key}_proba"], adata.obsm[f"{key}_leaves"]
    assert type(proba) is np.ndarray
    assert proba.dtype == np.float32
    assert proba.shape == (adata.n_obs, n_clusters)
    assert proba.min() >= 0
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-4)
    confidence = proba[np.arange(adata.n_obs), labels.astype(int)]
    np.testing.assert_allclose(adata.obs[f"{key}_confidence"], confidence)
    assert sparse.issparse(leaves) and leaves.format == "csr"
    np.testing.assert_allclose(np.asarray(leaves.sum(axis=1)).ravel(), 1, atol=1e-4)
    assert adata.obs[f"{key}_unlike"].dtype == bool

    uns = adata.uns[key]
    assert set(uns) - {"design"} == {
        "params",
        "history",
        "metrics",
        "n_clusters",
        "stopped",
        "tree",
        "registration",
    }
    assert uns["params"]["n_clusters"] == n_clusters == uns["n_clusters"]["chosen"]
    assert all(value is not None for value in uns["params"].values())
    history = uns["history"]
    assert set(history) == {
        "free_energy",
        "log_likelihood",
        "prior",
        "reconstruction",
        "h_c_given_g",
        "h_c_given_x",
        "i_gc",
    }
    for name, values in history.items():
        assert values.shape == (uns["stopped"]["epoch"],), name
        assert np.isfinite(values).all(), name
    np.testing.assert_allclose(history["free_energy"], history["prior"] - history["log_likelihood"], atol=1e-5)
    assert {"mnce", "balance"} <= set(uns["metrics"])
    tree, n_leaves = uns["tree"], leaves.shape[1]
    assert tree["merges"].shape == (n_leaves - 1, 2) and tree["link"].shape == (n_leaves - 1,)
    assert (np.diff(tree["link"]) <= 0).all()
    assert np.sort(tree["merges"].ravel()).tolist() == list(range(2 * n_leaves - 2))
    n_groups = len(uns["registration"]["groups"])
    assert uns["registration"]["deviation"].shape == (n_groups, n_clusters)


def assert_same(a: AnnData, b: AnnData, key: str = "fair_cluster") -> None:
    assert a.obs[key].tolist() == b.obs[key].tolist()
    np.testing.assert_array_equal(a.obsm[f"{key}_proba"], b.obsm[f"{key}_proba"])
    np.testing.assert_array_equal(a.obsm[f"X_{key}"], b.obsm[f"X_{key}"])


def ari(adata: AnnData, labels: Any) -> float:
    return float(adjusted_rand_score(adata.obs["cell_type"], labels))


# Inputs


@pytest.mark.parametrize(
    "convert", [lambda x: x.astype(np.float64), sparse.csc_matrix, sparse.csr_array, sparse.csc_array]
)
def test_sparse_storage_makes_no_difference(adata: AnnData, expected: AnnData, convert: Callable[[Any], Any]) -> None:
    adata.X = convert(adata.X)
    before = type(adata.X), adata.X.dtype
    fair_cluster(adata, "tech", 3, **QUICK)
    assert (type(adata.X), adata.X.dtype) == before
    check_output(adata, 3)
    assert_same(adata, expected)


def test_dense_differs_from_sparse_by_rounding_alone(adata: AnnData, expected: AnnData) -> None:
    adata.X = adata.X.toarray()
    fair_cluster(adata, "tech", 3, **QUICK)
    check_output(adata, 3)
    assert adjusted_rand_score(adata.obs["fair_cluster"], expected.obs["fair_cluster"]) > 0.95
    other = adata.copy()
    other.X = np.asfortranarray(adata.X.astype(np.float64))
    fair_cluster(other, "tech", 3, **QUICK)
    assert other.X.dtype == np.float64
    assert adjusted_rand_score(other.obs["fair_cluster"], expected.obs["fair_cluster"]) > 0.95


@pytest.mark.parametrize("dense", [False, True])
def test_backed(adata: AnnData, expected: AnnData, tmp_path: Path, dense: bool) -> None:
    if dense:
        adata.X = adata.X.toarray()
        expected = fair_cluster(adata, "tech", 3, copy=True, **QUICK)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    fair_cluster(backed, "tech", 3, **QUICK)
    assert backed.isbacked
    check_output(backed, 3)
    assert_same(backed, expected)
    backed.file.close()


def test_view(adata: AnnData) -> None:
    rows = np.arange(300) % 5 > 0
    expected = fair_cluster(adata[rows].copy(), "tech", 3, copy=True, **QUICK)
    view = adata[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fair_cluster(view, "tech", 3, **QUICK)
    assert_same(view, expected)
    assert list(adata.obs) == ["tech", "cell_type"]
    assert not adata.obsm
    assert not adata.uns


def test_copy_of_a_view(adata: AnnData) -> None:
    view = adata[:200]
    result = fair_cluster(view, "tech", 3, copy=True, **QUICK)
    assert view.is_view
    assert not result.is_view
    check_output(result, 3)


def test_representation(adata: AnnData) -> None:
    scores = PCA(8, random_state=0).fit_transform(adata.X.toarray())
    adata.obsm["X_pca"] = scores
    adata.obsm["frame"] = pd.DataFrame(scores, index=adata.obs_names, columns=[f"PC{i}" for i in range(8)])
    fair_cluster(adata, "tech", 3, use_rep="X_pca", key_added="array", **QUICK)
    fair_cluster(adata, "tech", 3, use_rep="frame", key_added="table", **QUICK)
    check_output(adata, 3, "array")
    assert len(adata.obsm["X_array"]) == 300
    assert adata.uns["array"]["params"]["n_vars"] == 8
    assert adata.uns["array"]["params"]["use_rep"] == "X_pca"
    assert adata.obs["array"].tolist() == adata.obs["table"].tolist()
    np.testing.assert_array_equal(adata.obsm["X_array"], adata.obsm["X_table"])


def test_representation_needs_no_matrix(adata: AnnData) -> None:
    bare = AnnData(obs=adata.obs, obsm={"X_pca": PCA(8, random_state=0).fit_transform(adata.X.toarray())})
    fair_cluster(bare, "tech", 3, use_rep="X_pca", **QUICK)
    check_output(bare, 3)


def test_representation_named_x_is_the_matrix(adata: AnnData, expected: AnnData) -> None:
    fair_cluster(adata, "tech", 3, use_rep="X", **QUICK)
    assert_same(adata, expected)


def test_layer(adata: AnnData, expected: AnnData) -> None:
    adata.layers["logged"] = adata.X.copy()
    adata.X = adata.layers["counts"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fair_cluster(adata, "tech", 3, layer="logged", **QUICK)
    assert_same(adata, expected)
    assert adata.uns["fair_cluster"]["params"]["layer"] == "logged"


def test_mask(adata: AnnData, expected: AnnData) -> None:
    genes = np.arange(100) < 60
    want = fair_cluster(adata[:, genes].copy(), "tech", 3, copy=True, **QUICK)
    adata.var["highly_variable"] = genes
    adata.var["mine"] = genes.astype(int)
    for mask in ("highly_variable", "mine", genes, genes.astype(object)):
        result = fair_cluster(adata, "tech", 3, mask_var=mask, copy=True, **QUICK)
        assert_same(result, want)
        assert result.uns["fair_cluster"]["params"]["n_vars"] == 60
    assert_same(fair_cluster(adata, "tech", 3, copy=True, **QUICK), want)
    everything = fair_cluster(adata, "tech", 3, mask_var=None, copy=True, **QUICK)
    assert_same(everything, expected)


@pytest.mark.parametrize("kind", ["bool", "int", "float", "str", "unused", "ordered"])
def test_kinds_of_sensitive_attribute(adata: AnnData, expected: AnnData, kind: str) -> None:
    codes = adata.obs["tech"].cat.codes.to_numpy()
    adata.obs["tech"] = {
        "bool": codes == 1,
        "int": codes.astype(np.int64),
        "float": codes.astype(float),
        "str": np.array(["a", "b"])[codes],
        "unused": pd.Categorical.from_codes(codes, ["x", "y", "z"]),
        "ordered": pd.Categorical.from_codes(codes, ["x", "y"], ordered=True),
    }[kind]
    fair_cluster(adata, "tech", 3, **QUICK)
    assert_same(adata, expected)


def test_sixty_groups(adata: AnnData) -> None:
    adata.obs["donor"] = [f"donor{i % 60}" for i in range(300)]
    model = fair_cluster(adata, "donor", 3, return_model=True, **QUICK)
    assert model.groups_.n == 60
    check_output(adata, 3)


def test_groups_of_very_different_size(adata: AnnData) -> None:
    adata.obs["tech"] = ["rare" if i < 4 else "common" for i in range(300)]
    fair_cluster(adata, "tech", 3, **QUICK)
    check_output(adata, 3)


def test_number_of_clusters_is_chosen(adata: AnnData) -> None:
    fair_cluster(adata, "tech", **QUICK)
    evidence = adata.uns["fair_cluster"]["n_clusters"]
    check_output(adata, evidence["chosen"])
    assert 2 <= evidence["chosen"] <= 10
    assert evidence["chosen"] in evidence["candidates"]
    assert evidence["candidates"].shape == evidence["link"].shape


def test_returns(adata: AnnData) -> None:
    assert fair_cluster(adata, "tech", 3, **QUICK) is None
    model = fair_cluster(adata, "tech", 3, return_model=True, **QUICK)
    assert isinstance(model, FCMI)
    labels = adata.obs["fair_cluster"].astype(int).to_numpy()
    np.testing.assert_array_equal(model.predict(adata.X), labels)
    fresh = adata.copy()
    copied = fair_cluster(fresh, "tech", 4, key_added="other", copy=True, **QUICK)
    assert "other" not in fresh.obs
    check_output(copied, 4, "other")
    both = fair_cluster(fresh, "tech", 3, copy=True, return_model=True, **QUICK)
    assert [type(part) for part in both] == [AnnData, FCMI]
    assert both[0] is not fresh


def test_two_keys_side_by_side(adata: AnnData) -> None:
    fair_cluster(adata, "tech", 3, key_added="a", **QUICK)
    labels = adata.obs["a"].copy()
    fair_cluster(adata, "tech", 4, key_added="b", **QUICK)
    check_output(adata, 3, "a")
    check_output(adata, 4, "b")
    pd.testing.assert_series_equal(adata.obs["a"], labels)


def test_same_key_again_leaves_nothing_of_the_first_run(adata: AnnData) -> None:
    fair_cluster(adata, "tech", 5, label_key="cell_type", **QUICK)
    adata.obsm["X_fair_cluster_umap"] = np.zeros((300, 2))
    adata.uns["fair_cluster_colors"] = np.array(["#000000"] * 5)
    fair_cluster(adata, "tech", 2, **QUICK)
    check_output(adata, 2)
    assert set(adata.obsm) == {"X_fair_cluster", "fair_cluster_proba", "fair_cluster_leaves"}
    assert set(adata.uns) == {"fair_cluster"}
    assert "ari" not in adata.uns["fair_cluster"]["metrics"]
    assert "label_key" not in adata.uns["fair_cluster"]["params"]


def test_fewer_cells_than_genes(adata: AnnData) -> None:
    few = adata[:24].copy()
    fair_cluster(few, "tech", 3, **QUICK)
    check_output(few, 3)
    assert few.n_obs < few.n_vars


def test_two_cells_per_group(adata: AnnData) -> None:
    four = adata[[0, 1, 3, 4]].copy()
    fair_cluster(four, "tech", 2, **QUICK)
    check_output(four, 2)


def test_few_genes(adata: AnnData) -> None:
    two = adata[:, np.argsort(-adata.X.toarray().mean(axis=0))[:2]].copy()
    fair_cluster(two, "tech", 2, **QUICK)
    check_output(two, 2)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_constant_genes(adata: AnnData, as_sparse: bool) -> None:
    values = adata.X.toarray()
    values[:, 0] = 0
    values[:, 1] = 2.5
    adata.X = sparse.csr_matrix(values) if as_sparse else values
    fair_cluster(adata, "tech", 3, **QUICK)
    check_output(adata, 3)


def test_more_clusters_than_live_warns(adata: AnnData) -> None:
    adata.obsm["two"] = np.tile([[0.0, 4.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]], (75, 1))
    adata.obs["half"] = [["a", "b"][i // 2 % 2] for i in range(300)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fair_cluster(adata, "half", 5, use_rep="two", **QUICK)
    messages = [str(w.message) for w in seen if "clusters hold cells" in str(w.message)]
    n_live = len(adata.obs["fair_cluster"].cat.categories)
    assert n_live < 5
    assert len(messages) == 1
    assert f"Only {n_live} of 5 clusters hold cells" in messages[0]
    check_output(adata, 5)


# Output


def test_output_on_disk(adata: AnnData, tmp_path: Path) -> None:
    fair_cluster(adata, "tech", label_key="cell_type", **QUICK)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        check_output(back, adata.uns["fair_cluster"]["n_clusters"]["chosen"])
        assert_same(back, adata)
        assert_equal_nested(back.uns["fair_cluster"], adata.uns["fair_cluster"])


def assert_equal_nested(a: Any, b: Any) -> None:
    if isinstance(b, dict):
        assert set(a) == set(b)
        for name in b:
            assert_equal_nested(a[name], b[name])
    elif isinstance(b, np.ndarray):
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_categories_are_in_natural_order(adata: AnnData) -> None:
    fair_cluster(adata, "tech", 14, **QUICK)
    categories = list(adata.obs["fair_cluster"].cat.categories)
    assert len(categories) > 10
    assert categories == [str(k) for k in range(len(categories))]
    check_output(adata, 14)


def test_soft_and_hard_assignments_agree(adata: AnnData) -> None:
    fair_cluster(adata, "tech", 3, progress_bar=False, device="cpu")
    proba = adata.obsm["fair_cluster_proba"]
    labels = adata.obs["fair_cluster"].astype(int).to_numpy()
    # Labels come from the likeliest small cluster, so that single cells may differ.
    assert (proba.argmax(axis=1) == labels).mean() > 0.97


def test_input_is_not_written_to(adata: AnnData, expected: AnnData) -> None:
    assert (expected.X != adata.X).nnz == 0
    pd.testing.assert_frame_equal(expected.obs[["tech", "cell_type"]], adata.obs)
    pd.testing.assert_frame_equal(expected.var, adata.var)
    assert not adata.uns
    assert not adata.obsm


def test_params_say_what_was_used(adata: AnnData) -> None:
    fair_cluster(adata, "tech", 3, fairness=0.25, random_state=7, **QUICK)
    params = adata.uns["fair_cluster"]["params"]
    used = {
        "sensitive_key": "tech",
        "n_clusters": 3,
        "preset": "default",
        "fairness": 0.25,
        "random_state": 7,
        "resolution": 1.0,
        "device": "cpu",
        "n_vars": 100,
    }
    assert {name: params[name] for name in used} == used


def test_labels_never_meet_training(adata: AnnData, expected: AnnData) -> None:
    with_labels = fair_cluster(adata, "tech", 3, label_key="cell_type", copy=True, **QUICK)
    adata.obs["cell_type"] = np.random.default_rng(1).permutation(adata.obs["cell_type"])
    permuted = fair_cluster(adata, "tech", 3, label_key="cell_type", copy=True, **QUICK)
    assert_same(with_labels, expected)
    assert_same(permuted, expected)
    for name, values in expected.uns["fair_cluster"]["history"].items():
        np.testing.assert_array_equal(permuted.uns["fair_cluster"]["history"][name], values)
    metrics = with_labels.uns["fair_cluster"]["metrics"]
    assert metrics["ari"] == pytest.approx(ari(with_labels, with_labels.obs["fair_cluster"]))
    assert permuted.uns["fair_cluster"]["metrics"]["ari"] < metrics["ari"]


def test_metrics_ignore_the_order_of_categories(adata: AnnData, expected: AnnData) -> None:
    adata.obs["tech"] = adata.obs["tech"].cat.reorder_categories(["tech1", "tech0"])
    fair_cluster(adata, "tech", 3, **QUICK)
    assert_same(adata, expected)


# Repeatability


def test_same_seed_same_result(adata: AnnData, expected: AnnData) -> None:
    fair_cluster(adata, "tech", 3, **QUICK)
    assert_same(adata, expected)


def test_seed_matters(adata: AnnData, expected: AnnData) -> None:
    fair_cluster(adata, "tech", 3, random_state=1, **QUICK)
    assert not np.array_equal(adata.obsm["X_fair_cluster"], expected.obsm["X_fair_cluster"])


def test_same_seed_in_a_fresh_process(adata: AnnData, expected: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "in.h5ad")
    code = (
        "import sys, anndata, scfcmi\n"
        "a = anndata.read_h5ad(sys.argv[1])\n"
        "scfcmi.tl.fair_cluster(a, 'tech', 3, progress_bar=False, device='cpu')\n"
        "a.obs[['fair_cluster']].to_csv(sys.argv[2])\n"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(tmp_path / "in.h5ad"), str(tmp_path / "out.csv")]
    subprocess.run(command, check=True, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"})
    labels = pd.read_csv(tmp_path / "out.csv", index_col=0)["fair_cluster"].astype(str)
    assert labels.tolist() == expected.obs["fair_cluster"].tolist()


@pytest.mark.filterwarnings("ignore:Only . of 3 clusters hold cells")
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_global_random_states_stay(adata: AnnData, preset: Any) -> None:
    few = adata[:40].copy()
    numpy_state, torch_state, python_state = np.random.get_state(), torch.get_rng_state(), random.getstate()
    threads = torch.get_num_threads()
    network = NetworkOptions(max_epochs=1) if preset == "paper" else None
    fair_cluster(few, "tech", 3, preset=preset, network=network, **QUICK)
    after = np.random.get_state()
    assert after[0] == numpy_state[0]
    np.testing.assert_array_equal(after[1], numpy_state[1])
    assert after[2:] == numpy_state[2:]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert torch.get_num_threads() == threads


# Science


def test_finds_types_where_plain_clustering_finds_technologies(adata: AnnData) -> None:
    scores = PCA(20, random_state=0).fit_transform(adata.X.toarray())
    plain = KMeans(3, n_init=10, random_state=0).fit_predict(scores)
    assert ari(adata, plain) < 0.6
    fair_cluster(adata, "tech", 3, label_key="cell_type", progress_bar=False, device="cpu")
    assert ari(adata, adata.obs["fair_cluster"]) > 0.9
    assert adata.uns["fair_cluster"]["metrics"]["mnce"] > 0.95


def test_type_of_one_group_stays_apart(adata: AnnData) -> None:
    missing = (adata.obs["cell_type"] == "type2") & (adata.obs["tech"] == "tech1")
    rest = adata[~missing.to_numpy()].copy()
    fair_cluster(rest, "tech", 3, progress_bar=False, device="cpu")
    assert ari(rest, rest.obs["fair_cluster"]) > 0.9
    own = rest.obs.loc[rest.obs["cell_type"] == "type2", "fair_cluster"].mode()[0]
    assert (rest.obs.loc[rest.obs["fair_cluster"] == own, "cell_type"] == "type2").mean() > 0.9


def test_results_do_not_follow_the_order_of_genes_or_names(adata: AnnData) -> None:
    fair_cluster(adata, "tech", 3, progress_bar=False, device="cpu")
    order = np.random.default_rng(3).permutation(adata.n_vars)
    shuffled = adata[:, order].copy()
    fair_cluster(shuffled, "tech", 3, key_added="again", progress_bar=False, device="cpu")
    assert adjusted_rand_score(adata.obs["fair_cluster"], shuffled.obs["again"]) > 0.95


# Cuts, parts and other matrices


def test_resolutions_are_nested(adata: AnnData) -> None:
    for resolution in (0.3, 1.0, 3.0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fair_cluster(adata, "tech", resolution=resolution, key_added=f"r{resolution}", **QUICK)
    coarse, middle, fine = (adata.obs[f"r{resolution}"] for resolution in (0.3, 1.0, 3.0))
    assert coarse.nunique() <= middle.nunique() < fine.nunique()
    for inner, outer in ((fine, middle), (middle, coarse)):
        assert (pd.crosstab(inner, outer) > 0).sum(axis=1).max() == 1


def test_restricted_to_some_clusters(adata: AnnData) -> None:
    before = adata.obs["cell_type"].copy()
    own = fair_cluster(
        adata, "tech", 2, restrict_to=("cell_type", ["type0", "type2"]), key_added="sub", return_model=True, **QUICK
    )
    labels = adata.obs["sub"].astype(str)
    outside = (before == "type1").to_numpy()
    assert (labels[outside] == "type1").all()
    assert set(labels[~outside]) <= {f"type{k},{c}" for k in (0, 2) for c in (0, 1)}
    assert ari(adata[~outside], [label.split(",")[1] for label in labels[~outside]]) > 0.9
    assert isinstance(own, FCMI) and len(own.labels_) == (~outside).sum()
    pd.testing.assert_series_equal(adata.obs["cell_type"], before)
    assert not adata.obsm and list(adata.uns["sub"]["params"]["restrict_to"]) == ["cell_type", "type0", "type2"]


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (("cell_type", ["type9"]), ValueError, r"restrict_to names \['type9'\].*there are \['type0'"),
        (("cell_type", []), ValueError, "names no values"),
        (("absent", ["x"]), KeyError, "restrict_to='absent'"),
    ],
)
def test_restrictions_that_cannot_be(adata: AnnData, given: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fair_cluster(adata, "tech", 2, restrict_to=given, **QUICK)
    assert not adata.uns and list(adata.obs) == ["tech", "cell_type"]


def test_another_number_of_clusters_is_said(adata: AnnData) -> None:
    """Four types, of which two pairs are close: two clusters hold over a wide range of resolutions."""
    from scfcmi.communities import THRESHOLD, Tree
    from scfcmi.model._evidence import say_alternative

    merges = np.array([[0, 1], [2, 3], [4, 5]])
    with pytest.warns(UserWarning, match=r"support 4 clusters.*and 2 over a wider range.*recut\(adata, n_clusters=2\)"):
        say_alternative(Tree(merges, np.array([0.97, 0.95, 0.001]) * THRESHOLD), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_alternative(Tree(merges, np.array([5.0, 4.0, 0.001]) * THRESHOLD), 2)


def test_raw(adata: AnnData, expected: AnnData) -> None:
    adata.raw = adata
    adata.X = adata.X.toarray() - adata.X.toarray().mean(axis=0)
    fair_cluster(adata, "tech", 3, use_raw=True, **QUICK)
    assert_same(adata, expected)


def test_names_of_genes(adata: AnnData) -> None:
    genes = [f"gene{i}" for i in range(60)]
    want = fair_cluster(adata, "tech", 3, mask_var=np.arange(100) < 60, copy=True, **QUICK)
    assert_same(fair_cluster(adata, "tech", 3, mask_var=genes, copy=True, **QUICK), want)


def test_empty_cells_are_marked(adata: AnnData) -> None:
    values = adata.X.toarray()
    values[[7, 9]] = 0
    adata.X = sparse.csr_matrix(values)
    with pytest.warns(UserWarning, match="2 cells without counts"):
        fair_cluster(adata, "tech", 3, **QUICK)
    assert adata.obs["fair_cluster_unlike"].to_numpy()[[7, 9]].all()
    assert adata.obs["fair_cluster_unlike"].mean() < 0.05
