"""Every plot of the project, in one style: plain values in, the bytes of one SVG or PNG out.

Needs the `report` extra (matplotlib). Only matplotlib's object interface is used, so that no state is left behind in a
caller's process; the same values give the same bytes. The colours are told apart in the usual kinds of colour
blindness, and what a colour says a marker's shape says too. A plot is drawn narrow (460 units of 1/72 inch), so that it
can still be read at the width of a phone.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

Kind = Literal["plain", "pass", "fail", "unsure"]
Form = Literal["svg", "png"]

LIGHT = {
    "ink": "#1b1f24", "muted": "#59626d", "grid": "#d9dee4", "paper": "#ffffff", "band": "#e3ecf6",
    "plain": "#3f6d9e", "pass": "#1f62ab", "fail": "#b01040", "unsure": "#8a6500",
}  # fmt: skip
DARK = {
    "ink": "#e8ebee", "muted": "#a3adb8", "grid": "#3a424c", "paper": "#171b20", "band": "#233549",
    "plain": "#8ab4de", "pass": "#8abaf0", "fail": "#ff8f82", "unsure": "#eec25b",
}  # fmt: skip

WIDTH = 460.0  # all lengths are in points: 1/72 inch, and one unit of an SVG's viewBox
FONT = 11.0
_ROW, _TALL_ROW, _AXIS, _KEY, _MARGIN = 21.0, 37.0, 36.0, 26.0, 6.0
_BESIDE = 24  # characters of a label that fit beside its row; longer ones stand above it
_LONGEST = 54
_DPI = 144  # of a PNG
_POINTS = 200  # of a line in `curves`
_LINES: list[tuple[str, Any]] = [
    ("plain", (None, None)), ("fail", (6, 2)), ("unsure", (2, 1.5)), ("ink", (7, 2, 1.5, 2)),
    ("pass", (1, 1)), ("muted", (4, 1, 1, 1, 1, 1)),
]  # fmt: skip
_MARKS: dict[Kind, str] = {"plain": "o", "pass": "o", "fail": "X", "unsure": "D"}
_WORDS: dict[Kind, str] = {"plain": "", "pass": "passes", "fail": "fails", "unsure": "undecided"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "seerctl", "text.parse_math": False, "text.usetex": False,
    "font.size": FONT, "font.family": ["DejaVu Sans"], "axes.unicode_minus": True, "path.simplify": False,
}  # fmt: skip

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # font caches are not news for a person


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a plot: a value, the limits of its interval where there are any, and what was decided about it.

    A value that is not finite leaves its row empty. Limits may be infinite: the line then ends at the edge.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: Kind = "plain"


@dataclass(frozen=True, slots=True)
class Series:
    """A line of `curves`: as many values as steps, in order."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def intervals(
    points: Sequence[Point], *, allowed: tuple[float, float] | None = None, line: float | None = None, axis: str = "",
    digits: int = 1, signed: bool = False, form: Form = "svg",
) -> bytes:  # fmt: skip
    """One marker with its interval a row, from the top; the range that is `allowed` (it may be open) is shaded.

    line: a value to compare with. axis: what the numbers are, with their unit. digits: after the point, of the values
    that are written at the end of the rows; signed: whether those have a plus.
    """
    figure, axes = _rows(points, axis, f"{'+' if signed else ''},.{digits}f", key=allowed is not None)
    _limits(axes, points, [*(allowed or ()), *([] if line is None else [line])])
    left, right = axes.get_xlim()
    if allowed is not None:
        low, high = (min(max(limit, left), right) for limit in allowed)
        axes.axvspan(low, high, color=LIGHT["band"], linewidth=0, zorder=0)
        for limit in allowed:
            if math.isfinite(limit):
                axes.axvline(limit, color=LIGHT["muted"], linewidth=0.8, zorder=1)
        _key(figure, points)
    if line is not None:
        axes.axvline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
    _spans(axes, points, 2.0)
    for row, point in enumerate(points):
        if math.isfinite(point.value):
            axes.plot([point.value], [row], **_marker(point.kind))
    return _bytes(figure, form)


def bars(
    points: Sequence[Point], *, line: float | None = None, axis: str = "", digits: int = 1, form: Form = "svg"
) -> bytes:
    """One bar from zero a row, from the top, with its interval as a thin line; `line` marks a value to compare with."""
    figure, axes = _rows(points, axis, f",.{digits}f", key=False)
    _limits(axes, points, [0.0, *([] if line is None else [line])])
    shown = [(row, point) for row, point in enumerate(points) if math.isfinite(point.value)]
    axes.barh(
        [row for row, _ in shown], [point.value for _, point in shown], height=0.5 if _beside(points) else 0.24,
        color=[LIGHT[point.kind] for _, point in shown], alpha=0.55, linewidth=0, zorder=2,
    )  # fmt: skip
    _spans(axes, points, 1.3, colour=LIGHT["ink"])
    if line is not None:
        axes.axvline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
    return _bytes(figure, form)


