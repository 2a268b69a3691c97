"""Decoding through the branch of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from scfcmi.front import Front
from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions


def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kind, tech = np.arange(240) % 3, (np.arange(240) // 3) % 2
    x = 0.4 * rng.normal(size=(240, 12)) + 4 * np.eye(12)[kind] + 1.5 * np.eye(12)[3 + tech] + 2
    return x.astype(np.float32), np.array(["a", "b"])[tech]


@pytest.fixture(scope="module", params=["default", "paper"])
def model(request: pytest.FixtureRequest) -> FCMI:
    options = NetworkOptions(hidden=(64, 32), max_epochs=60, warmup_epochs=10, batch_size=32, learning_rate=3e-3)
    network = None if request.param == "default" else options
    return FCMI(3, preset=request.param, network=network, progress_bar=False, device="cpu").fit(*cells())


def test_own_branch_comes_close(model: FCMI) -> None:
    x, groups = cells()
    found = model.decode(model.transform(x), groups)
    assert found.shape == x.shape and found.dtype == np.float32
    assert ((found - x) ** 2).mean() < 0.5 * x.var(0).mean()


def test_group_is_a_counterfactual() -> None:
    x, groups = cells()
    model = FCMI(3, progress_bar=False, device="cpu").fit(x, groups)
    h = model.transform(x)
    one, two = model.decode(h, "a"), model.decode(h, "b")
    assert np.abs(one - two).max() > 0
    np.testing.assert_array_equal(model.decode(h, groups), np.where((groups == "a")[:, None], one, two))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"embedding": np.zeros((3, 2))}, r"shape \(3, 2\), but this model has"),
        ({"group": "c"}, r"group has values.*\['c'\]"),
        ({"group": ["a"]}, r"group has shape \(1,\)"),
    ],
    ids=str,
)
def test_refused(model: FCMI, arguments: dict[str, Any], match: str) -> None:
    given = {"embedding": model.transform(cells()[0]), "group": "a"} | arguments
    with pytest.raises(ValueError, match=match):
        model.decode(**given)


def test_unfitted() -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        FCMI(3).decode(np.zeros((1, 2)), "a")


@pytest.mark.parametrize("standardize", [True, False])
def test_front_goes_back(standardize: bool) -> None:
    x, groups = cells()
    codes = (groups == "b").astype(np.int64)
    front = Front.fit(x, codes, 12, standardize=standardize, height=1.0)
    np.testing.assert_allclose(front.inverse(front.transform(x)), x, atol=1e-3)
    flat = Front.fit(x, codes, 12, standardize=standardize)
    back = flat.inverse(flat.transform(x)) - flat.mean
    cosine = (back * (x - flat.mean) / flat.scale**2).sum(1) / (
        np.linalg.norm(back / flat.scale, axis=1) * np.linalg.norm((x - flat.mean) / flat.scale, axis=1)
    )
    np.testing.assert_allclose(cosine, 1, atol=1e-4)
