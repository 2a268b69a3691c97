"""The code of the first page, as it stands there, on somebody's own file.

The same lines run twice: in this environment, and (`-m fresh`) in one made for them, into which a wheel of the checkout
is installed as a user would install it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import venv
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

ROOT = Path(__file__).resolve().parents[1]
TYPES = [
    "CD4-positive, CD25-positive, alpha-beta regulatory T cell",
    "CD4-positive, CD25-negative, alpha-beta memory T cell",
    "CD16-negative, CD56-bright natural killer cell, human",
    "plasmacytoid dendritic cell, human",
]
N_CELLS, N_GENES = 900, 1200


def code_of_the_first_page() -> str:
    """All Python of the quick start in README.md, to the letter."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Quick start\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    return "".join(blocks)


def write_cells(path: Path) -> None:
    """Counts as they come from a pipeline: integers, a batch column of strings, long names, Ensembl ids, `.raw`."""
    rng = np.random.default_rng(0)
    cell_type, batch = rng.integers(len(TYPES), size=N_CELLS), rng.integers(2, size=N_CELLS)
    log_mean = np.log(rng.gamma(0.5, 1.0, size=N_GENES) + 0.02)[None, :].repeat(N_CELLS, axis=0)
    log_mean += (rng.normal(0, 1, size=(len(TYPES), N_GENES)) * (rng.random((len(TYPES), N_GENES)) < 0.15))[cell_type]
    log_mean += rng.normal(0, 0.4, size=(2, N_GENES))[batch]
    counts = sparse.csr_matrix(rng.poisson(np.exp(log_mean)).astype(np.float32))
    adata = ad.AnnData(
        X=counts,
        obs=pd.DataFrame(
            {"batch": np.array(["2023-11-02_run1", "2024-01-17_run2"])[batch], "cell_type": np.array(TYPES)[cell_type]},
            index=[f"AAAC{i:05d}-1" for i in range(N_CELLS)],
        ),
        var=pd.DataFrame(
            {"feature_name": [f"GENE{j}" for j in range(N_GENES)]}, index=[f"ENSG{j:011d}" for j in range(N_GENES)]
        ),
    )
    adata.raw = adata.copy()
    adata.write_h5ad(path)


def run_first_page(python: str | Path, folder: Path, **environment: str) -> None:
    """Save the code as a script beside `cells.h5ad`, run it, and look at the file that it leaves."""
    write_cells(folder / "cells.h5ad")
    (folder / "first_page.py").write_text(code_of_the_first_page(), encoding="utf-8")
    done = subprocess.run(
        [str(python), "first_page.py"],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "agg", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = ad.read_h5ad(folder / "clustered.h5ad")
    assert result.raw is not None
    clusters = result.obs["fair_cluster"]
    assert adjusted_rand_score(result.obs["cell_type"], clusters) > 0.9
    assert adjusted_rand_score(result.obs["batch"], clusters) < 0.05
    assert set(result.obs["cell_type"]) == set(TYPES)


def test_first_page_runs_here(tmp_path: Path) -> None:
    run_first_page(sys.executable, tmp_path, PYTHONPATH=str(ROOT))


@pytest.mark.fresh
@pytest.mark.skipif("'fresh' not in config.getoption('-m')", reason="makes an environment; run with -m fresh")
def test_first_page_runs_in_a_fresh_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT], check=True
    )
    (wheel,) = wheels.glob("scfcmi-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = next(path for path in (tmp_path / "env").rglob("python*") if path.name in {"python", "python.exe"})
    # torch first and by its version: where the CPU build of it is offered, pip takes that one
    torch = f"torch=={version('torch').split('+')[0]}"
    for what in (torch, str(wheel)):
        subprocess.run([python, "-m", "pip", "install", "--quiet", what], check=True)
    installed = time.perf_counter()
    folder = tmp_path / "work"
    folder.mkdir()
    environment = {"PYTHONPATH": ""}
    run_first_page(python, folder, **environment)
    end = time.perf_counter()
    with capsys.disabled():
        print(f"\ninstalled in {installed - start:.0f} s, first page in {end - installed:.0f} s")
