"""What fairness may do harm to: a batch split at random, a type deleted from a batch, and what the diagnosis says.

    python benchmarks/harm.py [--parts split deletion] [--sets …] [--seeds 0 1 2] [--methods …] [--at-most 8] [--resume]

*Split*: the largest batch of each data set alone, its cells assigned to one of two halves at random. Nothing is to be
mixed there, so that labels for one random split and for another should agree as well as labels for two seeds do.
*Deletion*: one type is deleted from one batch, if other batches have it; the other cells should stay as they were, and
`tl.diagnose` should call the cluster of the type absent from that batch. The number of clusters is that of the types.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _peers import OURS, SETS, Labels, clustered, largest_batch, read
from _results import Rows, at_hand, in_own_process, markdown, parser, provenance
from sklearn.metrics import adjusted_rand_score as ari

import scfcmi

METHODS = [OURS, "Harmony2 + Leiden"]
SPLIT_KEYS = ["data", "method", "seed"]
DELETION_KEYS = ["data", "method", "seed", "deleted", "batch"]
ALARM_KEYS = ["data", "method", "seed", "cluster", "group"]
MIN_CELLS = 10


def at_k(method: str, adata: ad.AnnData, key: str, n_types: int, seed: int) -> Labels:
    return clustered(method, adata, key, n_types, seed, ["given"])["given"][0]


def split(method: str, rows: Rows, folder: Path, sets: list[str], seeds: list[int]) -> None:
    """The largest batch of every set, in random halves."""
    for name in sets:
        if all(rows.done(data=name, method=method, seed=seed) for seed in seeds):
            continue
        adata = largest_batch(read(folder / f"{name}.h5ad"))
        types = adata.obs["cell_type"].astype(str)
        for seed in seeds:
            if rows.done(data=name, method=method, seed=seed):
                continue
            rng = np.random.default_rng(seed)
            for half in ("one", "two"):
                adata.obs[half] = pd.Categorical(np.where(rng.permutation(adata.n_obs) % 2, "a", "b"))
            one, two = (at_k(method, adata, half, types.nunique(), seed) for half in ("one", "two"))
            reseeded = at_k(method, adata, "one", types.nunique(), seed + 1000)
            rows.add(
                {
                    "data": name,
                    "method": method,
                    "seed": seed,
                    "cells": adata.n_obs,
                    "between_seeds": ari(one, reseeded),
                    "between_splits": ari(one, two),
                    "types": ari(types, one),
                }
            )


def deletion(
    method: str, rows: Rows, alarms: Rows, folder: Path, sets: list[str], seeds: list[int], at_most: int
) -> None:
    """One type less in one batch, and the diagnosis of the data as they are."""
    for name in sets:
        adata = read(folder / f"{name}.h5ad")
        kind, batch = adata.obs["cell_type"].astype(str), adata.obs["batch"].astype(str)
        counts = pd.crosstab(kind, batch)
        elsewhere = counts.sum(axis=1).to_numpy()[:, None] - counts.to_numpy()
        cases = np.argwhere((counts.to_numpy() >= MIN_CELLS) & (elsewhere >= MIN_CELLS))
        chosen = np.random.default_rng(0).permutation(len(cases))[:at_most]
        for seed in seeds:
            wanted = [
                (counts.index[i], counts.columns[j])
                for i, j in cases[np.sort(chosen)]
                if not rows.done(data=name, method=method, seed=seed, deleted=counts.index[i], batch=counts.columns[j])
            ]
            if not wanted:
                continue
            base = at_k(method, adata, "batch", kind.nunique(), seed)
            if method == OURS:
                false_alarms(alarms, adata, counts, name, seed)
            for deleted, source in wanted:
                keep = ~((kind == deleted) & (batch == source)).to_numpy()
                less = adata[keep].copy()
                found = at_k(method, less, "batch", kind.nunique(), seed)
                left = (kind[keep] == deleted).to_numpy()
                host = pd.Series(found[left]).mode().iloc[0]
                status = ""
                if method == OURS:
                    status = scfcmi.tl.diagnose(less).groups.loc[(host, source), "status"]
                rows.add(
                    {
                        "data": name,
                        "method": method,
                        "seed": seed,
                        "deleted": deleted,
                        "batch": source,
                        "n_left": int(left.sum()),
                        "purity": float((kind[keep].to_numpy()[found == host] == deleted).mean()),
                        "status": status,
                        "ari": ari(kind[keep], found),
                        "ari_base": ari(kind, base),
                        "ari_base_same_cells": ari(kind[keep], base[keep]),
                        "ari_others": ari(kind[keep][~left], found[~left]),
                        "ari_others_base": ari(kind[keep][~left], base[keep][~left]),
                    }
                )


def false_alarms(alarms: Rows, adata: ad.AnnData, counts: pd.DataFrame, name: str, seed: int) -> None:
    """What is called absent on untouched data, where the batch does have the cluster's majority type."""
    majority = pd.crosstab(adata.obs["fair_cluster"].astype(str), adata.obs["cell_type"].astype(str)).idxmax(axis=1)
    for (cluster, group), row in scfcmi.tl.diagnose(adata).groups.iterrows():
        there = int(counts.loc[majority[str(cluster)], str(group)])
        if there >= MIN_CELLS:
            key = {"data": name, "method": OURS, "seed": seed, "cluster": cluster, "group": group}
            alarms.add(key | {"n_majority": there, "status": row["status"]})


