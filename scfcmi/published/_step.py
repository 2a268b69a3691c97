"""What training changes as it goes, and one step of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import world_size
from scfcmi.source import Groups

from ._network import Network, log_assignments
from ._options import NetworkOptions
from ._rows import Rows
from ._slots import Slots
from ._terms import Batch, Term, joint_table, total

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class State:
    """Everything that training changes as it goes, apart from the centres that the last epoch worked with.

    Parameters
    ----------
    network, optimizer, scaler
        What is trained, how, and the scale of the loss in half precision.
    history
        The loss and its terms in every finished epoch.
    centres
        Unit-length centres of the last epoch, shape (n_clusters, n_latent).
    """

    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[dict[str, float]] = field(default_factory=list)
    centres: Tensor | None = None


class Step:
    """One step of Adam on one batch; what it needs lies on the device, and nothing waits for what it computes."""

    def __init__(
        self, state: State, terms: Sequence[Term], groups: Groups, options: NetworkOptions, rows: Rows
    ) -> None:
        self._state, self._terms, self._options = state, terms, options
        self._device, self._dtype = rows.device, rows.dtype
        self._codes = torch.from_numpy(groups.codes).to(self._device)
        self._levels = torch.arange(groups.n, device=self._device)
        self._half = HALF.get(options.precision)
        self.names = ("loss", *(term.name for term in terms))

    def codes(self, order: NDArray[np.int64]) -> Tensor:
        """Group of every cell of every batch, shape (n_batches, batch_size)."""
        return self._codes[torch.from_numpy(order).to(self._device)]

    def __call__(self, x: Tensor, codes: Tensor, counts: list[int] | Slots, *, warm: bool) -> Tensor:
        """Take the step.

        Parameters
        ----------
        x
            Rows in [−1, 1], ordered by group, shape (n, n_columns).
        codes, counts
            Group of each row, shape (n,), and rows of every group, or where these stand.
        warm
            Whether reconstruction alone counts.

        Returns
        -------
        The loss and all terms, in the order of `names`.
        """
        state = self._state
        state.network.train()
        values = self.loss(x, codes, counts, warm=warm)
        # In a warm-up without reconstruction there is nothing to learn.
        if values["loss"].requires_grad:
            state.optimizer.zero_grad()
            state.scaler.scale(values["loss"]).backward()
            self._complete_gradients()
            self._average_gradients()
            state.scaler.step(state.optimizer)
            state.scaler.update()
        return torch.stack([value.detach() for value in values.values()])

    def loss(self, x: Tensor, codes: Tensor, counts: list[int] | Slots, *, warm: bool) -> dict[str, Tensor]:
        """The loss and all terms of one batch, with gradients."""
        state, options = self._state, self._options
        with torch.autocast(self._device.type, self._half, enabled=self._half is not None):
            h = state.network.embed(x)
            decoder: Any = state.network.decoder
            decoded = decoder.slotted(h, counts) if isinstance(counts, Slots) else decoder(h, counts)
        learned = state.network.centres
        centres = state.centres if learned is None or warm else F.normalize(learned, dim=1)
        assert centres is not None
        log_proba = log_assignments(h, centres, options.temperature)
        indicators = (codes[:, None] == self._levels).to(self._dtype)
        batch = Batch(x, decoded.to(self._dtype), log_proba, joint_table(log_proba.exp(), indicators))
        values = {term.name: term.function(batch) for term in self._terms}
        return {"loss": total(self._terms, values, warm=warm) + torch.zeros_like(values["h_c"]), **values}

    def named(self, values: Tensor) -> dict[str, float]:
        """What :meth:`__call__` returned, by name, on the host."""
        return dict(zip(self.names, values.cpu().double().tolist(), strict=True))

    def _complete_gradients(self) -> None:
        """Zeros for a branch that no row went through: Adam treats none at all, which it passes over, otherwise.

        So it makes no difference whether branches lie side by side, or whether places without a row went through them,
        and processes have gradients of the same shapes.
        """
        for p in self._state.network.decoder.parameters():
            if p.requires_grad and p.grad is None:
                p.grad = torch.zeros_like(p)

    def _average_gradients(self) -> None:
        if world_size() == 1:
            return
        gradients = [p.grad for p in self._state.network.parameters() if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        # Every process has the gradient of the loss of all, times their number.
        together /= world_size()
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
