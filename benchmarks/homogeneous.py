"""How often a homogeneous sample is split, and the link to expect between its parts.

    python benchmarks/homogeneous.py

Two tables. The first looks at points alone: neighbours, Leiden, merge tree; the smallest link in the tree of Gaussian
samples, by local dimension and size, is what `homogeneous_link` of `scfcmi/communities/_tree.py` describes. The second
runs whole fits on samples of one kind, with two groups drawn at random, and counts how many are split at resolution 1,
by the first look and by a closer one.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scfcmi.communities._leiden import connectivities, small_clusters
from scfcmi.communities._neighbours import Index, local_dimension
from scfcmi.communities._recursion import N_NEIGHBOURS
from scfcmi.communities._tree import DIMENSION, EXPONENT, LOG_LINK, THRESHOLD, Links, homogeneous_link, merge_tree
from scfcmi.model import FCMI

HERE = Path(__file__).parent
COLUMNS = 30
Rng = np.random.Generator


def gaussian(d: int) -> Callable[[Rng, int], np.ndarray]:
    """`d` directions of equal variance, and nothing in the others."""
    return lambda rng, n: np.pad(rng.normal(size=(n, d)), ((0, 0), (0, COLUMNS - d)))


def decaying(rng: Rng, n: int) -> np.ndarray:
    """A spectrum that falls like that of principal components."""
    return rng.normal(size=(n, COLUMNS)) / np.arange(1, COLUMNS + 1) ** 0.7


def uniform(d: int) -> Callable[[Rng, int], np.ndarray]:
    return lambda rng, n: np.pad(rng.random((n, d)), ((0, 0), (0, COLUMNS - d)))


def heavy(rng: Rng, n: int) -> np.ndarray:
    """Student's t with four degrees of freedom, of each cell as a whole: a few cells lie far out."""
    return rng.normal(size=(n, 10)) / np.sqrt(rng.chisquare(4, size=(n, 1)) / 4)


def counts(rng: Rng, n: int) -> np.ndarray:
    """Poisson counts of one cell type in 500 genes, depths that differ, log-normalised."""
    rate = rng.gamma(0.5, 1.0, size=500)
    depth = rng.lognormal(0, 0.4, size=(n, 1))
    x = rng.poisson(depth * rate)
    total = np.maximum(x.sum(1, keepdims=True), 1)
    return np.log1p(x * (np.median(total) / total))


# What is drawn, and whether columns are brought to unit variance as those of genes are.
SAMPLES: dict[str, tuple[Callable[[Rng, int], np.ndarray], bool]] = {
    **{f"Gaussian, {d} directions": (gaussian(d), False) for d in (1, 2, 3, 5, 10, 30)},
    "Gaussian, decaying spectrum": (decaying, False),
    "uniform, 2 directions": (uniform(2), False),
    "uniform, 10 directions": (uniform(10), False),
    "t, 4 degrees of freedom, 10 directions": (heavy, False),
    "Poisson counts, 500 genes": (counts, True),
}


def smallest_link(z: np.ndarray, seed: int) -> tuple[float, float]:
    """The smallest link in the tree of some points, and their local dimension."""
    points = torch.from_numpy(z).float()
    nothing = torch.zeros(len(points), dtype=torch.int64)
    index, distance = Index(points, nothing, points[:1]).search(points, N_NEIGHBOURS, None, skip_self=True)
    inverse = local_dimension(distance).numpy()
    graph = connectivities(index, distance)
    links = Links.between(small_clusters(graph, seed), graph, inverse)
    tree = merge_tree(links)
    dimension = 1 / inverse.mean()
    relative = float(tree.link[-1]) if len(tree.link) else np.nan
    return relative * float(homogeneous_link(np.array(float(len(z))), np.array(dimension))), dimension


