"""The knob from clustering alone to independence: what the table says, and that the knob turns something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import scfcmi as sf
from scfcmi.published import NetworkOptions


def run(adata: AnnData, fairness: Sequence[float] | None = (0, 0.5, 1), **settings: object) -> pd.DataFrame:
    options = {"n_clusters": 3, "progress_bar": False, "device": "cpu"} | settings
    return sf.tl.tradeoff(adata, "tech", fairness=fairness, **options)


def test_fairness_rises_with_the_knob_and_agreement_starts_at_one(adata: AnnData) -> None:
    frame = run(adata, label_key="cell_type")
    assert frame["fairness"].tolist() == [0, 0.5, 1]
    assert frame["agreement_ari"].iloc[0] == frame["agreement_nmi"].iloc[0] == 1
    assert (frame["nce"].diff().dropna() > -0.02).all()
    assert frame[["nmi", "ari", "conditional_fairness"]].notna().all(axis=None)


def test_a_row_is_what_clustering_alone_gives(adata: AnnData) -> None:
    frame = run(adata, (0.5,))
    sf.tl.fair_cluster(adata, "tech", 3, fairness=0.5, progress_bar=False, device="cpu")
    assert frame["fairness"].tolist() == [0.5]
    assert frame["nce"].iloc[0] == adata.uns["fair_cluster"]["metrics"]["nce"]


def test_values_are_sorted_and_asked_once(adata: AnnData) -> None:
    assert run(adata, (1, 0, 1))["fairness"].tolist() == [0, 1]


def test_the_number_of_clusters_is_chosen_once(adata: AnnData) -> None:
    frame = run(adata, (0, 0.5), n_clusters=None)
    assert frame["n_clusters"].nunique() == 1


def test_nothing_is_written(adata: AnnData) -> None:
    columns = list(adata.obs)
    assert "nmi" not in run(adata, (0.5,))
    assert list(adata.obs) == columns
    assert not adata.uns and not adata.obsm


@pytest.mark.parametrize("fairness", [(), (0.5, 1.5), (-0.1,), (float("nan"),)])
def test_values_out_of_range_are_refused(adata: AnnData, fairness: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="between 0|has no values"):
        run(adata, fairness)


def test_weights_of_the_published_loss(adata: AnnData) -> None:
    network = NetworkOptions(max_epochs=3, warmup_epochs=1)
    frame = run(adata, None, preset="paper", beta=(0.2, 0), network=network)
    assert frame["beta"].tolist() == [0, 0.2]
    assert "fairness" not in frame
    assert frame["agreement_ari"].iloc[0] == 1
    alone = run(adata, None, preset="paper", alpha=(0.04,), network=network)
    assert alone["alpha"].tolist() == [0.04]
    assert alone["nce"].iloc[0] == frame["nce"].iloc[1]  # both are the published weights


def test_one_knob_at_a_time(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="either fairness or beta"):
        run(adata, beta=(0, 1), preset="paper")
    with pytest.raises(ValueError, match="alpha is a weight of the published loss"):
        run(adata, None, alpha=(0, 1))
    with pytest.raises(ValueError, match="preset='best'"):
        run(adata, preset="best")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pancreas_panc8_nebula_1k", "pbmc_10x_3tech_symphony"])
def test_the_knob_is_useful_on_real_data(data_dir: Path, name: str) -> None:
    adata = ad.read_h5ad(data_dir / f"{name}.h5ad")
    adata.obs_names_make_unique()
    if name.startswith("pancreas"):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    n_types = adata.obs["cell_type"].nunique()
    frame = sf.tl.tradeoff(
        adata, "batch", n_types, fairness=(0, 0.5, 1), label_key="cell_type", device="cpu", progress_bar=False
    )
    # The weight acts on the proportions of components, whose information about groups falls with it; clusters follow,
    # but not step by step.
    information = [
        sf.model.FCMI(fairness=value, device="cpu", progress_bar=False)
        .fit(adata.X, adata.obs["batch"].to_numpy())
        .history_["i_gc"][-1]
        for value in (0, 0.5, 1)
    ]
    assert information == sorted(information, reverse=True) and information[0] > information[-1]
    # Where clusters are nearly independent of the groups without any weight, there is no more than noise to gain.
    assert frame["nce"].iloc[1:].max() >= min(frame["nce"].iloc[0], 0.98)
    assert frame["n_clusters"].eq(n_types).all()
    # Types are unevenly spread over the technologies of the pancreas: full independence costs agreement there.
    least = 0.6 if name.startswith("pancreas") else 0.8
    assert frame["ari"].iloc[-1] > least * frame["ari"].iloc[1]
