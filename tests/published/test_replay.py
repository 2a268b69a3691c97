"""Steps with the same shapes for every batch, which GPUs record and replay, are the steps that the CPU takes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scfcmi.published import GroupBranches, NetworkOptions, PublishedFit, fit_published
from scfcmi.published import _replay as replay
from scfcmi.published import _training as training
from scfcmi.published._network import Network, is_recordable
from scfcmi.published._slots import Slots, arrange, enough
from scfcmi.source import Groups, as_source

from .conftest import SMALL, make_cells

OPTIONS = replace(SMALL, precision="64-true", max_epochs=5, warmup_epochs=2, hidden=(24, 20, 16))


def own(n_groups: int) -> dict[str, nn.Module]:
    """Modules of one's own, of PyTorch's layers."""
    torch.manual_seed(0)
    branches = [
        nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 20), nn.Tanh()) for _ in range(n_groups)
    ]
    return {
        "encoder": nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4)),
        "decoder": GroupBranches(nn.Linear(4, 8), branches),
    }


def fit(groups: Groups, options: NetworkOptions, device: str = "cpu", seed: int = 0) -> PublishedFit:
    x = make_cells().x
    return fit_published(as_source(x), groups, 4, options, random_state=seed, device=device, progress_bar=False)


def groups_of(n_groups: int) -> Groups:
    codes = np.random.default_rng(0).choice(
        n_groups, 400, p=np.arange(1, n_groups + 1) / (n_groups * (n_groups + 1) / 2)
    )
    return Groups(codes.astype(np.int64), tuple(f"g{i}" for i in range(n_groups)))


@pytest.mark.parametrize(
    ("n_groups", "changes"),
    [
        (2, {}),
        (7, {}),
        (2, {"branches": "single"}),
        (3, {"centres": "learned"}),
        (3, {"own": True}),
        (1, {"own": True}),
        # The smallest of them is absent from one batch.
        (7, {"own": True}),
        (7, {"batch_size": 1000}),
    ],
)
def test_the_same_numbers(monkeypatch: pytest.MonkeyPatch, n_groups: int, changes: dict[str, Any]) -> None:
    groups = groups_of(max(n_groups, 2))
    modules = own(n_groups) if changes.get("own") else {}
    options = replace(OPTIONS, **{name: value for name, value in changes.items() if name != "own"}, **modules)
    want = fit(groups, options)
    taken = []
    monkeypatch.setattr(training, "recording", partial(replay.recording, wanted=True))
    monkeypatch.setattr(replay.Recording, "epoch", _counting(replay.Recording.epoch, taken))
    found = fit(groups, options)
    assert len(taken) == options.max_epochs
    for name, values in want.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=1e-7, atol=1e-9, err_msg=name)
    for name, values in want.tensors().items():
        torch.testing.assert_close(found.tensors()[name], values, rtol=1e-5, atol=1e-6, msg=name)


def _counting(function: Any, taken: list[bool]) -> Any:
    def counted(*args: Any, **given: Any) -> Any:
        taken.append(given["warm"])
        return function(*args, **given)

    return counted


def test_where_recording_fails_steps_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = groups_of(2)
    want = fit(groups, OPTIONS)

    def refuses(*args: Any, **given: Any) -> None:
        msg = "operation not permitted when stream is capturing"
        raise RuntimeError(msg)

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    fakes = {"Stream": lambda _: Stream(), "current_stream": lambda _: Stream(), "stream": lambda _: nullcontext()}
    for name, fake in (
        fakes | {"CUDAGraph": object, "graph": refuses, "set_stream": lambda _: None, "device": lambda _: nullcontext()}
    ).items():
        monkeypatch.setattr(torch.cuda, name, fake)

    def recording(*args: Any) -> Any:
        found = replay.recording(*args, wanted=True)
        assert found is not None
        found._records = True
        return found

    monkeypatch.setattr(training, "recording", recording)
    with pytest.warns(UserWarning, match="could not be recorded as a CUDA graph.*not permitted"):
        found = fit(groups, OPTIONS)
    np.testing.assert_allclose(found.history["loss"], want.history["loss"], rtol=1e-7)


def test_a_recording_is_replayed_until_the_warm_up_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded stands for every later step: none is left out, none is taken twice, and each is of its phase."""
    groups = groups_of(2)
    want = fit(groups, OPTIONS)
    replays: list[bool] = []

    class Graph:
        def __init__(self, recorded: replay.Recording, warm: bool) -> None:
            self._recorded, self._warm = recorded, warm

        def replay(self) -> None:
            replays.append(self._warm)
            self._recorded._one(self._warm)

    def record(self: Any, warm: bool, left: int) -> int:
        n = min(2, left)
        for _ in range(n):
            self._one(warm)
        self._graph, self._is_warm = Graph(self, warm), warm
        return n

    def recording(*args: Any) -> Any:
        found = replay.recording(*args, wanted=True)
        assert found is not None
        found._records = True
        return found

    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(replay.Recording, "_record", record)
    monkeypatch.setattr(training, "recording", recording)
    found = fit(groups, OPTIONS)
    np.testing.assert_allclose(found.history["loss"], want.history["loss"], rtol=1e-7)
    steps = 400 // OPTIONS.batch_size
    assert replays == [True] * (2 * steps - 2) + [False] * (3 * steps - 2)


