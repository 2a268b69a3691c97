"""The training loop on Lightning Fabric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from scfcmi.objective import consensus_terms, continuous_terms, fcmi_terms, leakage_term
from scfcmi.source import Continuous, Groups, MatrixSource
from scfcmi.source._tensors import as_tensor, dense_tensor

from ._batches import count_batches, stratified_batches
from ._centres import kmeans_centres
from ._checkpoint import Checkpoint, Fingerprint, State, fingerprint
from ._rows import DeviceRows
from ._settings import Settings

if TYPE_CHECKING:
    from scfcmi.model._networks import FCMINet

# Optimiser steps that the default number of epochs amounts to, and bounds that keep it sensible at both ends.
TARGET_STEPS = 400
MIN_EPOCHS, MAX_EPOCHS = 20, 150
# Rows that go through the network at once outside of training.
PIECE = 8192

# Called with the loss terms of every epoch.
Tell: TypeAlias = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Record:
    """What happened during training.

    Parameters
    ----------
    history
        One array per loss term, of shape (n_epochs,).
    epochs
        Epochs run.
    reason
        Why training stopped, in plain words.
    """

    history: dict[str, NDArray[np.float64]]
    epochs: int
    reason: str


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Epochs that amount to a fixed number of optimiser steps, within bounds."""
    steps = count_batches(n_cells, batch_size)
    return int(min(MAX_EPOCHS, max(MIN_EPOCHS, math.ceil(TARGET_STEPS / steps))))


@dataclass(frozen=True)
class Targets:
    """Where the aligned cells are, for the network to learn.

    Parameters
    ----------
    position
        Aligned position of each training cell, unit length, shape (n_cells, n_latent).
    centres
        Centres of small clusters among them, unit length, shape (n_fine, n_latent).
    """

    position: NDArray[np.float32]
    centres: NDArray[np.float32]


def train(
    net: FCMINet,
    source: MatrixSource,
    groups: Groups,
    targets: Targets | None,
    settings: Settings,
    fabric: Fabric,
    *,
    continuous: Continuous | None = None,
    random_state: int,
    tell: Tell | None = None,
    checkpoint: Path | None = None,
) -> Record:
    """Fit a network to the rows of a source.

    Parameters
    ----------
    net
        An :class:`~scfcmi.model._networks.FCMINet`; trained in place and left on the device of `fabric`, in float32.
    source
        Rows to train on.
    groups
        Group of each row.
    targets
        Aligned positions; needed for the consensus terms only.
    settings
        Weights and schedule; `max_epochs` must be set.
    fabric
        Device and precision; of several processes, every one calls this function with the same arguments.
    continuous
        Continuous attributes of each row.
    random_state
        Seed of batches and of k-means.
    tell
        Called after every epoch by the first process.
    checkpoint
        File to resume from and to write to.
    """
    n_epochs = settings.max_epochs
    assert n_epochs is not None
    codes = groups.codes
    n_batches = count_batches(len(codes), settings.batch_size)
    fused = fabric.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, fused=fused)
    schedule = None
    if settings.one_cycle:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=n_epochs * n_batches
        )
    wrapped, wrapped_optimizer = fabric.setup(net, optimizer)
    rng = np.random.default_rng(random_state)
    state = State(net, optimizer, schedule, fabric.strategy.precision, rng, history=[])
    mark = fingerprint(
        net=net,
        groups=groups,
        continuous=continuous,
        settings=settings,
        random_state=random_state,
        precision=fabric.strategy.precision.precision,
    )
    if fabric.broadcast(mark) != mark:
        msg = "The processes were started with different data or parameters. Start all with the same ones."
        raise ValueError(msg)
    keeper = None
    if checkpoint is not None:
        keeper = _resume(checkpoint, mark, source, targets, state, fabric)
    step = _Step(wrapped, wrapped_optimizer, schedule, groups, continuous, targets, settings, fabric)
    device_rows = DeviceRows(source, fabric.device, step.dtype)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    stop = _has_settled(state.history, settings)
    while not stop and len(state.history) < n_epochs:
        epoch = len(state.history)
        warm = epoch < settings.warmup_epochs
        if targets is None and not warm:
            _refresh_centres(state, source, fabric, random_state)
        batches = ((rows[mine], w[mine]) for rows, w in stratified_batches(codes, settings.batch_size, rng))
        taken = [step(*batch, warm=warm) for batch in device_rows.walk(batches)]
        # Numbers leave the device once an epoch; what processes decide by is the same one in all of them.
        means = fabric.broadcast(_means(taken))
        if not math.isfinite(means["loss"]):
            msg = (
                f"The loss became {means['loss']} in epoch {epoch + 1}. Check the input for extreme values, "
                "or use precision='32-true'."
            )
            raise FloatingPointError(msg)
        state.history.append({"epoch": float(epoch + 1), **means})
        stop = _has_settled(state.history, settings)
        if fabric.global_rank == 0:
            if tell is not None:
                tell(state.history[-1])
            if keeper is not None:
                keeper.write(state, last=stop or epoch + 1 == n_epochs)
    net.float()
    reason = f"ran all {n_epochs} epochs"
    if stop:
        what = "loss" if settings.consensus else "information terms"
        reason = f"the {what} improved by less than {settings.tolerance:.1%} in {settings.patience} epochs"
    history = {name: np.array([row[name] for row in state.history]) for name in state.history[0]}
    return Record(history, len(state.history), reason)


