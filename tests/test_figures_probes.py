"""The plots of probes: what they say, and that they are the same for the same values."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("matplotlib")

from seerctl.figures import Trend, cloud, confusion, inline, scaling, short_count

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_counts_for_people() -> None:
    assert [short_count(n) for n in (7, 26_000, 1_350_000, 9_323_934_872)] == ["7", "26 k", "1.35 M", "9.32 B"]


def test_scaling_names_places_and_lines() -> None:
    one = Trend("accuracy", [26e3, 552e3, 1.35e6], [20.0, 40.0, 50.0], [18.0, 38.0, None], [22.0, 42.0, None])
    svg = scaling([one, Trend("other", [26e3], [30.0], [None], [None])], axis="%", below="parameters", line=0.0)
    assert {"26 k", "552 k", "1.35 M", "accuracy", "other", "parameters", "%"} <= set(texts(svg))
    assert "accuracy" not in texts(scaling([one]))  # a line alone needs no name
    assert "26 k" in texts(scaling([Trend("a", [26e3, 26e3], [1.0, 2.0], [None] * 2, [None] * 2)]))
    assert scaling([one]) == scaling([one])


def test_confusion_shows_percentages_of_rows() -> None:
    svg = confusion([[3, 1, 0], [0, 0, 0], [0, 1, 1]], ["cat", "dog", "<hen>"])
    found = texts(svg)
    assert [text for text in found if text.isdigit()] == ["75", "25", "50", "50"]
    assert {"cat", "dog", "<hen>", "predicted", "label"} <= set(found)
    assert ET.fromstring(confusion([[1] * 60] * 60, [str(n) for n in range(60)])).tag == f"{SVG}svg"
    page = inline(svg, "a")
    assert "#14181c" in page  # on a cell's own colour, so that a dark page does not turn it light


def test_a_cloud_tells_twelve_groups_apart() -> None:
    groups = [f"g{number % 15}" for number in range(100)]
    points = [(math.cos(n), math.sin(n)) for n in range(100)]
    svg = cloud(points, groups, axes_names=("x", "y"))
    found = texts(svg)
    assert {"others", "x", "y"} <= set(found)
    assert sum(text.startswith("g") for text in found) == 12
    assert cloud(points, groups, form="png")[:4] == b"\x89PNG"
