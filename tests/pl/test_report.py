"""The page on a run: complete, self-contained, and safe whatever things are called."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from anndata import AnnData

from scfcmi._report import report


class Reader(HTMLParser):
    """Text, links, pictures and open tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open, self.sources, self.ids, self.links = "", [], [], [], []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        self.sources += [given[name] for name in ("src",) if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_the_page_is_complete_and_loads_nothing(run: AnnData, tmp_path: Path) -> None:
    report(run, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert page.links == [f"#{name}" for name in page.ids]
    assert len(page.sources) == 9
    for source in page.sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        picture = base64.b64decode(data).decode("utf-8")
        assert picture.startswith("<?xml")
        assert not re.findall(r'(?:href|src)="https?://', picture)
    assert not re.findall(r'(?:src|href)="https?:', (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not plt.get_fignums()


def test_the_page_says_what_was_found_in_words(run: AnnData, tmp_path: Path) -> None:
    run.obs.loc[(run.obs["fair_cluster"] == "1").to_numpy(), "tech"] = "tech0"
    report(run, tmp_path / "page.html", title="My cells")
    text = read(tmp_path / "page.html").text
    assert "My cells" in text
    assert "600 cells are in 6 clusters, a number found from the data." in text
    assert "Cluster 1 is the least mixed: its groups of tech have 0% of the entropy" in text
    assert f"Diagnosis: {run.uns['fair_cluster_diagnosis']['overall']}" in text
    assert f"{int(run.obs['fair_cluster_unlike'].sum())} cells are unlike everything" in text
    assert "The fit ended because the free energy settled." in text
    assert "tech0 (100%)" in text
    for name in ("fairness", "random_state", "anndata", "Python"):
        assert name in text


def test_parts_that_are_missing_are_said(run: AnnData, tmp_path: Path) -> None:
    del run.uns["fair_cluster_diagnosis"]
    del run.uns["fair_cluster"]["metrics"]
    del run.uns["fair_cluster"]["tree"]
    del run.uns["fair_cluster"]["history"]
    del run.obs["fair_cluster_confidence"]
    del run.uns["fair_cluster"]["params"]["label_key"]
    report(run, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert "Not there yet: run scfcmi.tl.diagnose(adata, 'fair_cluster')" in page.text
    assert "This run was not scored" in page.text
    assert "no confidence" in page.text
    assert "no history" in page.text
    assert len(page.sources) == 3


def test_names_cannot_write_html(make: Callable[..., AnnData], tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a & b"]
    run = make(group_names=names)
    run.uns["fair_cluster"]["params"]["note"] = '"><img src=x>'
    run.obs["fair_cluster"] = run.obs["fair_cluster"].cat.rename_categories({"0": "<b>0</b>"})
    report(run, tmp_path / "page.html", title="<i>title</i>")
    page = read(tmp_path / "page.html")
    assert "<script>alert(1)</script>" in page.text
    assert "<i>title</i>" in page.text
    assert all(source.startswith("data:") for source in page.sources)


def test_several_attributes(run: AnnData, tmp_path: Path) -> None:
    run.obs["donor"] = ["u", "v"] * 300
    report(run, tmp_path / "page.html", sensitive_key=["tech", "donor"])
    assert "groups of tech and donor" in read(tmp_path / "page.html").text


def test_refused_and_nothing_left_behind(run: AnnData, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    with pytest.raises(KeyError, match="adata.uns has no 'other'"):
        report(run, target, key="other")
    with pytest.raises(KeyError, match="label_key='nothing'"):
        report(run, target, label_key="nothing")
    with pytest.raises(KeyError, match="nothing"):
        report(run, target, sensitive_key="nothing")
    with pytest.raises(FileNotFoundError, match="no folder"):
        report(run, tmp_path / "absent" / "page.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        report(run, tmp_path)
    del run.uns["fair_cluster"]["params"]["sensitive_key"]
    with pytest.raises(ValueError, match="does not name a sensitive attribute"):
        report(run, target)
    assert list(tmp_path.iterdir()) == []
    assert not plt.get_fignums()


def test_a_damaged_part_leaves_the_old_page(run: AnnData, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("old", encoding="utf-8")
    run.uns["fair_cluster"]["n_clusters"]["threshold"] = -1.0
    with pytest.raises(ValueError, match="damaged"):
        report(run, target)
    assert target.read_text(encoding="utf-8") == "old"
    assert not plt.get_fignums()