@contextmanager
def epoch_bar(n_epochs: int, progress_bar: bool | None) -> Iterator[Tell]:
    """Show a progress bar; when it is not said whether, only in a terminal."""
    disable = None if progress_bar is None else not progress_bar
    with tqdm(total=n_epochs, desc="fair_cluster", unit="epoch", disable=disable) as bar:

        def tell(row: dict[str, float]) -> None:
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss", "i_xc_given_g", "i_gc")}, refresh=False)
            # After resuming, the first epoch is not number one.
            bar.update(int(row["epoch"]) - bar.n)

        yield tell


def _resume(
    path: Path,
    mark: Fingerprint,
    source: MatrixSource,
    targets: Targets | None,
    state: State,
    fabric: Fabric,
) -> Checkpoint:
    """Put every process where the file says that the first one was; only the first one needs the file."""
    keeper, found, error = Checkpoint(path, mark), None, None
    if fabric.global_rank == 0:
        keeper = Checkpoint(path, mark | fingerprint(rows=source, targets=targets))
        try:
            found = keeper.read()
        except (OSError, ValueError) as problem:
            error = problem
    found, error = fabric.broadcast((found, error))
    if error is not None:
        raise error
    if found is not None:
        keeper.restore(state, found)
    return keeper


def _means(terms: list[dict[str, Tensor]]) -> dict[str, float]:
    """Every term averaged over the steps."""
    values = torch.stack([torch.stack(list(row.values())) for row in terms]).cpu().double().mean(0)
    return dict(zip(terms[0], values.tolist(), strict=True))


def _refresh_centres(state: State, source: MatrixSource, fabric: Fabric, random_state: int) -> None:
    """Set the centres to those of k-means, which one process runs for all."""
    net, centres = state.net, None
    if fabric.global_rank == 0:
        embedding = embed_all(net, source)
        centres = kmeans_centres(embedding, len(net.centres), random_state=random_state, start=state.centres)
    state.centres = fabric.broadcast(centres)
    assert state.centres is not None
    with torch.no_grad():
        net.centres.copy_(torch.from_numpy(state.centres))


