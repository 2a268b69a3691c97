"""Score scfcmi beside the methods people use today, on the same data, in the same run.

    python benchmarks/compare.py [--data DIR] [--seeds 0 1 2] [--scvi] [--out DIR]

Every `.h5ad` in the folder needs `obs["batch"]` and curated `obs["cell_type"]`. Preprocessing is the same for all
methods: normalisation to 10,000 counts and log1p (unless the values are log-normalised already), 2,000 highly variable
genes where there are more, and, for the peers, scaling and 30 principal components. Seconds are those of the processor,
from the normalised matrix to the labels; for Leiden at a given number of clusters, the search for the resolution is not
counted, only its last run. Missing peers are left out, and the table says so.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from sklearn.cluster import KMeans

import scfcmi

HERE = Path(__file__).resolve().parent
COLUMNS = ["acc", "nmi", "ari", "balance", "mnce", "nce", "f_beta", "conditional_fairness"]
PACKAGES = ["scfcmi", "scanpy", "anndata", "torch", "harmonypy", "leidenalg", "igraph", "scvi-tools"]
Labels = NDArray[np.str_]
Result = tuple[str, Labels, float]


def read(path: Path) -> ad.AnnData:
    """Read a data set and bring it to log-normalised values of at most 2,000 genes, counts kept where there are any."""
    adata = ad.read_h5ad(path)
    if "counts" not in adata.layers and (adata.X.data == adata.X.data.round()).mean() > 0.5:
        adata.layers["counts"] = adata.X.copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000, subset=True)
    return adata


def timed(work: Callable[[], Labels]) -> tuple[Labels, float]:
    """Run something and say how long it took."""
    start = time.process_time()
    labels = work()
    return labels, time.process_time() - start


def leiden(adata: ad.AnnData, resolution: float, seed: int) -> Labels:
    """Leiden as scanpy recommends it."""
    sc.tl.leiden(adata, resolution, flavor="igraph", n_iterations=2, random_state=seed, key_added="leiden")
    return adata.obs["leiden"].to_numpy(str)


def leiden_at(adata: ad.AnnData, n_clusters: int, seed: int) -> tuple[Labels, float]:
    """Bisect the resolution until the number of clusters is right, or as near as it gets."""
    low, high, best, best_gap = 1e-3, 8.0, np.empty(0, str), np.inf
    seconds = 0.0
    for _ in range(20):
        resolution = float(np.sqrt(low * high))
        labels, last = timed(lambda resolution=resolution: leiden(adata, resolution, seed))
        gap = len(np.unique(labels)) - n_clusters
        if abs(gap) < best_gap:
            best, best_gap, seconds = labels, abs(gap), last
        if gap == 0:
            break
        low, high = (resolution, high) if gap < 0 else (low, resolution)
    return best, seconds


def harmony(scores: NDArray[np.floating], obs: pd.DataFrame, seed: int) -> NDArray[np.floating]:
    """Principal components corrected for `obs["batch"]`, shape (n_cells, n_comps)."""
    import harmonypy

    corrected = np.asarray(harmonypy.run_harmony(scores, obs, "batch", verbose=False, random_state=seed).Z_corr)
    return corrected if len(corrected) == len(scores) else corrected.T


def peers(adata: ad.AnnData, n_clusters: int, seed: int) -> Iterator[Result]:
    """PCA and Harmony, each followed by Leiden; Harmony also by k-means."""
    start = time.process_time()
    scaled = adata.copy()
    sc.pp.scale(scaled, max_value=10)
    sc.pp.pca(scaled, n_comps=min(30, scaled.n_vars - 1), random_state=seed)
    pca = time.process_time() - start
    representations = {"PCA": (scaled.obsm["X_pca"], pca)}
    if find_spec("harmonypy"):
        start = time.process_time()
        corrected = harmony(scaled.obsm["X_pca"], scaled.obs, seed)
        representations["Harmony"] = (corrected, pca + time.process_time() - start)
    for name, (representation, before) in representations.items():
        bare = ad.AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm={"X_rep": representation})
        start = time.process_time()
        sc.pp.neighbors(bare, use_rep="X_rep", random_state=seed)
        graph = before + time.process_time() - start
        labels, last = leiden_at(bare, n_clusters, seed)
        yield f"{name} + Leiden, K given", labels, graph + last
        labels, last = timed(lambda bare=bare: leiden(bare, 1.0, seed))
        yield f"{name} + Leiden, resolution 1", labels, graph + last
        if name == "Harmony":
            labels, last = timed(
                lambda representation=representation: (
                    KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(representation).astype(str)
                )
            )
            yield "Harmony + k-means, K given", labels, before + last


def scvi_leiden(adata: ad.AnnData, n_clusters: int, seed: int) -> Iterator[Result]:
    """Run scVI with its own defaults on counts, then Leiden on its latent space."""
    import scvi

    if "counts" not in adata.layers:
        return
    warnings.filterwarnings("ignore")
    counts = adata.copy()
    counts.layers["counts"] = counts.layers["counts"].copy()
    counts.layers["counts"].data = np.rint(counts.layers["counts"].data)
    scvi.settings.seed = seed
    start = time.process_time()
    scvi.model.SCVI.setup_anndata(counts, layer="counts", batch_key="batch")
    model = scvi.model.SCVI(counts)
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
    bare = ad.AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm={"X_rep": model.get_latent_representation()})
    sc.pp.neighbors(bare, use_rep="X_rep", random_state=seed)
    before = time.process_time() - start
    labels, last = leiden_at(bare, n_clusters, seed)
    yield "scVI + Leiden, K given", labels, before + last


def ours(adata: ad.AnnData, n_clusters: int, seed: int, *, paper: bool) -> Iterator[Result]:
    """Both presets with the number of clusters given, and the default without."""
    runs: list[tuple[str, int | None, str]] = [
        ("scfcmi, K given", n_clusters, "default"),
        ("scfcmi, K unknown", None, "default"),
    ]
    if paper:
        runs.append(("scfcmi, paper preset, K given", n_clusters, "paper"))
    for name, k, preset in runs:
        copy = adata.copy()

        def work(copy: ad.AnnData = copy, k: int | None = k, preset: str = preset) -> Labels:
            options = {"preset": preset, "early_stopping": preset == "default", "progress_bar": False}
            scfcmi.tl.fair_cluster(copy, "batch", k, random_state=seed, device="cpu", **options)
            return copy.obs["fair_cluster"].to_numpy(str)

        yield name, *timed(work)


def main() -> None:
    """Run everything and write a table of all runs and one of means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scvi", action="store_true", help="also scVI, with the first seed (minutes per data set)")
    parser.add_argument("--no-paper", action="store_true", help="without the paper preset (minutes per data set)")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    files = sorted(arguments.data.glob("*.h5ad"))
    if not files:
        print(f"skipped: no .h5ad files in {arguments.data}")
        return
    sc.settings.verbosity = 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for path in files:
        adata = read(path)
        truth, groups = adata.obs["cell_type"], adata.obs["batch"]
        n_types = truth.nunique()
        for seed in arguments.seeds:
            first = seed == arguments.seeds[0]
            results = [ours(adata, n_types, seed, paper=first and not arguments.no_paper), peers(adata, n_types, seed)]
            if arguments.scvi and first:
                results.append(scvi_leiden(adata, n_types, seed))
            for name, labels, seconds in (result for part in results for result in part):
                scores = scfcmi.metrics.clustering_scores(labels, groups, truth)
                row = {"data": path.stem, "method": name, "seed": seed, "k": len(np.unique(labels)), "seconds": seconds}
                rows.append(row | {column: scores[column] for column in COLUMNS})
                print(
                    f"{path.stem:34s} {name:32s} {seed} nmi {scores['nmi']:.3f} ari {scores['ari']:.3f} "
                    f"cf {scores['conditional_fairness']:.3f} {seconds:.1f} s",
                    flush=True,
                )
        pd.DataFrame(rows).to_csv(arguments.out / "compare.csv", index=False)
    (arguments.out / "compare.md").write_text(report(pd.DataFrame(rows), arguments.seeds))


