"""Markers within groups: what clusters differ in counts, what groups differ in does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scfcmi.tl import markers


@pytest.fixture
def cells() -> AnnData:
    """Gene 0 marks cluster x in both groups, gene 1 in group a alone; gene 2 is high in group a, which has more x."""
    rng = np.random.default_rng(0)
    kind, tech = np.repeat(["x", "x", "y", "y"], [90, 30, 30, 90]), np.repeat(["a", "b", "a", "b"], [90, 30, 30, 90])
    x = 1 + 0.3 * rng.random((240, 6))
    x[:, 0] += kind == "x"
    x[:, 1] += 0.5 * ((kind == "x") & (tech == "a"))
    x[:, 2] += 2 * (tech == "a")
    obs = pd.DataFrame({"kind": kind, "tech": tech}, index=[f"c{i}" for i in range(240)])
    return AnnData(sparse.csr_matrix(x.astype(np.float32)), obs, pd.DataFrame(index=[f"g{i}" for i in range(6)]))


@pytest.mark.parametrize("method", ["wilcoxon", "t-test"])
def test_what_groups_differ_in_is_no_marker(cells: AnnData, method: Any) -> None:
    frame = markers(cells, "kind", "tech", method=method)
    first = frame[frame["cluster"] == "x"].set_index("gene")
    assert first.index[0] == "g0" and first.loc["g0", "pvalue_adj"] < 1e-10
    assert first.loc["g0", "min_score"] > 4 > abs(first.loc["g1", "min_score"])
    assert first.loc["g2", "pvalue_adj"] > 0.01
    assert (first["n_groups"] == 2).all()
    sc.tl.rank_genes_groups(cells, "kind", method=method)
    pooled = dict(zip(*(cells.uns["rank_genes_groups"][name]["x"] for name in ("names", "pvals_adj")), strict=True))
    assert pooled["g2"] < 1e-6, "without groups it would be one"


def test_combined_scores_are_those_of_stouffer(cells: AnnData) -> None:
    both = markers(cells, "kind", "tech").set_index(["cluster", "gene"])["score"]
    of_group = {}
    for tech in "ab":
        part = cells[cells.obs["tech"] == tech].copy()
        sc.tl.rank_genes_groups(part, "kind", method="wilcoxon", tie_correct=True)
        found = part.uns["rank_genes_groups"]
        of_group[tech] = dict(zip(found["names"]["x"], found["scores"]["x"], strict=True))
    for gene in cells.var_names:
        expected = (np.sqrt(90) * of_group["a"][gene] + np.sqrt(30) * of_group["b"][gene]) / np.sqrt(120)
        assert both[("x", gene)] == pytest.approx(expected, rel=1e-4)


def test_groups_without_enough_cells_are_left_out(cells: AnnData) -> None:
    cells.obs["kind"] = np.where(np.arange(240) < 3, "z", cells.obs["kind"])
    frame = markers(cells, "kind", "tech", n_genes=2)
    assert set(frame["cluster"]) == {"x", "y"} and len(frame) == 4
    only = cells[~((cells.obs["kind"] == "y") & (cells.obs["tech"] == "a"))].copy()
    assert set(markers(only, "kind", "tech", min_cells=20)["n_groups"]) == {1}


def test_the_run_says_which_groups_and_nothing_is_written(cells: AnnData) -> None:
    cells.uns["kind"] = {"params": {"sensitive_key": "tech"}}
    cells.layers["log"] = cells.X.copy()
    before = set(cells.uns)
    pd.testing.assert_frame_equal(markers(cells, "kind"), markers(cells, "kind", "tech", layer="log"))
    assert set(cells.uns) == before and list(cells.obs) == ["kind", "tech"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": "absent"}, KeyError, "key='absent'"),
        ({"sensitive_key": "absent"}, KeyError, "sensitive_key='absent'"),
        ({"sensitive_key": None}, ValueError, "Name a column of obs"),
        ({"method": "logreg"}, ValueError, "method='logreg' is unknown"),
        ({"layer": "absent"}, KeyError, "layer='absent'"),
        ({"min_cells": 1000}, ValueError, "No group has 1000 cells"),
        ({"n_genes": 0}, ValueError, "n_genes=0 must be at least 1"),
    ],
)
def test_refused(cells: AnnData, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        markers(cells, **({"key": "kind", "sensitive_key": "tech"} | arguments))


def test_cells_without_a_cluster_are_refused(adata: AnnData) -> None:
    adata.obs["some"] = adata.obs["cell_type"].where(np.arange(300) > 1)
    with pytest.raises(ValueError, match="key='some' has 2 missing values. Look at the other cells alone"):
        markers(adata, "some", "tech")
