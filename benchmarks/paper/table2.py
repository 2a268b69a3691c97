"""Table 2 of the paper: every part of the objective left out in turn; or the effect of α, β and τ.

    python benchmarks/paper/table2.py [--set mnist-usps] [--rows N] [--epochs 300] [--seeds 0 1 2] [--device auto]
    python benchmarks/paper/table2.py --effect

The variants are those of `images.VARIANTS`. With `--effect`, each of α, β and τ is changed on its own, the others
staying as published. Writes `paper_table2_<set>` or `paper_effect_<set>`, `.md` and `.csv`, after every run.
"""

from __future__ import annotations

from typing import Any

import images
import pandas as pd

EFFECT = {"alpha": (0.0, 0.01, 0.04, 0.16), "beta": (0.0, 0.05, 0.2, 0.8), "temperature": (0.05, 0.1, 0.2, 0.5)}


def main() -> None:
    parser = images.arguments(__doc__)
    parser.add_argument("--effect", action="store_true")
    given = images.parsed(parser)
    x, groups, truth = images.load(given.set, given.data, given.rows)
    variants: dict[str, dict[str, Any]] = images.VARIANTS
    if given.effect:
        variants = {f"{name}={value}": {name: value} for name, values in EFFECT.items() for value in values}
    rows: list[dict[str, object]] = []
    for seed in given.seeds:
        for variant, changes in variants.items():
            found, labels, _ = images.fit(x, groups, seed, given, **changes)
            if variant.endswith("k-means"):
                labels = images.kmeans_labels(found.assign(x)[2], seed)
            last = {name: found.history[name][-1] for name in ("h_c_given_x", "i_gc", "reconstruction")}
            rows.append({"variant": variant, "seed": seed, **images.score(labels, groups, truth), **last})
            print(rows[-1], flush=True)
            what = "effect" if given.effect else "table2"
            frame, out = pd.DataFrame(rows), given.out / f"paper_{what}_{given.set}"
            frame.to_csv(out.with_suffix(".csv"), index=False)
            title = "The effect of α, β and τ" if given.effect else "Table 2 of the paper"
            command = "benchmarks/paper/table2.py" + (" --effect" if given.effect else "")
            lines = [
                f"# {title}: {given.set}",
                f"Made by `{command}`: {images.size(x, given)}; {images.machine(given.device)}. Means over seeds, "
                "smallest and largest in brackets; the last three columns are terms of the loss in the last epoch.",
                images.table(frame, "variant", [*images.SCORES, *last]),
            ]
            out.with_suffix(".md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
