"""Names of clusters by those of another clustering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scfcmi.tl import match


def labelled(**columns: str) -> AnnData:
    obs = pd.DataFrame({name: pd.Categorical(list(letters)) for name, letters in columns.items()})
    return AnnData(obs=obs.set_index("cell" + obs.index.astype(str)))


def test_the_same_clusters_get_the_same_names_in_any_order() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0, 5, 200)
    adata = AnnData(
        obs=pd.DataFrame({"old": old.astype(str), "new": rng.permutation(5)[old]}, index=map(str, range(200)))
    )
    adata.obs["new"] = adata.obs["new"].astype(str)
    frame = match(adata, "new", "old")
    assert adata.obs["new_matched"].astype(str).tolist() == adata.obs["old"].tolist()
    assert (frame["overlap"] == 1).all() and (frame["name"] == frame["reference"]).all()


def test_more_clusters_than_names_are_numbered() -> None:
    adata = labelled(new="000011223", old="TTTTTTBBB")
    frame = match(adata, "new", "old")
    assert frame["name"].tolist() == ["T", "T 2", "B"] + ["B 2"]
    assert frame["n_shared"].tolist() == [4, 2, 2, 1]
    assert frame["overlap"].tolist() == pytest.approx([4 / 6, 2 / 6, 2 / 3, 1 / 3])
    assert adata.obs["new_matched"].nunique() == 4


def test_numbers_that_are_taken_are_not_given_again() -> None:
    adata = AnnData(obs=pd.DataFrame({"new": list("aabc"), "old": ["T", "T", "T", "T 2"]}, index=list("wxyz")))
    assert match(adata, "new", "old")["name"].tolist() == ["T", "T 3", "T 2"]


def test_fewer_clusters_than_names() -> None:
    adata = labelled(new="0000111", old="AAABBBC")
    assert match(adata, "new", "old")["name"].tolist() == ["A", "B"]


def test_cells_without_a_name_do_not_count() -> None:
    adata = labelled(new="0011122", old="AABBB..")
    adata.obs["old"] = adata.obs["old"].cat.remove_categories(".")
    frame = match(adata, "new", "old")
    assert frame.loc["2", ["name", "reference", "n_shared"]].tolist() == ["2", "", 0]


def test_where_it_is_written() -> None:
    adata = labelled(new="0011", old="BBAA")
    copied = match(adata, "new", "old", key_added="mine", copy=True)
    assert list(adata.obs) == ["new", "old"]
    assert isinstance(copied, AnnData) and list(copied.obs["mine"]) == list("BBAA")
    match(adata, "new", "old", key_added="mine")
    adata.uns["mine_colors"] = ["#000000"] * 2
    match(adata, "new", "old", key_added="mine")
    assert "mine_colors" not in adata.uns
    view = adata[:2]
    match(view, "new", "old")
    assert "new_matched" not in adata.obs and list(view.obs["new_matched"]) == ["B", "B"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": "absent"}, KeyError, "key='absent'"),
        ({"reference_key": "absent"}, KeyError, "reference_key='absent'"),
        ({"reference_key": None}, ValueError, "reference_key must name"),
        ({"key_added": "old"}, ValueError, "would overwrite"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' cannot be a name"),
        ({"key": "holes"}, ValueError, "key='holes' has 1 missing"),
        ({"reference_key": "none"}, ValueError, "has no values"),
    ],
)
def test_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    adata = labelled(new="0011", old="BBAA")
    adata.obs["holes"], adata.obs["none"] = ["a", None, "b", "b"], np.nan
    columns = list(adata.obs)
    with pytest.raises(error, match=message):
        match(adata, **({"key": "new", "reference_key": "old"} | arguments))
    assert list(adata.obs) == columns
