"""Results that others wrote, or that were damaged: every function that reads them works or says what is wrong.

Entries of `uns`, `obsm` and `obs` of a run are changed at random, a few hundred times: taken out, replaced by values of
another kind, shape or size. What comes of it is a result, or an error of this package, never what a library says.
"""

from __future__ import annotations

import copy
import random
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfcmi as sf
from scfcmi.model import FCMI

from .conftest import times

QUICK = {"progress_bar": False, "device": "cpu"}
ROOT = str(Path(sf.__file__).parent)
# What the documentation of these functions names.
DOCUMENTED = (KeyError, ValueError, TypeError)
N_CHANGES = 16 * times(10)
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def done() -> tuple[AnnData, FCMI]:
    rng = np.random.default_rng(0)
    n, m = 120, 20
    types, tech = np.arange(n) % 3, np.arange(n) // 3 % 2
    x = rng.poisson(1.0 + 5 * (np.arange(m) % 3 == types[:, None]), (n, m))
    obs = pd.DataFrame(
        {
            "tech": pd.Categorical.from_codes(tech, ["tech0", "tech1"]),
            "cell_type": pd.Categorical.from_codes(types, list("TBK")),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    adata = AnnData(sparse.csr_matrix(np.log1p(x).astype(np.float32)), obs=obs)
    model = sf.tl.fair_cluster(adata, "tech", 3, label_key="cell_type", return_model=True, **QUICK)
    adata.obsm["X_fair_cluster_umap"] = adata.obsm["X_fair_cluster"][:, :2].copy()
    sf.tl.correct(adata)
    sf.tl.diagnose(adata)
    return adata, model


READERS: dict[str, Callable[[AnnData, FCMI, Path], Any]] = {
    "tl.recut": lambda a, m, f: sf.tl.recut(a, n_clusters=2),
    "tl.correct": lambda a, m, f: sf.tl.correct(a),
    "tl.diagnose": lambda a, m, f: sf.tl.diagnose(a),
    "tl.map_query": lambda a, m, f: sf.tl.map_query(a, m, sensitive_key="tech"),
    "tl.fair_cluster": lambda a, m, f: sf.tl.fair_cluster(a, "tech", 2, **QUICK),
    "tl.markers": lambda a, m, f: sf.tl.markers(a),
    "tl.evaluate": lambda a, m, f: sf.tl.evaluate(a, "fair_cluster", "tech"),
    "pl.composition": lambda a, m, f: sf.pl.composition(a, show=False),
    "pl.confidence": lambda a, m, f: sf.pl.confidence(a, show=False),
    "pl.reliability": lambda a, m, f: sf.pl.reliability(a, "cell_type", show=False),
    "pl.diagnose": lambda a, m, f: sf.pl.diagnose(a, show=False),
    "pl.n_clusters": lambda a, m, f: sf.pl.n_clusters(a, show=False),
    "pl.summary": lambda a, m, f: sf.pl.summary(a, show=False),
    "pl.training": lambda a, m, f: sf.pl.training(a, show=False),
    "pl.tree": lambda a, m, f: sf.pl.tree(a, show=False),
    "pl.umap": lambda a, m, f: sf.pl.umap(a, show=False),
    "report": lambda a, m, f: sf.report(a, f / "page.html"),
}


def paths(entry: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where something stands in a nested dictionary."""
    found = [at] if at else []
    if isinstance(entry, dict):
        for name, value in entry.items():
            found += paths(value, (*at, name))
    return found


def other(value: Any, rng: random.Random) -> Any:
    """Something else in its place, which a file could hold."""
    plain = ["", "text", "\x00/..", 0, -1, 2**70, 1e308, float("nan"), True, None, {}, {"a": {"b": 1}}, np.array([])]
    kinds = [lambda: rng.choice(plain)]
    if isinstance(value, np.ndarray) and value.size:
        flat = value.reshape(-1)
        kinds += [
            lambda: value[:-1],
            lambda: value[::-1].copy(),
            lambda: np.concatenate([value, value]),
            lambda: value[None],
            lambda: flat[0],
            lambda: flat.astype(str),
            lambda: np.zeros_like(value),
            lambda: -value.astype(float) if value.dtype.kind in "iuf" else value[:1],
            lambda: np.full(value.shape, np.nan),
            lambda: np.full(value.shape, 2**62) if value.dtype.kind in "iu" else np.full(value.shape, np.inf),
            lambda: value.astype(float) + 0.5 if value.dtype.kind in "iuf" else np.full(value.shape, "x"),
        ]
    elif isinstance(value, dict) and value:
        name = rng.choice(sorted(value))
        kinds += [lambda: {k: v for k, v in value.items() if k != name}, lambda: value | {"more": [1, 2]}]
        kinds += [lambda: {f"{k} ": v for k, v in value.items()}, lambda: list(value)]
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        kinds += [lambda: -value, lambda: value * 1e6, lambda: [value], lambda: str(value)]
    elif isinstance(value, str):
        kinds += [lambda: value * 1000, lambda: np.array([value, value]), lambda: [value]]
    return rng.choice(kinds)()


def changed(adata: AnnData, rng: random.Random) -> tuple[AnnData, str]:
    """A copy of which one entry of the run is not as it was."""
    made = adata.copy()
    slot = rng.choice(["uns"] * 6 + ["obsm", "obs"])
    if slot == "uns":
        names = [name for name in made.uns if name.startswith("fair_cluster")]
        where = rng.choice([path for name in names for path in paths(made.uns[name], (name,))])
        holder: Any = made.uns
        for name in where[:-1]:
            holder = holder[name]
        if rng.random() < 0.25:
            del holder[where[-1]]
            return made, f"without uns{list(where)}"
        holder[where[-1]] = other(copy.deepcopy(holder[where[-1]]), rng)
        return made, f"uns{list(where)} = {holder[where[-1]]!r:.80}"
    if slot == "obsm":
        name = rng.choice(sorted(made.obsm))
        entry = made.obsm[name]
        wide = entry.toarray() if sparse.issparse(entry) else np.asarray(entry)
        values = [wide[:, :1], np.full_like(wide, np.nan), wide[:, :0], -wide, np.hstack([wide, wide]), wide * 1e30]
        values += [sparse.csr_matrix(wide), wide.astype(str), np.zeros_like(wide)]
        made.obsm[name] = rng.choice(values)
        return made, f"obsm[{name!r}] = {made.obsm[name]!r:.80}"
    name = rng.choice([name for name in made.obs if name.startswith("fair_cluster")])
    n = made.n_obs
    values = [np.arange(n), np.full(n, np.nan), ["x"] * n, pd.Categorical([None] * n), np.full(n, -5.0), [b"a"] * n]
    made.obs[name] = rng.choice(values)
    return made, f"obs[{name!r}] = {made.obs[name].iloc[:2].tolist()}"


def is_ours(error: BaseException) -> bool:
    """Whether this package has raised it, in a sentence, and not a library or an operation."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(ROOT) and str(last.line).startswith("raise ") and len(str(error).split()) > 3


@pytest.mark.parametrize("name", READERS)
def test_changed_results_give_a_result_or_an_error_of_ours(
    done: tuple[AnnData, FCMI], name: str, tmp_path: Path
) -> None:
    rng = random.Random(name)
    wrong = []
    for _ in range(N_CHANGES):
        adata, what = changed(done[0], rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                READERS[name](adata, done[1], tmp_path)
            except DOCUMENTED as error:
                if not is_ours(error):
                    wrong.append((what, error))
            except Exception as error:  # noqa: BLE001 - any other is what this looks for
                wrong.append((what, error))
            plt.close("all")
    places = [
        f"{what}: {type(error).__name__}: {str(error)[:200]!r} at {traceback.extract_tb(error.__traceback__)[-1]}"
        for what, error in wrong
    ]
    assert not places, "\n".join([f"{len(places)} of {N_CHANGES}", *places])
