"""Which clusters are shared, forced, split or specific: cases where the answer is known."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfcmi as sf


def make_types(n_per: int = 50, drop: tuple[tuple[int, int], ...] = (), seed: int = 0) -> AnnData:
    """Four types seen by two technologies, in 20 dimensions; `drop` names (type, technology) pairs that are not there.

    `obsm["X_rep"]` is a representation in which technologies differ by one shift.
    """
    rng = np.random.default_rng(seed)
    centre = 8 * np.linalg.qr(rng.normal(size=(20, 20)))[0][:4]
    parts = [(k, g) for k in range(4) for g in range(2) if (k, g) not in drop]
    kind, tech = np.repeat(np.array(parts), n_per, axis=0).T
    rep = centre[kind] + rng.normal(size=(len(kind), 20)) + np.outer(tech, rng.normal(size=20))
    obs = pd.DataFrame({"type": kind.astype(str), "tech": np.array(["a", "b"])[tech]})
    obs.index = "cell" + obs.index.astype(str)
    return AnnData(np.ones((len(kind), 2), np.float32), obs=obs, obsm={"X_rep": rep.astype(np.float32)})


def diagnose(adata: AnnData, key: str) -> sf.tl.Diagnosis:
    return sf.tl.diagnose(adata, key, "tech", use_rep="X_rep")


def test_types_seen_by_both_groups_are_shared() -> None:
    found = diagnose(make_types(), "type")
    assert (found.clusters["status"] == "shared").all()
    assert (found.groups["status"] == "shared").all()
    assert (found.clusters["forced"] == 0).all()
    assert found.overall.startswith("4 of 4 clusters are shared")


def test_a_type_deleted_from_one_group_is_specific_to_the_other() -> None:
    found = diagnose(make_types(drop=((2, 1),)), "type")
    assert found.clusters.loc["2", "status"] == "specific"
    assert found.clusters.loc["2", "absent"] == "b"
    assert found.groups.loc[("2", "b"), "status"] == "absent"
    assert (found.clusters.drop(index="2")["status"] == "shared").all()
    assert "b (0 cells" in found.clusters.loc["2", "verdict"]


def test_two_types_forced_into_one_cluster_are_found() -> None:
    adata = make_types(drop=((2, 1), (3, 0)))
    adata.obs["joined"] = adata.obs["type"].replace("3", "2")
    found = diagnose(adata, "joined")
    assert found.clusters.loc["2", "status"] == "forced"
    assert found.clusters.loc["2", "forced"] >= 40
    assert found.pairs.loc[("2", "b", "a"), "supported"] < 0.2
    assert found.pairs.loc[("0", "b", "a"), "supported"] > 0.8
    assert (found.clusters.drop(index="2")["status"] == "shared").all()


def test_a_type_split_by_group_names_its_counterpart() -> None:
    adata = make_types()
    adata.obs["split"] = np.where(adata.obs["type"] == "1", "1" + adata.obs["tech"], adata.obs["type"])
    found = diagnose(adata, "split")
    assert found.groups.loc[("1a", "b"), ["status", "counterpart"]].tolist() == ["split", "1b"]
    assert found.groups.loc[("1b", "a"), ["status", "counterpart"]].tolist() == ["split", "1a"]
    assert "b is in cluster 1b" in found.clusters.loc["1a", "verdict"]


def test_a_cluster_of_few_cells_is_not_judged() -> None:
    adata = make_types()
    adata.obs["few"] = adata.obs["type"].where(np.arange(adata.n_obs) >= 2, "tiny")
    assert diagnose(adata, "few").clusters.loc["tiny", "status"] == "unclear"


def test_counts_are_those_of_all_cells() -> None:
    adata = make_types(drop=((2, 1),))
    found = diagnose(adata, "type")
    expected = pd.crosstab(adata.obs["type"], adata.obs["tech"])
    assert found.groups["n_cells"].unstack().to_numpy().tolist() == expected.to_numpy().tolist()
    assert found.clusters["n_cells"].sum() == adata.n_obs


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_the_summary_survives_files(tmp_path: Path, suffix: str) -> None:
    adata = make_types(drop=((2, 1),))
    found = diagnose(adata, "type")
    path = tmp_path / f"cells.{suffix}"
    if suffix == "h5ad":
        adata.write_h5ad(path)
        back = ad.read_h5ad(path)
    else:
        with ad.settings.override(zarr_write_format=3):
            adata.write_zarr(path)
        back = ad.read_zarr(path)
    summary = back.uns["type_diagnosis"]
    assert summary["overall"] == found.overall
    assert summary["verdict"].tolist() == found.clusters["verdict"].tolist()
    assert np.asarray(summary["status"]).ravel().tolist() == found.groups["status"].tolist()
    np.testing.assert_array_equal(summary["n_cells"].ravel(), found.groups["n_cells"])
    drawn, before = (sf.pl.diagnose(one, "type", show=False) for one in (back, adata))
    assert drawn.get_title(loc="left") == before.get_title(loc="left") != ""
    assert [text.get_text() for text in drawn.texts] == [text.get_text() for text in before.texts]


def test_what_the_run_used_is_the_default() -> None:
    adata = make_types()
    adata.uns["type"] = {"params": {"sensitive_key": "tech", "use_rep": "X_rep"}}
    pd.testing.assert_frame_equal(sf.tl.diagnose(adata, "type").clusters, diagnose(adata, "type").clusters)


def test_expression_works_and_only_uns_changes(adata: AnnData) -> None:
    before = adata.copy()
    found = sf.tl.diagnose(adata, "cell_type", "tech")
    assert (found.clusters["status"] == "shared").all()
    assert set(adata.uns) == {"cell_type_diagnosis"}
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(before.obsm)


def test_a_view_becomes_an_object_of_its_own(adata: AnnData) -> None:
    view = adata[:200]
    sf.tl.diagnose(view, "cell_type", "tech")
    assert "cell_type_diagnosis" in view.uns
    assert "cell_type_diagnosis" not in adata.uns


def test_mistakes_are_named(adata: AnnData) -> None:
    with pytest.raises(KeyError, match="Run `scfcmi.tl.fair_cluster` first"):
        sf.tl.diagnose(adata)
    with pytest.raises(ValueError, match="Name a column of obs with `sensitive_key`"):
        sf.tl.diagnose(adata, "cell_type")
    with pytest.raises(KeyError, match="sensitive_key='batch' is not a column"):
        sf.tl.diagnose(adata, "cell_type", "batch")
    adata.obs.loc["cell3", "cell_type"] = np.nan
    with pytest.raises(ValueError, match="1 missing values, the first in cell 'cell3'"):
        sf.tl.diagnose(adata, "cell_type", "tech")
    assert not adata.uns
