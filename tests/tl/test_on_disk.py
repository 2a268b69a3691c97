"""AnnData whose matrix stays on disk or lazy: the same results as in memory, and few passes over the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scfcmi import pl, report
from scfcmi.source import MatrixSource
from scfcmi.source._storage import Storage
from scfcmi.tl import evaluate, fair_cluster

QUICK: dict[str, Any] = {"progress_bar": False, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def atlas(adata: AnnData) -> AnnData:
    adata.var["highly_variable"] = np.arange(adata.n_vars) % 5 > 0
    adata.layers["columns"] = sparse.csc_matrix(adata.X)
    adata.layers["dense"] = adata.X.toarray()
    adata.obsm["X_some"] = np.random.default_rng(0).normal(size=(300, 6)) + 4 * np.eye(6)[np.arange(300) % 3]
    adata.obs["n"] = np.arange(300.0)
    return adata


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def backed(atlas: AnnData, folder: Path, closing: ExitStack) -> AnnData:
    atlas.write_h5ad(folder / "a.h5ad")
    opened = ad.read_h5ad(folder / "a.h5ad", backed="r")
    closing.callback(opened.file.close)
    return opened


def lazy(suffix: str) -> Callable[[AnnData, Path, ExitStack], AnnData]:
    def make(atlas: AnnData, folder: Path, closing: ExitStack) -> AnnData:
        for library in ("dask", "xarray"):
            pytest.importorskip(library)
        path = folder / f"a.{suffix}"
        atlas.write_h5ad(path) if suffix == "h5ad" else atlas.write_zarr(path)
        return ad.experimental.read_lazy(path)

    return make


KINDS = {"backed": backed, "lazy h5ad": lazy("h5ad"), "lazy zarr": lazy("zarr")}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("matrix", [{}, {"layer": "columns"}, {"layer": "dense"}, {"use_rep": "X_some"}], ids=str)
def test_same_as_in_memory(
    kind: str, matrix: dict[str, str], atlas: AnnData, tmp_path: Path, closing: ExitStack
) -> None:
    want = fair_cluster(atlas, "tech", 3, label_key="cell_type", copy=True, **matrix, **QUICK)
    opened = KINDS[kind](atlas, tmp_path, closing)
    fair_cluster(opened, "tech", 3, label_key="cell_type", **matrix, **QUICK)
    found = opened if kind == "backed" else opened.to_memory()
    pd.testing.assert_series_equal(found.obs["fair_cluster"], want.obs["fair_cluster"], check_names=False)
    for key in ("X_fair_cluster", "fair_cluster_proba"):
        np.testing.assert_allclose(found.obsm[key], want.obsm[key], atol=1e-5)
    own = found.obsm["fair_cluster_proba"][np.arange(300), found.obs["fair_cluster"].astype(int)]
    np.testing.assert_array_equal(found.obs["fair_cluster_confidence"], own)
    assert found.uns["fair_cluster"]["metrics"] == pytest.approx(want.uns["fair_cluster"]["metrics"])
    assert type(opened.X) is not sparse.csr_matrix


def test_lazy_again_and_scored(atlas: AnnData, tmp_path: Path, closing: ExitStack) -> None:
    opened = lazy("zarr")(atlas, tmp_path, closing)
    fair_cluster(opened, "tech", 3, n_init=2, **QUICK)
    assert "fair_cluster_stability" in opened.obs
    fair_cluster(opened, "tech", 3, **QUICK)
    assert "fair_cluster_stability" not in opened.obs
    fair_cluster(atlas, "tech", 3, **QUICK)
    a, b = (evaluate(x, "fair_cluster", "tech", label_key="cell_type").summary for x in (opened, atlas))
    pd.testing.assert_frame_equal(a, b)


def test_lazy_copy_leaves_the_original(atlas: AnnData, tmp_path: Path, closing: ExitStack) -> None:
    opened = lazy("h5ad")(atlas, tmp_path, closing)
    copied = fair_cluster(opened, "tech", 3, copy=True, **QUICK)
    assert "fair_cluster" in copied.obs and "fair_cluster" not in opened.obs


def test_a_view_of_backed_data_is_refused_at_once(atlas: AnnData, tmp_path: Path, closing: ExitStack) -> None:
    view = backed(atlas, tmp_path, closing)[:100]
    with pytest.raises(ValueError, match=r"view of backed data.*to_memory"):
        fair_cluster(view, "tech", 3, **QUICK)


def test_few_passes_over_the_file(
    atlas: AnnData, tmp_path: Path, closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read in strips, and the number of times that all are read does not grow with what is found in them."""
    read: list[tuple[int, int]] = []

    def counted(self: Storage, first: int, last: int, original: Any = Storage.read) -> Any:
        if not self.in_memory:
            read.append((first, last))
        return original(self, first, last)

    monkeypatch.setattr(MatrixSource, "chunk_size", 64)
    opened = backed(atlas, tmp_path, closing)
    monkeypatch.setattr(Storage, "read", counted)
    fair_cluster(opened, "tech", **QUICK)
    walk = [(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)]
    assert set(read) <= set(walk), "rows were read one by one"
    assert len(read) <= 4 * len(walk)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(np.nan, r"NaN or infinite.*position 250"), (-1.0, "negative values")],
    ids=["nan", "negative"],
)
def test_bad_values_on_disk_leave_it_as_it_was(
    spoil: float, message: str, atlas: AnnData, tmp_path: Path, closing: ExitStack
) -> None:
    atlas.X = atlas.layers["dense"].copy()
    atlas.X[250, 1] = spoil
    opened = backed(atlas, tmp_path, closing)
    with pytest.raises(ValueError, match=message):
        fair_cluster(opened, "tech", 3, **QUICK)
    assert list(opened.obs) == list(atlas.obs) and list(opened.obsm) == ["X_some"] and not opened.uns


def test_cells_without_selected_genes_warn(atlas: AnnData, tmp_path: Path, closing: ExitStack) -> None:
    x = atlas.layers["dense"].copy()
    x[[7, 200], :] *= ~atlas.var["highly_variable"].to_numpy()
    x[[7, 200], 0] = 1
    atlas.X = sparse.csr_matrix(x)
    opened = backed(atlas, tmp_path, closing)
    with pytest.warns(UserWarning, match=r"2 cells without counts in the genes in use \(first at position 7\)"):
        fair_cluster(opened, "tech", 3, **QUICK)


@pytest.mark.parametrize("kind", list(KINDS))
def test_figures_and_page_are_those_of_memory(kind: str, atlas: AnnData, tmp_path: Path, closing: ExitStack) -> None:
    opened = KINDS[kind](atlas, tmp_path, closing)
    drawn = []
    for adata in (opened, atlas):
        model = fair_cluster(adata, "tech", 3, return_model=True, **QUICK)
        gene = str(adata.var_names[1])
        points = pl.umap(adata, gene, show=False).collections[0]
        measured = pl.counterfactual(adata, model=model, genes=[gene], show=False)[0].images[0].get_array()
        report(adata, tmp_path / "page.html")
        verdict = (tmp_path / "page.html").read_text().partition('<ul class="verdicts">')[2].partition("</ul>")[0]
        verdict = re.sub(r"\d\d:\d\d UTC", "", verdict)  # the minute may be another
        drawn.append((points.get_facecolor(), measured, verdict))
    (colors, values, words), (colors_, values_, words_) = drawn
    np.testing.assert_allclose(np.sort(colors, axis=0), np.sort(colors_, axis=0), atol=1e-6)
    np.testing.assert_allclose(values, values_, atol=1e-6)
    assert words == words_ != ""
