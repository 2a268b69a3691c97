"""The front layer: a map from genes to a few directions along which cells of the same group differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from scfcmi._device import pieces, smaller_when_full
from scfcmi.source import Block, dense, normalise_rows, product

CLIP = 10.0
# The pole of a sphere on which a Gaussian along one direction keeps one mode: √2 standard deviations, in its lengths.
HIGH = 2.1
# No cell is brought back to farther than about so many typical lengths from the mean.
FARTHEST = 10.0
# Least share of signal in a direction: none is given up altogether.
LEAST_SIGNAL = 1e-2
# Directions that are iterated beyond those wanted, and how often.
OVERSAMPLED, POWER_ITERATIONS = 10, 4
# Up to so many entries, a dense matrix is quicker than a sparse one.
DENSE_ENTRIES = 2**23
# Up to this size a full decomposition is quicker than an iterative one.
SMALL = 200


@dataclass(frozen=True)
class Front:
    """Standardise, project on principal directions *within* groups, and bring cells to a sphere.

    The loadings come from the covariance that is left after each group's mean is taken out, so a direction that only
    tells groups apart is not among them; the cells themselves are not centred by group, so differences in composition
    stay. On the sphere, cells far from the mean differ by their direction alone, because depth shows mostly as length;
    cells near the mean, whose direction is noise, meet at the pole: one more column, of the typical length for all
    cells, is appended before each is scaled to length √n_comps.

    Parameters
    ----------
    mean
        Mean per column, shape (n_columns,).
    scale
        Standard deviation per column (ones when columns are not standardised), shape (n_columns,).
    loadings
        Orthonormal directions, shape (n_columns, n_comps).
    length
        Typical length of a projected cell, before all are scaled to the same.
    weights
        What coordinates along the directions are multiplied with, from 0 to 1, shape (n_comps,): the share of signal in
        each, by the optimal shrinkage of singular values of Gavish & Donoho, IEEE Trans. Inf. Theory 2017.
    height
        The appended column, in typical lengths; at 0 there is none, and directions are all that is left.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    loadings: NDArray[np.float32]
    weights: NDArray[np.float32]
    length: float = 1.0
    height: float = 0.0

    @property
    def n_comps(self) -> int:
        """Number of output columns."""
        return int(self.loadings.shape[1]) + (self.height > 0)

    @classmethod
    def fit(
        cls,
        block: Block,
        codes: NDArray[np.int64],
        n_comps: int,
        *,
        standardize: bool,
        height: float = 0.0,
    ) -> Front:
        """Estimate the map from some cells.

        Parameters
        ----------
        block
            The cells, shape (n_sketch, n_columns).
        codes
            Group of each of them, shape (n_sketch,), or its level in each attribute, shape (n_sketch, n_attributes):
            then the mean of a combination is the sum of what its levels contribute.
        n_comps
            Directions wanted; fewer come back when there are fewer columns.
        standardize
            Whether columns are brought to unit variance, as genes should be and principal components should not.
        height
            The appended column, in typical lengths.
        """
        n, n_columns = block.shape
        if n * n_columns <= DENSE_ENTRIES:
            block = dense(block)
        mean, scale = _moments(block)
        if standardize:
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            block = _clip(block, mean, scale)
            mean, _ = _moments(block)
        else:
            scale = np.ones(n_columns, np.float32)
        block = block.multiply(1 / scale).tocsr() if sp.issparse(block) else block / scale
        membership, centres = _centres(block, codes.reshape(n, -1))
        loadings, variances = _directions(block, membership, centres, min(n_comps, n, n_columns))
        weights = _signal(variances, _residual_variance(block, membership, centres), n, n_columns)
        mean = mean.astype(np.float32)
        projected = (np.asarray(block @ loadings) - (mean / scale) @ loadings) * weights
        length = max(float(np.median(np.linalg.norm(projected, axis=1))), 1e-6)
        return cls(mean, scale, np.ascontiguousarray(loadings, np.float32), weights, length, height)

    def transform(self, block: Block) -> NDArray[np.float32]:
        """Map rows, shape (n_rows, n_columns), to shape (n_rows, n_comps)."""
        return self.transform_on("cpu", block).numpy()

    @smaller_when_full
    def transform_on(self, device: torch.device | str, block: Block) -> Tensor:
        """Map rows on a device, where sparse ones arrive as they are."""
        if torch.device(device).type == "mps":
            # Not every version of PyTorch can sum selected rows there.
            return self.transform_on("cpu", block).to(device)
        weights = torch.from_numpy(self.loadings * self.weights / self.scale[:, None]).to(device)
        mean = torch.from_numpy(self.mean).to(device)
        cap = mean + CLIP * torch.from_numpy(self.scale).to(device) if (self.scale != 1).any() else None
        parts = pieces(block.shape[0])
        found = [product(block if len(parts) == 1 else block[rows], weights, cap) for rows in parts]
        z = torch.cat(found) - mean @ weights
        if self.height > 0:
            z = torch.cat([z, torch.full_like(z[:, :1], self.height * self.length)], dim=1)
        return z * (np.sqrt(self.n_comps) / z.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def raised(self, z: Tensor) -> Tensor:
        """Transformed rows on a sphere with a high pole, in typical lengths, without the appended column.

        Near a low pole directions are told apart best, but what varies along one direction alone, as depth may within a
        type, is pushed towards two sides, and looks like two clusters where it is one.

        Parameters
        ----------
        z
            Shape (n_rows, n_comps).
        """
        if self.height == 0:
            return z
        flat = z[:, :-1] * (self.height / z[:, -1:].clamp_min(self._lowest))
        return flat / torch.sqrt(1 + (flat / HIGH).square().sum(1, keepdim=True))

    @property
    def _lowest(self) -> float:
        return float(np.sqrt(self.n_comps)) * self.height / FARTHEST

    def inverse(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map transformed rows, shape (n_rows, n_comps), back to columns, shape (n_rows, n_columns).

        What the directions do not span is lost, and stands at its mean. Without a column for the height, how far a cell
        was from the mean is lost as well, and cells get the typical length.
        """
        if self.height > 0:
            # The height is the same for all cells before scaling, so it tells by how much each was scaled.
            z = z[:, :-1] * (self.height * self.length / np.maximum(z[:, -1:], self._lowest)).astype(np.float32)
        else:
            z = z * (self.length / np.sqrt(self.n_comps))
        return (((z / self.weights) @ self.loadings.T) * self.scale + self.mean).astype(np.float32)


def _moments(block: Block) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    n = block.shape[0]
    mean = np.asarray(block.mean(axis=0, dtype=np.float64)).ravel()
    squares = block.multiply(block) if sp.issparse(block) else np.square(block)
    second = np.asarray(squares.sum(axis=0, dtype=np.float64)).ravel() / n
    return mean.astype(np.float32), np.sqrt(np.maximum(second - mean**2, 0)).astype(np.float32)


def _centres(block: Block, codes: NDArray[np.int64]) -> tuple[sp.csr_matrix, NDArray[np.float32]]:
    """Indicators of all levels, and what each level contributes to the rows: least squares, for one attribute means."""
    n = len(codes)
    live = [np.unique(column, return_inverse=True)[1] for column in codes.T]
    parts = [sp.csr_matrix((np.ones(n, np.float32), column, np.arange(n + 1))) for column in live]
    membership = sp.hstack(parts, format="csr")
    if len(parts) == 1:
        return membership, dense(normalise_rows(membership.T.tocsr()) @ block).astype(np.float32)
    # Levels of several attributes overlap, and sum to one in each: of all solutions, the smallest.
    gram = np.asarray((membership.T @ membership).todense(), np.float64)
    return membership, (np.linalg.pinv(gram, hermitian=True) @ dense(membership.T @ block)).astype(np.float32)


def _residual_variance(block: Block, membership: sp.csr_matrix, centres: NDArray[np.float32]) -> float:
    """Variance within groups, summed over columns."""
    squares = (
        block.multiply(block).sum(dtype=np.float64) if sp.issparse(block) else np.square(block, dtype=np.float64).sum()
    )
    explained = np.multiply(dense(membership.T @ block), centres, dtype=np.float64).sum()
    return max(float(squares - explained), 0.0) / block.shape[0]


def _signal(variances: NDArray[np.float64], total: float, n: int, n_columns: int) -> NDArray[np.float32]:
    """Weights of the directions: of a variance that noise alone would give, next to nothing is kept.

    The noise per column is what the directions leave over. There is none to speak of when they span all columns, and
    then all weights are one.
    """
    rank, k = min(n, n_columns), len(variances)
    noise = max(total - variances.sum(), 0.0) / max(rank - k, 1) * rank / n_columns
    if k >= rank or noise <= 1e-6 * total / n_columns:
        return np.ones(k, np.float32)
    ratio, y = n_columns / n, np.maximum(variances / noise, 1e-12)
    above = y > (1 + np.sqrt(ratio)) ** 2
    kept = np.where(above, np.sqrt(np.maximum((y - ratio - 1) ** 2 - 4 * ratio, 0)) / y, 0)
    return np.sqrt(np.maximum(kept, LEAST_SIGNAL)).astype(np.float32)


def _clip(block: Block, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Block:
    """Cap values at ten standard deviations above the mean, so that one cell cannot own a direction."""
    cap = mean + CLIP * scale
    if sp.issparse(block):
        block = block.copy()
        np.minimum(block.data, cap[block.indices], out=block.data)
        return block
    return np.minimum(block, cap)


def _directions(
    block: Block, membership: sp.csr_matrix, centres: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Leading right singular vectors of the rows minus their group's centre, without forming the difference.

    Returns
    -------
    The directions, shape (n_columns, k), and the variance along each, shape (k,).
    """
    n, n_columns = block.shape
    if k >= min(n, n_columns) - 1 or min(n, n_columns) <= SMALL:
        vectors, values = _of_few(np.asarray(dense(block) - membership @ centres, np.float64), k)
    else:
        # Subspace iteration (Halko, Martinsson & Tropp 2011), all directions at once. What spans them is kept apart by
        # turns, on the side that is shorter; at the end the directions are brought to right angles.
        back, short = block.T, n <= n_columns
        guess = np.random.default_rng(0).standard_normal((n_columns, min(k + OVERSAMPLED, n, n_columns)), np.float32)
        for turn in range(POWER_ITERATIONS):
            image = block @ guess - membership @ (centres @ guess)
            image = np.linalg.qr(image)[0] if short else image
            guess = back @ image - centres.T @ (membership.T @ image)
            guess = guess if short and turn < POWER_ITERATIONS - 1 else np.linalg.qr(guess)[0]
        _, values, rows = np.linalg.svd(block @ guess - membership @ (centres @ guess), full_matrices=False)
        vectors, values = guess @ rows[:k].T, values[:k]
    sign = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(k)])
    return (vectors * np.where(sign == 0, 1, sign)).astype(np.float32), np.square(values, dtype=np.float64) / n


def _of_few(rows: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading right singular vectors and singular values, by products of rows or columns, whichever are fewer."""
    n, n_columns = rows.shape
    if n_columns <= n:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        vectors = vectors[:, ::-1][:, :k]
    else:
        values, left = np.linalg.eigh(rows @ rows.T)
        # Where there is no variance left any direction will do, but they are at right angles.
        vectors = np.linalg.qr(rows.T @ left[:, ::-1][:, :k])[0]
    return vectors, np.sqrt(np.maximum(values[::-1][:k], 0))
