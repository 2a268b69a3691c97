"""Small simulations, and the transcription of the paper that benchmarks use as well."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scfcmi.published import NetworkOptions
from scfcmi.source import Groups, read_groups

REFERENCE = Path(__file__).resolve().parents[2] / "benchmarks" / "paper" / "reference.py"
# As published, but narrow and short.
SMALL = NetworkOptions(hidden=(64, 64, 32, 16), max_epochs=24, warmup_epochs=6, batch_size=64)


@dataclass(frozen=True)
class Cells:
    """Rows, their groups and their types."""

    x: NDArray[np.float32]
    groups: Groups
    types: NDArray[np.int64]


def make_cells(
    n: int = 400, *, shift: float = 1.0, separation: float = 2.0, noise: float = 0.5, seed: int = 0
) -> Cells:
    """Four types in twenty columns, and two groups shifted against each other."""
    rng = np.random.default_rng(seed)
    types, codes = rng.integers(0, 4, n), rng.integers(0, 2, n)
    x = separation * rng.normal(size=(4, 20))[types] + shift * rng.normal(size=(2, 20))[codes]
    x = x + noise * rng.normal(size=(n, 20))
    return Cells(x.astype(np.float32), read_groups([f"g{c}" for c in codes]), types)


@pytest.fixture(scope="session")
def cells() -> Cells:
    return make_cells()


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The transcription; it is part of the repository, not of the package."""
    if not REFERENCE.is_file():
        pytest.skip("not a source checkout")
    spec = importlib.util.spec_from_file_location("reference", REFERENCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
