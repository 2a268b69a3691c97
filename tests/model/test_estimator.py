"""The estimator on arrays: what it finds, forms of input, and both presets."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scfcmi._options import OPTIONS, check_options
from scfcmi.datasets import many_types
from scfcmi.model import FCMI, Registered
from scfcmi.published import NetworkOptions
from scfcmi.tl import fair_cluster

RNG = np.random.default_rng(0)
TYPES, GROUPS = np.arange(240) % 3, np.array(["a", "b"])[np.arange(240) // 3 % 2]
X = (5 * np.eye(8)[TYPES] + RNG.normal(size=(240, 8)) + 3 * (GROUPS == "b")[:, None] * np.eye(8)[6]).astype(np.float32)
QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu", "standardize": False}
NETWORK = NetworkOptions(hidden=(16, 8), max_epochs=3, warmup_epochs=1, batch_size=60)


@pytest.fixture(scope="module")
def fitted() -> FCMI:
    return FCMI(3, **QUICK).fit(X, GROUPS)


def test_fit_finds_types_and_returns_itself() -> None:
    model = FCMI(3, **QUICK)
    assert model.fit(X, GROUPS) is model
    assert adjusted_rand_score(TYPES, model.labels_) > 0.95
    assert (np.diff(np.bincount(model.labels_)) <= 0).all()


def test_what_it_says_of_new_cells_is_what_it_said_in_the_fit(fitted: FCMI) -> None:
    found = fitted.assignment_
    np.testing.assert_array_equal(fitted.predict(X, GROUPS), found.labels)
    np.testing.assert_allclose(fitted.predict_proba(X, GROUPS), found.proba, atol=1e-4)
    np.testing.assert_allclose(fitted.transform(X, GROUPS), found.embedding, atol=1e-4)
    np.testing.assert_allclose(fitted.predict_proba(X[:7], GROUPS[:7]), found.proba[:7], atol=1e-4)
    new = 5 * np.eye(8)[[0, 1, 2]].astype(np.float32)
    want = [np.bincount(found.labels[TYPES == k]).argmax() for k in range(3)]
    assert fitted.predict(new, ["a"] * 3).tolist() == want


def test_cells_of_unknown_group_go_where_they_would_with_it(fitted: FCMI) -> None:
    assert (fitted.predict(X) == fitted.labels_).mean() > 0.95


def test_forms_of_input(fitted: FCMI) -> None:
    want = fitted.assignment_.proba
    formats = [f"{name}_{kind}" for name in ("csr", "csc", "coo", "lil", "dok", "bsr") for kind in ("array", "matrix")]
    kept_sparse = [getattr(sparse, name)(X) for name in formats]
    for form in (*kept_sparse, pd.DataFrame(X), X.astype(np.float64), X.tolist()):
        np.testing.assert_allclose(fitted.predict_proba(form, GROUPS), want, atol=1e-3)
    with pytest.raises(ValueError, match="X has 7 features, but FCMI is expecting 8"):
        fitted.predict(X[:, 1:])


def test_chunks_together_are_the_whole(fitted: FCMI, monkeypatch: pytest.MonkeyPatch) -> None:
    from scfcmi.source import MatrixSource

    want = fitted.assign(X, GROUPS)
    monkeypatch.setattr(MatrixSource, "chunk_size", 64)
    parts = list(fitted.assign_chunks(X, GROUPS))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 64), (64, 128), (128, 192), (192, 240)]
    np.testing.assert_allclose(np.concatenate([part.proba for _, part in parts]), want.proba, atol=1e-5)
    whole = fitted.assign(X, GROUPS)
    np.testing.assert_array_equal(whole.labels, want.labels)
    assert whole.leaves.shape == want.leaves.shape and whole.unlike.shape == (240,)


def test_cells_unlike_all_others_are_told(fitted: FCMI) -> None:
    assert fitted.assignment_.unlike.mean() < 0.05
    assert fitted.assign(-9 * np.eye(8, dtype=np.float32)[3:]).unlike.all()


# options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [FCMI.__init__, fair_cluster])
def test_defaults_are_those_of_the_table(call: Any) -> None:
    parameters = inspect.signature(call).parameters
    # What `fair_cluster` decides by itself: representations are not standardised.
    own = {"standardize"} if call is fair_cluster else set()
    assert set(OPTIONS) - set(parameters) == own
    wrong = {n for n in set(OPTIONS) - own if parameters[n].default != OPTIONS[n].default}
    assert not wrong


def test_constructor_takes_the_options_and_nothing_else() -> None:
    assert list(inspect.signature(FCMI).parameters) == list(OPTIONS)
    check_options(FCMI().get_params())


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters=0 must be at least 1"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters=2.5 must be an integer"),
        ({"n_clusters": 241}, ValueError, "n_clusters=241 must be between 1 and the number of cells, 240"),
        ({"resolution": -1}, ValueError, "resolution=-1 must be between 0 and inf"),
        ({"resolution": "high"}, TypeError, "resolution='high' must be a number"),
        ({"preset": "best"}, ValueError, "preset='best' is unknown"),
        ({"fairness": 1.1}, ValueError, "fairness=1.1 must be between 0 and 1"),
        ({"fairness": np.nan}, ValueError, "fairness=nan"),
        ({"standardize": "yes"}, TypeError, "standardize='yes' must be True or False"),
        ({"random_state": -1}, ValueError, "random_state=-1"),
        ({"random_state": None}, TypeError, "random_state=None"),
        ({"random_state": 0.5}, TypeError, "random_state=0.5"),
        ({"device": "gpu"}, ValueError, "device='gpu' is unknown"),
        ({"devices": 0}, ValueError, "devices=0"),
        ({"network": NETWORK}, ValueError, "pass preset='paper' with it"),
    ],
    ids=str,
)
def test_options_that_cannot_be(option: dict[str, Any], error: type[Exception], message: str) -> None:
    model = FCMI(**(QUICK | option))
    with pytest.raises(error, match=message):
        model.fit(X, GROUPS)
    assert not [name for name in vars(model) if name.endswith("_")], "nothing was done"


def test_input_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="groups has 239 values, but there are 240 cells"):
        FCMI(3, **QUICK).fit(X, GROUPS[:-1])
    with pytest.raises(ValueError, match="no place for continuous attributes"):
        FCMI(3, preset="paper", **QUICK).fit(X, GROUPS, continuous={"n": np.arange(240.0)})
    spoilt = X.copy()
    spoilt[7, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite.*position 7"):
        FCMI(3, **QUICK).fit(spoilt, GROUPS)


def test_same_seed_same_result_and_numpy_integers_are_integers(fitted: FCMI) -> None:
    again = FCMI(np.int64(3), random_state=np.int64(0), **QUICK).fit(X, GROUPS)
    np.testing.assert_array_equal(again.assignment_.proba, fitted.assignment_.proba)


def test_fit_again_forgets(fitted: FCMI) -> None:
    model = FCMI(3, preset="paper", network=NETWORK, **QUICK).fit(pd.DataFrame(X[::2]).add_prefix("x"), GROUPS[::2])
    assert model.feature_names_ == tuple(f"x{i}" for i in range(8))
    model.set_params(preset="default", network=None).fit(X, GROUPS)
    np.testing.assert_array_equal(model.assignment_.proba, fitted.assignment_.proba)
    assert set(vars(model)) == set(vars(fitted)) and model.feature_names_ is None


def test_steps_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    FCMI(3, **QUICK).fit(X, GROUPS, tell=heard.append)
    assert len(heard) > 2 and len(set(heard)) == len(heard)
    assert capsys.readouterr().err == ""
    FCMI(3, **(QUICK | {"progress_bar": True})).fit(X, GROUPS)
    assert heard[-1] in capsys.readouterr().err


# number of clusters -------------------------------------------------------------------------------------------------


def test_chosen_number_of_clusters() -> None:
    model = FCMI(**QUICK).fit(X, GROUPS)
    assert model.n_clusters is None
    assert model.n_clusters_evidence_["chosen"] == model.n_clusters_ == len(np.unique(model.labels_))
    assert adjusted_rand_score(TYPES, model.labels_) > 0.9


def test_clusters_of_more_resolution_are_parts_of_those_of_less() -> None:
    coarse, fine = (FCMI(resolution=r, **QUICK).fit(X, GROUPS) for r in (1.0, 4.0))
    assert fine.n_clusters_ > coarse.n_clusters_
    for k in range(fine.n_clusters_):
        assert len(np.unique(coarse.labels_[fine.labels_ == k])) <= 1


def test_more_clusters_than_the_tree_has_leaves(fitted: FCMI) -> None:
    assert isinstance(fitted.state_, Registered)
    n = fitted.state_.tree.n_leaves + 5
    assert n < 240
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Only \d+ of")
        model = FCMI(n, **QUICK).fit(X, GROUPS)
    assert model.n_clusters_ == n == model.assignment_.proba.shape[1]
    np.testing.assert_allclose(model.assignment_.proba.sum(1), 1, atol=1e-5)


def test_clusters_without_cells_are_said() -> None:
    points = np.tile([[0.0, 4.0], [4.0, 0.0]], (60, 1)).astype(np.float32)
    with pytest.warns(UserWarning, match=r"Only \d of 6 clusters hold cells. Ask for fewer"):
        FCMI(6, **QUICK).fit(points, np.repeat(["a", "b"], 60))


# small and odd data -------------------------------------------------------------------------------------------------

SOME = np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32)
AB = np.array(["a", "b"] * 30)
ODD: dict[str, tuple[Any, Any]] = {
    "one group": (SOME, None),
    "constant columns": (np.hstack([SOME, np.ones((60, 2), np.float32)]), AB),
    "all constant": (np.ones((60, 4), np.float32), AB),
    "all zero and sparse": (sparse.csr_matrix((60, 4), dtype=np.float32), AB),
    "identical cells": (np.tile(SOME[:1], (60, 1)), AB),
    "two kinds of identical cells": (np.tile(SOME[:2], (30, 1)), np.repeat(["a", "b"], 30)),
    "one column": (SOME[:, :1], AB),
    "one constant column": (np.ones((60, 1), np.float32), AB),
    "a group of one cell": (SOME, np.array(["lonely", *AB[1:]])),
    "every cell a group": (SOME[:10], np.array(list("abcdefghij"))),
    "three cells": (SOME[:3], np.array(["a", "b", "a"])),
    "one cell": (SOME[:1], None),
    "one far cell": (np.vstack([SOME[:-1], 1e9 * SOME[-1:]]), AB),
}


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("n_clusters", [None, 3])
@pytest.mark.parametrize("name", list(ODD))
def test_odd_data_give_a_result(name: str, n_clusters: int | None, standardize: bool, tmp_path: Any) -> None:
    x, groups = ODD[name]
    k = None if n_clusters is None else min(n_clusters, x.shape[0])
    with warnings.catch_warnings():
        # Only ours may come: what a library says of its input is not for users of this package.
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", r"(groups has groups of a single cell|Only \d of \d clusters|The data support)"
        )
        model = FCMI(k, standardize=standardize, progress_bar=False, device="cpu").fit(x, groups)
        found = [model.assignment_, model.assign(x, groups), model.assign(x)]
    assert k is None or model.n_clusters_ == k
    for one in found:
        assert one.labels.shape == (x.shape[0],) and one.proba.shape == (x.shape[0], model.n_clusters_)
        assert np.isfinite(one.embedding).all()
        np.testing.assert_allclose(one.proba.sum(1), 1, atol=1e-4)
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(FCMI.load(tmp_path / "m.safetensors").assign(x).proba, found[2].proba)


def test_identical_cells_are_in_one_cluster() -> None:
    x, groups = ODD["two kinds of identical cells"]
    labels = FCMI(2, **QUICK).fit_predict(np.tile(SOME[:2], (30, 1)), AB[np.arange(60) // 2])
    assert len(set(labels[::2])) == len(set(labels[1::2])) == 1 and labels[0] != labels[1]
    assert x.shape == (60, 5) and len(groups) == 60


@pytest.mark.parametrize(
    ("x", "groups", "message"),
    [
        (np.empty((0, 4)), None, "X has no cells"),
        (np.empty((4, 0)), None, "no columns"),
        (SOME[:, 0], None, "two dimensions"),
        (SOME, ["a"] * 60, "single group"),
        (SOME, [None, *AB[1:]], "missing values"),
        (SOME, np.arange(60) / 7, "looks like a measurement"),
    ],
    ids=["no cells", "no columns", "one dimension", "single group", "missing group", "measurement"],
)
def test_what_is_refused_in_words(x: Any, groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCMI(2, **QUICK).fit(x, groups)


# the published preset -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> FCMI:
    return FCMI(3, preset="paper", network=NETWORK, **QUICK).fit(X, GROUPS)


def test_published_embedding_is_as_wide_as_there_are_clusters(published: FCMI) -> None:
    assert published.n_dims_ == 3
    assert published.assignment_.embedding.shape == published.assignment_.proba.shape == (240, 3)
    assert published.assignment_.leaves is published.assignment_.unlike is None
    np.testing.assert_array_equal(published.assignment_.proba.argmax(axis=1), published.labels_)
    np.testing.assert_array_equal(published.predict(X), published.labels_)


def test_fairness_scales_the_published_weight() -> None:
    half = FCMI(3, preset="paper", network=NETWORK, fairness=0.5, **QUICK).fit(X, GROUPS)
    assert half.state_.options.beta == pytest.approx(NETWORK.beta / 2)
    assert half.network.beta == NETWORK.beta


def test_published_preset_chooses_its_number_like_the_default() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FCMI(preset="paper", network=NETWORK, **QUICK).fit(X, GROUPS)
    chosen = FCMI(**QUICK).fit(X, GROUPS).n_clusters_
    assert model.n_clusters_ == chosen == model.assignment_.proba.shape[1]


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_few_types_in_many_groups_are_as_many_as_there_are(n_types: int) -> None:
    """Groups lie as far apart as types do, and are no types."""
    adata = many_types(3000, n_types, 8, random_state=0)
    model = FCMI(**QUICK).fit(adata.obsm["X_pca"], adata.obs["tech"])
    assert model.n_clusters_ == n_types
    assert adjusted_rand_score(adata.obs["cell_type"], model.labels_) > 0.99


def test_groups_of_a_few_cells_do_not_make_clusters() -> None:
    """Five types in a hundred groups, two cells of each in a group."""
    adata = many_types(1000, 5, 100, random_state=0)
    model = FCMI(**QUICK).fit(adata.obsm["X_pca"], adata.obs["tech"])
    assert adjusted_rand_score(adata.obs["cell_type"], model.labels_) > 0.95
    assert model.n_clusters_ <= 7
