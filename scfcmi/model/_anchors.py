"""Cells of the fit that stay with the model, as places for later cells to be compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_ANCHORS = 5000


@dataclass(frozen=True)
class Anchors:
    """A sample of the fitted cells, stratified by group, as the network sees them.

    Parameters
    ----------
    position
        Rows of the network's input, shape (n_anchors, n_input).
    codes
        Group of each of them, shape (n_anchors,).
    """

    position: NDArray[np.float32]
    codes: NDArray[np.int64]