def curves(
    series: Sequence[Series], *, line: float | None = None, axis: str = "", below: str = "step",
    logarithmic: bool = False, form: Form = "svg",
) -> bytes:  # fmt: skip
    """Values over steps, a line each, told apart by dashes too, with their names above where there are several.

    line: a value to compare with. axis: what the values are. below: what the steps are. Values that are not finite
    leave gaps. More than `_POINTS` points are thinned to the means of as many stretches, with the range of each drawn
    pale around it: spikes stay visible.
    """
    with _style():
        height = 170.0 + (_KEY if len(series) > 1 else 0)
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        top = (_KEY if len(series) > 1 else _MARGIN) / height
        axes = figure.add_axes((0.12, _AXIS / height, 0.86, 1 - top - _AXIS / height), facecolor="none")
        for place, one in enumerate(series):
            colour, dashes = _LINES[place % len(_LINES)]
            steps, mean, low, high = _thinned(one)
            axes.fill_between(steps, low, high, color=LIGHT[colour], alpha=0.18, linewidth=0)
            axes.plot(steps, mean, color=LIGHT[colour], linewidth=1.5, dashes=dashes, label=_clean(one.name))
        if line is not None:
            axes.axhline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
        if logarithmic:
            axes.set_yscale("log")
            plain = FuncFormatter(
                lambda value, _: f"{value:g}"
            )  # powers would be mathematics, which the page leaves out
            axes.yaxis.set_major_formatter(plain)
            axes.yaxis.set_minor_formatter(plain if _decades(axes) < 1.5 else NullFormatter())
        axes.tick_params(which="both", colors=LIGHT["muted"], length=0, pad=5, labelsize=FONT - 1)
        axes.grid(color=LIGHT["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(_clean(below), color=LIGHT["muted"], labelpad=3)
        axes.set_ylabel(_clean(axis), color=LIGHT["muted"], labelpad=4)
        axes.locator_params(axis="x", nbins=6)
        if len(series) > 1:
            figure.legend(
                loc="upper left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, borderaxespad=0.2,
                handletextpad=0.5, columnspacing=1.4, labelcolor=LIGHT["muted"], handlelength=2.2,
            )  # fmt: skip
        return _bytes(figure, form)


def _decades(axes: Axes) -> float:
    low, high = axes.get_ylim()
    return math.log10(high / low)


def _thinned(series: Series) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps, means, lowest and highest values of at most `_POINTS` stretches of a series."""
    pairs = list(zip(series.steps, series.values, strict=True))
    size = -(-len(pairs) // _POINTS)
    found: tuple[list[float], list[float], list[float], list[float]] = ([], [], [], [])
    for start in range(0, len(pairs), max(size, 1)):
        part = pairs[start : start + size]
        finite = [value for _, value in part if math.isfinite(value)]
        middle = sum(step for step, _ in part) / len(part)
        row = (sum(finite) / len(finite), min(finite), max(finite)) if finite else (math.nan,) * 3
        for column, value in zip(found, (middle, *row), strict=True):
            column.append(value)
    return found


def inline(svg: bytes, prefix: str) -> str:
    """An SVG of this module for the body of an HTML page.

    Its colours become CSS variables (`--ink`, `--fail`, ...: the names of `LIGHT`), ids get `prefix` and so stay unique
    in the page, and what only a file needs is gone. It takes the width of its container.
    """
    text = svg.decode("utf-8")
    text = re.sub(r"<style[^>]*>.*?</style>", "", text[text.index("<svg") :], flags=re.S)
    referenced = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text))
    text = re.sub(r"<[^>]*>", lambda match: _inline_tag(match[0], prefix, referenced), text)
    return re.sub(r"<defs></defs>|<g/>", "", re.sub(r">\s*\n\s*<", "><", text)).strip()


def _inline_tag(tag: str, prefix: str, referenced: set[str]) -> str:
    """One tag of an SVG; what labels say stands outside of tags and stays as it is."""
    if tag.startswith("<svg "):
        box = re.search(r'viewBox="[^"]*"', tag)
        return f'<svg {box[0] if box else ""} aria-hidden="true">'
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in referenced else "", tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', tag).replace("url(#", f"url(#{prefix}-")
    tag = re.sub(r" font-family: [^;\"]*;?| transform=\"rotate\(-0 [^)]*\)\"", "", tag)
    for name, colour in LIGHT.items():
        tag = tag.replace(colour, f"var(--{name})")
    return " ".join(tag.split())


# ------------------------------------------------------------------------------------------------------------ drawing


def _beside(points: Sequence[Point]) -> bool:
    return max((len(point.label) for point in points), default=0) <= _BESIDE


def _rows(points: Sequence[Point], axis: str, written: str, *, key: bool) -> tuple[Figure, Axes]:
    """A figure as high as its rows: labels at the left (above, where they are long), values at the right."""
    with _style():
        beside, count = _beside(points), max(len(points), 1)
        top = _KEY if key else _MARGIN
        height = top + count * (_ROW if beside else _TALL_ROW) + _AXIS
        names = 6.5 * max(6, *(len(point.label) for point in points)) + 8 if beside and points else 10.0
        values = [_number(point.value, written) for point in points]
        numbers = 7.5 * max((len(value) for value in values), default=0) + 8
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        place = (names / WIDTH, _AXIS / height, (WIDTH - names - numbers) / WIDTH, 1 - (_AXIS + top) / height)
        axes = figure.add_axes(place, facecolor="none")
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_yticks([])
        axes.tick_params(axis="x", colors=LIGHT["muted"], length=0, pad=5, labelsize=FONT - 1)
        axes.grid(axis="x", color=LIGHT["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(_clean(axis), color=LIGHT["muted"], labelpad=3)
        turned = axes.get_yaxis_transform()
        for row, (point, value) in enumerate(zip(points, values, strict=True)):
            where = (-6 / (WIDTH - names - numbers), row) if beside else (0.0, row - 0.34)
            axes.text(
                where[0], where[1], _clean(point.label), transform=turned, color=LIGHT["ink"], va="center",
                ha="right" if beside else "left",
            )  # fmt: skip
            axes.text(
                1 + (numbers - 2) / (WIDTH - names - numbers), row, value, transform=turned, va="center", ha="right",
                color=LIGHT["ink"],
            )  # fmt: skip
        return figure, axes


def _limits(axes: Axes, points: Sequence[Point], others: Sequence[float]) -> None:
    """Horizontal limits around everything that is finite, with some air."""
    values = [v for point in points for v in (point.value, point.low, point.high) if v is not None] + list(others)
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    starts, ends = (0.0 in others and edge == 0.0 and low != high for edge in (low, high))
    axes.set_xlim(low - (0.0 if starts else air), high + (0.0 if ends else air))
    axes.locator_params(axis="x", nbins=5)


def _spans(axes: Axes, points: Sequence[Point], width: float, colour: str | None = None) -> None:
    """The intervals of all points as horizontal lines."""
    left, right = axes.get_xlim()
    known = [(row, p, p.low, p.high) for row, p in enumerate(points) if p.low is not None and p.high is not None]
    lines = [[(max(low, left), row), (min(high, right), row)] for row, _, low, high in known]
    colours = [colour or LIGHT[point.kind] for _, point, _, _ in known]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, zorder=3), autolim=False)


def _marker(kind: Kind) -> dict[str, Any]:
    return {
        "marker": _MARKS[kind], "markersize": 8.5 if kind == "fail" else 7, "linestyle": "none", "zorder": 4,
        "color": LIGHT[kind], "markerfacecolor": LIGHT["paper"] if kind == "unsure" else LIGHT[kind],
        "markeredgewidth": 1.6 if kind == "unsure" else 0,
    }  # fmt: skip


def _key(figure: Figure, points: Sequence[Point]) -> None:
    """What the shapes mean, above the rows, for the kinds that are there."""
    there = {point.kind for point in points}
    kinds: list[Kind] = [kind for kind, word in _WORDS.items() if word and kind in there]
    handles: list[Line2D | Patch] = [Line2D([], [], label=_WORDS[kind], **_marker(kind)) for kind in kinds]
    handles.append(Patch(color=LIGHT["band"], linewidth=0, label="allowed"))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 1), ncols=len(handles), frameon=False, borderpad=0,
        borderaxespad=0.2, handletextpad=0.4, columnspacing=1.4, labelcolor=LIGHT["muted"], handlelength=1.2,
    )  # fmt: skip


def _number(value: float, written: str) -> str:
    if not math.isfinite(value):
        return ""
    text = format(value, written)
    return text.lstrip("+-") if not float(text.replace(",", "")) else text.replace("-", "\u2212")


def _clean(text: str) -> str:
    """One line that an SVG can hold, cut in its middle where it is long."""
    flat = "".join(c if c.isprintable() or c == "\u200d" else " " for c in text)
    flat = " ".join(flat.split())
    half = _LONGEST // 2
    return flat if len(flat) <= _LONGEST else f"{flat[:half]}\u2026{flat[-half + 1 :]}"


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that our font lacks: an SVG keeps them as text
        yield


def _bytes(figure: Figure, form: Form) -> bytes:
    out = io.BytesIO()
    with _style():
        if form == "png":
            FigureCanvasAgg(figure)
            figure.savefig(out, format="png", dpi=_DPI, facecolor=LIGHT["paper"], metadata={"Software": None})
        else:
            FigureCanvasSVG(figure)
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()
