"""Negative-binomial counts, drawn as a sparse matrix without a dense one in between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

ENTRIES_PER_CHUNK = 4_000_000


def negative_binomial_csr(
    profiles: NDArray[np.float64],
    which: NDArray[np.int64],
    size: NDArray[np.float64],
    *,
    dispersion: float,
    dropout: NDArray[np.float64],
    amplification: NDArray[np.float64],
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Counts with mean `size[i] * profiles[which[i]]` and variance mean + dispersion · mean².

    A count is seen as a process in time: events at a gamma-distributed rate between 0 and 1. The first event falls into
    that interval where `log1p(dispersion * mean) / dispersion` exceeds an exponential variate; only there is anything
    else drawn, namely the rate given the first event, and the events after it. This is exact, and costs one exponential
    variate for every zero.

    Parameters
    ----------
    profiles
        Share of each gene, array of shape (n_profiles, n_genes).
    which, size, dropout, amplification
        For each cell its profile, expected number of molecules, share of expressed genes lost, and reads per molecule.
    dispersion
        Zero for Poisson counts.
    rng
        Source of randomness.
    """
    n_cells, n_genes = which.size, profiles.shape[1]
    shares = profiles.astype(np.float32)
    rows = max(1, ENTRIES_PER_CHUNK // n_genes)
    data: list[NDArray[np.float32]] = []
    indices: list[NDArray[np.int32]] = []
    per_row = np.zeros(n_cells, dtype=np.int64)
    for start in range(0, n_cells, rows):
        cells = slice(start, min(start + rows, n_cells))
        mean = shares[which[cells]]
        mean *= size[cells, None].astype(np.float32)
        first = rng.standard_exponential(mean.shape, dtype=np.float32)
        row, column = np.nonzero(first < mean)  # log1p(x) <= x: a cheap test leaves few to look at closely
        mu, wait = mean[row, column].astype(np.float64), first[row, column].astype(np.float64)
        time = wait / mu if dispersion == 0 else np.expm1(dispersion * wait) / (dispersion * mu)
        kept = time < 1
        lost = dropout[cells][row]
        if lost.any():
            kept &= rng.random(row.size) >= lost
        row, column, mu, time = row[kept], column[kept], mu[kept], time[kept]
        count = 1 + rng.poisson(_rate(mu, time, dispersion, rng) * (1 - time))
        reads = amplification[cells][row]
        if (reads != 1).any():
            count = np.where(reads == 1, count, np.maximum(rng.poisson(count * reads), 1))
        data.append(count.astype(np.float32))
        indices.append(column.astype(np.int32))
        per_row[cells] = np.bincount(row, minlength=cells.stop - start)
    indptr = np.concatenate([[0], np.cumsum(per_row)])
    values = np.concatenate(data)
    del data
    matrix = sparse.csr_matrix((n_cells, n_genes), dtype=np.float32)
    columns = np.concatenate(indices)
    del indices
    matrix.data, matrix.indices = values, columns
    matrix.indptr = indptr if indptr[-1] > np.iinfo(np.int32).max else indptr.astype(np.int32)
    matrix.has_canonical_format = True
    return matrix


def _rate(
    mu: NDArray[np.float64], time: NDArray[np.float64], dispersion: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Rate of events after the first one, which came at `time`."""
    if dispersion == 0:
        return mu
    return rng.standard_gamma(1 / dispersion + 1, size=mu.size) * dispersion * mu / (1 + dispersion * mu * time)
