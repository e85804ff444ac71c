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
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

Kind = Literal["plain", "pass", "fail", "unsure"]
Form = Literal["svg", "png"]
FORMS: tuple[Form, ...] = ("svg", "png")

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
_GROUPS = 12  # that `cloud` tells apart: as many colours in as many shapes
_PALETTE = ("#3f6d9e", "#c8722b", "#1f8a70", "#b01040", "#8a6500", "#7a5ab0")
_SHAPES = ("o", "^")
_MARKS: dict[Kind, str] = {"plain": "o", "pass": "o", "fail": "X", "unsure": "D"}
_WORDS: dict[Kind, str] = {"plain": "", "pass": "passes", "fail": "fails", "unsure": "undecided"}
STYLE: dict[Any, Any] = {
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
    return rendered(figure, form)


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
    return rendered(figure, form)


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
        figure, axes = _plane(170.0, named=len(series) > 1)
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
        _name_axes(axes, below, axis)
        axes.locator_params(axis="x", nbins=6)
        _names_above(figure, len(series))
        return rendered(figure, form)


@dataclass(frozen=True, slots=True)
class Trend:
    """A line of `scaling`: values with their limits at rising places, which are positive."""

    name: str
    places: Sequence[float]
    values: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]


def scaling(
    trends: Sequence[Trend], *, axis: str = "", below: str = "", line: float | None = None, form: Form = "svg"
) -> bytes:
    """Values with their intervals over a logarithmic axis (parameters, images seen), a line each, named above.

    axis: what the values are. below: what the places are. line: a value to compare with. Limits that are None are not
    drawn. Several lines stand a little beside each other, so that no interval hides another.
    """
    with _style():
        figure, axes = _plane(200.0, named=len(trends) > 1)
        axes.set_xscale("log")
        every = [place for one in trends for place in one.places]
        aside = 0.012 * (math.log(max(every, default=1.0) / min(every, default=1.0)) or 1.0)
        for place, one in enumerate(trends):
            factor = math.exp(aside * (place - (len(trends) - 1) / 2))
            places = [factor * x for x in one.places]
            colour, dashes = _LINES[place % len(_LINES)]
            axes.plot(places, one.values, color=LIGHT[colour], linewidth=1.5, dashes=dashes, marker="o",
                      markersize=5, label=_clean(one.name))  # fmt: skip
            spans = [[(x, low), (x, high)] for x, low, high in zip(places, one.low, one.high, strict=True)
                     if low is not None and high is not None]  # fmt: skip
            axes.add_collection(LineCollection(spans, colors=LIGHT[colour], linewidths=1.3), autolim=True)
        axes.autoscale_view()
        _counts_below(axes, every)
        if line is not None:
            axes.axhline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
        _name_axes(axes, below, axis)
        _names_above(figure, len(trends))
        return rendered(figure, form)


def confusion(
    counts: Sequence[Sequence[float]], names: Sequence[str], *, axis: str = "predicted", side: str = "label",
    form: Form = "svg",
) -> bytes:  # fmt: skip
    """Of the rows of each class (from the top) the percentage that was predicted as each (from the left).

    counts: (C, C) rows by label and prediction. Up to 20 classes have their numbers written in; a class without rows
    stays empty.
    """
    with _style():
        size = len(names)
        shares = [[100 * cell / sum(row) if sum(row) else math.nan for cell in row] for row in counts]
        longest = 6.2 * max((len(_clean(name)) for name in names), default=1)
        margin = min(longest, 130.0) + 26.0
        cell = min(30.0, (WIDTH - margin - 8) / max(size, 1))
        height = margin + cell * size + 8
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        axes = figure.add_axes(
            (margin / WIDTH, 8 / height, cell * size / WIDTH, cell * size / height), facecolor="none"
        )
        colours = LinearSegmentedColormap.from_list("seerctl", ["#e4ecf5", "#3e6c9d"])
        colours.set_bad((0, 0, 0, 0))
        for row, values in enumerate(shares):
            for column, value in enumerate(values):
                if not math.isfinite(value):
                    continue
                shade = to_hex(colours(value / 100))
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, linewidth=0))
                if size <= 20 and value >= 0.5:
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=min(FONT - 2, cell / 2.4),
                              color="#fefefe" if value > 55 else "#14181c")  # fmt: skip
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.xaxis.set_ticks_position("top")
        axes.xaxis.set_label_position("top")
        font = max(3.5, min(FONT - 1, cell - 1.5))
        for ticks, rotation in ((axes.set_xticks, 90), (axes.set_yticks, 0)):
            ticks(range(size), [_clean(name)[:22] for name in names], rotation=rotation, fontsize=font)
        axes.tick_params(colors=LIGHT["ink"], length=0, pad=4)
        _bare(axes)
        axes.set_xlabel(_clean(axis), color=LIGHT["muted"], labelpad=5)
        axes.set_ylabel(_clean(side), color=LIGHT["muted"], labelpad=5)
        return rendered(figure, form)


