"""What displaces cells: levels of attributes, and smooth functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scfcmi.source import Continuous, Groups

# A number enters by its rank, as so many Legendre polynomials of it.
DEGREE = 3
N_KNOTS = 65


@dataclass(frozen=True)
class Design:
    """The regression by which cells are displaced.

    A cell of group g (a combination of levels) with the numbers v is displaced, in component c, by
    Σ_f b_f,level(g) + Σ_p φ_p(v) b_p, with coefficients that depend on c; every factor is one attribute.

    Parameters
    ----------
    levels
        Level of every group in each attribute, shape (n_groups, n_factors).
    knots
        Quantiles of each number, by which its rank is known, shape (n_numbers, n_knots).
    """

    levels: NDArray[np.int64]
    knots: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Groups, values: Continuous) -> Design:
        """The design of a data set."""
        levels = np.stack([factor.of_group for factor in groups.factors], axis=1)
        quantiles = np.linspace(0, 1, N_KNOTS)
        knots = [np.quantile(column, quantiles) for column in values.values.T]
        return cls(levels, np.array(knots).reshape(len(knots), N_KNOTS))

    @property
    def n_groups(self) -> int:
        """Combinations of levels."""
        return len(self.levels)

    @property
    def n_smooth(self) -> int:
        """Smooth functions, over all numbers."""
        return DEGREE * len(self.knots)

    def smooth(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Smooth functions of the numbers of some cells.

        Parameters
        ----------
        values
            Shape (n_cells, n_numbers). What lies outside of what was seen counts as the nearest value that was.

        Returns
        -------
        Legendre polynomials of the rank, of mean square one, shape (n_cells, n_smooth).
        """
        parts = []
        for column, knots in zip(values.T, self.knots, strict=True):
            # Of tied quantiles the middle is the rank.
            grid, inverse = np.unique(knots, return_inverse=True)
            place = np.bincount(inverse, np.linspace(-1, 1, N_KNOTS)) / np.bincount(inverse)
            u = np.interp(column, grid, place)
            polynomials = np.polynomial.legendre.legvander(u, DEGREE)[:, 1:]
            parts.append(polynomials * np.sqrt(2 * np.arange(1, DEGREE + 1) + 1))
        return np.concatenate(parts, axis=1).astype(np.float32) if parts else np.empty((len(values), 0), np.float32)
