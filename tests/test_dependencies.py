"""The declared dependencies: complete, consistent, and free of the versions known not to work."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from packaging.requirements import Requirement

import scfcmi

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(scfcmi.__file__).parent
# scanpy compares all pairs of fewer cells by Euclidean distance; from this number on it calls pynndescent
BRUTE_FORCE_LIMIT = 8192


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires("scfcmi") or []]


def imported_names(path: Path) -> set[str]:
    """Top-level names of the absolute imports in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def top_level_imports(path: Path) -> set[str]:
    """The same, of imports that happen when the file itself is imported."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_every_import_is_declared() -> None:
    declared = {normalised(requirement.name) for requirement in requirements()}
    distributions = packages_distributions()
    undeclared = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in imported_names(path) - set(sys.stdlib_module_names) - {"scfcmi", "__future__"}:
            owners = {normalised(owner) for owner in distributions.get(name, [name])}
            if not owners & declared:
                undeclared.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert not undeclared


def test_what_every_fit_imports_is_no_extra() -> None:
    """What the core imports has to come with the package, also without extras."""
    runtime = {normalised(r.name) for r in requirements() if r.marker is None or r.marker.evaluate({"extra": ""})}
    distributions = packages_distributions()
    missing = {}
    for folder in ("communities", "front", "model", "registration", "source"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            for name in top_level_imports(path) - set(sys.stdlib_module_names) - {"scfcmi", "__future__"}:
                if not {normalised(owner) for owner in distributions.get(name, [name])} & runtime:
                    missing.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert not missing


def test_installed_versions_satisfy_the_bounds() -> None:
    runtime = [r for r in requirements() if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert runtime
    wrong = [str(r) for r in runtime if not r.specifier.contains(version(r.name), prereleases=True)]
    assert not wrong


def test_test_extra_and_group_agree() -> None:
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        pytest.skip("not a source checkout")
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    assert project["project"]["optional-dependencies"]["test"] == project["dependency-groups"]["test"]


def test_pynndescent_is_bounded() -> None:
    (pynndescent,) = [r for r in requirements() if r.name == "pynndescent" and r.marker is None]
    assert not pynndescent.specifier.contains("0.7.0")
    assert pynndescent.specifier.contains("0.6.0")


def test_neighbours_work_beyond_the_brute_force_limit() -> None:
    n_cells = BRUTE_FORCE_LIMIT + 8
    adata = AnnData(obsm={"X_any": np.random.default_rng(0).normal(size=(n_cells, 4)).astype(np.float32)})
    sc.pp.neighbors(adata, n_neighbors=10, use_rep="X_any", random_state=0)
    graph = adata.obsp["connectivities"]
    assert graph.shape == (n_cells, n_cells)
    assert (np.diff(graph.indptr) > 0).all()
