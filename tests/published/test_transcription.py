"""The preset and a plain transcription of the paper are one: losses, gradients, steps, centres."""

from __future__ import annotations

import copy
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from scfcmi.published import GroupBranches, NetworkOptions, fit_published
from scfcmi.published._fit import _network
from scfcmi.published._kmeans import kmeans
from scfcmi.published._network import Dense, Network
from scfcmi.published._rows import Rows, Scaling
from scfcmi.published._slots import Slots
from scfcmi.published._step import State, Step
from scfcmi.published._training import BATCHES, CENTRES, new_state, shuffled, stream, terms_of
from scfcmi.source import Groups, as_source

from .conftest import make_cells

HIDDEN = (24, 20, 16, 8)
N, N_INPUT, N_GROUPS, K, BATCH = 90, 12, 4, 5, 30
OPTIONS = NetworkOptions(hidden=HIDDEN, precision="64-true")


def make_batches() -> list[tuple[Tensor, Tensor]]:
    """Eleven batches, ordered by group: one has a single row of the last group, one none of it."""
    rng = np.random.default_rng(0)
    batches = []
    for i in range(11):
        sizes = [13, 9, 8 - min(i, 1) * 3, [0, 1, 3][min(i, 2)]]
        sizes[0] += BATCH - sum(sizes)
        codes = torch.from_numpy(np.repeat(np.arange(N_GROUPS), sizes))
        batches.append((torch.from_numpy(np.tanh(rng.normal(size=(BATCH, N_INPUT)))), codes))
    return batches


def copied(theirs: nn.Module) -> Network:
    """Our network with the transcription's weights; its branches are ours side by side."""
    ours = _network(OPTIONS, N_INPUT, N_GROUPS, K).double()

    def take(dense: Dense, linears: list[nn.Linear], norms: list[nn.BatchNorm1d]) -> None:
        dense.weight.data = torch.stack([linear.weight.detach() for linear in linears])
        dense.bias.data = torch.stack([linear.bias.detach() for linear in linears])
        assert (dense.norm is None) == (not norms)
        for name in ("weight", "bias", "running_mean", "running_var") if norms else ():
            getattr(dense.norm, name).data = torch.stack([getattr(norm, name).detach() for norm in norms])

    def layers(module: nn.Module) -> list[tuple[nn.Linear, nn.BatchNorm1d | None]]:
        flat = list(module)
        return [
            (layer, after if isinstance(after, nn.BatchNorm1d) else None)
            for layer, after in zip(flat, [*flat[1:], None], strict=True)
            if isinstance(layer, nn.Linear)
        ]

    for part in ("encoder", "shared"):
        own = ours.encoder if part == "encoder" else ours.decoder.shared
        for dense, (linear, norm) in zip(own, layers(getattr(theirs, part)), strict=True):
            take(dense, [linear], [] if norm is None else [norm])
    branches = zip(*(layers(branch) for branch in theirs.branches), strict=True)
    for dense, several in zip(ours.decoder.branches, branches, strict=True):
        take(dense, [linear for linear, _ in several], [norm for _, norm in several if norm is not None])
    return ours


def make_pair(reference: ModuleType) -> tuple[nn.Module, State, Step, Tensor]:
    torch.manual_seed(0)
    theirs = reference.VectorNet(N_INPUT, N_GROUPS, K, HIDDEN).double()
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm1d):
            # A single row is normalised to 0, where ReLU has its kink and rounding would decide.
            nn.init.normal_(norm.bias, std=0.1)
    state = new_state(copied(theirs), OPTIONS, torch.device("cpu"))
    groups = Groups(np.arange(N) % N_GROUPS, ("a", "b", "c", "d"))
    identity = Scaling(torch.full((N_INPUT,), -1.0), torch.full((N_INPUT,), 2.0))
    source = as_source(np.zeros((N, N_INPUT), np.float32))
    rows = Rows(source, identity, torch.device("cpu"), torch.float64)
    state.centres = F.normalize(torch.randn(K, K, dtype=torch.float64), dim=1)
    return theirs, state, Step(state, terms_of(OPTIONS, groups, rows), groups, OPTIONS, rows), state.centres


