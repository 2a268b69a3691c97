"""Training rows come batch by batch, the same from wherever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

from scfcmi.source import MatrixSource
from scfcmi.train import _rows
from scfcmi.train._rows import DeviceRows

X = np.random.default_rng(0).poisson(0.5, size=(600, 8)).astype(np.float32)


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    order = np.random.default_rng(1).permutation(600)
    found = [(rows, np.arange(len(rows), dtype=np.float32)) for rows in np.array_split(order, 20)]
    # A cell of a small group may stand twice.
    found[3] = np.append(found[3][0], found[3][0][0]), np.append(found[3][1], np.float32(0.5))
    return found


def check(source: MatrixSource, dtype: torch.dtype = torch.float32) -> None:
    n = 0
    for (rows, weights), (index, weight, x) in zip(
        batches(), DeviceRows(source, torch.device("cpu"), dtype).walk(batches()), strict=True
    ):
        assert x.dtype == weight.dtype == dtype
        np.testing.assert_array_equal(index.numpy(), rows)
        np.testing.assert_array_equal(weight.numpy(), weights)
        np.testing.assert_array_equal(x.numpy(), X[rows])
        n += 1
    assert n == 20


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_memory(kind: Any, resident: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if not resident:
        monkeypatch.setattr(_rows, "RESIDENT_BYTES", 0)
    check(MatrixSource(kind(X)), dtype)


def test_batches_are_read_from_a_file_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    picked = MatrixSource.rows
    monkeypatch.setattr(MatrixSource, "rows", lambda self, index: reads.append(len(index)) or picked(self, index))
    monkeypatch.setattr(MatrixSource, "chunk_size", 60)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        check(MatrixSource(file.create_dataset("x", data=X)))
    # 30 cells a batch, 240 at a time.
    assert len(reads) == 3
    assert max(reads) <= 270
