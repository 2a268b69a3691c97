"""Table 2 of the paper: every part of the objective left out in turn; or the effect of α, β and τ.

    python benchmarks/paper/table2.py [--set mnist-usps] [--rows N] [--epochs 300] [--seeds 0 1 2] [--device auto]
    python benchmarks/paper/table2.py --effect

The variants are those of `images.VARIANTS`. With `--effect`, each of α, β and τ is changed on its own, the others
staying as published. Writes `paper_table2_<set>` or `paper_effect_<set>`, `.md` and `.csv` and, of the effect, `.svg`,
after every run; with `--resume`, runs that are there already are kept.
"""

from __future__ import annotations

import argparse
from typing import Any

import images
import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from scfcmi.published import NetworkOptions

EFFECT = {"alpha": (0.0, 0.01, 0.04, 0.16), "beta": (0.0, 0.05, 0.2, 0.8), "temperature": (0.05, 0.1, 0.2, 0.5)}
TERMS = ["h_c_given_x", "i_gc", "reconstruction"]
DRAWN = {"nmi": "NMI", "mnce": "MNCE", "f_beta": "F_β"}


def main() -> None:
    parser = images.arguments(__doc__, resumable=True)
    parser.add_argument("--effect", action="store_true")
    given = images.parsed(parser)
    mpl.use("Agg")
    x, groups, truth = images.load(given.set, given.data, given.rows)
    variants = effects() if given.effect else images.VARIANTS
    rows = images.kept(given.out / f"{stem(given)}.csv", given)
    done = {(row["variant"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for variant, changes in variants.items():
            if (variant, seed) in done:
                continue
            found, labels, _ = images.fit(x, groups, seed, given, **changes)
            if variant.endswith("k-means"):
                labels = images.kmeans_labels(found.assign(x)[2], seed)
            last = {name: found.history[name][-1] for name in TERMS}
            rows.append({"variant": variant, "seed": seed, **images.score(labels, groups, truth), **last})
            print(rows[-1], flush=True)
            rows.sort(key=lambda row: (list(variants).index(row["variant"]), row["seed"]))
            write(pd.DataFrame(rows), given, images.size(x, given))


def effects() -> dict[str, dict[str, Any]]:
    """What is changed, by what tables call it; what is published stands once."""
    published = NetworkOptions()
    changes = [(name, value) for name, values in EFFECT.items() for value in values]
    return {"published": {}} | {f"{n}={v:g}": {n: v} for n, v in changes if v != getattr(published, n)}


def stem(given: argparse.Namespace) -> str:
    return f"paper_{'effect' if given.effect else 'table2'}_{given.set}"


def write(frame: pd.DataFrame, given: argparse.Namespace, size: str) -> None:
    out = given.out / stem(given)
    frame.to_csv(out.with_suffix(".csv"), index=False)
    title = "The effect of α, β and τ" if given.effect else "Table 2 of the paper"
    command = "benchmarks/paper/table2.py" + (" --effect" if given.effect else "")
    lines = [
        f"# {title}: {given.set}, {size.split(' images')[0]} images",
        f"Made by `{command}`: {size}, {images.seeds(frame)}; {images.machine(given.device)}. Means over seeds, "
        "smallest and largest in brackets; the last three columns are terms of the loss in the last epoch.",
        images.table(frame, "variant", [*images.SCORES, *TERMS]),
    ]
    out.with_suffix(".md").write_text("\n\n".join(lines) + "\n")
    if given.effect:
        draw(frame, given)


def draw(frame: pd.DataFrame, given: argparse.Namespace) -> None:
    """Scores against each of α, β and τ, the published value marked."""
    published, means = NetworkOptions(), frame.groupby("variant")[list(DRAWN)].mean()
    figure, grid = plt.subplots(1, len(EFFECT), figsize=(8.5, 2.6), sharey=True, layout="constrained")
    for ax, (name, values), symbol in zip(grid, EFFECT.items(), "αβτ", strict=True):
        rows = ["published" if v == getattr(published, name) else f"{name}={v:g}" for v in values]
        at = [i for i, row in enumerate(rows) if row in means.index]
        for score, label in DRAWN.items():
            ax.plot(at, [means.loc[rows[i], score] for i in at], marker="o", ms=4, label=label)
        ax.axvline(rows.index("published"), color="0.8", zorder=0)
        ax.set(xticks=range(len(values)), xticklabels=[f"{v:g}" for v in values], xlabel=symbol, ylim=(0, 1))
        ax.spines[["top", "right"]].set_visible(False)
    grid[0].legend(frameon=False, fontsize=8)
    figure.savefig(given.out / f"{stem(given)}.svg")
    plt.close(figure)


if __name__ == "__main__":
    main()
