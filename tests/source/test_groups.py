"""The sensitive attribute, read and coded."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scfcmi.source import Groups, read_groups, stratified_sketch


def test_codes_and_levels() -> None:
    groups = read_groups(["b", "a", "b", "c", "a", "c"])
    assert groups.levels == ("a", "b", "c")
    assert groups.codes.tolist() == [1, 0, 1, 2, 0, 2]
    assert groups.codes.dtype == np.int64
    assert groups.n == 3
    assert groups.counts.tolist() == [2, 2, 2]
    assert groups.values.tolist() == ["b", "a", "b", "c", "a", "c"]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (pd.Categorical(["x", "y", "x", "y"], categories=["z", "y", "x"]), ("x", "y")),
        (pd.Series([True, False, True, False], index=list("abcd")), ("False", "True")),
        (np.array([2, 1, 1, 2]), ("1", "2")),
        (np.array([0.5, 0.5, 1.5, 1.5]), ("0.5", "1.5")),
    ],
)
def test_kinds_of_values(values: object, levels: tuple[str, ...]) -> None:
    assert read_groups(values).levels == levels


def test_groups_pass_through() -> None:
    groups = read_groups(["a", "b"] * 3)
    assert read_groups(groups) is groups


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_values(missing: object) -> None:
    with pytest.raises(ValueError, match=r"donor has 1 missing values \(first at position 1\)"):
        read_groups(pd.Series(["a", missing, "b"], dtype=object), "donor")


def test_number_of_numeric_levels() -> None:
    assert read_groups(np.repeat(np.arange(50), 2)).n == 50
    with pytest.raises(ValueError, match="numeric with 51 distinct values"):
        read_groups(np.repeat(np.arange(51), 2))
    assert read_groups(np.repeat(np.arange(51), 2).astype(str)).n == 51


def test_lonely_groups_in_one_warning() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        read_groups(["a", "a", "b", "c", "c", "d"])
    assert ["['b', 'd']" in str(w.message) for w in seen] == [True]


def test_encode_other_cells() -> None:
    groups = read_groups([1, 2, 1, 2])
    assert groups.encode([2, 2, 1]).tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match=r"batch has values .* not fitted with: \['3', '9'\]; known are \['1', '2'\]"):
        groups.encode([1, 9, 3], "batch")


def test_sketch_takes_all_when_there_is_room() -> None:
    codes = np.repeat([0, 1], [5, 3])
    assert stratified_sketch(codes, 8, np.random.default_rng(0)).tolist() == list(range(8))


def test_sketch_keeps_every_group_and_favours_small_ones() -> None:
    codes = np.random.default_rng(1).permutation(np.repeat([0, 1, 3], [9000, 980, 20]))
    rows = stratified_sketch(codes, 1000, np.random.default_rng(0))
    assert (np.diff(rows) > 0).all()
    assert 997 <= len(rows) <= 1003
    picked = np.bincount(codes[rows])
    assert picked[3] == 20
    assert picked[2] == 0
    assert picked[0] > 0.5 * len(rows)
    assert picked[1] / 980 > picked[0] / 9000
    again = stratified_sketch(codes, 1000, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, again)


def test_groups_is_frozen() -> None:
    groups = Groups(np.array([0, 1]), ("a", "b"))
    with pytest.raises(AttributeError):
        groups.levels = ("x",)  # type: ignore[misc]


CROSSED = {"tech": list("babaab"), "donor": pd.Categorical(["d1", "d2", "d2", "d1", "d2", "d1"], ["d3", "d2", "d1"])}


def test_combinations_of_several_attributes() -> None:
    groups = read_groups(CROSSED)
    assert groups.levels == ("a | d1", "a | d2", "b | d1", "b | d2")
    assert list(groups.values) == ["b | d1", "a | d2", "b | d2", "a | d1", "a | d2", "b | d1"]
    tech, donor = groups.factors
    assert (tech.name, tech.levels, list(tech.of_group)) == ("tech", ("a", "b"), [0, 0, 1, 1])
    assert (donor.name, donor.levels, list(donor.of_group)) == ("donor", ("d1", "d2"), [0, 1, 0, 1])
    np.testing.assert_array_equal(groups.level_codes[:, 0], [1, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(groups.level_index, [[0, 2], [0, 3], [1, 2], [1, 3]])
    assert groups.take(np.array([0, 1])).levels == groups.levels


def test_combinations_that_do_not_occur_are_no_groups() -> None:
    groups = read_groups({"tech": list("aabbaabb"), "donor": list("uvwxuvwx")})
    assert groups.levels == ("a | u", "a | v", "b | w", "b | x")
    assert read_groups({"tech": list("abab")}).levels == ("a", "b")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "No sensitive attribute"),
        ({"tech": list("ab"), "donor": list("aba")}, "one value per cell"),
        ({"tech": list("ab"), "donor": ["u", None]}, "donor has 1 missing"),
        ({"tech": list("ab"), "donor": ["u", "u"]}, "donor has a single group"),
        ({"tech": ["a | b", "a"], "donor": ["c", "b | c"]}, "contain ' | '"),
    ],
)
def test_attributes_that_do_not_go_together(values: Any, match: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match=match):
        warnings.simplefilter("ignore")
        read_groups(values)


def test_later_groups_by_attribute() -> None:
    known = read_groups({"tech": list("aabb"), "donor": list("xyxy")})
    assert known.encode_all({"donor": ["y", "x"], "tech": ["a", "b"]}, 2).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"groups lacks the attributes \['donor'\]; the model was fitted with"):
        known.encode_all({"tech": list("ab")}, 2)
    with pytest.raises(ValueError, match="groups has 2 values, but there are 3 cells"):
        known.encode_all({"tech": list("ab"), "donor": list("xy")}, 3)
