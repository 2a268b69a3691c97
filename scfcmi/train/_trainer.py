"""The training loop on Lightning Fabric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from scfcmi.objective import Graph, Pairs, agreement_terms, fcmi_terms, matched_independence
from scfcmi.source import MatrixSource
from scfcmi.source._matrix import dense

from ._batches import stratified_batches
from ._centres import kmeans_centres
from ._settings import Settings

# Optimiser steps that the default number of epochs amounts to, and bounds that keep it sensible at both ends.
TARGET_STEPS = 400
MIN_EPOCHS, MAX_EPOCHS = 20, 150


@dataclass
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

    history: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    epochs: int = 0
    reason: str = ""


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Epochs that amount to a fixed number of optimiser steps, within bounds."""
    steps = max(1, round(n_cells / batch_size))
    return int(min(MAX_EPOCHS, max(MIN_EPOCHS, math.ceil(TARGET_STEPS / steps))))


def train(
    net: nn.Module,
    source: MatrixSource,
    codes: NDArray[np.int64],
    graph: Graph | None,
    settings: Settings,
    fabric: Fabric,
    *,
    random_state: int,
    progress_bar: bool | None,
    refresh_graph: Callable[[NDArray[np.float32]], Graph] | None = None,
) -> Record:
    """Fit a network to the rows of a source.

    Parameters
    ----------
    net
        An :class:`~scfcmi.model.FCMINet`; trained in place and left on the device of `fabric`.
    source
        Rows to train on.
    codes
        Group of each row, shape (n_cells,).
    graph
        Who should agree with whom; needed by the agreement terms only.
    settings
        Weights and schedule; `max_epochs` must be set.
    fabric
        Device and precision.
    random_state
        Seed of batches and partners.
    progress_bar
        Whether to show one; when absent, only in a terminal or notebook.
    refresh_graph
        Makes a new graph from the embedding, called twice on the way.
    """
    rng = np.random.default_rng(random_state)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    wrapped, optimizer = fabric.setup(net, optimizer)
    n_groups, n_epochs = int(codes.max()) + 1, settings.max_epochs
    assert n_epochs is not None
    record = Record(reason=f"ran all {n_epochs} epochs")
    centres: NDArray[np.float32] | None = None
    rows_of_history: list[dict[str, float]] = []
    stopper = _Stopper(settings.patience)
    bar = tqdm(range(n_epochs), desc="fair_cluster", unit="epoch", disable=None if progress_bar is None else not progress_bar)
    for epoch in bar:
        warm = epoch < settings.warmup_epochs
        if not warm and settings.kmeans_every_epoch:
            embedding = embed_all(net, source)
            n_centres = net.centres.shape[0]
            centres = kmeans_centres(embedding, n_centres, random_state=random_state, start=centres)
            with torch.no_grad():
                net.centres.copy_(torch.from_numpy(centres))
        if refresh_graph is not None and epoch in {n_epochs // 3, 2 * n_epochs // 3} and not warm:
            graph = refresh_graph(embed_all(net, source))
        wrapped.train()
        sums: dict[str, float] = {}
        batches = list(stratified_batches(codes, settings.batch_size, rng))
        for rows, weights in batches:
            terms = _terms(wrapped, source, codes, rows, weights, graph, n_groups, fabric, rng, warm=warm)
            loss = _loss(terms, settings, warm=warm)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        means = {name: value / len(batches) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            msg = (
                f"The loss became {means['loss']} in epoch {epoch + 1}. Check the input for extreme values, "
                "or use precision='32-true'."
            )
            raise FloatingPointError(msg)
        rows_of_history.append({"epoch": float(epoch + 1), **means})
        bar.set_postfix({name: f"{means[name]:.3f}" for name in ("loss", "i_xc_given_g", "i_gc") if name in means})
        if not warm and stopper.should_stop(means["loss"]):
            record.reason = f"no improvement of the loss in {settings.patience} epochs"
            break
    names = list(dict.fromkeys(name for row in rows_of_history for name in row))
    record.history = {name: np.array([row.get(name, np.nan) for row in rows_of_history]) for name in names}
    record.epochs = len(rows_of_history)
    return record


def embed_all(net: nn.Module, source: MatrixSource) -> NDArray[np.float32]:
    """h of every row, in chunks, shape (n_cells, n_latent)."""
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    parts = []
    with torch.inference_mode():
        for _, block in source.chunks(8192):
            parts.append(net.embed(torch.from_numpy(dense(block)).to(device)).float().cpu().numpy())
    net.train(was_training)
    return np.concatenate(parts)


def _terms(
    net: nn.Module,
    source: MatrixSource,
    codes: NDArray[np.int64],
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    graph: Graph | None,
    n_groups: int,
    fabric: Fabric,
    rng: np.random.Generator,
    *,
    warm: bool,
) -> dict[str, Tensor]:
    n = len(rows)
    use_pairs = graph is not None and not warm
    if use_pairs:
        assert graph is not None
        near = graph.draw_neighbours(rows, rng)
        match, trust = graph.draw_matches(rows, rng)
        rows = np.concatenate([rows, near, match])
    x = fabric.to_device(torch.from_numpy(dense(source.rows(rows))))
    group = fabric.to_device(torch.from_numpy(codes[rows]))
    weight = fabric.to_device(torch.from_numpy(weights))
    proba, decoded = net(x, group, n)
    terms = fcmi_terms(x[:n], decoded, proba[:n], group[:n], weight, n_groups)
    if use_pairs:
        near_pairs = Pairs(proba[n : 2 * n], group[n : 2 * n], weight)
        match_pairs = Pairs(proba[2 * n :], group[2 * n :], weight * fabric.to_device(torch.from_numpy(trust)))
        terms |= agreement_terms(proba[:n], near_pairs, "neighbours")
        terms |= agreement_terms(proba[:n], match_pairs, "matches")
        terms["i_gc_matched"] = matched_independence(proba[:n], group[:n], match_pairs, n_groups)
    return terms


def _loss(terms: dict[str, Tensor], settings: Settings, *, warm: bool) -> Tensor:
    loss = settings.reconstruction * terms["reconstruction"]
    if warm:
        return loss
    loss = loss - settings.alpha * (terms["h_c"] - terms["h_c_given_x"]) + settings.beta * terms["i_gc"]
    if "i_neighbours" in terms:
        loss = loss - settings.neighbours * (terms["i_neighbours"] + settings.spread * terms["h_neighbours"])
        loss = loss - settings.matches * (terms["i_matches"] + settings.spread * terms["h_matches"])
        loss = loss + settings.overlap * terms["i_gc_matched"]
    return loss


class _Stopper:
    """Stops when the smoothed loss has not improved for a while."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._best, self._since, self._smooth = math.inf, 0, math.nan

    def should_stop(self, loss: float) -> bool:
        if self._patience is None:
            return False
        self._smooth = loss if math.isnan(self._smooth) else 0.7 * self._smooth + 0.3 * loss
        if self._smooth < self._best - 1e-3 * abs(self._best if math.isfinite(self._best) else 1.0):
            self._best, self._since = self._smooth, 0
        else:
            self._since += 1
        return self._since >= self._patience
