"""What a seed promises, one row of the table in the documentation each; and nothing global is touched by any call."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_info, threadpool_limits

import scfcmi as sf
from scfcmi import _device
from scfcmi.model import FCMI, Assignment

QUICK = {"progress_bar": False, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def cells() -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    n, types = 900, rng.integers(0, 5, 900)
    groups = rng.choice(["a", "b", "c"], n)
    effect = 0.3 * rng.normal(size=(3, 80))[np.unique(groups, return_inverse=True)[1]]
    counts = rng.poisson(np.exp(rng.normal(size=(5, 80))[types] + effect))
    return sparse.csr_matrix(np.log1p(counts).astype(np.float32)), groups


@pytest.fixture(scope="module")
def plain(cells: tuple[sparse.csr_matrix, np.ndarray]) -> Assignment:
    return fit(*cells)


def fit(x: Any, groups: np.ndarray, **given: Any) -> Assignment:
    return FCMI(5, **(QUICK | given)).fit(x, groups).assignment_


def same(one: Assignment, other: Assignment) -> bool:
    names = ("labels", "proba", "embedding")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


# rows of the table ----------------------------------------------------------------------------------------------------


def test_run_to_run(cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment) -> None:
    assert same(fit(*cells), plain)


def test_run_to_run_with_many_threads() -> None:
    """What several threads add up, they add in the order in which they end: with three or more, that is by chance."""
    script = """
