"""Columns: types told from values, names sorted, numbers kept, hostile text stored."""

from __future__ import annotations

import numpy as np
import pytest

from seerctl.columns import Column, columns_from_rows, number_text, relabel, sort_names


def test_names_become_sorted_codes_and_absent_ones_missing() -> None:
    columns = columns_from_rows([{"label": "cat"}, {}, {"label": "ant"}, {"label": None}, {"label": ""}])
    assert columns["label"].categories == ("ant", "cat")
    assert columns["label"].values.tolist() == [1, -1, 0, -1, -1]
    assert columns["label"].missing.tolist() == [False, True, False, True, True]
    assert columns["label"].texts() == ["cat", "", "ant", "", ""]


def test_numbers_stay_numbers() -> None:
    rows = [{"n": 1, "x": 0.5, "m": 3}, {"n": -2, "x": None, "m": 4.5}, {"n": 7, "x": float("nan")}]
    columns = columns_from_rows(rows)
    assert columns["n"].values.dtype == np.int64
    assert columns["n"].values.tolist() == [1, -2, 7]
    assert columns["x"].categories is None
    assert np.isnan(columns["x"].values[1:]).all()
    assert columns["m"].values.tolist()[:2] == [3.0, 4.5]


def test_a_mixed_column_is_names() -> None:
    column = columns_from_rows([{"v": 3}, {"v": "three"}, {"v": 2.5}, {"v": None}])["v"]
    assert column.texts() == ["3", "three", "2.5", ""]


def test_other_types_are_their_json() -> None:
    values = [True, ["b", "a"], {"k": 1}, 2**60, float("inf")]
    assert columns_from_rows([{"v": value} for value in values])["v"].texts() == [
        "true",
        '["b", "a"]',
        '{"k": 1}',
        str(2**60),
        "inf",
    ]


def test_hostile_names_can_be_stored() -> None:
    column = columns_from_rows([{"v": "a\0b"}, {"v": "\ud800x"}, {"v": "\u00e9"}])["v"]
    assert all(name.encode("utf-8") and "\0" not in name for name in column.categories or ())
    assert len(column.categories or ()) == 3


def test_a_column_that_starts_late_is_filled() -> None:
    columns = columns_from_rows([{"a": "x"}, {"a": "x", "b": 5}], names=("c", "a"))
    assert list(columns) == ["c", "a", "b"]
    assert columns["b"].missing.tolist() == [True, False]
    assert columns["c"].missing.all()


def test_whole_numbers_sort_as_numbers() -> None:
    assert sort_names(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert sort_names(["10", "9", "x"]) == ["10", "9", "x"]


def test_numbers_become_names_in_numerical_order() -> None:
    coded = Column(np.array([2.5, 10.0, np.nan, 2.5])).coded()
    assert coded.categories == ("2.5", "10")
    assert coded.values.tolist() == [0, 1, -1, 0]
    assert number_text(1e300) == "1e+300"


def test_relabel_merges_equal_names() -> None:
    assert relabel(np.array([0, 1, 2, -1]), ["b", "a", "b"]).values.tolist() == [1, 0, 1, -1]


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])])
def test_take(rows: np.ndarray) -> None:
    column = Column(np.array([1, 2, 3]))
    assert column.take(rows).values.tolist() == np.array([1, 2, 3])[rows].tolist()