class Mine(nn.Linear):
    pass


@pytest.mark.parametrize("changed", ["encoder", "norm", "hook", "decoder"])
def test_what_is_not_known_is_not_recorded(changed: str) -> None:
    modules = own(2)
    assert is_recordable(Network(**modules))
    if changed == "encoder":
        modules["encoder"] = nn.Sequential(Mine(20, 4))
    elif changed == "norm":
        modules["decoder"].branches[1][1] = nn.BatchNorm1d(12)
    elif changed == "hook":
        modules["encoder"].register_forward_hook(lambda *_: None)
    else:
        modules["decoder"] = nn.Linear(4, 20)
    assert not is_recordable(Network(**modules))


def test_slots_give_back_what_they_took() -> None:
    counts = np.array([[3, 0, 4], [1, 5, 1]])
    parts = arrange(counts, (4, 5, 4))
    for i in range(2):
        row, mask, place = (torch.from_numpy(part[i]) for part in parts)
        slots = Slots(row, mask, place, (4, 5, 4))
        x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
        y = slots.fill(x)
        assert mask.view(-1).tolist() == [
            1.0 if j < n else 0.0 for n, size in zip(counts[i], (4, 5, 4), strict=True) for j in range(size)
        ]
        assert torch.equal(slots.empty(y), x)
        weight = torch.randn(7, 2, dtype=torch.float64)
        (slots.empty(y.square()) * weight).sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach() * weight)


def test_enough_slots_for_almost_any_batch() -> None:
    groups = groups_of(7)
    sizes = enough(groups.counts, 64, equal=False)
    for seed in range(200):
        assert (training.shuffled(groups, 64, np.random.default_rng(seed))[1] <= sizes).all()
    assert max(sizes) <= 64
    assert enough(np.array([60_000, 7_291]), 512, equal=False) == (496, 96)
    assert len(set(enough(groups.counts, 64, equal=True))) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n_groups", [2, 7])
@pytest.mark.parametrize("modules", [False, True])
def test_a_replay_is_a_step(monkeypatch: pytest.MonkeyPatch, n_groups: int, modules: bool) -> None:
    """On a GPU: recorded, not recorded and once more, without a warning."""
    groups = groups_of(n_groups)
    options = replace(OPTIONS, **own(n_groups)) if modules else OPTIONS
    found, again = (fit(groups, options, "cuda") for _ in range(2))
    monkeypatch.setattr(training, "recording", partial(replay.recording, wanted=False))
    plain = fit(groups, options, "cuda")
    for name, values in plain.history.items():
        np.testing.assert_array_equal(found.history[name], again.history[name])
        np.testing.assert_allclose(found.history[name], values, rtol=1e-6, atol=1e-8, err_msg=name)