import scanpy  # as users do, and then scikit-learn has threads of its own
import numpy as np, scfcmi
adata = scfcmi.datasets.many_types(4000, 10, 3, random_state=0)
x, groups = adata.obsm["X_pca"], adata.obs["tech"]
runs = [scfcmi.model.FCMI(progress_bar=False, device="cpu").fit(x, groups) for _ in "123"]
print(all(np.array_equal(run.assignment_.embedding, runs[0].assignment_.embedding) for run in runs))
print(all(run.registration_.starts == runs[0].registration_.starts for run in runs))
"""
    env = os.environ | {"OMP_NUM_THREADS": "8"}
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True"], ran.stderr


def test_another_seed_is_another_run(cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment) -> None:
    assert not same(fit(*cells, random_state=1), plain)


def test_threads(
    cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if there were so many cells that passes over them are worth several threads."""
    monkeypatch.setattr(_device, "MANY", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threadpool_limits(3):
            found = fit(*cells)
    finally:
        torch.set_num_threads(before)
    assert same(found, plain)


def test_storage(cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment) -> None:
    x, groups = cells
    assert same(fit(sparse.csc_matrix(x), groups), plain)
    assert adjusted_rand_score(fit(x.toarray(), groups).labels, plain.labels) > 0.99


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_cells(cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment, seed: int) -> None:
    x, groups = cells
    order = np.random.default_rng(seed).permutation(len(groups))
    found = fit(x[order], groups[order])
    assert adjusted_rand_score(found.labels, plain.labels[order]) > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_genes(cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment, seed: int) -> None:
    x, groups = cells
    order = np.random.default_rng(seed).permutation(x.shape[1])
    assert adjusted_rand_score(fit(x[:, order], groups).labels, plain.labels) > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device(cells: tuple[sparse.csr_matrix, np.ndarray], plain: Assignment) -> None:
    found, again = (fit(*cells, device="cuda") for _ in range(2))
    assert same(found, again)
    assert adjusted_rand_score(found.labels, plain.labels) > 0.95


# what belongs to the whole process ------------------------------------------------------------------------------------


def state() -> dict[str, Any]:
    """All that a library call could leave changed for whoever comes next."""
    return {
        "numpy": np.random.get_state()[1].tolist() + [np.random.get_state()[2]],
        "random": random.getstate(),
        "torch": torch.get_rng_state().tolist(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "threads of libraries": sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info()),
        "torch settings": (
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
        ),
        "numpy errors": np.geterr(),
        "warnings": list(warnings.filters),
        "rcParams": dict(mpl.rcParams),
    }


@pytest.fixture(scope="module")
def done() -> tuple[AnnData, FCMI]:
    adata = sf.datasets.simulated_atlas(200, 60, 3, random_state=0)
    adata.X = sparse.csr_matrix(np.log1p(adata.X.astype(np.float32)))
    adata.obs["number"] = np.linspace(0, 1, 200)
    model = sf.tl.fair_cluster(adata, "tech", 3, return_model=True, **QUICK)
    sf.tl.umap(adata)
    sf.tl.diagnose(adata)
    sf.tl.correct(adata)
    return adata, model


def on_disk(adata: AnnData, model: FCMI, folder: Path) -> None:
    adata.write_h5ad(folder / "a.h5ad")
    sf.tl.predict_on_disk(folder / "a.h5ad", model, sensitive_key="tech", key_added="again")
    model.save(folder / "m.safetensors", overwrite=True)
    FCMI.load(folder / "m.safetensors").assign(adata.X)


def published(adata: AnnData, model: FCMI, folder: Path) -> None:
    network = sf.published.NetworkOptions(hidden=(8, 4), max_epochs=1, warmup_epochs=1, batch_size=100)
    sf.tl.fair_cluster(adata, "tech", 3, preset="paper", network=network, key_added="paper", **QUICK)


CALLS: dict[str, Callable[[AnnData, FCMI, Path], Any]] = {
    "tl.fair_cluster": lambda a, m, f: sf.tl.fair_cluster(a, "tech", **QUICK),
    "tl.fair_cluster, a number": lambda a, m, f: sf.tl.fair_cluster(a, "tech", continuous_keys="number", **QUICK),
    "tl.fair_cluster, runs": lambda a, m, f: sf.tl.fair_cluster(a, "tech", n_init=2, **QUICK),
    "the published network": published,
    "tl.recut": lambda a, m, f: sf.tl.recut(a, n_clusters=2),
    "tl.umap": lambda a, m, f: sf.tl.umap(a),
    "tl.diagnose": lambda a, m, f: sf.tl.diagnose(a),
    "tl.correct": lambda a, m, f: sf.tl.correct(a),
    "tl.evaluate": lambda a, m, f: sf.tl.evaluate(a, "fair_cluster", "tech", label_key="cell_type"),
    "tl.markers": lambda a, m, f: sf.tl.markers(a, "fair_cluster", "tech"),
    "tl.match": lambda a, m, f: sf.tl.match(a, "fair_cluster", "cell_type"),
    "tl.map_query": lambda a, m, f: sf.tl.map_query(a, m, sensitive_key="tech", key_added="mapped"),
    "tl.tradeoff": lambda a, m, f: sf.tl.tradeoff(a, "tech", fairness=[0.0, 1.0], **QUICK),
    "files": on_disk,
    "pl.umap": lambda a, m, f: sf.pl.umap(a, show=False),
    "pl.summary": lambda a, m, f: sf.pl.summary(a, show=False),
    "pl.tree": lambda a, m, f: sf.pl.tree(a, show=False),
    "pl.diagnose": lambda a, m, f: sf.pl.diagnose(a, show=False),
    "pl.training": lambda a, m, f: sf.pl.training(a, show=False),
    "report": lambda a, m, f: sf.report(a, f / "page.html"),
    "datasets": lambda a, m, f: sf.datasets.many_types_counts(60, 30, 4, random_state=0),
    "metrics": lambda a, m, f: sf.metrics.group_leakage(a.obsm["X_fair_cluster"], a.obs["tech"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_global_is_changed(done: tuple[AnnData, FCMI], name: str, tmp_path: Path) -> None:
    adata, model = done[0].copy(), done[1]
    call = CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(adata.copy(), model, tmp_path)  # what libraries set up when they are imported is theirs
        np.random.seed(3)
        random.seed(3)
        torch.manual_seed(3)
        before = state()
        call(adata, model, tmp_path)
        after = state()
    for what, value in before.items():
        assert after[what] == value, what


@pytest.mark.parametrize("default", ["double", "device"])
@pytest.mark.parametrize("name", CALLS)
def test_defaults_of_pytorch_do_not_matter(done: tuple[AnnData, FCMI], name: str, default: str, tmp_path: Path) -> None:
    """Users set them for other things in the same notebook; no tensor has data on the device `meta`."""
    if default == "double":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CALLS[name](done[0].copy(), done[1], tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
