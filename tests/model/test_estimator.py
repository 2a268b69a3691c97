"""The estimator on arrays: scikit-learn manners, and the published preset."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scfcmi.model import FCMI
from scfcmi.train import PRESETS, one_thread

RNG = np.random.default_rng(0)
TYPES, GROUPS = np.arange(120) % 3, np.array(["a", "b"])[np.arange(120) // 3 % 2]
X = (5 * np.eye(8)[TYPES] + RNG.normal(size=(120, 8)) + 3 * (GROUPS == "b")[:, None] * np.eye(8)[6]).astype(np.float32)
QUICK: dict[str, Any] = {"max_epochs": 2, "progress_bar": False, "device": "cpu"}


@pytest.fixture(scope="module")
def fitted() -> FCMI:
    return FCMI(3, standardize=False, progress_bar=False, device="cpu").fit(X, GROUPS)


@pytest.fixture(scope="module")
def published() -> FCMI:
    with one_thread():
        return FCMI(3, preset="paper", max_epochs=22, progress_bar=False, device="cpu").fit(X[:60], GROUPS[:60])


def test_fit_finds_types_and_returns_itself() -> None:
    model = FCMI(3, standardize=False, progress_bar=False, device="cpu")
    assert model.fit(X, GROUPS) is model
    assert adjusted_rand_score(TYPES, model.assignment_.labels) > 0.95


def test_what_it_says_of_new_cells_is_what_it_said_in_the_fit(fitted: FCMI) -> None:
    found = fitted.assignment_
    np.testing.assert_array_equal(fitted.predict(X), found.labels)
    np.testing.assert_allclose(fitted.predict_proba(X), found.proba, atol=1e-5)
    np.testing.assert_allclose(fitted.transform(X), found.embedding, atol=1e-5)
    np.testing.assert_allclose(fitted.predict_proba(X[:7]), found.proba[:7], atol=1e-5)
    assert (np.diff(np.bincount(found.labels)) <= 0).all()
    new = 5 * np.eye(8)[[0, 1, 2]].astype(np.float32)
    want = [np.bincount(found.labels[TYPES == k]).argmax() for k in range(3)]
    assert fitted.predict(new).tolist() == want


def test_forms_of_input(fitted: FCMI) -> None:
    for form in (sparse.csr_matrix(X), pd.DataFrame(X), X.astype(np.float64), X.tolist()):
        np.testing.assert_allclose(fitted.predict_proba(form), fitted.assignment_.proba, atol=1e-3)


def test_parameters() -> None:
    model = FCMI(4, fairness=0.3, max_epochs=5)
    params = model.get_params()
    assert params["n_clusters"] == 4
    assert params["fairness"] == 0.3
    assert FCMI(**params).get_params() == params
    model.fit(X, GROUPS)
    assert model.get_params() == params
    used = model.used_params()
    assert (used["max_epochs"], used["fairness"], used["device"]) == (5, 0.3, "cpu")


def test_groups_of_another_length() -> None:
    with pytest.raises(ValueError, match="groups has 119 values, but there are 120 cells"):
        FCMI(3, **QUICK).fit(X, GROUPS[:-1])


@pytest.mark.parametrize(("random_state", "error"), [(-1, ValueError), (None, TypeError), (0.5, TypeError)])
def test_random_state(random_state: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"random_state={random_state}"):
        FCMI(3, random_state=random_state, **QUICK).fit(X, GROUPS)


def test_fit_again_forgets(fitted: FCMI) -> None:
    model = FCMI(3, standardize=False, progress_bar=False, device="cpu").fit(X[::2], GROUPS[::2])
    model.fit(X, GROUPS)
    np.testing.assert_array_equal(model.assignment_.proba, fitted.assignment_.proba)
    assert set(vars(model)) == set(vars(fitted))


def test_chosen_number_of_clusters() -> None:
    model = FCMI(standardize=False, progress_bar=False, device="cpu").fit(X, GROUPS)
    assert model.n_clusters is None
    assert model.n_clusters_ == 3
    assert model.n_clusters_evidence_["chosen"] == 3


def test_more_cells_than_the_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "default", replace(PRESETS["default"], sketch_size=60))
    model = FCMI(3, standardize=False, progress_bar=False, device="cpu").fit(X, GROUPS)
    assert model.assignment_.labels.shape == (120,)
    assert adjusted_rand_score(TYPES, model.assignment_.labels) > 0.9


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
def test_precision(precision: str) -> None:
    model = FCMI(3, precision=precision, standardize=False, **QUICK).fit(X, GROUPS)
    assert model.assignment_.proba.dtype == np.float32
    assert model.assignment_.embedding.dtype == np.float32
    assert np.isfinite(model.history_["loss"]).all()
    np.testing.assert_allclose(model.assignment_.proba.sum(axis=1), 1, atol=1e-2)


# The published preset


def test_published_network_and_history(published: FCMI) -> None:
    settings = published.settings_
    assert settings.hidden == (1024, 1024, 512, 256)
    assert (settings.alpha, settings.beta, settings.max_epochs, settings.warmup_epochs) == (0.04, 0.20, 22, 20)
    history = published.history_
    np.testing.assert_allclose(history["loss"][:20], history["reconstruction"][:20], rtol=1e-6)
    full = history["reconstruction"] - 0.04 * (history["h_c"] - history["h_c_given_x"]) + 0.20 * history["i_gc"]
    np.testing.assert_allclose(history["loss"][20:], full[20:], rtol=1e-5)
    assert history["loss"][19] < history["loss"][0]


def test_published_embedding_is_as_wide_as_there_are_clusters(published: FCMI) -> None:
    assert published.assignment_.embedding.shape == (60, 3)
    assert published.assignment_.proba.shape == (60, 3)
    assert published.net_.centres.shape == (3, 3)
    np.testing.assert_allclose(published.net_.centres.detach().norm(dim=1), 1, atol=1e-3)
    assert published.front_ is None
    assert (published.assignment_.proba.argmax(axis=1) == published.assignment_.labels).all()


def test_published_preset_runs_300_epochs_unless_told_otherwise() -> None:
    assert FCMI(3, preset="paper")._settings(1000).max_epochs == 300
    assert FCMI(3, preset="paper", max_epochs=7)._settings(1000).max_epochs == 7
    assert FCMI(3, preset="paper", fairness=0.5)._settings(1000).independence == pytest.approx(0.1)


def test_published_preset_chooses_its_number_like_the_default() -> None:
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FCMI(preset="paper", standardize=False, max_epochs=1, progress_bar=False, device="cpu")
        model.fit(X, GROUPS)
    chosen = FCMI(standardize=False, progress_bar=False, device="cpu").fit(X, GROUPS).n_clusters_
    assert model.n_clusters_ == chosen == model.assignment_.proba.shape[1]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_collapse_warns() -> None:
    points = np.tile([[0.0, 4.0], [4.0, 0.0]], (60, 1)).astype(np.float32)
    groups = np.repeat(["a", "b"], 60)
    with pytest.warns(UserWarning, match=r"Only \d of 6 clusters hold cells. Ask for fewer clusters"):
        FCMI(6, standardize=False, **QUICK).fit(points, groups)
