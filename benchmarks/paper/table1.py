"""Table 1 of the paper on its images: FCMI beside k-means, a plain autoencoder, FCMI without L_fair, the transcription.

    python benchmarks/paper/table1.py [--set mnist-usps] [--rows N] [--epochs 300] [--seeds 0 1 2] [--device auto]

The transcription (`reference.py`) starts from the same weights on the same machine. Writes `paper_table1_<set>.md` and
`.csv`, after every run; with `--resume`, runs that are there already are kept, which is right for equal options only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import images
import pandas as pd

from scfcmi.source import Groups

METHODS = ("FCMI", "transcription", "k-means on pixels", "autoencoder + k-means", "without L_fair")


def main() -> None:
    parser = images.arguments(__doc__, resumable=True)
    parser.add_argument("--baseline-seeds", type=int, default=1, help="of how many seeds the baselines are run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    given = images.parsed(parser)
    x, groups, truth = images.load(given.set, given.data, given.rows)
    path = given.out / f"paper_table1_{given.set}.csv"
    rows = images.kept(path, given)
    done = {(row["method"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for method in given.methods:
            is_ours = method in ("FCMI", "transcription")
            if (method, seed) in done or not (is_ours or seed in given.seeds[: given.baseline_seeds]):
                continue
            labels, seconds = labels_of(method, x, groups, seed, given)
            rows.append({"method": method, "seed": seed, **images.score(labels, groups, truth), "seconds": seconds})
            print(rows[-1], flush=True)
            write(pd.DataFrame(rows), given, images.size(x, given))


def labels_of(method: str, x: Any, groups: Groups, seed: int, given: argparse.Namespace) -> tuple[Any, float]:
    """Labels by one of the methods, and seconds of an epoch."""
    if method == "transcription":
        return images.transcription(x, groups, seed, given)
    if method == "k-means on pixels":
        return images.kmeans_labels(x, seed), float("nan")
    found, labels, seconds = images.fit(x, groups, seed, given, **images.VARIANTS[method])
    if method.endswith("k-means"):
        # Nothing holds the embedding to the centres of the last epoch.
        labels = images.kmeans_labels(found.assign(x)[2], seed)
    return labels, seconds


def write(frame: pd.DataFrame, given: argparse.Namespace, size: str) -> None:
    out: Path = given.out / f"paper_table1_{given.set}"
    frame.to_csv(out.with_suffix(".csv"), index=False)
    published = " ".join(f"{n} {v:.3f}" for n, v in zip(images.SCORES, images.PAPER[given.set], strict=True))
    lines = [
        f"# Table 1 of the paper: {given.set}",
        f"Made by `benchmarks/paper/table1.py`: {size}, {images.seeds(frame)}; {images.machine(given.device)}. Means "
        "over seeds, smallest and largest in brackets; `seconds` are those of one epoch. Published, all images and 300 "
        f"epochs: {published}.",
        images.table(frame, "method", [*images.SCORES, "seconds"]),
    ]
    out.with_suffix(".md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
