"""Simulated atlases have the size, the distribution and the holes that were asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from scfcmi.datasets import _counts as counts_module
from scfcmi.datasets import mouse_atlas_like, simulated_atlas
from scfcmi.datasets._counts import negative_binomial_csr

MOUSE_ATLAS_TOTALS = {"Microwell-seq": 4239, "Smart-seq2": 2715}


def table_of(adata: Any) -> pd.DataFrame:
    return pd.crosstab(adata.obs["cell_type"], adata.obs["tech"])


def test_counts_are_sparse_whole_and_float32() -> None:
    adata = simulated_atlas(120, 80, random_state=1)
    assert sparse.issparse(adata.X) and adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert adata.shape == (120, 80)
    assert (adata.X.data > 0).all() and (adata.X.data == adata.X.data.round()).all()
    adata.X.check_format(full_check=True)
    again = adata.X.copy()
    again.has_canonical_format = False
    again.sum_duplicates()
    assert again.nnz == adata.X.nnz
    for key in ("cell_type", "tech"):
        assert isinstance(adata.obs[key].dtype, pd.CategoricalDtype)


def test_same_seed_same_data_and_global_state_is_untouched() -> None:
    before = np.random.get_state()[1].copy()
    first, second = (simulated_atlas(90, 50, n_missing=2, dropout=0.2, random_state=3) for _ in range(2))
    other = simulated_atlas(90, 50, n_missing=2, dropout=0.2, random_state=4)
    generator = simulated_atlas(90, 50, n_missing=2, dropout=0.2, random_state=np.random.default_rng(3))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())
    np.testing.assert_array_equal(first.X.toarray(), generator.X.toarray())
    assert first.obs.equals(second.obs)
    assert (first.X.toarray() != other.X.toarray()).any()


@pytest.mark.parametrize("dispersion", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("mean", [0.05, 1.0, 40.0])
def test_counts_are_negative_binomial(mean: float, dispersion: float) -> None:
    n = 20_000
    drawn = negative_binomial_csr(
        np.full((1, 4), 0.25),
        np.zeros(n // 4, dtype=np.int64),
        np.full(n // 4, 4 * mean),
        dispersion=dispersion,
        dropout=np.zeros(n // 4),
        amplification=np.ones(n // 4),
        rng=np.random.default_rng(0),
    )
    values = drawn.toarray().ravel().astype(int)
    expected = stats.poisson(mean) if dispersion == 0 else stats.nbinom(1 / dispersion, 1 / (1 + dispersion * mean))
    edges = np.unique(expected.ppf(np.linspace(0, 1, 12)[1:-1]).astype(int))
    bins = np.searchsorted(edges, values)
    share = np.diff(np.concatenate([[0], expected.cdf(edges), [1]]))
    observed = np.bincount(bins, minlength=share.size)
    filled = share * n > 5
    assert stats.chisquare(observed[filled], share[filled] / share[filled].sum() * observed[filled].sum()).pvalue > 1e-3


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "ENTRIES_PER_CHUNK", 100)
    adata = simulated_atlas(203, 40, depth=200, random_state=0)
    assert adata.X.shape == (203, 40)
    assert np.median(np.asarray(adata.X.sum(axis=1))) == pytest.approx(200, rel=0.1)


def test_explicit_composition_is_exact() -> None:
    table = pd.DataFrame({"v2": [30, 0, 7], "v3": [5, 11, 0]}, index=["T", "B", "NK"])
    adata = simulated_atlas(composition=table, n_genes=30)
    assert adata.n_obs == 53
    found = table_of(adata).loc[table.index, table.columns]
    np.testing.assert_array_equal(found, table)
    assert list(adata.obs["cell_type"].cat.categories) == ["T", "B", "NK"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_cells", [5, 23, 53, 1000])
def test_composition_is_scaled_without_losing_rare_types(n_cells: int, order: Any) -> None:
    counts = np.array([[300, 50], [0, 11], [7, 1]], order=order)
    table = pd.DataFrame(counts, index=["T", "B", "NK"], columns=["v2", "v3"])
    found = table_of(simulated_atlas(n_cells, 20, composition=table)).loc[table.index, table.columns]
    assert int(found.to_numpy().sum()) == n_cells
    np.testing.assert_array_equal(found.to_numpy() > 0, counts > 0)


def test_drawn_composition() -> None:
    flat = table_of(simulated_atlas(1200, 20, 4, n_groups=3, size_ratio=1, unevenness=0))
    assert (flat.to_numpy() == 100).all()
    ratio = table_of(simulated_atlas(1200, 20, 4, size_ratio=10, unevenness=0)).sum(axis=1)
    assert ratio.max() / ratio.min() == pytest.approx(10, rel=0.1)
    sizes = table_of(simulated_atlas(1200, 20, 4, n_groups=2, group_sizes=(3, 1))).sum(axis=0)
    np.testing.assert_allclose(sizes, [900, 300], atol=2)
    holes = table_of(simulated_atlas(1200, 20, 6, n_groups=3, n_missing=4))
    assert int((holes.to_numpy() == 0).sum()) == 4
    assert ((holes.to_numpy() == 0).sum(axis=1) <= 1).all()


def test_depth_dropout_and_amplification_by_technology() -> None:
    adata = simulated_atlas(
        1200, 200, depth=(200, 800), dropout=(0.0, 0.5), amplification=(1, 10), tech_effect=0, random_state=0
    )
    plain = simulated_atlas(1200, 200, depth=(200, 800), tech_effect=0, random_state=0)

    def medians(data: Any, group: str) -> tuple[float, float]:
        rows = data.X[(data.obs["tech"] == group).to_numpy()]
        return float(np.median(np.asarray(rows.sum(axis=1)))), float(np.median(rows.getnnz(axis=1)))

    assert medians(plain, "tech0")[0] == pytest.approx(200, rel=0.08)
    assert medians(plain, "tech1")[0] == pytest.approx(800, rel=0.08)
    assert medians(adata, "tech1")[0] == pytest.approx(800 * 10 * 0.5, rel=0.15)
    assert medians(adata, "tech1")[1] == pytest.approx(medians(plain, "tech1")[1] * 0.5, rel=0.1)


def test_strengths_do_what_they_say() -> None:
    def distance(key: str, **kwargs: Any) -> float:
        adata = simulated_atlas(600, 100, 3, families=3, size_ratio=1, gene_spread=0.5, depth=1000, **kwargs)
        dense = adata.X.toarray()
        dense = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1000)
        means = [dense[(adata.obs[key] == name).to_numpy()].mean(axis=0) for name in adata.obs[key].cat.categories]
        return float(np.linalg.norm(means[0] - means[1]))

    assert distance("tech", tech_effect=0.5) > 3 * distance("tech", tech_effect=0.0)
    assert distance("cell_type", separation=1.0) > 3 * distance("cell_type", separation=0.0)


def test_types_of_a_family_are_more_alike() -> None:
    adata = simulated_atlas(
        800, 400, 4, families={"type0": "a", "type1": "a", "type2": "b", "type3": "b"}, tech_effect=0, depth=4000
    )
    dense = np.log1p(adata.X.toarray())
    means = np.stack([dense[(adata.obs["cell_type"] == f"type{k}").to_numpy()].mean(axis=0) for k in range(4)])
    gaps = np.linalg.norm(means[:, None] - means[None], axis=2)
    assert gaps[0, 1] < gaps[0, 2] and gaps[2, 3] < gaps[1, 3]


def test_mouse_atlas_composition() -> None:
    found = table_of(mouse_atlas_like(n_genes=20))
    assert found.shape == (11, 2)
    assert found.sum().to_dict() == MOUSE_ATLAS_TOTALS
    assert found.loc["Dendritic"].to_dict() == {"Microwell-seq": 202, "Smart-seq2": 18}
    # what is published of it: Balance 8.9 % and MNCE 42.3 % for the cell types themselves
    counts = found.to_numpy()
    assert (counts.min(axis=1) / counts.max(axis=1)).min() == pytest.approx(0.089, abs=5e-4)
    entropies = stats.entropy(counts, axis=1)
    assert entropies.min() / stats.entropy(counts.sum(axis=0)) == pytest.approx(0.423, abs=5e-4)


def test_mouse_atlas_depth_is_as_measured() -> None:
    adata = mouse_atlas_like(1500)
    for tech, genes, total in [("Microwell-seq", 601, 951), ("Smart-seq2", 2048, 421_791)]:
        rows = adata.X[(adata.obs["tech"] == tech).to_numpy()]
        assert np.median(rows.getnnz(axis=1)) == pytest.approx(genes, rel=0.05)
        assert np.median(np.asarray(rows.sum(axis=1))) == pytest.approx(total, rel=0.1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_cells": 0}, "n_cells must be a whole number"),
        ({"n_genes": 1}, "n_genes must be a whole number of at least 2"),
        ({"n_types": 2.5}, "n_types"),
        ({"n_groups": 0}, "n_groups"),
        ({"n_cells": 3}, "n_cells=3 is too few"),
        ({"size_ratio": 0.5}, "size_ratio must be finite and at least 1"),
        ({"tech_effect": -1}, "tech_effect"),
        ({"dispersion": float("nan")}, "dispersion"),
        ({"depth": (1, 2, 3)}, "depth must be one number, or one for each of the 2"),
        ({"depth": 0}, "depth must be positive"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"amplification": 0.5}, "amplification must be at least 1"),
        ({"group_sizes": (1, 0)}, "group_sizes"),
        ({"n_missing": 7}, "n_missing must lie between 0 and n_types"),
        ({"n_missing": 1, "n_groups": 1}, "needs two groups"),
        ({"n_types": 1, "n_missing": 1}, "leaves a group without cells"),
        ({"families": {"type0": "a"}}, "families says nothing about"),
        ({"families": 0}, "families"),
        ({"families": []}, "families is empty"),
        ({"composition": pd.DataFrame([[1, -1]])}, "not negative"),
        ({"composition": pd.DataFrame([[1.5, 1]])}, "whole"),
        ({"composition": pd.DataFrame([["a", "b"]])}, "numbers only"),
        ({"composition": pd.DataFrame([[1, 0], [2, 0]])}, "in each row and in each column"),
        ({"composition": pd.DataFrame([[1], [2]], index=["a", "a"])}, "unique"),
        ({"composition": pd.DataFrame([[1, 2]]), "n_types": 1}, "follow from composition"),
    ],
)
def test_bad_parameters_are_refused_by_name(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulated_atlas(**kwargs)


def test_composition_must_be_a_table() -> None:
    with pytest.raises(TypeError, match="must be a DataFrame"):
        simulated_atlas(composition=np.ones((2, 2)))  # type: ignore[arg-type]
