"""Blocks as tensors: sparse rows travel to the device as they are, and what is dense is made there."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ._storage import Block


def as_tensor(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """An array on a device; on the CPU without a copy, unless it must not be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def dense_tensor(block: Block, device: torch.device | str) -> Tensor:
    """A block of rows as a dense tensor, shape (n_rows, n_columns), filled in on the device."""
    if not sp.issparse(block):
        return as_tensor(np.ascontiguousarray(block), device)
    if not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    out = torch.zeros(block.shape, dtype=torch.float32, device=device)
    rows = torch.repeat_interleave(as_tensor(np.diff(block.indptr), device), output_size=block.nnz)
    out[rows, as_tensor(block.indices, device)] = as_tensor(block.data, device)
    return out


def product(block: Block, weights: Tensor, cap: Tensor | None) -> Tensor:
    """min(rows, cap) @ weights on the device of the weights, of shape (n_rows, n_weights).

    Sparse rows are sums of the weights that their entries select, so the dense block is never formed; entries that are
    not stored are not above the cap.

    Parameters
    ----------
    block
        Rows, shape (n_rows, n_columns).
    weights
        Shape (n_columns, n_weights).
    cap
        Largest value in each column, shape (n_columns,); no limit when absent.
    """
    device = weights.device
    if not sp.issparse(block):
        x = dense_tensor(block, device)
        return (x if cap is None else torch.minimum(x, cap)) @ weights
    indptr, indices, data = (as_tensor(part, device) for part in (block.indptr, block.indices, block.data))
    if cap is not None:
        data = torch.minimum(data, cap[indices])
    return F.embedding_bag(indices, weights, indptr, mode="sum", per_sample_weights=data, include_last_offset=True)
