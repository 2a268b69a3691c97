"""The command, whatever it is given: it works, or says in one line what is wrong; never a traceback."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scfcmi.cli import FAILED, OK, PLOTS, main

from .conftest import LONG, times

pytestmark = pytest.mark.filterwarnings("default")
USAGE = 2


def small() -> AnnData:
    rng = np.random.default_rng(0)
    types, tech = np.arange(90) % 3, np.arange(90) // 3 % 2
    x = rng.poisson(1.0 + 5 * (np.arange(12) % 3 == types[:, None]), (90, 12))
    obs = pd.DataFrame(
        {
            "tech": pd.Categorical.from_codes(tech, ["a", "b"]),
            "cell_type": types.astype(str),
            "number": rng.normal(size=90),
            "one": "x",
            "gap": [None, *["y"] * 89],
            "pct/mito": rng.normal(size=90),
        },
        index=[f"cell{i}" for i in range(90)],
    )
    obsm = {"X_pca": rng.normal(size=(90, 4)), "X_empty": np.empty((90, 0)), "X_gap": np.full((90, 2), np.nan)}
    matrix = sparse.csr_matrix(np.log1p(x).astype(np.float32))
    return AnnData(matrix, obs=obs.drop(columns="pct/mito"), obsm=obsm, layers={"scaled": matrix.toarray() - 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all kinds, good and bad; nothing in it is changed."""
    made = tmp_path_factory.mktemp("inputs")
    cells = small()
    cells.write_h5ad(made / "good.h5ad")
    cells.write_zarr(made / "good.zarr")
    arguments = ["cluster", str(made / "good.h5ad"), "--sensitive-key", "tech", "-o", str(made / "done.h5ad")]
    assert main([*arguments, "--save-model", str(made / "good.safetensors"), "--device", "cpu"]) == 0
    good, model = (made / "done.h5ad").read_bytes(), (made / "good.safetensors").read_bytes()
    (made / "half.h5ad").write_bytes(good[: len(good) // 2])
    (made / "half.safetensors").write_bytes(model[: len(model) // 2])
    (made / "text.h5ad").write_text("cell,tech\n1,a\n")
    (made / "nothing.h5ad").write_bytes(b"")
    (made / "folder.zarr").mkdir()
    with h5py.File(made / "other.h5ad", "w") as file:
        file["x"] = [1, 2, 3]
    zarr.open_group(made / "other.zarr", mode="w").create_array("x", data=np.arange(3))
    for name, change in {
        "no cells": lambda a: a[:0].copy(),
        "no genes": lambda a: a[:, :0].copy(),
        "one cell": lambda a: a[:1].copy(),
        "no matrix": lambda a: AnnData(obs=a.obs, obsm=a.obsm),
        "cells twice": lambda a: AnnData(a.X, obs=a.obs.set_axis(["c"] * 90)),
        "empty": lambda a: AnnData(a.X * 0, obs=a.obs),
        "infinite": lambda a: AnnData(a.X.toarray() + np.where(np.arange(12) == 3, np.inf, 0), obs=a.obs),
        "huge": lambda a: AnnData(a.X * 1e30, obs=a.obs),
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            change(cells).write_h5ad(made / f"{name}.h5ad")
    return made


INPUTS = ["good.h5ad", "good.zarr", "done.h5ad", "half.h5ad", "text.h5ad", "nothing.h5ad", "folder.zarr", "other.h5ad"]
INPUTS += ["other.zarr", "none.h5ad", "no cells.h5ad", "no genes.h5ad", "one cell.h5ad", "no matrix.h5ad"]
INPUTS += ["cells twice.h5ad", "empty.h5ad", "infinite.h5ad", "huge.h5ad", "good.safetensors", "."]
MODELS = ["good.safetensors", "half.safetensors", "good.h5ad", "none.safetensors", "folder.zarr"]
COLUMNS = ["tech", "cell_type", "number", "one", "gap", "none", "", "fair_cluster", "pct/mito", "_index"]
KEYS = ["fair_cluster", "again", "pca", "_index", "a/b", "", ".", "细胞", "x" * 300, "tech"]
NUMBERS = ["0", "1", "3", "-1", "1e9", "nan", "inf", "x", "", "90", "91", str(2**70)]
VALUES = {
    "--sensitive-key": COLUMNS,
    "--continuous-keys": COLUMNS,
    "--label-key": COLUMNS,
    "--cluster-key": COLUMNS,
    "--key-added": KEYS,
    "--key": KEYS,
    "--use-rep": ["X_pca", "X_empty", "X_gap", "X", "none", ""],
    "--layer": ["scaled", "none", ""],
    "--n-clusters": NUMBERS,
    "--resolution": NUMBERS,
    "--fairness": NUMBERS,
    "--random-state": NUMBERS,
    "--n-init": ["1", "2", "0", "x"],
    "--beta": NUMBERS,
    "--dpi": NUMBERS[:-1],
    "--device": ["cpu", "cuda:99", "tpu", ""],
    "--color": COLUMNS,
    "--new-groups": ["learn", "none", "x"],
    "--title": ["", "<b>", "a" * 1000],
}
OF = {
    "cluster": ["--continuous-keys", "--label-key", "--key-added", "--use-rep", "--layer", "--n-clusters"]
    + ["--resolution", "--fairness", "--random-state", "--n-init", "--device"],
    "predict": ["--continuous-keys", "--label-key", "--key-added", "--use-rep", "--layer", "--device"],
    "map": ["--new-groups", "--layer", "--key-added"],
    "recut": ["--key", "--key-added", "--n-clusters", "--resolution"],
    "diagnose": ["--key"],
    "evaluate": ["--label-key", "--beta"],
    "plot": ["--key", "--color", "--dpi"],
    "report": ["--key", "--label-key", "--title"],
}
OUTPUTS = ["out.h5ad", "out.zarr", "out.png", "out.html", "none/out.h5ad", "out", ""]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A subcommand with an input, and with options of its own that have any of the values above."""
    command = draw(st.sampled_from(sorted(OF)))
    likely = ["done.h5ad"] * 6 if command in ("recut", "diagnose", "plot", "report") else ["good.h5ad"] * 6
    line = [command]
    if command == "plot":
        line.append(draw(st.sampled_from([*PLOTS, "none"])))
    line.append("IN/" + draw(st.sampled_from(INPUTS + likely)))
    if command in ("predict", "map"):
        line.append("IN/" + draw(st.sampled_from(MODELS + MODELS[:1] * 4)))
    right = {"plot": "out.png", "report": "out.html"}.get(command, "out.h5ad")
    if command != "evaluate":
        line += ["-o", "OUT/" + draw(st.sampled_from([*OUTPUTS, right, right, right, right]))]
    if command == "evaluate":
        line += ["--cluster-key", draw(st.sampled_from(COLUMNS))]
    if command not in ("recut",):
        line += ["--sensitive-key", draw(st.sampled_from(["tech"] * 6 + COLUMNS))]
    for option in draw(st.lists(st.sampled_from(OF[command]), unique=True, max_size=3)):
        line += [f"{option}={draw(st.sampled_from(VALUES[option]))}"]
    return line


@given(line=command_lines())
@settings(max_examples=120 * times(10), deadline=None, suppress_health_check=list(HealthCheck), derandomize=not LONG)
def test_any_command_line(
    line: list[str], folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path_factory.mktemp("out")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    arguments = [part.replace("IN/", f"{folder}/").replace("OUT/", f"{out}/") for part in line]
    try:
        code: Any = main(arguments)
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err
    assert code in (OK, FAILED, USAGE), line
    assert "Traceback" not in said, line
    if code == FAILED:
        last = said.splitlines()[-1]
        assert last.startswith("scfcmi: error: ") and len(last.split()) > 4, (line, said)
        assert not list(out.iterdir()), line
    assert not [path for path in out.rglob("*") if path.name.startswith(".") and "scfcmi" in path.name], line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, line
