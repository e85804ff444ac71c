"""What is counted while a set is written, and that counting in parts is counting the whole."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seerctl.shards.summary import MAX_VALUES, SHARES, Summary, quantiles

VALUES = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["a", "b", ""]) | st.just([1])
)
METAS = st.lists(
    st.fixed_dictionaries(
        {
            "width": st.integers(1, 9), "height": st.integers(1, 9), "format": st.sampled_from(["JPEG", "PNG"]),
            "mode": st.sampled_from(["RGB", "L"]),
            "columns": st.dictionaries(st.sampled_from(["x", "y"]), VALUES),
        }
    ),
    max_size=12,
)  # fmt: skip


def counted(metas: list[dict[str, Any]]) -> Summary:
    summary = Summary()
    for meta in metas:
        summary.add(meta)
    return summary


@given(METAS, METAS)
def test_parts_add_up(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    through_json = Summary.from_json(json.loads(json.dumps(counted(first).to_json())))
    assert through_json.to_json() == counted(first).to_json()
    through_json.merge(counted(second))
    assert through_json.to_json() == counted(first + second).to_json()
    for meta in second:
        through_json.add(meta)
    assert through_json.to_json() == counted(first + second + second).to_json()


def test_types_are_told_apart() -> None:
    def kind(*values: object) -> str:
        metas = [{"width": 1, "height": 1, "format": "PNG", "mode": "L", "columns": {"x": value}} for value in values]
        return str(counted(metas).to_json()["columns"]["x"]["type"])

    assert [kind(True), kind(1), kind(1, 2.5), kind("1"), kind([1])] == [
        "boolean", "integer", "number", "string", "json",
    ]  # fmt: skip
    assert kind(1, "1") == kind(True, 1) == "mixed"


def test_many_values_are_not_listed() -> None:
    def column(count: int) -> dict[str, Any]:
        metas = [
            {"width": 1, "height": 1, "format": "PNG", "mode": "L", "columns": {"x": f"{n:05d}"}} for n in range(count)
        ]
        return dict(counted(metas).to_json()["columns"]["x"])

    assert len(column(MAX_VALUES)["values"]) == MAX_VALUES
    assert column(MAX_VALUES + 1) == {"type": "string", "count": MAX_VALUES + 1}


@given(st.lists(st.integers(1, 50), min_size=1))
def test_quantiles_are_those_of_numpy(sides: list[int]) -> None:
    wanted = np.quantile(sides, list(SHARES.values()), method="inverted_cdf")
    assert list(quantiles(Counter(sides)).values()) == wanted.tolist()
    assert tuple(quantiles(Counter(sides))) == ("min", "p5", "p25", "median", "p75", "p95", "max")


def test_indexes_without_modes_and_sizes_are_read() -> None:
    old = counted([{"width": 3, "height": 2, "format": "PNG", "mode": "L", "columns": {}}]).to_json()
    del old["modes"], old["sizes"]
    assert Summary.from_json(old).to_json()["sides"] == old["sides"]
