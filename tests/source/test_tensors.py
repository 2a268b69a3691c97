"""Blocks become the same tensors, however they are stored."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse

from scfcmi.source._tensors import as_tensor, dense_tensor, product

RNG = np.random.default_rng(0)
X = np.where(RNG.random((7, 5)) < 0.4, RNG.random((7, 5)), 0).astype(np.float32)
X[2] = 0


def twice(x: np.ndarray) -> sparse.csr_matrix:
    """Every entry stored as two halves, in the wrong order."""
    half = sparse.coo_matrix(x / 2)
    rows, columns, data = (np.tile(part, 2) for part in (half.row, half.col, half.data))
    order = np.lexsort((-columns, rows))
    indptr = np.concatenate([[0], np.bincount(rows, minlength=len(x)).cumsum()]).astype(np.int32)
    return sparse.csr_matrix((data[order], columns[order], indptr), shape=x.shape)


@pytest.mark.parametrize("kind", [np.asarray, np.asfortranarray, sparse.csr_matrix, twice])
def test_dense_tensor(kind: type) -> None:
    block = kind(X)
    found = dense_tensor(block, "cpu")
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), X, rtol=1e-6)
    if kind is twice:
        assert block.nnz == 2 * np.count_nonzero(X)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_product(kind: type, index: type) -> None:
    block, weights = kind(X), RNG.normal(size=(5, 3)).astype(np.float32)
    if sparse.issparse(block):
        block.indices, block.indptr = block.indices.astype(index), block.indptr.astype(index)
    cap = np.full(5, 0.5, np.float32)
    np.testing.assert_allclose(product(block, torch.from_numpy(weights), None).numpy(), X @ weights, atol=1e-6)
    capped = product(block, torch.from_numpy(weights), torch.from_numpy(cap)).numpy()
    np.testing.assert_allclose(capped, np.minimum(X, cap) @ weights, atol=1e-6)
    np.testing.assert_array_equal(block.toarray() if sparse.issparse(block) else block, X)


@pytest.mark.parametrize("shape", [(0, 5), (3, 5)])
def test_nothing_stored(shape: tuple[int, int]) -> None:
    block = sparse.csr_matrix(shape, dtype=np.float32)
    assert torch.equal(dense_tensor(block, "cpu"), torch.zeros(shape))
    assert torch.equal(product(block, torch.ones(5, 2), torch.ones(5)), torch.zeros(shape[0], 2))


def test_what_must_not_be_written_to_is_copied() -> None:
    fixed = X.copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_tensor(fixed, "cpu")
    found += 1
    np.testing.assert_array_equal(fixed, X)
