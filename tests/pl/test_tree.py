"""Evidence for the number of clusters: the tree and its links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from matplotlib.collections import PolyCollection

import scfcmi as sf
from scfcmi.pl._n_clusters import Cuts
from scfcmi.pl._tree import Tree

# number of clusters -------------------------------------------------------------------------------------------------


def test_links_are_drawn_with_the_choice(run: AnnData) -> None:
    ax = sf.pl.n_clusters(run)
    assert ax is not None
    assert ax.get_title() == "6 clusters, from the tree"
    found = run.uns["fair_cluster"]["n_clusters"]
    curve, threshold, line, dot, *_ = ax.get_lines()
    assert curve.get_xdata().tolist() == list(range(12, 1, -1))
    np.testing.assert_allclose(curve.get_ydata(), found["link"])
    assert threshold.get_ydata() == [0.04, 0.04]
    assert set(line.get_xdata()) == {6}
    assert dot.get_ydata() == [found["link"][6]]
    assert ax.texts[0].get_text() == "threshold"


def test_the_range_of_resolutions_is_said(run: AnnData) -> None:
    found = run.uns["fair_cluster"]["n_clusters"]
    found["link"][5:7] = 0.08, 0.02
    ax = sf.pl.n_clusters(run)
    assert ax is not None
    assert ax.get_xlabel().endswith("as many for resolutions from 0.5 to 2")
    run.uns["fair_cluster"]["n_clusters"] = found | {"chosen": 12, "resolution": 30.0, "method": "resolution"}
    ax = sf.pl.n_clusters(run)
    assert ax is not None
    assert ax.get_title() == "12 clusters, by resolution"
    assert "every resolution above" in ax.get_xlabel()
    assert ax.texts[0].get_text() == "threshold × resolution 30"


def test_neighbouring_cuts_that_hold_are_marked(run: AnnData) -> None:
    found = run.uns["fair_cluster"]["n_clusters"]
    found["link"] = np.array([0.5, 0.49, 0.48, 0.47, 0.46, 0.45, 0.03, 0.029, 0.001, 0.0009, 0.0008])
    assert Cuts.read(run, "fair_cluster").stable() == [4]
    ax = sf.pl.n_clusters(run)
    assert ax is not None
    marked = [line for line in ax.get_lines() if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata()[0] for line in marked] == [4]
    assert "4" in [text.get_text() for text in ax.texts]


def test_links_of_zero_can_be_drawn(run: AnnData) -> None:
    run.uns["fair_cluster"]["n_clusters"]["link"][-2:] = 0
    ax = sf.pl.n_clusters(run)
    assert ax is not None
    ax.figure.canvas.draw()
    assert (ax.get_lines()[0].get_ydata() > 0).all()


def test_a_number_that_was_given_without_a_tree(run: AnnData) -> None:
    run.uns["fair_cluster"]["n_clusters"] = {"method": "given", "chosen": 7}
    ax = sf.pl.n_clusters(run)
    assert ax is not None
    assert ax.get_title() == "7 clusters"
    assert "K = 7 was given" in ax.texts[0].get_text()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"link": np.array([0.1])}, r"\(11,\) candidates do not go with \(1,\) links"),
        ({"link": np.full(11, np.nan)}, "not finite"),
        ({"link": np.array(["a"] * 11)}, "'link' holds no numbers"),
        ({"threshold": 0.0}, "must be positive"),
        ({"chosen": np.array([3, 4])}, "single numbers"),
    ],
)
def test_damaged_evidence(run: AnnData, change: dict[str, Any], match: str) -> None:
    run.uns["fair_cluster"]["n_clusters"] |= change
    with pytest.raises(ValueError, match=rf"uns\['fair_cluster'\]\['n_clusters'\] is damaged.*{match}"):
        sf.pl.n_clusters(run)


# tree ---------------------------------------------------------------------------------------------------------------


def brackets(ax: Any) -> dict[str, tuple[float, float]]:
    """Rows that the bracket of every cluster spans."""
    names = [text.get_text() for text in ax.texts if text.get_weight() == "bold"]
    lines = [line.get_ydata() for line in ax.get_lines() if not line.get_clip_on()]
    return {name: (min(line), max(line)) for name, line in zip(names, lines, strict=True)}


def test_every_cluster_has_its_branches(run: AnnData) -> None:
    ax = sf.pl.tree(run)
    assert ax is not None
    found = brackets(ax)
    assert set(found) == set("012345")
    spans = sorted(found.values())
    assert all(high - low == pytest.approx(1.6) for low, high in spans), "two leaves each"
    assert all(a[1] < b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))
    assert ax.get_title() == "6 clusters at resolution 1"
    (cut,) = (line for line in ax.get_lines() if line.get_linestyle() == "--")
    assert set(cut.get_xdata()) == {1.0}


def test_bands_have_the_shares_of_the_groups(run: AnnData) -> None:
    ax = sf.pl.tree(run)
    assert ax is not None
    first, second = (one for one in ax.collections if isinstance(one, PolyCollection))
    heights = np.array([[np.ptp(path.vertices[:, 1]) for path in one.get_paths()] for one in (first, second)])
    np.testing.assert_allclose(heights.sum(axis=0), heights.sum(axis=0)[0])
    # The first band is the root, with all cells.
    assert heights[0, 0] / heights[:, 0].sum() == pytest.approx((run.obs["tech"] == "tech0").mean(), abs=0.01)
    assert len(first.get_paths()) == 2 * 12 - 1


def test_joints_stand_at_their_resolution(run: AnnData) -> None:
    ax = sf.pl.tree(run)
    assert ax is not None
    joints = sorted(segment[0][0] for segment in ax.collections[0].get_segments())
    np.testing.assert_allclose(joints, np.sort(run.uns["fair_cluster"]["tree"]["link"]) / 0.04)


def test_fine_branches_are_left_out_but_no_cluster(make: Callable[..., AnnData]) -> None:
    many = make(1500, 40, 2)
    ax = sf.pl.tree(many)
    assert ax is not None
    assert ax.get_xlabel() == "resolution\n60 of 80 branches shown"
    assert len(brackets(ax)) == 40
    fewest = sf.pl.tree(many, max_branches=1)
    assert fewest is not None
    assert fewest.get_xlabel() == "resolution\n40 of 80 branches shown"
    assert len(brackets(fewest)) == 40


def test_many_groups_are_shown_by_their_mix(make: Callable[..., AnnData]) -> None:
    ax = sf.pl.tree(make(1500, 6, 40))
    assert ax is not None
    mixed = ax.collections[-1].get_array()
    assert mixed[0] == pytest.approx(1, abs=0.01), "the root is all cells"
    assert (mixed <= 1.01).all()


def test_a_coarser_cut_and_no_known_attribute(run: AnnData) -> None:
    run.uns["fair_cluster"]["n_clusters"] |= {"chosen": 1, "resolution": 0.001}
    run.uns["fair_cluster"]["params"] = {}
    run.obs["fair_cluster"] = "0"
    ax = sf.pl.tree(run)
    assert ax is not None
    assert list(brackets(ax)) == ["0"]
    assert ax.get_legend() is None
    ax.figure.canvas.draw()


def test_a_number_that_was_given_is_cut_where_it_comes_out(run: AnnData) -> None:
    run.uns["fair_cluster"]["n_clusters"] |= {"chosen": 3, "method": "given", "resolution": 1.0}
    run.obs["fair_cluster"] = run.obs["fair_cluster"].astype(str).replace({"3": "0", "4": "0", "5": "0"})
    ax = sf.pl.tree(run)
    assert ax is not None
    assert ax.get_title() == "3 clusters, given"
    (cut,) = (line for line in ax.get_lines() if line.get_linestyle() == "--")
    low, high = Cuts.read(run, "fair_cluster").range_of(3)
    assert low < cut.get_xdata()[0] < high < 1
    assert len(brackets(ax)) == 3
    evidence = sf.pl.n_clusters(run)
    assert evidence is not None
    assert evidence.texts[0].get_text() == "threshold"


def test_branches_whose_cells_are_gone_have_no_name(run: AnnData) -> None:
    some = run[run.obs["fair_cluster"].isin(["0", "2"])].copy()
    ax = sf.pl.tree(some)
    assert ax is not None
    assert set(brackets(ax)) == {"0", "2"}


def test_one_leaf(run: AnnData) -> None:
    run.uns["fair_cluster"]["tree"] = {"merges": np.zeros((0, 2), int), "link": np.zeros(0), "threshold": 0.04}
    run.uns["fair_cluster"]["n_clusters"] |= {"chosen": 1, "candidates": np.zeros(0, int), "link": np.zeros(0)}
    run.obsm["fair_cluster_leaves"] = run.obsm["fair_cluster_leaves"][:, :1]
    run.obs["fair_cluster"] = "0"
    ax = sf.pl.tree(run)
    assert ax is not None and list(brackets(ax)) == ["0"]
    ax.figure.canvas.draw()
    sf.pl.n_clusters(run).figure.canvas.draw()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"link": np.array([0.1])}, "steps and links do not go together"),
        ({"link": np.arange(11.0)}, "links rise"),
        ({"merges": np.zeros((11, 2), int)}, "joins it twice"),
        ({"merges": np.arange(22).reshape(11, 2)[::-1]}, "does not exist yet"),
        ({"threshold": -1.0}, "must be positive"),
        ({"merges": np.zeros(5)}, "do not go together"),
    ],
)
def test_damaged_trees(run: AnnData, change: dict[str, Any], match: str) -> None:
    run.uns["fair_cluster"]["tree"] |= change
    with pytest.raises(ValueError, match=rf"\['tree'\] is damaged.*{match}"):
        sf.pl.tree(run)


def test_leaves_that_do_not_fit(run: AnnData) -> None:
    run.obsm["fair_cluster_leaves"] = run.obsm["fair_cluster_leaves"][:, :5]
    with pytest.raises(ValueError, match="does not go with the tree, which has 12 leaves"):
        sf.pl.tree(run)
    del run.obsm["fair_cluster_leaves"]
    with pytest.raises(KeyError, match="fair_cluster_leaves"):
        sf.pl.tree(run)
    with pytest.raises(ValueError, match="max_branches=0"):
        sf.pl.tree(run, max_branches=0)


def test_a_cut_of_the_tree_is_that_of_scipy(run: AnnData) -> None:
    from scipy.cluster.hierarchy import cut_tree

    found = Tree.read(run, "fair_cluster")
    n_leaves = found.n_leaves
    size = np.zeros(2 * n_leaves - 1)
    size[:n_leaves] = 1
    for i, (a, b) in enumerate(found.merges):
        size[n_leaves + i] = size[a] + size[b]
    linkage = np.column_stack([found.merges, np.arange(1.0, n_leaves), size[n_leaves:]])
    for k in (1, 3, 6, 12):
        ours, theirs = found.cut(k), cut_tree(linkage, n_clusters=k).ravel()
        assert len(np.unique(ours)) == len(np.unique(theirs)) == len({*zip(ours, theirs, strict=True)})
