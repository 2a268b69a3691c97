from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scfcmi.datasets import _many_types as module
from scfcmi.datasets import many_types, many_types_counts, rare_types


def table_of(adata: AnnData) -> pd.DataFrame:
    return pd.crosstab(adata.obs["cell_type"], adata.obs["tech"])


def separable(adata: AnnData, *, within: bool) -> float:
    """Share of cells that are nearest to the centre of their own type, of all groups or of their own group."""
    x = adata.obsm["X_pca"]
    kind, group = adata.obs["cell_type"].cat.codes.to_numpy(), adata.obs["tech"].cat.codes.to_numpy()
    right = 0
    for g in np.unique(group):
        own = group == g
        cells = own if within else np.ones_like(own)
        names = np.unique(kind[own])
        centres = np.stack([x[cells & (kind == k)].mean(axis=0) for k in names])
        nearest = names[((x[own][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)]
        right += int((nearest == kind[own]).sum())
    return right / len(x)


def test_components_have_the_shape_that_was_asked_for() -> None:
    adata = many_types(3000, 40, 4, n_comps=12, random_state=0)
    assert adata.shape == (3000, 0)
    assert adata.obsm["X_pca"].shape == (3000, 12)
    assert adata.obsm["X_pca"].dtype == np.float32
    assert np.isfinite(adata.obsm["X_pca"]).all()
    table = table_of(adata)
    assert table.shape == (40, 4)
    np.testing.assert_allclose(table.sum(axis=0), 750, atol=40)  # what rounding up of rare types moves


@pytest.mark.parametrize(
    "make", [many_types, lambda *args, **kwargs: many_types_counts(args[0], 20, args[1], n_groups=args[2], **kwargs)]
)
def test_composition_is_skewed_and_has_holes(make: Any) -> None:
    table = table_of(make(20_000, 40, 8, random_state=1))
    np.testing.assert_array_equal((table == 0).sum(axis=0), 6)  # 15 % of the types in each group
    sizes = table.sum(axis=1).to_numpy()
    assert (sizes > 0).all()
    slope = np.polyfit(np.log(np.arange(1, 41)), np.log(sizes), 1)[0]
    assert slope == pytest.approx(-1.2, abs=0.15)
    present = table.to_numpy()[(table > 0).all(axis=1).to_numpy()]
    shares = present / table.sum(axis=0).to_numpy()
    assert (shares.max(axis=1) / shares.min(axis=1)).max() > 2  # a composition of its own


@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_few_types(n_types: int) -> None:
    adata = many_types(600, n_types, 4, random_state=0)
    assert (table_of(adata) > 0).all(axis=None) and adata.obs["cell_type"].nunique() == n_types
    assert separable(adata, within=True) > 0.99


def test_a_single_type_is_homogeneous_within_a_group() -> None:
    adata = many_types(20_000, 1, 2, group_effect=0, random_state=0)
    x = adata.obsm["X_pca"]
    np.testing.assert_allclose(np.cov(x, rowvar=False), np.eye(30), atol=0.06)
    np.testing.assert_allclose(((x - x.mean(axis=0)) ** 4).mean(axis=0), 3, atol=0.3)


def test_every_type_stays_somewhere() -> None:
    table = table_of(many_types(5000, 30, 2, missing=0.9, random_state=0))
    assert ((table > 0).sum(axis=1) >= 1).all()
    assert not (table_of(many_types(2000, 30, 1, missing=0.5)) == 0).any(axis=None)


def test_strengths_do_what_they_say() -> None:
    assert separable(many_types(3000, 20, 4, random_state=0), within=True) > 0.95
    assert separable(many_types(3000, 20, 4, separation=0, random_state=0), within=True) < 0.6
    # types of one group are nearer to other types of other groups than to their own
    shifted, level = (many_types(3000, 20, 4, group_effect=effect, random_state=0) for effect in (3, 0))
    assert separable(shifted, within=False) < separable(level, within=False) - 0.1


def test_types_of_a_family_and_families_of_a_lineage_are_more_alike() -> None:
    adata = many_types(40_000, 60, 1, random_state=0)
    centres = pd.DataFrame(adata.obsm["X_pca"]).groupby(adata.obs["cell_type"].to_numpy(), observed=True).mean()
    centres = centres.loc[[f"type{k}" for k in range(60)]].to_numpy()
    lineage, family = module._tree(60)
    gap = ((centres[:, None] - centres) ** 2).sum(axis=2)
    same_family, same_lineage = family[:, None] == family, lineage[:, None] == lineage
    other = ~np.eye(60, dtype=bool)
    siblings, cousins, strangers = gap[same_family & other], gap[same_lineage & ~same_family], gap[~same_lineage]
    assert siblings.mean() < 0.8 * cousins.mean() and cousins.mean() < 0.9 * strangers.mean()


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = many_types(1000, 10, 3, random_state=0)
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 77)
    np.testing.assert_allclose(many_types(1000, 10, 3, random_state=0).obsm["X_pca"], whole.obsm["X_pca"], atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [lambda seed: many_types(500, 10, 2, random_state=seed), lambda seed: rare_types(500, 20, random_state=seed)],
)
def test_the_seed_decides(make: Any) -> None:
    def values(adata: AnnData) -> Any:
        return adata.obsm["X_pca"] if "X_pca" in adata.obsm else adata.X.toarray()

    first, second, other = make(0), make(0), make(1)
    np.testing.assert_array_equal(values(first), values(second))
    assert first.obs.equals(second.obs)
    assert (values(first) != values(other)).any()


def test_counts_come_from_the_same_tree() -> None:
    adata = many_types_counts(6000, 400, 27, n_groups=2, tech_effect=0, separation=1.5, random_state=0)
    assert sparse.isspmatrix_csr(adata.X) and adata.shape == (6000, 400)
    logged = np.log1p(adata.X.toarray())
    means = np.stack([logged[(adata.obs["cell_type"] == f"type{k}").to_numpy()].mean(axis=0) for k in range(27)])
    lineage, family = module._tree(27)
    gap = ((means[:, None] - means) ** 2).sum(axis=2)
    same_family, same_lineage = family[:, None] == family, lineage[:, None] == lineage
    other = ~np.eye(27, dtype=bool)
    assert gap[same_family & other].mean() < gap[same_lineage & ~same_family].mean() < gap[~same_lineage].mean()


def test_rare_types() -> None:
    table = table_of(rare_types(n_genes=20, random_state=3))
    sizes = table.sum(axis=1)
    assert (sizes.sum(), sizes.min(), sizes.max(), len(sizes)) == (20_000, 15, 1500, 40)
    assert ((sizes < 200).sum(), (sizes < 40).sum()) == (19, 5)
    np.testing.assert_array_equal((table == 0).sum(axis=0), [3, 3, 3, 3])
    assert rare_types(5000, 20).shape == (5000, 20)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_cells": 0}, "n_cells must be a whole number"),
        ({"n_types": 0}, "n_types"),
        ({"n_groups": 1.5}, "n_groups"),
        ({"n_comps": 0}, "n_comps"),
        ({"missing": 1}, "missing must be a share"),
        ({"missing": float("nan")}, "missing must be a share"),
        ({"separation": -1}, "separation"),
        ({"group_effect": float("inf")}, "group_effect"),
        ({"n_cells": 100}, "n_cells=100 is too few"),
    ],
)
def test_bad_parameters_are_refused_by_name(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        many_types(**kwargs)
