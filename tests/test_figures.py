"""The plots: what they show, that the same values give the same bytes, and that they can be told apart and read."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from seerctl.figures import DARK, FONT, LIGHT, WIDTH, Point, bars, inline, intervals

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [
    Point("worst", -12.25, -16.0, -8.0, "fail"), Point("unclear", -4.0, -9.0, 1.0, "unsure"),
    Point("good", 1.0, -1.0, 2.0, "pass"),
]  # fmt: skip


def texts(svg: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_intervals_say_what_they_show() -> None:
    svg = intervals(POINTS, allowed=(-5.0, 5.0), line=0.0, axis="difference, points", signed=True)
    said = texts(svg)
    assert {"passes", "fails", "undecided", "allowed"} <= set(said)
    assert [text for text in said if text in ("worst", "unclear", "good")] == ["worst", "unclear", "good"]
    assert {"\u221212.2", "\u22124.0", "+1.0", "difference, points"} <= set(said)
    assert "fails" not in texts(intervals(POINTS[2:], allowed=(-5.0, 5.0)))


def test_rows_are_drawn_from_the_top_at_their_values() -> None:
    """The markers' places are a linear function of the values, in the order of the points."""
    svg = intervals(POINTS, allowed=(-5.0, 5.0))
    uses = [(float(use.get("x", "")), float(use.get("y", ""))) for use in ET.fromstring(svg).iter(f"{SVG}use")][:3]
    x, y = np.array(uses).T
    assert list(y) == sorted(y)
    slope = (x[2] - x[0]) / (POINTS[2].value - POINTS[0].value)
    assert slope > 0
    assert x[1] == pytest.approx(x[0] + slope * (POINTS[1].value - POINTS[0].value), abs=0.01)


def test_bars_start_at_zero() -> None:
    svg = bars([Point("a", 50.0, 40.0, 60.0), Point("b", 100.0)], line=75.0, axis="accuracy, %")
    boxes = [re.findall(r"[-\d.]+", path.get("d", "")) for path in ET.fromstring(svg).iter(f"{SVG}path")
             if "opacity" in path.get("style", "")]  # fmt: skip
    (left_a, right_a), (left_b, right_b) = ((min(xs), max(xs)) for xs in ([float(v) for v in b[::2]] for b in boxes))
    assert left_a == left_b
    assert (right_b - left_b) == pytest.approx(2 * (right_a - left_a), abs=0.01)
    assert {"50.0", "100.0", "accuracy, %"} <= set(texts(svg))


def test_nothing_and_the_infinite_are_drawn() -> None:
    for draw in (intervals, bars):
        assert ET.fromstring(draw([])).tag == f"{SVG}svg"
        odd = [Point("none", float("nan")), Point("open", 1.0, -np.inf, np.inf), Point("zero", 0.0, 0.0, 0.0)]
        assert {"none", "open", "1.0", "0.0"} <= set(texts(draw(odd)))
    assert ET.fromstring(intervals(POINTS, allowed=(-5.0, float("inf")))).tag == f"{SVG}svg"
    assert "0.0" in texts(intervals([Point("tiny", -0.001)], signed=True))  # no "-0.0"


def test_bytes_are_the_same_and_hold_no_date() -> None:
    for form in ("svg", "png"):
        assert intervals(POINTS, allowed=(-5, 5), form=form) == intervals(POINTS, allowed=(-5, 5), form=form)  # type: ignore[arg-type]
    assert b"date" not in intervals(POINTS).lower()
    code = (
        "from seerctl.figures import *; import hashlib, sys;"
        "s = intervals([Point('a', 1.0, 0.0, 2.0, 'fail')], allowed=(-5, 5));"
        "assert 'matplotlib.pyplot' not in sys.modules; print(hashlib.sha256(s).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_png_is_a_picture_without_metadata() -> None:
    with Image.open(io.BytesIO(bars(POINTS, form="png"))) as image:
        assert image.width == 2 * WIDTH
        assert set(image.info) <= {"dpi"}


def test_labels_are_text_whatever_they_hold() -> None:
    names = ["</text><script>alert(1)</script>", "$\\frac{1}{0}$", 'x" id="y" href="#z', "nul\0\x1b line\nbreak",
             "\u202eturned", "x" * 300, "#b01040", "\U0001f469\U0001f3fe\u200d\U0001f9b1"]  # fmt: skip
    svg = intervals([Point(name, 1.0, 0.0, 2.0) for name in names])
    said = texts(svg)
    assert names[0] in said
    assert names[1] in said
    assert "nul line break" in said
    assert "turned" in said
    assert max(map(len, said)) <= 54
    assert names[-1] in said
    page = inline(svg, "f7")
    assert "<script" not in page
    assert "#b01040" in page  # the label; colours have become variables
    assert "id=&quot;" not in page or "href" in page
    root = ET.fromstring(page.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    assert "".join(root.itertext()).count(names[2]) == 1


def test_inline_shares_nothing_with_another_figure_of_the_page() -> None:
    one, two = inline(intervals(POINTS, allowed=(-5, 5)), "f0"), inline(intervals(POINTS, allowed=(-5, 5)), "f1")
    ids = [set(re.findall(r' id="([^"]*)"', page)) for page in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for page, known in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) == known
        assert not re.search(r"#[0-9a-f]{6}", page)
        assert "http" not in page
        assert "<style" not in page


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# Colour blindness as linear maps of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.0.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, matrix: list[list[float]]) -> np.ndarray:
    """CIE L*a*b* of a colour as seen through `matrix`."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(matrix) @ linear, 0.0, 1.0)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ seen / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read_and_told_apart(theme: dict[str, str]) -> None:
    for name in ("ink", "muted", "pass", "fail", "unsure"):
        assert contrast(theme[name], theme["paper"]) >= 4.5, name  # WCAG 2 AA for text
    for name in ("pass", "fail", "unsure", "plain"):
        assert contrast(theme[name], theme["band"]) >= 3.0, name  # and for graphics
    for kind, matrix in BLIND.items():
        for one, two in itertools.combinations(("pass", "fail", "unsure"), 2):
            distance = float(np.linalg.norm(lab(theme[one], matrix) - lab(theme[two], matrix)))
            assert distance > 12.0, (kind, one, two, distance)


def test_text_is_legible_at_the_width_of_a_phone() -> None:
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", intervals(POINTS, axis="x").decode())]
    assert min(sizes) * 360 / WIDTH >= 7.5
    assert FONT in sizes