def their_terms(reference: ModuleType, net: nn.Module, x: Tensor, codes: Tensor, centres: Tensor) -> dict[str, Tensor]:
    h = reference.embed(net, x)
    return reference.terms(x, reference.decode(net, h, codes, N_INPUT), h, codes, centres, N_GROUPS, 0.1)


def counts(codes: Tensor) -> list[int]:
    return torch.bincount(codes, minlength=N_GROUPS).tolist()


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("warm", [True, False])
def test_losses_and_gradients(reference: ModuleType, which: int, warm: bool) -> None:
    theirs, state, step, centres = make_pair(reference)
    x, codes = make_batches()[which]
    want = their_terms(reference, theirs, x, codes, centres)
    want["loss"] = reference.loss(want, 0.04, 0.20, warm=warm)
    state.network.train()
    found = step.loss(x, codes, counts(codes), warm=warm)
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=name)
    given_g = want["h_c"] - want["h_c_given_x"] - want["i_gc"]
    torch.testing.assert_close(found["i_xc_given_g"], given_g, rtol=1e-10, atol=1e-12)

    want["loss"].backward()
    found["loss"].backward()
    pairs = list(zip(state.network.decoder.branches, zip(*map(linears, theirs.branches), strict=True), strict=True))
    pairs += [(own, [other]) for own, other in zip(state.network.encoder, linears(theirs.encoder), strict=True)]
    pairs += [(own, [other]) for own, other in zip(state.network.decoder.shared, linears(theirs.shared), strict=True)]
    for own, others in pairs:
        for i, other in enumerate(others):
            # The transcription leaves a branch that no row goes through without a gradient.
            wanted = torch.zeros_like(other.weight) if other.weight.grad is None else other.weight.grad
            torch.testing.assert_close(own.weight.grad[i], wanted, rtol=1e-9, atol=1e-12)
    assert any(own.weight.grad.abs().max() > 1e-4 for own, _ in pairs)


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module if isinstance(layer, nn.Linear)]


def test_ten_steps(reference: ModuleType) -> None:
    """Two of reconstruction alone, eight with everything, and the weights are the same, statistics included."""
    theirs, state, step, centres = make_pair(reference)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    batches = [batch for i, batch in enumerate(make_batches()) if i != 0]
    for i, (x, codes) in enumerate(batches):
        optimizer.zero_grad()
        reference.loss(their_terms(reference, theirs, x, codes, centres), 0.04, 0.20, warm=i < 2).backward()
        optimizer.step()
        step(x, codes, counts(codes), warm=i < 2)
    assert len(batches) == 10
    moved = 0.0
    start, want, found = (net.state_dict() for net in (make_pair(reference)[1].network, copied(theirs), state.network))
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)
        moved = max(moved, float((found[name] - start[name]).abs().max()))
    assert moved > 1e-3
    x, codes = make_batches()[0]
    state.network.eval()
    theirs.eval()
    h = state.network.embed(x)
    torch.testing.assert_close(h, reference.embed(theirs, x), rtol=1e-7, atol=1e-9)
    decoded = state.network.decoder(h, counts(codes))
    torch.testing.assert_close(decoded, reference.decode(theirs, h, codes, N_INPUT), rtol=1e-7, atol=1e-9)


