"""Two clusterings side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.patches import PathPatch, Rectangle

import scfcmi as sf


@pytest.fixture
def pair() -> AnnData:
    """Cluster `a` falls into two types, the others are one each."""
    obs = pd.DataFrame({"mine": list("aaaaabbbcc"), "theirs": list("xxxyyzzzww")}, index=[f"c{i}" for i in range(10)])
    return AnnData(obs=obs)


def test_ribbons_are_as_wide_as_their_cells(pair: AnnData) -> None:
    ax = sf.pl.compare(pair, "mine", "theirs", palette={"a": "red", "b": "lime", "c": "blue"})
    assert ax is not None
    ribbons = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    blocks = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    widths = [np.ptp(ribbon.get_path().vertices[[0, 7], 1]) for ribbon in ribbons]
    np.testing.assert_allclose(np.array(widths) / sum(widths), [0.3, 0.2, 0.3, 0.2])
    assert [tuple(ribbon.get_facecolor()[:3]) for ribbon in ribbons] == [(1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len(blocks) == 3 + 4
    assert {text.get_text() for text in ax.texts} == {
        "a  5",
        "b  3",
        "c  2",
        "x  3",
        "y  2",
        "z  3",
        "w  2",
        "mine",
        "theirs",
    }
    assert ax.get_title() == "mine and theirs: ARI 0.65"


def test_matched_clusters_are_on_the_diagonal(pair: AnnData) -> None:
    ax = sf.pl.compare(pair, "mine", "theirs", kind="confusion")
    assert ax is not None
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "z", "w"]
    share = np.asarray(ax.collections[0].get_array()).reshape(3, 4)
    np.testing.assert_allclose(share, [[0.6, 0.4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("kind", ["alluvial", "confusion"])
def test_cells_without_either_are_left_out(pair: AnnData, kind: str) -> None:
    pair.obs.loc["c0", "theirs"] = np.nan
    ax = sf.pl.compare(pair, "mine", "theirs", kind=kind)  # type: ignore[arg-type]
    assert ax is not None
    assert "1 cells without either left out" in ax.get_title()


def test_a_clustering_with_itself(pair: AnnData) -> None:
    ax = sf.pl.compare(pair, "mine", "mine")
    assert ax is not None and ax.get_title().endswith("ARI 1.00")


def test_refused(pair: AnnData) -> None:
    with pytest.raises(ValueError, match="kind='venn'"):
        sf.pl.compare(pair, "mine", "theirs", kind="venn")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="key_b='nothing'"):
        sf.pl.compare(pair, "mine", "nothing")
    pair.obs["half"] = np.where(pair.obs["mine"] == "a", None, "x")
    pair.obs["other"] = np.where(pair.obs["mine"] == "a", "x", None)
    with pytest.raises(ValueError, match="No cell has both 'half' and 'other'"):
        sf.pl.compare(pair, "half", "other")
