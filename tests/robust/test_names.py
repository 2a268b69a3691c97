"""Names, levels and numbers that users choose: one gate for each, the same for memory and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scfcmi._adata import attribute_keys, drop_results, obs_column, obs_continuous, obs_groups, stale_results
from scfcmi._keys import Keys, checked_name, entry_name, name_of_entry
from scfcmi._levels import level_names, meet, natural_order
from scfcmi._numbers import check_count, check_real, check_seed
from scfcmi.source import read_groups

from .conftest import times

SLASHED = ["donor/sample", "a/b/c", "/", "50%", "a\\b", "tab\there", "%2F"]


def cells(n: int = 6, **obs: Any) -> AnnData:
    return AnnData(np.ones((n, 2), np.float32), obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]))


# names of runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (".", "dots"),
        ("..", "dots"),
        ("pct/mito", "'/'"),
        ("a\\b", r"'\\\\'"),
        ("a\0", "printed"),
        ("a\n", "printed"),
        ("\ud800", "printed"),
        ("_index", "reserved"),
        ("__categories", "reserved"),
        ("zarr.json", "reserved"),
        (".zattrs", "reserved"),
        ("é" * 101, "200 bytes"),
    ],
)
def test_names_that_files_have_no_room_for(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"key_added=.* cannot be a name in a file: .*{complaint}"):
        Keys.checked(name, cells())


@pytest.mark.parametrize("name", [0, None, 1.5, b"key", ["key"]])
def test_names_are_strings(name: Any) -> None:
    with pytest.raises(TypeError, match=r"key_added=.* must be a string, not"):
        Keys.checked(name)


@pytest.mark.parametrize("name", ["k", "CD8²", "naïve T cells", "细胞", "a.b", "x" * 200])
def test_names_that_are_allowed(name: str) -> None:
    assert Keys.checked(name, cells()).labels == name


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("tech", {"obs": ["tech", None]}),
        ("n", {"obs": ["n_confidence"]}),
        ("n", {"obs": ["n_stability"]}),
        ("n", {"obs": ["n_unlike"]}),
        ("pca", {"obsm": ["X_pca"]}),
        ("scVI", {"obsm": ["X_scVI"]}),
        ("mofa", {"obsm": ["mofa_proba"]}),
        ("run", {"layers": ["run_corrected"]}),
    ],
)
def test_what_results_are_computed_from_stays(key: str, given: dict[str, list[str | None]]) -> None:
    (slot, (name, *_)), *_ = given.items()
    with pytest.raises(ValueError, match=rf"key_added='{key}' would overwrite {slot}\['{name}'\], which the result"):
        Keys.checked(key, cells(), **given)
    Keys.checked("another", cells(), **given)


def test_names_of_cells_stay() -> None:
    named = cells()
    named.obs_names.name = "barcode"
    with pytest.raises(ValueError, match="would overwrite the names of the cells, which obs calls 'barcode'"):
        Keys.checked("barcode", named)


@pytest.mark.parametrize(("slot", "name", "key"), [("obsm", "X_umap", "umap"), ("uns", "neighbors", "neighbors")])
def test_what_no_run_has_written_stays(slot: str, name: str, key: str) -> None:
    used = cells()
    getattr(used, slot)[name] = np.ones((6, 2))
    with pytest.raises(ValueError, match=rf"would overwrite {slot}\['{name}'\], which no earlier run"):
        Keys.checked(key, used)
    used.obs[key] = "0"  # an earlier run did
    assert Keys.checked(key, used).key_added == key


def test_all_of_a_run_goes_together() -> None:
    keys, used = Keys("run"), cells(tech=list("aabbab"))
    for slot, names in keys.of_a_run.items():
        for name in names:
            getattr(used, slot)[name] = "x" if slot == "obs" else np.ones((6, 2))
    used.layers["mine"], used.layers["theirs"] = np.ones((6, 2)), np.ones((6, 2))
    used.uns["run"] = {"corrected": {"layer_added": "mine"}}
    used.obsm["X_other"] = np.ones((6, 1))
    assert {"run_stability", "run_unlike", "run_distance", "run_confidence", "run"} < set(used.obs)
    drop_results(used, stale_results(keys, used.uns))
    assert (list(used.obs), list(used.obsm), list(used.layers), dict(used.uns)) == (
        ["tech"],
        ["X_other"],
        ["theirs"],
        {},
    )


@pytest.mark.parametrize("record", [None, "broken", {"corrected": "broken"}, {"corrected": {"layer_added": 3}}])
def test_a_broken_record_does_not_keep_results(record: Any) -> None:
    assert stale_results(Keys("run"), {"run": record}) == Keys("run").of_a_run


def test_another_cut_leaves_the_rest_of_a_run() -> None:
    keys = Keys("run")
    for slot, names in keys.of_a_cut.items():
        assert set(names) <= set(keys.of_a_run[slot])
    assert keys.embedding not in keys.of_a_cut["obsm"] and keys.uns not in keys.of_a_cut["uns"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_names_of_columns_are_safe_in_files(tmp_path: Path, suffix: str) -> None:
    made = cells()
    made.uns["run"] = {entry_name(name): float(i) for i, name in enumerate(SLASHED)}
    path = tmp_path / f"a.{suffix}"
    made.write_h5ad(path) if suffix == "h5ad" else made.write_zarr(path)
    found = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path).uns["run"]
    assert {name_of_entry(entry): value for entry, value in found.items()} == {n: i for i, n in enumerate(SLASHED)}


@given(st.text(max_size=30))
@settings(max_examples=60 * times(20), deadline=None)
@example("a%2Fb/c")
def test_escaped_names_come_back(name: str) -> None:
    assert name_of_entry(entry_name(name)) == name
    assert not set("/\\") & set(entry_name(name))
    if name.isprintable() and not set("/\\%") & set(name):
        assert entry_name(name) == name


@given(st.text(max_size=20))
@settings(max_examples=40 * times(20), deadline=None)
def test_a_name_is_refused_or_comes_back_from_a_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    try:
        checked_name(name, "key_added")
    except ValueError:
        return
    path = tmp_path_factory.getbasetemp() / "name.h5ad"
    made = cells()
    made.obs[name], made.obsm[f"X_{name}"], made.uns[name] = list("abcabc"), np.ones((6, 2)), {"a": 1}
    made.write_h5ad(path)
    found = ad.read_h5ad(path)
    assert found.obs[name].tolist() == list("abcabc")
    assert list(found.obsm) == [f"X_{name}"] and list(found.uns) == [name]
    assert list(found.obs_names) == list(made.obs_names)


# columns --------------------------------------------------------------------------------------------------------------


def test_columns_that_stand_twice_or_have_numbers_for_names() -> None:
    made = cells(tech=list("aabbab"))
    made.obs = pd.concat([made.obs, made.obs], axis=1)
    with pytest.raises(ValueError, match=r"sensitive_key='tech': adata\.obs has 2 columns of that name"):
        obs_groups(made, "tech")
    made.obs = made.obs.set_axis([0, 1], axis=1)
    for call in (lambda: obs_groups(made, 0), lambda: obs_groups(made, [0])):  # type: ignore[arg-type, list-item]
        with pytest.raises(ValueError, match=r"sensitive_key=.* must be the name of a column"):
            call()
    for argument in ("label_key", "cluster_key"):
        with pytest.raises(TypeError, match=f"{argument}=0 must be the name of a column, a string, not int"):
            obs_column(made, 0, argument)
    with pytest.raises(TypeError, match="continuous_keys=1 must be the name of a column"):
        obs_continuous(made, 1, [])  # type: ignore[arg-type]


def test_names_in_an_array() -> None:
    made = cells(a=np.arange(6.0), b=np.arange(6.0) ** 2)
    assert attribute_keys(np.array(["x", "y"])) == ["x", "y"]
    assert obs_continuous(made, np.array(["a", "b"]), []).names == ("a", "b")


# levels ---------------------------------------------------------------------------------------------------------------

SAME_LEVELS: dict[str, Any] = {
    "integers": [0, 1, 1],
    "floats": [0.0, 1.0, 1.0],
    "float32": np.array([0, 1, 1], np.float32),
    "booleans": [False, True, True],
    "strings": ["0", "1", "1"],
    "strings of floats": ["0.0", "1.0", "1.0"],
    "words": ["FALSE", "TRUE", "TRUE"],
    "nullable": pd.array([0, 1, 1], "Int64"),
    "nullable booleans": pd.array([False, True, True], "boolean"),
    "pandas strings": pd.array(["0", "1", "1"], "string"),
    "categories": pd.Categorical([0.0, 1.0, 1.0], categories=[7.0, 1.0, 0.0]),
    "objects": np.array([0, 1.0, "1"], object),
    "numpy strings": np.array(["0", "1", "1"], np.dtypes.StringDType()),
    "bytes": np.array([b"0", b"1", b"1"]),
}


@pytest.mark.parametrize("fitted", SAME_LEVELS)
@pytest.mark.parametrize("query", SAME_LEVELS)
def test_the_same_groups_in_other_words_meet(fitted: str, query: str) -> None:
    known = read_groups(np.repeat(np.array(SAME_LEVELS[fitted], object), 2))
    assert known.n == 2
    assert known.encode(SAME_LEVELS[query]).tolist() == [0, 1, 1]


def test_names_that_only_look_like_numbers_stay_apart() -> None:
    assert read_groups(["1", "01", "001", "1e0", "1_0", "10"] * 2).n == 6
    assert meet(level_names(["1.0", "x", "01", "nan"]), ["01", "1"]).tolist() == ["1", "x", "01", "nan"]
    assert meet(level_names([True]), ["1", "1.0"]).tolist() == ["True"], "two would do, so none does"
    with pytest.raises(ValueError, match=r"not fitted with: \['c'\]; known are \['a', 'b'\]"):
        read_groups(["a", "b"] * 2).encode(["a", "c"])


def test_levels_are_in_natural_order() -> None:
    names = ["batch10", "batch9", "CD8²", "10₂", "①", "2"]
    assert read_groups(names * 2).levels == ("①", "2", "10₂", "CD8²", "batch9", "batch10")


@given(st.lists(st.one_of(st.text(max_size=8), st.integers(), st.floats(allow_nan=False), st.booleans()), max_size=12))
@settings(max_examples=60 * times(20), deadline=None)
def test_any_names_have_one_order(values: list[Any]) -> None:
    once = natural_order(values)
    assert sorted(map(repr, once)) == sorted(map(repr, values))
    assert list(map(str, natural_order(values[::-1]))) == list(map(str, once))


# numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 2**32, 2**64, -(2**70)])
def test_seeds_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match=rf"random_state={value} must be between 0 and {2**32 - 1}"):
        check_seed(value)


def test_seeds_that_follow_are_counted() -> None:
    assert check_seed(np.int64(5), n=3) == 5
    with pytest.raises(ValueError, match="random_state"):
        check_seed(2**32 - 2, n=3)


@pytest.mark.parametrize("value", [None, 1.0, True, np.True_, "1", np.array([1])])
def test_what_is_no_integer(value: Any) -> None:
    for check in (check_seed, lambda v: check_count(v, "n_init")):
        with pytest.raises(TypeError, match="must be an integer, not"):
            check(value)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1, float("inf")])
def test_numbers_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=f"fairness={value} must be between 0 and 1"):
        check_real(value, "fairness", 0, 1)
    with pytest.raises(TypeError, match="fairness='1' must be a number, not str"):
        check_real("1", "fairness", 0, 1)
