"""The picture of a diagnosis: a tile per cluster and group, in the colour of its status."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData

import scfcmi as sf
from scfcmi.pl._diagnose import STATUS_COLORS

STATUS = np.array([["shared", "shared"], ["own", "absent"], ["split", "own"], ["forced", "own"], ["unclear", "own"]])


def make_diagnosed(n_clusters: int = 5, n_groups: int = 2) -> AnnData:
    adata = AnnData(np.zeros((2, 2), np.float32))
    status = np.resize(STATUS, (n_clusters, n_groups)).astype(object)
    adata.uns["leiden_diagnosis"] = {
        "sensitive_key": "tech",
        "clusters": np.array([str(k) for k in range(n_clusters)], dtype=object),
        "groups": np.array([f"t{g}" for g in range(n_groups)], dtype=object),
        "cluster_status": np.resize(np.array(["shared", "specific", "split", "forced", "unclear"]), n_clusters),
        "n_cells": np.arange(n_clusters * n_groups).reshape(n_clusters, n_groups),
        "status": status,
        "counterpart": np.where(status == "split", "3", "").astype(object),
    }
    return adata


def test_every_status_has_its_colour_and_its_number() -> None:
    ax = sf.pl.diagnose(make_diagnosed(), "leiden", show=False)
    assert ax is not None
    (tiles,) = ax.collections
    assert [mpl.colors.to_hex(color) for color in tiles.get_facecolor()] == [STATUS_COLORS[s] for s in STATUS.ravel()]
    assert [text.get_text() for text in ax.texts][:6] == ["0", "1", "2", "3", "4 → 3", "5"]
    assert ax.get_title(loc="left") == "5 clusters: 1 shared, 1 specific, 1 split, 1 forced, 1 unclear"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tech", "leiden")


def test_large_tables_are_colours_alone() -> None:
    ax = sf.pl.diagnose(make_diagnosed(60, 40), "leiden", show=False)
    assert ax is not None
    assert not ax.texts
    assert len(ax.collections[0].get_paths()) == 60 * 40
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) == 40
    assert all(a.x1 <= b.x0 + 1 for a, b in zip(boxes[:-1], boxes[1:], strict=True)), "names touch"


def test_it_draws_into_given_axes() -> None:
    _, ax = plt.subplots()
    assert sf.pl.diagnose(make_diagnosed(), "leiden", ax=ax, show=False) is ax


def test_a_missing_diagnosis_is_named() -> None:
    with pytest.raises(KeyError, match=r"Run `scfcmi.tl.diagnose\(adata, 'leiden'\)` first"):
        sf.pl.diagnose(AnnData(np.zeros((2, 2), np.float32)), "leiden")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"status": np.full((2, 2), "shared")}, "its tables do not go with"),
        ({"status": np.full((5, 2), "nonsense")}, "its tables do not go with"),
        ({"clusters": True}, "its tables do not go with"),
        ({"groups": "ab"}, "its tables do not go with"),
        ({"cluster_status": float("nan")}, "its tables do not go with"),
        ({"cluster_status": None}, r"it lacks \['cluster_status'\]"),
    ],
)
def test_a_damaged_diagnosis(change: dict, match: str) -> None:
    adata = make_diagnosed()
    adata.uns["leiden_diagnosis"] = {
        name: value for name, value in (adata.uns["leiden_diagnosis"] | change).items() if value is not None
    }
    with pytest.raises(ValueError, match=rf"'leiden_diagnosis'\] is damaged: {match}"):
        sf.pl.diagnose(adata, "leiden")
    assert not plt.get_fignums()
