"""What constants of the default would be chosen without the set they are scored on, and what that costs.

    python benchmarks/constants.py [--data DIR] [--seeds 0 1] [--constants UNDECIDED …] [--resume]

One constant is changed at a time, all others as they are. A variant's score on a set is the mean of NMI and ARI, number
of clusters unknown and given. For every set, each constant takes the value that is best on average over all *other*
sets, and is scored on this one: the mean of that is what choosing is worth where labels are not in view. Beside it
stand the score as it is, and that of the value that is best on all sets, with all labels in view.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from _peers import SETS, ours, read
from _results import Rows, in_own_process, markdown, parser, provenance
from _scores import scores
from anndata import AnnData

import scfcmi

KEYS = ["set", "seed", "constant", "value"]
# Module, name, and what is tried; what each is stands where it is defined.
CONSTANTS: dict[str, tuple[str, list[float]]] = {
    "THRESHOLD": ("communities._tree", [0.45, 0.6, 0.8]),
    "LEAN": ("communities._tree", [0.25, 0.4, 0.5]),
    "SIZE": ("communities._tree", [0.2, 0.4, 0.6]),
    "CERTAIN": ("communities._tree", [1.1, 1.5, 2.0]),
    "UNDECIDED": ("communities._tree", [0.35, 0.5, 0.65]),
    "NO_VALLEY": ("communities._tree", [0.7, 0.8, 0.95]),
    "STRICT": ("communities._recursion", [1.2, 1.5, 2.0]),
    "N_NEIGHBOURS": ("communities._recursion", [10, 15, 25]),
    "CLOSER_ROUNDS": ("communities._recursion", [5, 8, 12]),
    "HEIGHT": ("model._fit_default", [0.5, 0.7, 1.0]),
    "N_COMPS": ("model._fit_default", [30, 50, 70]),
}


def modules(name: str, module: str) -> list[str]:
    """Where the constant is defined, and where in the same package it was imported to."""
    package = f"scfcmi.{module.split('.', maxsplit=1)[0]}."
    return sorted(where for where, found in sys.modules.items() if where.startswith(package) and hasattr(found, name))


def run(rows: Rows, path: str, name: str, seeds: list[int], wanted: list[str]) -> None:
    """All variants on one set."""
    adata = read(Path(path))
    groups, types = adata.obs["batch"], adata.obs["cell_type"]
    for seed in seeds:
        as_it_is: dict[str, float] = {}
        for constant in wanted:
            module, values = CONSTANTS[constant]
            now = getattr(import_module(f"scfcmi.{module}"), constant)
            for value in values:
                key = {"set": name, "seed": seed, "constant": constant, "value": value}
                if rows.done(**key):
                    continue
                with ExitStack() as changes:
                    for where in modules(constant, module):
                        changes.enter_context(patch(f"{where}.{constant}", value))
                    found = as_it_is if value == now and as_it_is else scored(adata, groups, types, seed)
                if value == now:
                    as_it_is = found
                rows.add({**key, **found})


def scored(adata: AnnData, groups: pd.Series, types: pd.Series, seed: int) -> dict[str, float]:
    """The score of one fit, its number of clusters unknown and given."""
    unknown = scores(ours(adata, "batch", None, seed), groups, types)
    scfcmi.tl.recut(adata, n_clusters=types.nunique())
    given = scores(adata.obs["fair_cluster"].to_numpy(str), groups, types)
    score = (unknown["nmi"] + unknown["ari"] + given["nmi"] + given["ari"]) / 4
    return {"score": score, "log2_k": abs(unknown["log2_k"])}


def report(rows: pd.DataFrame) -> str:
    """The table of the rows there are."""
    rows = rows.astype({"value": float, "score": float})
    lines = []
    for constant, part in rows.groupby("constant", sort=False):
        table = part.pivot_table(index="set", columns="value", values="score")
        module, values = CONSTANTS[str(constant)]
        now = float(getattr(import_module(f"scfcmi.{module}"), str(constant)))
        table = table[[now, *(value for value in values if value != now)]]  # of equals, what it is stays
        chosen = pd.Series({name: table.drop(index=name).mean().idxmax() for name in table.index})
        without = pd.Series({name: table.loc[name, value] for name, value in chosen.items()})
        lines.append(
            {
                "constant": constant,
                "tried": ", ".join(f"{value:g}: {table[value].mean():.4f}" for value in values),
                "as it is": f"{now:g}",
                "score": table[now].mean(),
                "best of all": table.mean().max(),
                "chosen without the set": without.mean(),
                "choices": ", ".join(f"{value:g} ({n})" for value, n in chosen.value_counts().items()),
            }
        )
    head = provenance(
        "constants.py",
        f"{rows['set'].nunique()} sets, {rows['seed'].nunique()} seeds; mean of NMI and ARI, unknown and given.",
    )
    return (
        "\n\n".join(
            [
                "# Constants, chosen without the set they are scored on",
                head,
                markdown(pd.DataFrame(lines).set_index("constant"), 4),
            ]
        )
        + "\n"
    )


def main() -> None:
    """Measure and write the table."""
    made = parser(__doc__, sets=SETS)
    made.add_argument("--constants", nargs="+", choices=list(CONSTANTS), default=list(CONSTANTS))
    arguments = made.parse_args()
    rows = Rows(arguments.out / "constants.csv", KEYS, resume=arguments.resume)
    if not arguments.report:
        for name in arguments.sets:
            asked = (rows, str(arguments.data / f"{name}.h5ad"), name, arguments.seeds, arguments.constants)
            in_own_process(run, *asked, threads=arguments.threads)
    (arguments.out / "constants.md").write_text(report(rows.read()))


if __name__ == "__main__":
    main()
