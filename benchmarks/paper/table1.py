"""Table 1 of the paper on its images: FCMI beside k-means, a plain autoencoder, FCMI without L_fair, the transcription.

    python benchmarks/paper/table1.py [--set mnist-usps] [--rows N] [--epochs 300] [--seeds 0 1 2] [--device auto]

The transcription (`reference.py`) starts from the same weights on the same machine. Writes `paper_table1_<set>.md` and
`.csv`, after every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import images
import pandas as pd

BASELINES = ("autoencoder + k-means", "without L_fair")


def main() -> None:
    parser = images.arguments(__doc__)
    parser.add_argument("--baseline-seeds", type=int, default=1, help="of how many seeds the baselines are run")
    given = images.parsed(parser)
    x, groups, truth = images.load(given.set, given.data, given.rows)
    rows: list[dict[str, object]] = []

    def note(method: str, seed: int, labels: object, seconds: float) -> None:
        rows.append({"method": method, "seed": seed, **images.score(labels, groups, truth), "seconds": seconds})
        print(rows[-1], flush=True)
        write(pd.DataFrame(rows), given, images.size(x, given))

    for seed in given.seeds:
        _, labels, seconds = images.fit(x, groups, seed, given)
        note("FCMI", seed, labels, seconds)
        note("transcription", seed, *images.transcription(x, groups, seed, given))
    for seed in given.seeds[: given.baseline_seeds]:
        note("k-means on pixels", seed, images.kmeans_labels(x, seed), float("nan"))
        for method in BASELINES:
            found, labels, seconds = images.fit(x, groups, seed, given, **images.VARIANTS[method])
            if method.endswith("k-means"):
                # Nothing holds the embedding to the centres of the last epoch.
                labels = images.kmeans_labels(found.assign(x)[2], seed)
            note(method, seed, labels, seconds)


def write(frame: pd.DataFrame, given: argparse.Namespace, size: str) -> None:
    out: Path = given.out / f"paper_table1_{given.set}"
    frame.to_csv(out.with_suffix(".csv"), index=False)
    published = " ".join(f"{n} {v:.3f}" for n, v in zip(images.SCORES, images.PAPER[given.set], strict=True))
    lines = [
        f"# Table 1 of the paper: {given.set}",
        f"Made by `benchmarks/paper/table1.py`: {size}; {images.machine(given.device)}. Means over seeds, smallest and "
        f"largest in brackets; `seconds` are those of one epoch. Published, all images and 300 epochs: {published}.",
        images.table(frame, "method", [*images.SCORES, "seconds"]),
    ]
    out.with_suffix(".md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
