"""scikit-learn's contract for estimators: its own checks, and which of them do not apply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions

QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu"}
WORDS = "is refused, by a message in words of this package"
# A check that begins to pass fails here, and is to be taken off the list.
DO_NOT_APPLY = {
    "check_fit_score_takes_y": "the second argument of fit are the groups, and is called so",
    "check_transformer_general": "passes y by name, and compares with a transform that does not know the groups",
    "check_transformer_data_not_an_array": "groups in an object of unknown type are one value, not a column",
    "check_estimator_sparse_array": "wants a column of predict_proba for every value of y, which are the groups",
    "check_estimator_sparse_matrix": "wants a column of predict_proba for every value of y, which are the groups",
    "check_complex_data": f"complex numbers: {WORDS}, as a TypeError",
    "check_dtype_object": f"objects: {WORDS}, also where all of them are numbers",
    "check_estimators_empty_data_messages": f"a matrix without columns {WORDS}",
    "check_fit2d_1sample": f"one cell of one group {WORDS}",
    "check_fit2d_predict1d": f"a single row without its dimension {WORDS}",
}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([FCMI(2, **QUICK)], expected_failed_checks=lambda _: DO_NOT_APPLY)
def test_checks_of_scikit_learn(estimator: FCMI, check: Any) -> None:
    check(estimator)


def test_clone_and_parameters() -> None:
    model = FCMI(4, fairness=0.3, preset="paper", network=NetworkOptions(max_epochs=3), **QUICK)
    again = clone(model)
    assert again is not model and again.get_params() == model.get_params()
    assert again.set_params(fairness=None).fairness is None and model.fairness == 0.3
    with pytest.raises(ValueError, match="Invalid parameter 'max_epochs'"):
        model.set_params(max_epochs=3)


def test_repr_is_short_and_says_what_was_set() -> None:
    assert repr(FCMI()) == "FCMI()"
    assert repr(FCMI(3, fairness=0.5)) in {"FCMI(fairness=0.5, n_clusters=3)", "FCMI(n_clusters=3, fairness=0.5)"}


def test_parameters_stay_as_given_by_a_fit() -> None:
    model = FCMI(None, fairness=None, **QUICK)
    before = model.get_params()
    model.fit(np.random.default_rng(0).normal(size=(40, 4)), ["a", "b"] * 20)
    assert model.get_params() == before


def test_fit_predict_and_fit_transform_are_those_of_the_fit() -> None:
    x, groups = np.random.default_rng(0).normal(size=(60, 4)), ["a", "b"] * 30
    model = FCMI(2, **QUICK).fit(x, groups)
    np.testing.assert_array_equal(FCMI(2, **QUICK).fit_predict(x, groups), model.labels_)
    np.testing.assert_array_equal(FCMI(2, **QUICK).fit_transform(x, groups), model.assignment_.embedding)


def test_last_step_of_a_pipeline() -> None:
    x = np.random.default_rng(0).gamma(1, 5, size=(60, 4))
    piped = make_pipeline(FunctionTransformer(np.log1p), FCMI(2, **QUICK)).fit(x)
    np.testing.assert_array_equal(piped.predict(x), FCMI(2, **QUICK).fit(np.log1p(x)).predict(np.log1p(x)))


def test_columns_of_data_frames_are_told_by_their_names() -> None:
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)), columns=list("wxyz"))
    model = FCMI(2, **QUICK).fit(x, ["a", "b"] * 30)
    assert model.feature_names_ == ("w", "x", "y", "z")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(x[list("zyxw")])
