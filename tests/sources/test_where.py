"""Conditions: every operator on every kind of value, against what a person would say; bad ones are named."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerctl.errors import UsageError
from seerctl.sources.where import Condition

TABLE: list[tuple[str, Any, bool]] = [
    ("age = 18", 18, True), ("age == 18", 18.0, True), ("age=18", 19, False), ("age != 18", 19, True),
    ("age >= 18", 18, True), ("age > 18", 18, False), ("age < 18", 17.5, True), ("age <= -1e3", -1000, True),
    ("age >= 18", "18", True), ("age >= 18", "n/a", False), ("age >= 18", "007", False), ("age > 6", "007", True),
    ("code = 007", "007", True), ("code = 7", "007", False), ("code = 007", 7, True), ('code = "7"', 7, False),
    ('code = "7"', "7", True), ("label = cat", "cat", True), ("label = cat", "Cat", False),
    ("label != cat", "dog", True), ("label in cat, dog", "dog", True), ("label not in cat, dog", "dog", False),
    ("label not in cat,dog", "bird", True), ("year in 2020, 2021", 2021, True), ('l in "a, b", c', "a, b", True),
    ("l in 'a \"b\"', c", 'a "b"', True), ("date >= 2020-01-31", "2020-02-01", True), ("date < 2020-01-31", 5, False),
    ("text contains dog", "a dog runs", True), ("tags contains dog", ["cat", "dog"], True),
    ("tags contains do", ["cat", "dog"], False), ("url startswith https://", "https://x", True),
    ("url endswith .jpg", "x.png", False), ("safe = true", True, True), ("safe = true", False, False),
    ("safe = true", "true", True), ("n = 1", True, False), ("x missing", None, True), ("x missing", "", True),
    ("x missing", float("nan"), True), ("x missing", 0, False), ("x not missing", 0, True),
    ("x not missing", None, False),
    ("x != 1", None, False), ("x not in 1", None, False), ("x < 1", None, False), ('"odd name" = 1', 1, True),
    ('x = ""', "a", False), ("n = 12345678901234567890", 12345678901234567890, True),
    ("n = 12345678901234567891", 12345678901234567890, False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value", "expected"), TABLE)
def test_what_holds(text: str, value: Any, expected: bool) -> None:
    assert Condition.parse(text).holds(value) is expected


@given(st.sampled_from(["<", "<=", ">", ">=", "=", "!="]), st.integers() | st.floats(-1e9, 1e9), st.integers(-999, 999))
def test_numbers_compare_as_numbers(sign: str, value: float, literal: int) -> None:
    peer = {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "=": operator.eq,
        "!=": operator.ne,
    }
    assert Condition.parse(f"x {sign} {literal}").holds(value) == peer[sign](value, literal)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_text_is_never_code(name: str, value: str) -> None:
    """Whatever stands there is refused or compared; nothing else happens."""
    try:
        condition = Condition.parse(f"{name} = {value}")
    except UsageError:
        return
    assert condition.holds(value) in (True, False)


@pytest.mark.parametrize(
    "text",
    ["", "age", "age >", "= 3", "age ~ 3", "age = 1, 2", "in cat", 'x = "open', "x in a,", "x missing 3", "a b = 1"],
)
def test_what_is_not_understood_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        Condition.parse(text)


def test_facts_and_columns_of_the_same_name() -> None:
    assert Condition.parse("width > 3").fact
    assert not Condition.parse("age > 3").fact
    own = Condition.parse("columns.width > 3")
    assert (own.fact, own.name) == (False, "width")
    assert Condition.parse("source startswith a/").about_source
