"""The loop: what is in the history, when it stops and why, and the schedule as published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from scfcmi.model._networks import FCMINet
from scfcmi.source import Groups, MatrixSource
from scfcmi.train import PRESETS, Record, Settings, Targets, embed_all, kmeans_centres, make_fabric, one_thread, train
from scfcmi.train._trainer import _has_settled

SMALL = replace(PRESETS["default"], hidden=(16,), batch_size=30, max_epochs=4)
RNG = np.random.default_rng(0)
TYPES, CODES = np.arange(90) % 3, np.arange(90) // 3 % 2
GROUPS = Groups(CODES, ("a", "b"))
X = (4 * np.eye(6)[TYPES] + RNG.normal(size=(90, 6))).astype(np.float32)


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def run(settings: Settings, x: np.ndarray = X, *, seed: int = 0) -> tuple[Record, FCMINet]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = FCMINet(
            6, 2, 3, n_latent=6, hidden=settings.hidden, n_shared=settings.n_shared, temperature=settings.temperature
        )
    targets = None
    if settings.consensus:
        position = unit(X)
        targets = Targets(position, kmeans_centres(position, 3, random_state=0))
    fabric = make_fabric("cpu", "32-true")
    with one_thread():
        record = train(net, MatrixSource(x), GROUPS, targets, settings, fabric, random_state=seed)
    return record, net


def test_history() -> None:
    record, _ = run(SMALL)
    assert record.epochs == 4
    assert record.reason == "ran all 4 epochs"
    names = ["epoch", "loss", "reconstruction", "h_c", "h_c_given_x", "i_gc", "i_xc_given_g", "alignment", "consensus"]
    names.append("leakage")
    assert sorted(record.history) == sorted(names)
    assert {values.shape for values in record.history.values()} == {(4,)}
    terms = record.history
    loss = 0.3 * terms["reconstruction"] + 5 * terms["alignment"] + terms["consensus"] + 30 * terms["leakage"]
    np.testing.assert_allclose(terms["loss"], loss, rtol=1e-5)


def test_network_learns_its_targets() -> None:
    record, net = run(replace(SMALL, max_epochs=60, patience=None, leakage=0.0))
    for name in ("loss", "alignment", "consensus", "reconstruction"):
        assert record.history[name][-5:].mean() < 0.8 * record.history[name][:2].mean(), name
    cosine = (embed_all(net, MatrixSource(X)) * unit(X)).sum(axis=1)
    assert cosine.mean() > 0.9


def test_independence_lowers_what_clusters_say_about_groups() -> None:
    x = X.copy()
    x[:, 5] += 6 * CODES
    published = replace(
        PRESETS["paper"], hidden=(16, 16), n_shared=1, batch_size=90, max_epochs=60, warmup_epochs=5, learning_rate=5e-3
    )
    free, fair = (run(replace(published, beta=beta, alpha=0.5), x)[0].history["i_gc"][-1] for beta in (0.0, 5.0))
    assert fair < 0.5 * free


def test_stops_when_nothing_improves() -> None:
    record, _ = run(replace(SMALL, max_epochs=50, patience=3, learning_rate=1e-12))
    assert record.epochs < 50
    assert record.reason == "the loss improved by less than 0.1% in 3 epochs"
    assert len(record.history["loss"]) == record.epochs


def test_stopper_compares_means_of_epochs() -> None:
    def stops(patience: int | None, losses: Iterable[float]) -> list[bool]:
        settings = replace(SMALL, patience=patience, tolerance=0.01)
        history = [{"loss": loss} for loss in losses]
        return [_has_settled(history[: i + 1], settings) for i in range(len(history))]

    assert stops(2, (9.0, 8.0, 8.0, 7.0, 7.0, 7.0, 7.0)) == [False] * 6 + [True]
    # One good or bad epoch neither ends nor prolongs it.
    assert not any(stops(3, (9.0, 9.0, 9.0, 5.0, 9.0, 5.0)))
    assert stops(3, (9.0, 9.0, 9.0, 9.0, 8.8, 9.1))[-1]
    assert not any(stops(1, (0.5**i for i in range(40))))
    assert not any(stops(1, (-float(i) for i in range(1, 40))))
    assert not any(stops(None, [1.0] * 100))


def test_published_schedule_ends_when_information_has_settled() -> None:
    settings = replace(
        PRESETS["paper"], hidden=(16, 8), n_shared=1, batch_size=30, max_epochs=200, warmup_epochs=2, alpha=1.0
    )
    record, _ = run(settings)
    assert record.reason == "the information terms improved by less than 5.0% in 20 epochs"
    assert 42 <= record.epochs < 200
    information = record.history["i_xc_given_g"]
    assert information[-20:].mean() < 1.1 * information[-40:-20].mean()
    # Reconstruction alone would have gone on.
    assert record.history["reconstruction"][-1] < 0.95 * record.history["reconstruction"][-20]
    longer, _ = run(replace(settings, patience=None, max_epochs=record.epochs + 5))
    assert longer.epochs == record.epochs + 5


def test_infinite_loss_is_an_error() -> None:
    x = X.copy()
    x[3] = 1e30
    with pytest.raises(FloatingPointError, match="The loss became .* in epoch 1. Check the input for extreme values"):
        run(SMALL, x)


def test_published_schedule() -> None:
    settings = replace(PRESETS["paper"], hidden=(16, 8), n_shared=1, batch_size=30, max_epochs=22)
    record, net = run(settings)
    terms = record.history
    np.testing.assert_allclose(terms["loss"][:20], terms["reconstruction"][:20], rtol=1e-6)
    full = terms["reconstruction"] - 0.04 * (terms["h_c"] - terms["h_c_given_x"]) + 0.20 * terms["i_gc"]
    np.testing.assert_allclose(terms["loss"][20:], full[20:], rtol=1e-5)
    assert (np.abs(terms["loss"] - terms["reconstruction"])[20:] > 1e-4).all()
    assert set(terms) == {"epoch", "loss", "reconstruction", "h_c", "h_c_given_x", "i_gc", "i_xc_given_g"}


def test_centres_are_refreshed_by_kmeans_after_warm_up() -> None:
    settings = replace(PRESETS["paper"], hidden=(16, 8), n_shared=1, batch_size=30)
    cold = run(replace(settings, max_epochs=20))[1].centres.detach()
    torch.testing.assert_close(cold, run(replace(settings, max_epochs=1))[1].centres.detach())
    warm = run(replace(settings, max_epochs=21, learning_rate=1e-9))[1]
    centres = warm.centres.detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    want = kmeans_centres(embed_all(warm, MatrixSource(X)), 3, random_state=0)
    cosine = centres @ want.T
    np.testing.assert_allclose(cosine.max(axis=1), 1, atol=1e-2)


def test_same_seed_same_network() -> None:
    a, b, c = (run(SMALL, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a[0].history["loss"], b[0].history["loss"])
    for one, two in zip(a[1].parameters(), b[1].parameters(), strict=True):
        assert torch.equal(one, two)
    assert not np.array_equal(a[0].history["loss"], c[0].history["loss"])


def test_embed_all_leaves_the_mode_as_it_was() -> None:
    net = run(SMALL)[1]
    for mode in (True, False):
        net.train(mode)
        first = embed_all(net, MatrixSource(X))
        assert net.training is mode
    np.testing.assert_array_equal(first, embed_all(net, MatrixSource(X)))
    np.testing.assert_allclose(embed_all(net, MatrixSource(X[:4])), first[:4], atol=1e-5)


def test_centres() -> None:
    z = unit(X)
    centres = kmeans_centres(z, 3, random_state=0)
    assert centres.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(centres, kmeans_centres(z, 3, random_state=0))
    start = centres[[2, 0, 1]]
    np.testing.assert_allclose(kmeans_centres(z, 3, random_state=5, start=start), start, atol=1e-4)
    own = (z @ centres.T).argmax(axis=1)
    assert all(len(set(own[TYPES == k])) == 1 for k in range(3))


def test_presets_as_documented() -> None:
    paper = PRESETS["paper"]
    assert (paper.alpha, paper.beta, paper.temperature, paper.learning_rate) == (0.04, 0.20, 0.1, 1e-3)
    assert (paper.max_epochs, paper.warmup_epochs, paper.batch_size) == (300, 20, 512)
    assert paper.hidden == (1024, 1024, 512, 256)
    assert (paper.consensus, paper.patience, paper.reconstruction) == (False, 20, 1.0)
    assert paper.independence == 0.20
    assert paper.with_changes(fairness=0.5).independence == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fairness", "strength", "independence"), [(0, 0, 0), (0.25, 0.5, 0), (0.5, 1, 0), (0.75, 1, 0.5), (1, 1, 1)]
)
def test_fairness_of_the_default(fairness: float, strength: float, independence: float) -> None:
    settings = PRESETS["default"].with_changes(fairness=fairness, max_epochs=None)
    assert settings.align_strength == pytest.approx(strength)
    assert settings.independence == pytest.approx(independence * settings.beta)
    assert settings.max_epochs is None