def report(splits: pd.DataFrame, deletions: pd.DataFrame, alarms: pd.DataFrame) -> str:
    """Both parts, means over all and per data set."""
    parts = ["# Do no harm", provenance("harm.py", "The number of clusters is that of the types.")]
    if len(splits):
        columns = ["between_seeds", "between_splits", "types"]
        overall = splits.groupby("method", sort=False)[columns].agg(["mean", "min"])
        overall.columns = [f"{name}, {how}" for name, how in overall.columns]
        parts += [
            "## The largest batch, split at random in two",
            "Adjusted Rand index between two seeds for the same split, between two splits with the same seed, and with "
            "the types.",
            markdown(overall),
            markdown(splits.groupby(["method", "data"], sort=False)[columns].mean()),
        ]
    if len(deletions):
        parts += [
            "## One type deleted from one batch",
            "Change of the ARI with types, of the cells that are left. *within .03*: share of deletions after which it "
            "moved by less; *all cells within .03*: next to the ARI of all cells before, which also moves where no "
            "label does (*unchanged labels*), since cells of one type are gone. *named*: the cluster with most of what "
            "is left of the type is called absent from the batch; *own cluster*: the type is half of it or more. "
            "*false alarms*: the same call on untouched data, of all pairs of cluster and batch in which the batch has "
            f"{MIN_CELLS} cells of the cluster's majority type or more.",
            markdown(summary(deletions, alarms, ["method"])),
            markdown(summary(deletions, alarms, ["method", "data"])),
        ]
    return "\n\n".join(parts) + "\n"


def summary(deletions: pd.DataFrame, alarms: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    out = {}
    for key, of in deletions.groupby(by, sort=False):
        change, same = of["ari"] - of["ari_base"], of["ari"] - of["ari_base_same_cells"]
        own = of["purity"] >= 0.5
        named = (of["status"] == "absent").where(of["status"].notna() & (of["status"] != ""))
        judged = alarms
        for column, value in zip(by, key, strict=True):
            judged = judged[judged[column] == value]
        out[key] = {
            "deletions": len(of),
            "within .03": (same.abs() < 0.03).mean(),
            "mean change": same.mean(),
            "worst": same.min(),
            "all cells within .03": (change.abs() < 0.03).mean(),
            "unchanged labels": ((of["ari_base_same_cells"] - of["ari_base"]).abs() < 0.03).mean(),
            "other types": (of["ari_others"] - of["ari_others_base"]).mean(),
            "own cluster": int(own.sum()),
            "of these named": named[own].astype(float).mean(),
            "of all named": named.astype(float).mean(),
            "pairs judged": len(judged),
            "false alarms": (judged["status"] == "absent").mean(),
        }
    return (
        pd.DataFrame.from_dict(out, orient="index")
        .rename_axis(by)
        .astype({"deletions": int, "own cluster": int, "pairs judged": int})
    )


def main() -> None:
    """Run what is asked for and write the table."""
    made = parser(__doc__, METHODS, SETS)
    made.add_argument("--parts", nargs="+", choices=("split", "deletion"), default=("split", "deletion"))
    made.add_argument("--at-most", type=int, default=8, help="deletions per data set")
    arguments = made.parse_args()
    out, resume = arguments.out, arguments.resume
    splits = Rows(out / "harm_split.csv", SPLIT_KEYS, resume=resume)
    deletions = Rows(out / "harm_deletion.csv", DELETION_KEYS, resume=resume)
    alarms = Rows(out / "harm_alarms.csv", ALARM_KEYS, resume=resume)
    if not arguments.report:
        sets = at_hand(arguments)
        for method in arguments.methods:
            asked = (arguments.data, sets, arguments.seeds)
            if "split" in arguments.parts:
                in_own_process(split, method, splits, *asked, threads=arguments.threads)
            if "deletion" in arguments.parts:
                in_own_process(
                    deletion, method, deletions, alarms, *asked, arguments.at_most, threads=arguments.threads
                )
    (out / "harm.md").write_text(report(splits.read(), deletions.read(), alarms.read()))


if __name__ == "__main__":
    main()
