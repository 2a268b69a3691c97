"""The published schedule: k-means of all embeddings, then steps in which its centres stay where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import world_size
from scfcmi.source import Groups

from ._kmeans import kmeans, mixture_centres
from ._network import Network, log_assignments
from ._options import EpochReport, NetworkOptions
from ._replay import recording
from ._rows import Rows
from ._shared import rank
from ._step import State, Step
from ._terms import Term, fcmi_terms, total

# Epochs whose means are compared, and by how much the later ones must be better, when stopping early is asked for.
PATIENCE, TOLERANCE = 20, 0.05
# Streams of random numbers that follow from one seed.
WEIGHTS, BATCHES, CENTRES = range(3)


def stream(random_state: int, *which: int) -> np.random.Generator:
    """Random numbers for one purpose; those of an epoch do not depend on what was drawn before it."""
    return np.random.default_rng([random_state, *which])


def new_state(network: Network, options: NetworkOptions, device: torch.device) -> State:
    """A network that nothing has been done to, and its optimiser."""
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, fused=fused)
    kind = device.type if device.type in ("cpu", "cuda") else "cpu"
    return State(network, optimizer, torch.amp.GradScaler(kind, enabled=options.precision == "16-mixed"))


def terms_of(options: NetworkOptions, groups: Groups, rows: Rows) -> tuple[Term, ...]:
    """The terms of the loss for these attributes."""
    factors = [(f.name, torch.from_numpy(f.indicators).to(rows.device, rows.dtype)) for f in groups.factors]
    return fcmi_terms(
        alpha=options.alpha, beta=options.beta, reconstruction_weight=options.reconstruction, factors=factors
    )


def train(
    state: State,
    rows: Rows,
    groups: Groups,
    n_clusters: int,
    options: NetworkOptions,
    *,
    random_state: int,
    tell: Callable[[State], None],
) -> str:
    """Run the epochs that are left.

    Parameters
    ----------
    state
        Where to begin; changed in place.
    rows, groups
        Cells, and the group of each.
    n_clusters
        Number of centres.
    options
        Weights and schedule.
    random_state
        Seed of batches and of k-means.
    tell
        Called after every epoch.

    Returns
    -------
    Why it ended.

    Raises
    ------
    FloatingPointError
        If the loss is no number any more.
    """
    terms = terms_of(options, groups, rows)
    step = Step(state, terms, groups, options, rows)
    recorded = recording(step, state, rows, groups, options)
    h = embed_all(state.network, rows, len(groups.codes))
    while len(state.history) < options.max_epochs and not has_settled(state.history, terms, options):
        epoch = len(state.history)
        warm = epoch < options.warmup_epochs
        _find_centres(state, h, n_clusters, options, stream(random_state, CENTRES, epoch))
        order, counts = shuffled(groups, options.batch_size, stream(random_state, BATCHES, epoch))
        mine = np.ascontiguousarray(order[:, rank() :: world_size()])
        if recorded is not None and recorded.fits(counts):
            sums = recorded.epoch(order, counts, warm=warm)
        else:
            sums = _one_by_one(step, rows, groups, mine, warm=warm)
        # Numbers leave the device once an epoch; what processes decide by is the same one in all of them.
        state.history.append(step.named(_from_first(sums / len(mine))))
        if not math.isfinite(state.history[-1]["loss"]):
            msg = (
                f"The loss became {state.history[-1]['loss']} in epoch {epoch + 1}. Check the input for extreme "
                "values, or use precision='32-true' and a smaller learning_rate."
            )
            raise FloatingPointError(msg)
        h = embed_all(state.network, rows, len(groups.codes))
        if options.centres == "learned":
            assert state.network.centres is not None
            state.centres = F.normalize(state.network.centres.detach(), dim=1)
        if options.callback is not None and rank() == 0:
            options.callback(_report(state, h, options))
        tell(state)
    if len(state.history) == options.max_epochs:
        return f"ran all {options.max_epochs} epochs"
    return f"the information terms improved by less than {TOLERANCE:.0%} in {PATIENCE} epochs"


def _one_by_one(step: Step, rows: Rows, groups: Groups, order: NDArray[np.int64], *, warm: bool) -> Tensor:
    """Take the steps of an epoch; the loss and all terms, summed."""
    counts = np.stack([np.bincount(codes, minlength=groups.n) for codes in groups.codes[order]])
    batches = zip(rows.batches(order), step.codes(order), counts.tolist(), strict=True)
    sums = torch.zeros(len(step.names), dtype=rows.dtype, device=rows.device)
    for x, codes, own in batches:
        sums += step(x, codes, own, warm=warm)
    return sums


def shuffled(groups: Groups, batch_size: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells in shuffled batches, those of a batch ordered by group; an incomplete batch at the end is dropped.

    Returns
    -------
    Cells of every batch, shape (n_batches, batch_size), and how many of every group, shape (n_batches, n_groups).
    """
    n = len(groups.codes)
    size = min(batch_size, n)
    order = rng.permutation(n)[: n // size * size].reshape(-1, size)
    codes = groups.codes[order]
    order = np.take_along_axis(order, np.argsort(codes, axis=1, kind="stable"), axis=1)
    which = np.arange(len(order))[:, None] * groups.n + codes
    return order, np.bincount(which.ravel(), minlength=len(order) * groups.n).reshape(len(order), groups.n)


def embed_all(network: Network, rows: Rows, n: int) -> Tensor:
    """h of every row, outside of training, on the device; processes share the work, shape (n_rows, n_latent)."""
    network.eval()
    first, last = rank() * n // world_size(), (rank() + 1) * n // world_size()
    with torch.no_grad():
        part = torch.cat([network.embed(x) for _, x in rows.pieces(first, last)])
        if world_size() == 1:
            return part
        h = part.new_zeros(n, part.shape[1])
        h[first:last] = part
        dist.all_reduce(h)
    return h


def has_settled(history: list[dict[str, float]], terms: Sequence[Term], options: NetworkOptions) -> bool:
    """Whether the terms that make the clusters have hardly improved for a while; never, unless that is asked for."""
    values = [total([t for t in terms if not t.in_warmup], row, warm=False) for row in history[options.warmup_epochs :]]
    if not options.early_stopping or len(values) < 2 * PATIENCE:
        return False
    # Single epochs are too noisy to compare.
    before, now = sum(values[-2 * PATIENCE : -PATIENCE]) / PATIENCE, sum(values[-PATIENCE:]) / PATIENCE
    return before - now < TOLERANCE * abs(before)


def _find_centres(state: State, h: Tensor, n_clusters: int, options: NetworkOptions, rng: np.random.Generator) -> None:
    """k-means afresh; learned centres leave it once the warm-up is over."""
    learned = state.network.centres
    if learned is not None and len(state.history) > options.warmup_epochs:
        state.centres = F.normalize(learned.detach(), dim=1)
        return
    found = F.normalize(kmeans(h, n_clusters, rng), dim=1)
    if options.centres == "mixture":
        found = mixture_centres(h, found, options.temperature)
    state.centres = _from_first(found)
    if learned is not None:
        with torch.no_grad():
            learned.copy_(state.centres)


def _from_first(values: Tensor) -> Tensor:
    """The first process's numbers, in all of them."""
    if world_size() > 1:
        dist.broadcast(values, 0)
    return values


def _report(state: State, h: Tensor, options: NetworkOptions) -> EpochReport:
    assert state.centres is not None
    proba = log_assignments(h, state.centres, options.temperature).exp()
    return EpochReport(
        len(state.history), proba.argmax(1).cpu().numpy(), proba.float().cpu().numpy(), dict(state.history[-1])
    )
