"""Scores of a column of `obs`."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scfcmi.metrics import cluster_composition, clustering_scores
from scfcmi.tl import Evaluation, evaluate

FAIR = ["n_cells", "n_clusters", "mnce", "balance", "nce"]
LABELLED = ["nmi", "ari", "acc", "f_beta", "conditional_fairness"]


@pytest.fixture
def clustered(adata: AnnData) -> AnnData:
    codes = adata.obs["cell_type"].cat.codes.to_numpy().copy()
    codes[::7] = 3
    adata.obs["mine"] = pd.Categorical(codes.astype(str), categories=["0", "1", "2", "3", "unused"])
    return adata


def test_without_labels(clustered: AnnData) -> None:
    result = evaluate(clustered, "mine", "tech")
    assert isinstance(result, Evaluation)
    summary, per_cluster = result
    assert list(summary.columns) == FAIR
    assert list(summary.index) == ["mine"]
    assert summary.loc["mine", "n_cells"] == 300
    assert summary.loc["mine", "n_clusters"] == len(per_cluster) == 4
    pd.testing.assert_frame_equal(per_cluster, cluster_composition(clustered.obs["mine"], clustered.obs["tech"]))


def test_with_labels(clustered: AnnData) -> None:
    summary = evaluate(clustered, "mine", "tech", label_key="cell_type", beta=2.0).summary
    assert list(summary.columns) == FAIR + LABELLED
    obs = clustered.obs
    expected = clustering_scores(obs["mine"], obs["tech"], obs["cell_type"], beta=2.0)
    assert summary.loc["mine", list(expected)].to_dict() == pytest.approx(expected)


def test_summaries_can_be_put_together(clustered: AnnData) -> None:
    rows = [evaluate(clustered, key, "tech", label_key="cell_type").summary for key in ("mine", "cell_type")]
    both = pd.concat(rows)
    assert list(both.index) == ["mine", "cell_type"]
    assert both.loc["cell_type", "nmi"] == pytest.approx(1)
    assert both.loc["cell_type", "conditional_fairness"] == 1


def test_nothing_is_written(clustered: AnnData) -> None:
    before = clustered.copy()
    evaluate(clustered, "mine", "tech", label_key="cell_type")
    pd.testing.assert_frame_equal(clustered.obs, before.obs)
    assert not clustered.uns
    assert not clustered.obsm


def test_views_and_backed_data(clustered: AnnData, tmp_path: Path) -> None:
    view = clustered[clustered.obs["cell_type"] != "type2"]
    expected = evaluate(view.copy(), "mine", "tech").summary
    pd.testing.assert_frame_equal(evaluate(view, "mine", "tech").summary, expected)
    assert view.is_view
    view.copy().write_h5ad(tmp_path / "some.h5ad")
    backed = ad.read_h5ad(tmp_path / "some.h5ad", backed="r")
    pd.testing.assert_frame_equal(evaluate(backed, "mine", "tech").summary, expected)
    backed.file.close()


@pytest.mark.parametrize("argument", ["cluster_key", "sensitive_key", "label_key"])
def test_missing_column_is_named(clustered: AnnData, argument: str) -> None:
    keys = {"cluster_key": "mine", "sensitive_key": "tech", "label_key": "cell_type"} | {argument: "nowhere"}
    with pytest.raises(KeyError, match=rf"{argument}='nowhere' is not a column of adata.obs.*tech"):
        evaluate(clustered, **keys)


def test_missing_value_is_placed(clustered: AnnData) -> None:
    clustered.obs["mine"] = clustered.obs["mine"].where(np.arange(300) != 5)
    with pytest.raises(ValueError, match=r"cluster_key='mine' has 1 missing.*'cell5'.*notna\(\)"):
        evaluate(clustered, "mine", "tech", label_key="cell_type")


def test_cells_without_a_label(clustered: AnnData) -> None:
    clustered.obs["mine"] = np.arange(300) % 7
    known = np.arange(300) % 4 > 0
    whole = evaluate(clustered, "mine", "tech", label_key="cell_type").summary
    assert "n_labelled" not in whole
    clustered.obs["cell_type"] = clustered.obs["cell_type"].where(known)
    found = evaluate(clustered, "mine", "tech", label_key="cell_type").summary.iloc[0]
    labelled = evaluate(clustered[known], "mine", "tech", label_key="cell_type").summary.iloc[0]
    assert (found["n_cells"], found["n_labelled"]) == (300, 225)
    for name in ("nmi", "ari", "acc", "conditional_fairness"):
        assert found[name] == labelled[name]
    for name in ("mnce", "nce", "balance"):
        assert found[name] == whole[name].iloc[0]
    clustered.obs["cell_type"] = None
    with pytest.raises(ValueError, match="label_key='cell_type' has no values"):
        evaluate(clustered, "mine", "tech", label_key="cell_type")


def test_single_group_and_no_cells(clustered: AnnData) -> None:
    with pytest.raises(ValueError, match=r"sensitive_key='tech' has a single value, 'tech0'"):
        evaluate(clustered[clustered.obs["tech"] == "tech0"], "mine", "tech")
    with pytest.raises(ValueError, match="no cells"):
        evaluate(clustered[:0], "mine", "tech")
