"""Epochs whose steps are recorded once as a CUDA graph and replayed: hundreds of small kernels, one launch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import world_size
from scfcmi._warn import warn
from scfcmi.source import Groups

from ._network import Decoder, is_recordable
from ._options import NetworkOptions
from ._rows import Rows
from ._slots import Slots, arrange, enough
from ._step import State, Step

# Steps taken before the recording, in which libraries choose their kernels and ask for memory.
BEFORE = 3


class Recording:
    """The steps of an epoch on rows that lie on the device, each batch with the same shapes.

    Everything a step reads and writes stays in one place: it looks its batch up by a counter on the device, which it
    moves on, so that a replay needs nothing from the host. Where a step cannot be recorded, it is taken as it is.

    Parameters
    ----------
    step, state, rows, groups, options
        Those of the fit.
    """

    def __init__(self, step: Step, state: State, rows: Rows, groups: Groups, options: NetworkOptions) -> None:
        self._step, self._state = step, state
        assert rows.resident is not None
        self._rows, self._codes = rows.resident, torch.from_numpy(groups.codes).to(rows.device)
        equal = isinstance(state.network.decoder, Decoder)
        self._sizes = enough(groups.counts, min(options.batch_size, len(groups.codes)), equal=equal)
        self._batches: tuple[Tensor, ...] = ()
        self._which = torch.zeros(1, dtype=torch.int64, device=rows.device)
        self._sums = torch.zeros(len(step.names), dtype=rows.dtype, device=rows.device)
        self._centres: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_warm: bool | None = None
        self._records = rows.device.type == "cuda"

    def fits(self, counts: NDArray[np.int64]) -> bool:
        """Whether the rows of all batches of an epoch, shape (n_batches, n_groups), find their places."""
        return bool((counts <= self._sizes).all())

    def epoch(self, order: NDArray[np.int64], counts: NDArray[np.int64], *, warm: bool) -> Tensor:
        """Take all steps of an epoch.

        Parameters
        ----------
        order, counts
            As :func:`shuffled` returns them.
        warm
            Whether reconstruction alone counts.

        Returns
        -------
        The loss and all terms, summed over steps.
        """
        self._place(torch.from_numpy(order), *map(torch.from_numpy, arrange(counts, self._sizes)))
        self._which.zero_()
        self._sums.zero_()
        left = len(order)
        if self._records and (self._graph is None or warm != self._is_warm):
            with torch.cuda.device(self._rows.device):
                left -= self._record(warm, left)
        for _ in range(left):
            if self._graph is None:
                self._one(warm)
            else:
                self._graph.replay()
        return self._sums.clone()

    def _place(self, *batches: Tensor) -> None:
        """Bring batches and centres to where the recorded step looks for them."""
        assert self._state.centres is not None
        if self._centres is None:
            self._batches = tuple(batch.to(self._rows.device) for batch in batches)
            self._centres = self._state.centres.clone()
        for kept, new in zip((*self._batches, self._centres), (*batches, self._state.centres), strict=True):
            kept.copy_(new)
        self._state.centres = self._centres

    def _one(self, warm: bool) -> None:
        order, row, mask, place = (part.index_select(0, self._which)[0] for part in self._batches)
        slots = Slots(row, mask, place, self._sizes)
        x, codes = self._rows.index_select(0, order), self._codes.index_select(0, order)
        self._sums += self._step(x, codes, slots, warm=warm)
        self._which += 1

    def _record(self, warm: bool, left: int) -> int:
        """Take a few steps and record one, which takes none; how many were taken."""
        n = min(BEFORE, left)
        self._graph, self._is_warm = None, warm
        # Recordings must not begin on the stream on which everything else runs.
        side, here = torch.cuda.Stream(self._rows.device), torch.cuda.current_stream(self._rows.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(n):
                self._one(warm)
        here.wait_stream(side)
        optimizer, graph = self._state.optimizer, torch.cuda.CUDAGraph()
        optimizer.zero_grad()
        _set_capturable(optimizer, True)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._one(warm)
            self._graph = graph
        except RuntimeError as error:
            self._records = False
            # PyTorch leaves the stream of the recording in place.
            torch.cuda.set_stream(here)
            optimizer.zero_grad()
            warn(f"Steps could not be recorded as a CUDA graph, and are launched one by one, which is slower: {error}")
        finally:
            # Outside of recordings PyTorch warns of it.
            _set_capturable(optimizer, False)
        return n


def recording(
    step: Step, state: State, rows: Rows, groups: Groups, options: NetworkOptions, *, wanted: bool | None = None
) -> Recording | None:
    """A recording where it pays and gives the same numbers: on a GPU, in one process, with layers that are known.

    Parameters
    ----------
    wanted
        Whether to arrange batches for it on any device; by default on GPUs.
    """
    if not (rows.device.type == "cuda" if wanted is None else wanted):
        return None
    possible = rows.resident is not None and world_size() == 1 and options.precision != "16-mixed"
    return Recording(step, state, rows, groups, options) if possible and is_recordable(state.network) else None


def _set_capturable(optimizer: torch.optim.Optimizer, value: bool) -> None:
    for group in optimizer.param_groups:
        group["capturable"] = value
