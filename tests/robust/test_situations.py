"""Situations in which users of single-cell libraries report failures: a right result, or an error of ours.

A row for each kind of report about scanpy, AnnData, scvi-tools, harmonypy, bbknn and zarr that could be one about us.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfcmi as sf

QUICK = {
    name: value
    for name, value in {"max_epochs": 1, "progress_bar": False, "device": "cpu"}.items()
    if name in inspect.signature(sf.tl.fair_cluster).parameters
}
pytestmark = pytest.mark.filterwarnings("default")


def cluster(adata: AnnData, key: Any = "tech", **given: Any) -> Any:
    return sf.tl.fair_cluster(adata, key, 3, **(QUICK | given))


def duplicated(adata: AnnData) -> None:
    x = adata.X.tocsr()
    adata.X = sparse.csr_matrix((np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), x.indptr * 2), shape=x.shape)


def unsorted(adata: AnnData) -> None:
    x = adata.X
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(x.indptr, x.indptr[1:], strict=False)])
    adata.X = sparse.csr_matrix((x.data[order], x.indices[order], x.indptr), shape=x.shape)


def explicit_zeros(adata: AnnData) -> None:
    x = adata.X.toarray()
    full = sparse.csr_matrix(np.ones_like(x))
    full.data = x.ravel().copy()
    adata.X = full


def long_indices(adata: AnnData) -> None:
    adata.X.indices, adata.X.indptr = adata.X.indices.astype(np.int64), adata.X.indptr.astype(np.int64)


def read_only(adata: AnnData) -> None:
    for part in (adata.X.data, adata.X.indices, adata.X.indptr):
        part.flags.writeable = False


def as_memmap(adata: AnnData) -> None:
    x = adata.X.toarray()
    x.flags.writeable = False
    adata.X = x


def thousands_of_unused_categories(adata: AnnData) -> None:
    adata.obs["tech"] = adata.obs["tech"].cat.add_categories([f"unused{i}" for i in range(5000)])


def booleans(adata: AnnData) -> None:
    adata.obs["tech"] = adata.obs["tech"] == "tech1"


def nullable_strings(adata: AnnData) -> None:
    adata.obs["tech"] = adata.obs["tech"].astype("string")


def integers(adata: AnnData) -> None:
    adata.obs["tech"] = adata.obs["tech"].cat.codes.astype(np.int8)


def paths_for_levels(adata: AnnData) -> None:
    adata.obs["tech"] = adata.obs["tech"].cat.rename_categories(["10x/v2", "10x/v3"])


def column_named_by_a_number(adata: AnnData) -> None:
    adata.obs[0] = 1.0


def other_columns_twice(adata: AnnData) -> None:
    adata.obs = pd.concat([adata.obs, adata.obs[["cell_type"]]], axis=1)


def names_of_genes_twice(adata: AnnData) -> None:
    adata.var_names = ["gene"] * adata.n_vars


def names_of_cells_are_numbers(adata: AnnData) -> None:
    adata.obs_names = np.arange(adata.n_obs).astype(str)


def broken_record(adata: AnnData) -> None:
    adata.obs["fair_cluster"], adata.uns["fair_cluster"] = "0", "broken"


def neighbours_of_others(adata: AnnData) -> None:
    adata.uns["neighbors"] = {"connectivities_key": "gone"}


# What must not change the labels that the plain form of the same data gets.
SAME = [
    duplicated,
    unsorted,
    explicit_zeros,
    long_indices,
    read_only,
    as_memmap,
    thousands_of_unused_categories,
    booleans,
    nullable_strings,
    integers,
    paths_for_levels,
    column_named_by_a_number,
    other_columns_twice,
    names_of_genes_twice,
    names_of_cells_are_numbers,
    broken_record,
    neighbours_of_others,
]


@pytest.fixture(scope="module")
def small() -> AnnData:
    rng = np.random.default_rng(0)
    types, tech = np.arange(150) % 3, np.arange(150) // 3 % 2
    x = rng.poisson(1.0 + 4 * (np.arange(30) // 10 == types[:, None]), (150, 30)) + (
        rng.random((150, 30)) < 0.1 * tech[:, None]
    )
    obs = pd.DataFrame(
        {
            "tech": pd.Categorical.from_codes(tech, ["tech0", "tech1"]),
            "cell_type": pd.Categorical.from_codes(types, list("TBK")),
        },
        index=[f"cell{i}" for i in range(150)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(30)])
    return AnnData(sparse.csr_matrix(np.log1p(x).astype(np.float32)), obs=obs, var=var)


@pytest.fixture(scope="module")
def plain(small: AnnData) -> AnnData:
    done = small.copy()
    cluster(done)
    return done


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__)
def test_the_same_data_in_another_form(small: AnnData, plain: AnnData, change: Callable[[AnnData], None]) -> None:
    changed = small.copy()
    change(changed)
    cluster(changed)
    assert changed.obs["fair_cluster"].tolist() == plain.obs["fair_cluster"].tolist()


def view(adata: AnnData, _: Path) -> AnnData:
    return AnnData(sparse.vstack([adata.X, adata.X[:2]]).tocsr(), obs=pd.concat([adata.obs, adata.obs[:2]]))[:150]


def backed(adata: AnnData, path: Path) -> AnnData:
    adata.write_h5ad(path / "a.h5ad")
    return ad.read_h5ad(path / "a.h5ad", backed="r")


def by_columns(adata: AnnData, path: Path) -> AnnData:
    changed = adata.copy()
    changed.X = sparse.csc_matrix(adata.X)
    return backed(changed, path)


@pytest.mark.parametrize("place", [view, backed, by_columns], ids=lambda place: place.__name__)
def test_the_same_data_in_another_place(
    small: AnnData, plain: AnnData, tmp_path: Path, place: Callable[[AnnData, Path], AnnData]
) -> None:
    elsewhere = place(small, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of cells stand twice in what the view is of
        elsewhere.obs_names = small.obs_names
        cluster(elsewhere)
    assert elsewhere.obs["fair_cluster"].tolist() == plain.obs["fair_cluster"].tolist()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_a_file(plain: AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    plain.write_h5ad(path) if suffix == "h5ad" else plain.write_zarr(path)
    found = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    assert found.obs["fair_cluster"].tolist() == plain.obs["fair_cluster"].tolist()
    assert found.uns["fair_cluster"].keys() == plain.uns["fair_cluster"].keys()
    sf.tl.umap(found)
    assert np.isfinite(found.obsm["X_fair_cluster_umap"]).all()


REFUSED: list[tuple[str, Callable[[AnnData], Any], type[Exception], str]] = [
    (
        "a missing batch",
        lambda a: a.obs.__setitem__("tech", a.obs["tech"].where(np.arange(150) != 3)),
        ValueError,
        "position 3",
    ),
    ("one batch", lambda a: a.obs.__setitem__("tech", "a"), ValueError, "single group"),
    ("depth for a batch", lambda a: a.obs.__setitem__("tech", np.arange(150.0)), ValueError, "measurement"),
    (
        "columns twice",
        lambda a: setattr(a, "obs", pd.concat([a.obs] * 2, axis=1)),
        ValueError,
        "2 columns of that name",
    ),
    ("cells twice", lambda a: setattr(a, "obs_names", ["a"] * 150), ValueError, "obs_names has duplicates"),
    ("scaled", lambda a: setattr(a, "X", a.X.toarray() - 1), ValueError, "negative values .*keep the log-normalised"),
    ("text", lambda a: a.layers.__setitem__("x", np.full(a.shape, "a")), TypeError, "must hold numbers, not <U1"),
    (
        "infinite",
        lambda a: a.X.data.__setitem__(0, np.inf),
        ValueError,
        "NaN or infinite values .*position 0, column 'gene",
    ),
    ("nothing", lambda a: setattr(a, "X", a.X * 0), ValueError, "no value other than 0"),
]


@pytest.mark.parametrize(("change", "error", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_refused(small: AnnData, change: Callable[[AnnData], Any], error: type[Exception], message: str) -> None:
    changed = small.copy()
    change(changed)
    fields = (list(changed.obs), list(changed.obsm), list(changed.uns))
    with pytest.raises(error, match=message):
        cluster(changed, layer="x" if "x" in changed.layers else None)
    assert (list(changed.obs), list(changed.obsm), list(changed.uns)) == fields


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"key": "a/b"}, ValueError, "key='a/b' cannot be a name in a file"),
        ({"key": "none"}, KeyError, "has no 'X_none'"),
        ({"n_neighbors": 1}, ValueError, "n_neighbors=1 must be at least 2"),
        ({"n_neighbors": 2.5}, TypeError, r"n_neighbors=2\.5 must be an integer"),
        ({"min_dist": -1}, ValueError, "min_dist=-1 must be between 0 and 1"),
        ({"min_dist": float("nan")}, ValueError, "min_dist=nan"),
        ({"random_state": -1}, ValueError, "random_state=-1"),
        ({"random_state": 2**64}, ValueError, "random_state=18446744073709551616"),
    ],
)
def test_a_map_that_cannot_be_drawn(
    plain: AnnData, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sf.tl.umap(plain, **given)
    assert "X_fair_cluster_umap" not in plain.obsm


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (np.full((150, 2), np.nan), r"adata\.obsm\['X_fair_cluster'\] has NaN .*column 0"),
        (np.empty((150, 0)), r"adata\.obsm\['X_fair_cluster'\] has no columns"),
    ],
)
def test_a_map_of_what_is_no_embedding(plain: AnnData, entry: np.ndarray, message: str) -> None:
    broken = plain.copy()
    broken.obsm["X_fair_cluster"] = entry
    with pytest.raises(ValueError, match=message):
        sf.tl.umap(broken)


def test_groups_of_a_later_file_are_the_same_groups(small: AnnData) -> None:
    """0 and 1 have become 0.0 and 1.0, as a table with a gap somewhere does to them."""
    first, later = small.copy(), small.copy()
    integers(first)
    later.obs["tech"] = first.obs["tech"].astype(float)
    found = [sf.tl.evaluate(a, "cell_type", "tech", label_key="cell_type").summary for a in (first, later)]
    pd.testing.assert_frame_equal(*found)
    with_float = cluster(later, copy=True).uns["fair_cluster"]["metrics"]
    assert with_float == cluster(first, copy=True).uns["fair_cluster"]["metrics"]