def cloud(
    points: Sequence[tuple[float, float]], groups: Sequence[str], *, axes_names: tuple[str, str] = ("", ""),
    form: Form = "svg",
) -> bytes:  # fmt: skip
    """Points in the plane, coloured and shaped by their group; at most twelve groups are told apart, others are grey.

    The groups with most points come first in the key.
    """
    with _style():
        order = sorted(dict.fromkeys(groups), key=lambda name: (-list(groups).count(name), name))
        shown, rest = order[:_GROUPS], set(order[_GROUPS:])
        rows = -(-(len(shown) + bool(rest)) // 4)
        height = 330.0 + 17 * rows
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        axes = figure.add_axes((0.02, 20 / height, 0.96, 306 / height), facecolor="none")
        parts = [("others", [p for p, g in zip(points, groups, strict=True) if g in rest])] if rest else []
        parts += [(name, [p for p, g in zip(points, groups, strict=True) if g == name]) for name in shown]
        for name, some in parts:
            place = shown.index(name) if name in shown else None
            colour = LIGHT["muted"] if place is None else _PALETTE[place % len(_PALETTE)]
            mark = "." if place is None else _SHAPES[place // len(_PALETTE)]
            axes.plot([x for x, _ in some], [y for _, y in some], linestyle="none", marker=mark, markersize=4,
                      markeredgewidth=0, color=colour, alpha=0.75, label=_clean(name)[:18])  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        _bare(axes)
        axes.set_xlabel(_clean(axes_names[0]), color=LIGHT["muted"], labelpad=3, fontsize=FONT - 1)
        axes.set_ylabel(_clean(axes_names[1]), color=LIGHT["muted"], labelpad=3, fontsize=FONT - 1)
        figure.legend(
            loc="upper left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderpad=0, borderaxespad=0.2,
            handletextpad=0.1, columnspacing=1.0, labelcolor=LIGHT["muted"], markerscale=1.6, fontsize=FONT - 1,
        )  # fmt: skip
        return rendered(figure, form)


def stacked(
    series: Sequence[Series], *, line: float | None = None, axis: str = "", below: str = "", form: Form = "svg"
) -> bytes:
    """Parts of a whole over the same steps, one area upon the other, the first at the bottom, named in that order.

    line: a limit that the whole is compared with.
    """
    with _style():
        keys = _KEY * -(-len(series) // 3)
        height = 210.0 + keys
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        axes = figure.add_axes((0.12, _AXIS / height, 0.86, 1 - (keys + _MARGIN + _AXIS) / height), facecolor="none")
        shades = [(LIGHT[_LINES[place % len(_LINES)][0]], 0.75 if place < len(_LINES) else 0.35)
                  for place in range(len(series))]  # fmt: skip
        areas = axes.stackplot(series[0].steps, *(one.values for one in series), linewidth=0,
                               labels=[_clean(one.name) for one in series])  # fmt: skip
        for area, (colour, strength) in zip(areas, shades, strict=True):
            area.set(facecolor=colour, alpha=strength)
        if line is not None:
            axes.axhline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3))
        axes.tick_params(colors=LIGHT["muted"], length=0, pad=5, labelsize=FONT - 1)
        axes.grid(color=LIGHT["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.margins(x=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(_clean(below), color=LIGHT["muted"], labelpad=3)
        axes.set_ylabel(_clean(axis), color=LIGHT["muted"], labelpad=4)
        figure.legend(
            loc="upper left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, borderaxespad=0.2,
            handletextpad=0.5, columnspacing=1.4, labelcolor=LIGHT["muted"], handlelength=1.4,
        )  # fmt: skip
        return rendered(figure, form)


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


def _plane(height: float, *, named: bool) -> tuple[Figure, Axes]:
    """A figure for lines, with room above for their names."""
    height += _KEY if named else 0
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
    top = (_KEY if named else _MARGIN) / height
    return figure, figure.add_axes((0.12, _AXIS / height, 0.86, 1 - top - _AXIS / height), facecolor="none")


def _name_axes(axes: Axes, below: str, axis: str) -> None:
    axes.tick_params(which="both", colors=LIGHT["muted"], length=0, pad=5, labelsize=FONT - 1)
    axes.grid(color=LIGHT["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    _bare(axes)
    axes.set_xlabel(_clean(below), color=LIGHT["muted"], labelpad=3)
    axes.set_ylabel(_clean(axis), color=LIGHT["muted"], labelpad=4)


def _bare(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)


def _names_above(figure: Figure, lines: int) -> None:
    if lines > 1:
        figure.legend(
            loc="upper left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, borderaxespad=0.2,
            handletextpad=0.5, columnspacing=1.4, labelcolor=LIGHT["muted"], handlelength=2.2,
        )  # fmt: skip


def _counts_below(axes: Axes, places: Sequence[float]) -> None:
    """The places themselves as ticks, as 26 k or 1.3 M, but for those too close to their left neighbour."""
    chosen: list[float] = []
    low, high = min(places, default=1.0), max(places, default=1.0)
    span = math.log(high / low) or 1.0
    for place in sorted(set(places)):
        if not chosen or math.log(place / chosen[-1]) / span > 0.11:
            chosen.append(place)
    axes.set_xticks(chosen, [short_count(place) for place in chosen])
    axes.set_xticks([], minor=True)
    if low == high:
        axes.set_xlim(low / 2, high * 2)


def short_count(number: float) -> str:
    """A count for people, as 26 k, 1.35 M or 9.32 B."""
    for size, word in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{word}"
    return f"{number:g}"


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
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that our font lacks: an SVG keeps them as text
        yield


def rendered(figure: Figure, form: Form) -> bytes:
    """The bytes of a figure."""
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
