"""Small simulated positions: types, and groups that displace them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from scfcmi.registration import Design, Positions
from scfcmi.source import Continuous, read_continuous, read_groups


@dataclass
class Simulated:
    """Cells of known types and displacements.

    `truth` are positions without displacement, `z` those that were measured.
    """

    z: np.ndarray
    truth: np.ndarray
    types: np.ndarray
    codes: np.ndarray
    design: Design
    values: Continuous

    @property
    def cells(self) -> Positions:
        smooth = self.design.smooth(self.values.values)
        return Positions.of(torch.from_numpy(self.z), self.codes, self.design.n_groups, smooth)


def simulate(
    n: int = 600,
    n_types: int = 6,
    n_dims: int = 5,
    n_groups: int = 3,
    *,
    shift: float = 2.0,
    coherent: float = 0.0,
    spread: float = 5.0,
    missing: dict[int, tuple[int, ...]] | None = None,
    seed: int = 0,
    dtype: type = np.float64,
) -> Simulated:
    """Types at random centres; each group adds a shift, and `coherent` of a linear map of the centre."""
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(n_types, n_dims))
    types, codes = rng.integers(0, n_types, n), rng.integers(0, n_groups, n)
    for group, gone in (missing or {}).items():
        present = np.setdiff1d(np.arange(n_types), gone)
        here = codes == group
        types[here] = present[rng.integers(0, len(present), here.sum())]
    moves = shift * rng.normal(size=(n_groups, 1, n_dims))
    moves = moves + coherent * np.einsum("md,gde->gme", centres / spread, rng.normal(size=(n_groups, n_dims, n_dims)))
    moves[0] = 0
    truth = centres[types] + rng.normal(size=(n, n_dims))
    z = truth + moves[codes, types]
    groups = read_groups([f"g{code}" for code in codes]) if n_groups > 1 else None
    values = read_continuous(None, n)
    design = Design.of(groups, values) if groups is not None else Design(np.zeros((1, 1), int), np.empty((0, 65)))
    return Simulated(z.astype(dtype), truth.astype(dtype), types, codes, design, values)


@pytest.fixture(name="simulate")
def simulate_fixture() -> Any:
    """The simulation, to be called with what is wanted."""
    return simulate