class _Step:
    """One optimiser step on one batch; what it needs lies on the device, and nothing waits for what it computes."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None,
        groups: Groups,
        continuous: Continuous | None,
        targets: Targets | None,
        settings: Settings,
        fabric: Fabric,
    ) -> None:
        self._net, self._optimizer, self._schedule, self._fabric = net, optimizer, schedule, fabric
        self._n_groups, self._settings = groups.n, settings
        # Information terms are in float32 even where the network is not, unless it is in float64.
        self.dtype = torch.float64 if fabric.strategy.precision.precision == "64-true" else torch.float32
        self._codes = as_tensor(groups.codes, fabric.device)
        self._target = None
        if targets is not None:
            self._target = self._number(targets.position), self._number(targets.centres)
        soft_bins = {} if continuous is None else continuous.soft_bins()
        self._soft_bins = {name: self._number(soft) for name, soft in soft_bins.items()}
        factors = {factor.name: (self._number(factor.indicators), factor.weight) for factor in groups.factors}
        self._levels = list(factors.values())
        self._factors = factors if len(factors) > 1 else None

    def __call__(self, index: Tensor, weight: Tensor, x: Tensor, *, warm: bool) -> dict[str, Tensor]:
        self._net.train()
        codes = self._codes[index]
        h, proba, decoded = (part.to(self.dtype) for part in self._net(x, codes, learn_centres=not warm))
        terms = fcmi_terms(x, decoded, proba, codes, weight, self._n_groups, factors=self._factors)
        terms |= continuous_terms(proba, {name: soft[index] for name, soft in self._soft_bins.items()}, weight)
        if self._target is not None:
            aligned, centres = self._target
            position = aligned[index]
            goal = torch.softmax(position @ centres.T / self._settings.temperature, dim=1)
            terms |= consensus_terms(h, proba, position, goal, weight)
        if self._settings.leakage > 0:
            apart = [share * leakage_term(h, proba, levels[codes], weight) for levels, share in self._levels]
            terms["leakage"] = torch.stack(apart).sum()
        loss = self._loss(terms, warm=warm)
        self._optimizer.zero_grad()
        self._fabric.backward(loss)
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        return {name: value.detach() for name, value in {"loss": loss, **terms}.items()}

    def _number(self, array: NDArray[np.float32]) -> Tensor:
        return as_tensor(array, self._fabric.device).to(self.dtype)

    def _loss(self, terms: dict[str, Tensor], *, warm: bool) -> Tensor:
        settings = self._settings
        loss = settings.reconstruction * terms["reconstruction"]
        if warm:
            return loss
        loss = loss - settings.alpha * (terms["h_c"] - terms["h_c_given_x"]) + settings.independence * terms["i_gc"]
        if settings.leakage > 0:
            loss = loss + settings.leakage * settings.align_strength * terms["leakage"]
        for name in self._soft_bins:
            loss = loss + settings.independence_of_values * terms[f"i_vc_{name}"]
        if self._target is not None:
            loss = loss + settings.alignment * terms["alignment"] + settings.assignment * terms["consensus"]
        return loss


def embed(net: FCMINet, x: Tensor) -> Tensor:
    """h of rows on the network's device, outside of training, shape (n_cells, n_latent)."""
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        h = torch.cat([net.embed(part.to(net.centres.dtype)).float() for part in x.split(PIECE)])
    net.train(was_training)
    return h


def embed_all(net: FCMINet, source: MatrixSource) -> NDArray[np.float32]:
    """h of every row of a source, in chunks, shape (n_cells, n_latent)."""
    device = net.centres.device
    return np.concatenate([embed(net, dense_tensor(block, device)).cpu().numpy() for _, block in source.chunks(PIECE)])


def _has_settled(history: list[dict[str, float]], settings: Settings) -> bool:
    """Whether the loss, or the part of it that makes the clusters, has hardly improved for a while."""
    n, rows = settings.patience, history[settings.warmup_epochs :]
    if n is None or len(rows) < 2 * n:
        return False
    values = [row["loss"] for row in rows[-2 * n :]]
    if not settings.consensus:
        values = [row["loss"] - settings.reconstruction * row["reconstruction"] for row in rows[-2 * n :]]
    # Single epochs are too noisy to compare.
    before, now = sum(values[:n]) / n, sum(values[n:]) / n
    return before - now < settings.tolerance * abs(before)
