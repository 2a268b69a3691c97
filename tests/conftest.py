"""Fixtures shared by all tests: small data made on the spot, and the real data sets where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

mpl.use("Agg")

N_CELLS = 300
N_GENES = 100
N_TYPES = 3
N_TECHS = 2


def make_adata(n_cells: int = N_CELLS, n_genes: int = N_GENES, *, shift: float = 1.0, seed: int = 0) -> AnnData:
    """Log-normalised counts of three cell types seen by two technologies, which differ by gene-wise factors.

    Numpy and scipy alone make it, so that no test of the package depends on the package's own simulators.
    """
    rng = np.random.default_rng(seed)
    cell_type = np.arange(n_cells) % N_TYPES
    tech = (np.arange(n_cells) // N_TYPES) % N_TECHS

    profile = rng.gamma(0.6, 2.0, size=n_genes) + 0.05
    log_mean = np.log(profile)[None, :] + np.zeros((n_cells, 1))
    markers = n_genes // (2 * N_TYPES)
    for k in range(N_TYPES):
        log_mean[cell_type == k, k * markers : (k + 1) * markers] += 1.5
    log_mean += (shift * rng.normal(size=(N_TECHS, n_genes)))[tech]
    depth = rng.lognormal(0.0, 0.2, size=(n_cells, 1))
    counts = rng.poisson(depth * np.exp(log_mean)).astype(np.float32)

    totals = counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts * (np.median(totals) / np.maximum(totals, 1)))
    obs = pd.DataFrame(
        {
            "tech": pd.Categorical.from_codes(tech, [f"tech{g}" for g in range(N_TECHS)]),
            "cell_type": pd.Categorical.from_codes(cell_type, [f"type{k}" for k in range(N_TYPES)]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return AnnData(
        X=sparse.csr_matrix(logged.astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=[f"gene{j}" for j in range(n_genes)]),
        layers={"counts": sparse.csr_matrix(counts)},
    )


@pytest.fixture
def adata() -> AnnData:
    """300 cells × 100 genes, log-normalised CSR; `obs["tech"]` is the sensitive attribute."""
    return make_adata()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real data sets; tests that ask for it are skipped where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SCFCMI_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set SCFCMI_TEST_DATA to a folder that holds them")
    return folder


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