def links(sizes: list[int], seeds: int) -> pd.DataFrame:
    rows = []
    for d in (1, 2, 3, 5, 10, 30):
        for n in sizes:
            for seed in range(max(3, seeds // 2) if n > 3000 else seeds):
                rng = np.random.default_rng([d, n, seed])
                link, dimension = smallest_link(rng.normal(size=(n, d)), seed)
                rows.append({"directions": d, "n": n, "link": link, "dimension": dimension})
        print(f"links: {d} directions", flush=True)
    return pd.DataFrame(rows)


def splits(sizes: list[int], seeds: int) -> pd.DataFrame:
    rows = []
    for name, (draw, standardize) in SAMPLES.items():
        started = time.perf_counter()
        for n in sizes:
            for seed in range(max(3, seeds // 3) if n > 3000 else seeds):
                rng = np.random.default_rng([len(name), n, seed])
                x = draw(rng, n).astype(np.float32)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model = FCMI(standardize=standardize, random_state=seed, device="cpu", progress_bar=False).fit(
                        x, rng.choice(["x", "y"], n)
                    )
                look = model.state_.look
                rows.append(
                    {
                        "sample": name,
                        "n": n,
                        "first": len(set(look.branch.tolist())) > 1,
                        "closer": any(part.closer for part in look.walk()),
                        "clusters": model.n_clusters_,
                    }
                )
        print(f"splits: {name}, {time.perf_counter() - started:.0f} s", flush=True)
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame, form: str = "{:.3g}") -> str:
    shown = frame.map(lambda value: value if isinstance(value, str) else form.format(value))
    head = ["", *map(str, shown.columns)]
    lines = [
        head,
        ["---"] + ["---:"] * len(shown.columns),
        *([str(i), *row] for i, row in zip(shown.index, shown.to_numpy(), strict=True)),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def constants(found: pd.DataFrame) -> pd.DataFrame:
    """Per number of directions: local dimension, smallest link at 1,000 points, and exponent, beside those set."""
    rows = {}
    for d, part in found.groupby("directions"):
        medians = part.groupby("n")["link"].median()
        slope = -np.polyfit(np.log(medians.index), np.log(medians.clip(lower=1e-6)), 1)[0]
        at = part[part["n"] == 1000]
        dimension = float(at["dimension"].mean())
        rows[d] = {
            "local dimension": dimension,
            "link at 1,000 points, smallest": at["link"].min(),
            "median": at["link"].median(),
            "set": float(np.exp(np.interp(dimension, DIMENSION, LOG_LINK))),
            "exponent of the median": slope,
            "set ": float(np.interp(dimension, DIMENSION, EXPONENT)),
        }
    return pd.DataFrame(rows).T


def report(found: pd.DataFrame, fits: pd.DataFrame) -> str:
    found = found.copy()
    expected = homogeneous_link(found["n"].to_numpy(float), found["dimension"].to_numpy())
    found["relative"] = found["link"] / expected
    relative = found.groupby(["directions", "n"])["relative"].min().unstack()
    relative.columns = [f"{n:,} points" for n in relative.columns]
    split = (found["relative"] < THRESHOLD).groupby(found["directions"]).mean()
    shares = fits.groupby(["sample", "n"], sort=False)["clusters"].agg(lambda c: (c > 1).mean()).unstack()
    shares.columns = [f"{n:,} cells" for n in shares.columns]
    each = fits.groupby("sample", sort=False)[["first", "closer"]].mean()
    each.columns = ["first look", "a closer look"]
    total, n = fits[["first", "closer"]].any(axis=1).mean(), len(fits)
    parts = [
        "# Homogeneous samples",
        "Made by `python benchmarks/homogeneous.py`. The data have no clusters, so every split is an error.",
        "## The link inside one cluster",
        "Gaussian samples, points alone: neighbours, Leiden at a high resolution, merge tree. The smallest link of a "
        "tree is that between the two halves that are joined last. By it, links are measured: what is set in the "
        "package, beside what was found here.",
        table(constants(found)),
        "The smallest link of all seeds in units of the link that is expected there; parts stay apart below "
        f"{THRESHOLD:g} (in a closer look, below {THRESHOLD / 1.5:.2g}).",
        table(relative, "{:.2f}"),
        f"Of these {len(found)} samples, {100 * (found['relative'] < THRESHOLD).mean():.1f} % are below the threshold; "
        "by directions, " + ", ".join(f"{d}: {100 * share:.0f} %" for d, share in split.items()) + ".",
        "## Whole fits",
        "Share of samples with more than one cluster, number unknown, resolution 1, two groups drawn at random.",
        table(shares, "{:.2f}"),
        "By whom they are split:",
        table(each, "{:.2f}"),
        f"Over all {n} samples: {100 * total:.1f} % are split.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="samples of each kind and size; fewer of the largest")
    parser.add_argument("--quick", action="store_true", help="few and small samples, to see that it works")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the page of the rows there are")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    seeds = 2 if args.quick else args.seeds
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {"homogeneous_links.csv": links, "homogeneous.csv": splits}
    sizes = [[150, 1000], [40, 300]] if args.quick else [[150, 400, 1000, 3000, 9000], [40, 150, 600, 2400, 9000]]
    for (name, measure), of in zip(tables.items(), sizes, strict=True):
        if not args.report:
            measure(of, seeds).round(5).to_csv(args.out / name, index=False)
    found, fits = (pd.read_csv(args.out / name) for name in tables)
    (args.out / "homogeneous.md").write_text(report(found, fits))


if __name__ == "__main__":
    main()