def test_all_branches_at_once_are_the_loop(reference: ModuleType) -> None:
    """The padded product, which GPUs take with many groups: outputs, gradients, statistics."""
    for training in (True, False):
        nets = [copied(make_pair(reference)[0]).train(training) for _ in range(2)]
        for which in (0, 1, 2):
            _, codes = make_batches()[which]
            z = torch.randn(BATCH, HIDDEN[-2], dtype=torch.float64, generator=torch.Generator().manual_seed(which))
            outs = []
            for net, at_once in zip(nets, (False, True), strict=True):
                y = z.clone().requires_grad_()
                if at_once:
                    out = net.decoder.all_at_once(y, Slots.of(counts(codes), y.device))
                else:
                    out = y
                    for layer in net.decoder.branches:
                        out = layer(out, counts(codes))
                (out.square() * torch.arange(1, BATCH + 1)[:, None]).sum().backward()
                outs.append((out, y.grad))
            for a, b in zip(*outs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
            if a.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-9, msg=name)
        for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_a_fit_is_the_transcriptions(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same weights, batches and k-means the whole schedule is the same, labels after every epoch included."""
    cells, k, seed, epochs, warmup = make_cells(200), 4, 0, 6, 2
    torch.manual_seed(0)
    theirs = reference.VectorNet(20, 2, k, HIDDEN)
    theirs.encoder = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, k))
    theirs.branches = nn.ModuleList(nn.Sequential(nn.Linear(HIDDEN[-2], 20), nn.Tanh()) for _ in range(2))
    theirs = theirs.double()
    x = cells.x / np.abs(cells.x).max()
    ours: list[np.ndarray] = []
    options = NetworkOptions(
        encoder=copy.deepcopy(theirs.encoder),
        decoder=GroupBranches(copy.deepcopy(theirs.shared), list(copy.deepcopy(theirs.branches))),
        callback=lambda report: ours.append(report.labels),
        max_epochs=epochs,
        warmup_epochs=warmup,
        batch_size=64,
        precision="64-true",
    )
    fit_published(as_source(x), cells.groups, k, options, random_state=seed, device="cpu", progress_bar=False)

    epoch = iter(range(epochs))

    def batches(n: int, **_: object) -> Tensor:
        order = shuffled(cells.groups, 64, stream(seed, BATCHES, next(epoch)))[0].ravel()
        return torch.from_numpy(np.concatenate([order, np.setdiff1d(np.arange(n), order)]))

    def centres(h: Tensor, n_clusters: int, which: int) -> Tensor:
        return F.normalize(kmeans(h, n_clusters, stream(seed, CENTRES, which)), dim=1)

    monkeypatch.setattr(reference, "kmeans", centres)
    monkeypatch.setattr(torch, "randperm", batches)
    found: list[np.ndarray] = []
    rows, codes = torch.from_numpy(x).double(), torch.from_numpy(cells.groups.codes)
    given = {"seed": 0, "epochs": epochs, "warmup": warmup, "batch": 64}
    reference.train(theirs, rows, codes, k, **given, callback=lambda _, labels: found.append(labels))
    assert len(found) == epochs
    np.testing.assert_array_equal(ours, found)
    assert len(np.unique(found[-1])) > 1


def test_kmeans_is_as_good_as_scikit_learns(reference: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for k, n in ((4, 300), (12, 2000)):
        h = F.normalize(torch.from_numpy(rng.normal(size=(n, k)).astype(np.float32)), dim=1)
        h[: n // 2] = F.normalize(h[: n // 2] + 2 * torch.eye(k)[torch.arange(n // 2) % k], dim=1)

        def cost(centres: Tensor, h: Tensor = h) -> float:
            return float(torch.cdist(h, centres).square().min(1).values.sum())

        theirs = KMeans(k, init="random", n_init=10, tol=0, random_state=0).fit(h.numpy()).inertia_
        assert cost(kmeans(h, k, np.random.default_rng(0))) < 1.01 * theirs
        # The transcription's are brought to unit length, and so are ours for comparison.
        ours = cost(F.normalize(kmeans(h, k, np.random.default_rng(0)), dim=1))
        assert cost(reference.kmeans(h, k, 0)) == pytest.approx(ours, rel=0.02)
