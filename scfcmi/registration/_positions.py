"""Rows of all cells in the front layer's coordinates, sorted by group, walked through in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import rows_at_once, world_size

# Entries of a table of cells × components that are held at once.
CHUNK_ENTRIES = {"cpu": 2**20, "cuda": 2**27, "mps": 2**25}


@dataclass(frozen=True)
class Positions:
    """Cells of known groups, sorted by group.

    Parameters
    ----------
    z
        Positions, shape (n_cells, n_dims), cells of a group one below the other.
    edges
        First row of every group, and the end of the last, shape (n_groups + 1,).
    slot
        Row in `z` of every cell, shape (n_cells,).
    smooth
        Smooth functions of each cell's numbers, in the order of `z`, shape (n_cells, n_smooth).
    """

    z: Tensor
    edges: NDArray[np.int64]
    slot: NDArray[np.int64]
    smooth: Tensor

    @classmethod
    def empty(
        cls,
        codes: NDArray[np.int64],
        n_groups: int,
        n_dims: int,
        smooth: NDArray[np.float32],
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Positions:
        """Room for the positions of cells of these groups, to be filled with :meth:`put`."""
        order = np.argsort(codes, kind="stable")
        slot = np.empty(len(codes), np.int64)
        slot[order] = np.arange(len(codes))
        edges = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=n_groups))])
        try:
            z = torch.empty((len(codes), n_dims), dtype=dtype, device=device)
        except torch.OutOfMemoryError as error:
            size = len(codes) * n_dims * dtype.itemsize / 2**20
            msg = f"The device has no memory for the positions of {len(codes)} cells ({size:.0f} MB). Use device='cpu'."
            raise MemoryError(msg) from error
        return cls(z, edges, slot, torch.from_numpy(smooth[order]).to(z))

    @classmethod
    def of(
        cls,
        z: NDArray[np.floating] | Tensor,
        codes: NDArray[np.int64],
        n_groups: int,
        smooth: NDArray[np.float32] | None = None,
        device: torch.device | str = "cpu",
    ) -> Positions:
        """Sort cells that are at hand, shape (n_cells, n_dims)."""
        z = torch.as_tensor(z)
        if smooth is None:
            smooth = np.empty((len(codes), 0), np.float32)
        positions = cls.empty(codes, n_groups, z.shape[1], smooth, device, z.dtype)
        positions.put(slice(0, len(codes)), z)
        return positions

    def put(self, cells: slice, z: Tensor) -> None:
        """Fill in the positions of consecutive cells."""
        self.z[torch.from_numpy(self.slot[cells]).to(self.z.device)] = z.to(self.z)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.z)

    @property
    def codes(self) -> NDArray[np.int64]:
        """Group of each row of `z`, shape (n_cells,)."""
        return np.repeat(np.arange(len(self.edges) - 1), np.diff(self.edges))

    @property
    def order(self) -> NDArray[np.int64]:
        """Cell that each row of `z` is, shape (n_cells,)."""
        order = np.empty(len(self.slot), np.int64)
        order[self.slot] = np.arange(len(self.slot))
        return order

    @property
    def in_order(self) -> Tensor:
        """Positions in the order of the cells, shape (n_cells, n_dims)."""
        return self.z[torch.from_numpy(self.slot).to(self.z.device)]

    def take(self, cells: NDArray[np.int64]) -> Positions:
        """Some of the cells, in this order; groups stay, also those that none of them has."""
        slots = self.slot[cells]
        index = torch.from_numpy(slots).to(self.z.device)
        codes = np.searchsorted(self.edges, slots, side="right") - 1
        return Positions.of(
            self.z[index], codes, len(self.edges) - 1, self.smooth[index].cpu().float().numpy(), self.z.device
        )

    def rows(self, rows: NDArray[np.int64]) -> Positions:
        """Some rows of `z`, in increasing order."""
        index = torch.from_numpy(rows).to(self.z.device)
        edges = np.searchsorted(rows, self.edges)
        return Positions(self.z[index], edges, np.arange(len(rows)), self.smooth[index])

    def to(self, device: torch.device | str) -> Positions:
        """The same on another device."""
        return replace(self, z=self.z.to(device), smooth=self.smooth.to(device))

    def share(self) -> Positions:
        """The rows that are this process's to pass over: all of them, if it is alone."""
        if world_size() == 1:
            return self
        return self.rows(np.arange(dist.get_rank(), self.n_cells, dist.get_world_size()))

    def chunks(self, n_columns: int) -> Iterator[tuple[int, slice]]:
        """Walk through the rows, group by group, so many at a time that tables of `n_columns` fit."""
        step = rows_at_once(max(256, CHUNK_ENTRIES[self.z.device.type] // max(n_columns, 1)))
        for group, (first, last) in enumerate(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True)):
            for start in range(first, last, step):
                yield group, slice(start, min(start + step, last))
