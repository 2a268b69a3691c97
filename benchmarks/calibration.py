"""Whether a cell's confidence says how often its cluster is right: reliability against curated types.

    python benchmarks/calibration.py [--data DIR] [--sets …] [--seeds 0 1 2] [--resume] [--report]

A cell is right if most cells of its cluster are of its type. The expected calibration error is the mean distance
between confidence and share of right cells over ten bins of confidence, weighted by cells. *Ranking* is the area under
the ROC curve with which confidence tells right cells from wrong ones.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _peers import NUMBERS, SETS, ours, read
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance
from _scores import calibration
from sklearn.metrics import roc_auc_score

KEYS = ["data", "number", "seed"]
BIN_KEYS = [*KEYS, "bin"]


def run(rows: Rows, bins: Rows, folder: Path, sets: list[str], seeds: list[int]) -> None:
    """All sets."""
    for name in sets:
        adata = read(folder / f"{name}.h5ad")
        types = adata.obs["cell_type"].astype(str).to_numpy()
        for seed in seeds:
            for number in NUMBERS:
                key = {"data": name, "number": number, "seed": seed}
                if rows.done(**key):
                    continue
                labels = ours(adata, "batch", len(set(types)) if number == "given" else None, seed)
                confidence = adata.obs["fair_cluster_confidence"].to_numpy()
                table = pd.crosstab(labels, types)
                right = table.idxmax(axis=1).loc[labels].to_numpy() == types
                reliability, error = calibration(confidence, right)
                for which, row in reliability.iterrows():
                    bins.add(key | {"bin": which} | row.to_dict())
                ranking = roc_auc_score(right, confidence) if 0 < right.mean() < 1 else np.nan
                found = {"confidence": confidence.mean(), "accuracy": right.mean(), "ece": error, "ranking": ranking}
                rows.add(key | {measure: float(value) for measure, value in found.items()})


def report(frame: pd.DataFrame, bins: pd.DataFrame, out: Path) -> str:
    """Means over seeds, and a reliability diagram over all sets, each set with the same weight."""
    columns = ["confidence", "accuracy", "ece", "ranking"]
    means = frame.groupby(["number", "data"], sort=False)[columns].mean()
    shares = bins.assign(
        **{name: bins[name] * bins["share"] for name in ("confidence", "accuracy")}, bin=bins["bin"].astype(int)
    )
    pooled = shares.groupby(["number", "bin"])[["share", "confidence", "accuracy"]].sum()
    for name in ("confidence", "accuracy"):
        pooled[name] /= pooled["share"]
    pooled["share"] /= pooled["share"].groupby("number").transform("sum")
    fig, ax = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for number, part in pooled.groupby("number"):
        ax.plot(part["confidence"], part["accuracy"], "o-", label=f"number {number}")
    ax.set(xlabel="confidence", ylabel="share of right cells", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.legend(frameon=False)
    fig.savefig(out / "calibration.svg", metadata={"Date": None})
    head = provenance(
        "calibration.py",
        f"Means over {frame['seed'].nunique()} seeds. A cell is right if most cells of its cluster are of its type; "
        "*ece* is the expected calibration error over ten bins, *ranking* the area under the ROC curve of confidence.",
    )
    overall = means.groupby("number", sort=False).mean()
    tables = ["## Means over data sets", markdown(overall), "## Reliability", markdown(pooled), markdown(means)]
    return "\n\n".join(["# What confidence means", head, *tables]) + "\n"


def main() -> None:
    """Run what is asked for; write the table and the diagram."""
    arguments = parser(__doc__, sets=SETS).parse_args()
    rows = Rows(arguments.out / "calibration.csv", KEYS, resume=arguments.resume)
    bins = Rows(arguments.out / "calibration_bins.csv", BIN_KEYS)
    if not arguments.report:
        sets = at_hand(arguments)
        in_own_process(run, rows, bins, arguments.data, sets, arguments.seeds, threads=arguments.threads)
    (arguments.out / "calibration.md").write_text(report(rows.read(), bins.read(), arguments.out))


if __name__ == "__main__":
    main()