def report(frame: pd.DataFrame, seeds: list[int]) -> str:
    """Means over seeds per data set, and over the data sets that a method ran on."""
    numbers = ["k", *COLUMNS, "seconds"]
    per_data = frame.groupby(["data", "method"], sort=False)[numbers].mean()
    overall = per_data.groupby("method", sort=False).mean()
    overall.insert(0, "data sets", per_data.groupby("method", sort=False).size())
    parts = [
        "# Comparison",
        f"Made by `benchmarks/compare.py` in one run, on one machine with {platform.machine()} processors "
        f"and Python {platform.python_version()}; {_versions()}. Means over seeds {seeds}; the paper preset and scVI "
        f"ran with seed {seeds[0]} alone. Seconds are processor time, all threads added up.",
        "`conditional_fairness` is 1 − I(G;C|Y)/H(G|Y), the fairness that the curated labels themselves reach.",
        "## Mean over data sets",
        _markdown(overall),
    ]
    for name, part in per_data.groupby("data", sort=False):
        parts += [f"## {name}", _markdown(part.droplevel("data"))]
    return "\n\n".join(parts) + "\n"


def _versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return ", ".join(found)


def _markdown(frame: pd.DataFrame) -> str:
    digits = {"seconds": 1, "k": 1, "data sets": 0}
    head = ["method", *frame.columns]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] + ["---:"] * len(frame.columns)) + " |"]
    for method, row in frame.iterrows():
        cells = [f"{value:.{digits.get(str(column), 3)}f}" for column, value in row.items()]
        lines.append("| " + " | ".join([str(method), *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
