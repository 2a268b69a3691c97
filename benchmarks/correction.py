"""How much of the technical variance `tl.correct` takes out of expression, and what it leaves of marker genes.

    python benchmarks/correction.py [--data DIR] [--sets …] [--seeds 0] [--resume] [--report]

Per cell type: the share of variance between batches, less what chance gives. Per pair of types: rank correlation of
marker log-fold changes (beyond 0.5) between cells of all batches with those within batches before correction, and of
those of all genes within batches before and after.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from _peers import read
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance
from scipy.stats import spearmanr

import scfcmi

SETS = ["cellmix_3cl_3protocol", "pancreas_panc8_nebula_1k", "pbmc_10x_3tech_symphony"]
KEYS = ["data", "seed", "version"]
MIN_CELLS = 10


def explained(x: np.ndarray, batch: np.ndarray, kind: np.ndarray, *, chance: bool) -> float:
    between = total = 0.0
    for k in np.unique(kind):
        levels = [b for b in np.unique(batch) if ((kind == k) & (batch == b)).sum() >= 5]
        if len(levels) < 2:
            continue
        cells = (kind == k) & np.isin(batch, levels)
        y, own = x[cells], batch[cells]
        mean = y.mean(0)
        all_of_it = ((y - mean) ** 2).sum()
        part = sum((own == b).sum() * ((y[own == b].mean(0) - mean) ** 2).sum() for b in levels)
        noise = (len(levels) - 1) * (all_of_it - part) / (len(y) - len(levels)) if chance else 0.0
        between, total = between + part - noise, total + all_of_it
    return between / total


def markers(before: np.ndarray, after: np.ndarray, batch: np.ndarray, kind: np.ndarray) -> tuple[float, float]:
    pooled, within = [], []
    for one, two in combinations(np.unique(kind), 2):
        pairs = [((kind == one) & (batch == b), (kind == two) & (batch == b)) for b in np.unique(batch)]
        pairs = [(i, j) for i, j in pairs if min(i.sum(), j.sum()) >= MIN_CELLS]
        if not pairs:
            continue
        fold = [np.mean([x[i].mean(0) - x[j].mean(0) for i, j in pairs], axis=0) for x in (before, after)]
        strong = np.abs(fold[0]) > 0.5
        of_all = after[kind == one].mean(0) - after[kind == two].mean(0)
        pooled.append(spearmanr(fold[0][strong], of_all[strong])[0])
        within.append(spearmanr(*fold)[0])
    return float(np.mean(pooled)), float(np.mean(within))


def run(rows: Rows, folder: Path, sets: list[str], seeds: list[int]) -> None:
    """All sets, corrected to the mean of the batches and to each of them."""
    for name in sets:
        for seed in seeds:
            if rows.done(data=name, seed=seed, version="to the mean"):
                continue
            adata = read(folder / f"{name}.h5ad")
            batch, kind = (adata.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
            scfcmi.tl.fair_cluster(adata, "batch", len(np.unique(kind)), random_state=seed, progress_bar=False)
            x = adata.X.toarray()
            add(rows, {"data": name, "seed": seed, "version": "uncorrected"}, x, x, batch, kind)
            for reference in (*np.unique(batch), "mean"):
                scfcmi.tl.correct(adata, reference=reference)
                y = np.asarray(adata.layers["fair_cluster_corrected"])
                version = "to the mean" if reference == "mean" else f"to {reference}"
                add(rows, {"data": name, "seed": seed, "version": version}, x, y, batch, kind)


def add(rows: Rows, key: dict[str, object], x: np.ndarray, y: np.ndarray, batch: np.ndarray, kind: np.ndarray) -> None:
    pooled, within = markers(x, y, batch, kind)
    rows.add(
        key
        | {
            "batch_variance": float(explained(y, batch, kind, chance=False)),
            "less_chance": float(explained(y, batch, kind, chance=True)),
            "markers_all_batches": pooled,
            "fold_changes_within": within,
        }
    )


def report(frame: pd.DataFrame) -> str:
    """Means over seeds."""
    columns = ["batch_variance", "less_chance", "markers_all_batches", "fold_changes_within"]
    head = provenance(
        "correction.py",
        f"Means over {frame['seed'].nunique()} seed(s). *batch_variance* is the share of the variance within types "
        "that lies between batches, *less_chance* the same less what chance gives; *markers_all_batches* the rank "
        "correlation of marker fold changes among all cells with those within batches before, *fold_changes_within* of "
        "those of all genes within batches, before and after.",
    )
    table = frame.groupby(["data", "version"], sort=False)[columns].mean()
    return "\n\n".join(["# Corrected expression", head, markdown(table)]) + "\n"


def main() -> None:
    """Run what is asked for and write the table."""
    arguments = parser(__doc__, sets=SETS).parse_args()
    rows = Rows(arguments.out / "correction.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        sets = at_hand(arguments)
        in_own_process(run, rows, arguments.data, sets, arguments.seeds, threads=arguments.threads)
    (arguments.out / "correction.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
