"""Every plot of the project, in one style: plain values in, the bytes of one SVG or PNG out.

Needs the `report` extra (matplotlib). The same values give the same bytes. The colours are told apart in the usual
kinds of colour blindness, and what a colour says a marker's shape says too. A plot is drawn narrow (460 units of 1/72
inch), so that it can still be read at the width of a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from seerctl import drawing
from seerctl.drawing import DARK, FONT, FORMS, LIGHT, STYLE, WIDTH, Form, Kind, Point, inline, rendered, short_count

__all__ = [
    "DARK", "FONT", "FORMS", "LIGHT", "STYLE", "WIDTH", "Form", "Kind", "Point", "Series", "Trend", "bars", "cloud",
    "confusion", "curves", "inline", "intervals", "rendered", "scaling", "short_count", "stacked",
]  # fmt: skip

_POINTS = 200  # of a line in `curves`
_GROUPS = 12  # that `cloud` tells apart: as many colours in as many shapes
_PALETTE = ("#3f6d9e", "#c8722b", "#1f8a70", "#b01040", "#8a6500", "#7a5ab0")
_SHAPES = ("o", "^")
_LINES: list[tuple[str, Any]] = [
    ("plain", (None, None)), ("fail", (6, 2)), ("unsure", (2, 1.5)), ("ink", (7, 2, 1.5, 2)),
    ("pass", (1, 1)), ("muted", (4, 1, 1, 1, 1, 1)),
]  # fmt: skip


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
    figure, axes = drawing.rows(points, axis, f"{'+' if signed else ''},.{digits}f", key=allowed is not None)
    drawing.limits(axes, points, [*(allowed or ()), *([] if line is None else [line])])
    left, right = axes.get_xlim()
    if allowed is not None:
        low, high = (min(max(limit, left), right) for limit in allowed)
        axes.axvspan(low, high, color=LIGHT["band"], linewidth=0, zorder=0)
        for limit in allowed:
            if math.isfinite(limit):
                axes.axvline(limit, color=LIGHT["muted"], linewidth=0.8, zorder=1)
        drawing.kinds_above(figure, points)
    if line is not None:
        axes.axvline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
    drawing.spans(axes, points, 2.0)
    for row, point in enumerate(points):
        if math.isfinite(point.value):
            axes.plot([point.value], [row], **drawing.marker(point.kind))
    return rendered(figure, form)


def bars(
    points: Sequence[Point], *, line: float | None = None, axis: str = "", digits: int = 1, form: Form = "svg"
) -> bytes:
    """One bar from zero a row, from the top, with its interval as a thin line; `line` marks a value to compare with."""
    figure, axes = drawing.rows(points, axis, f",.{digits}f", key=False)
    drawing.limits(axes, points, [0.0, *([] if line is None else [line])])
    shown = [(row, point) for row, point in enumerate(points) if math.isfinite(point.value)]
    height = 0.5 if drawing.fits_beside(points) else 0.24
    axes.barh(
        [row for row, _ in shown], [point.value for _, point in shown], height=height,
        color=[LIGHT[point.kind] for _, point in shown], alpha=0.55, linewidth=0, zorder=2,
    )  # fmt: skip
    drawing.spans(axes, points, 1.3, colour=LIGHT["ink"])
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
    with drawing.style():
        figure, axes = drawing.plane(170.0, named=len(series) > 1)
        for place, one in enumerate(series):
            colour, dashes = _LINES[place % len(_LINES)]
            steps, mean, low, high = _thinned(one)
            axes.fill_between(steps, low, high, color=LIGHT[colour], alpha=0.18, linewidth=0)
            axes.plot(steps, mean, color=LIGHT[colour], linewidth=1.5, dashes=dashes, label=drawing.clean(one.name))
        if line is not None:
            axes.axhline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
        if logarithmic:
            axes.set_yscale("log")
            plain = FuncFormatter(
                lambda value, _: f"{value:g}"
            )  # powers would be mathematics, which the page leaves out
            axes.yaxis.set_major_formatter(plain)
            axes.yaxis.set_minor_formatter(plain if _decades(axes) < 1.5 else NullFormatter())
        drawing.name_axes(axes, below, axis)
        axes.locator_params(axis="x", nbins=6)
        drawing.names_above(figure, len(series))
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
    with drawing.style():
        figure, axes = drawing.plane(200.0, named=len(trends) > 1)
        axes.set_xscale("log")
        every = [place for one in trends for place in one.places]
        aside = 0.012 * (math.log(max(every, default=1.0) / min(every, default=1.0)) or 1.0)
        for place, one in enumerate(trends):
            factor = math.exp(aside * (place - (len(trends) - 1) / 2))
            places = [factor * x for x in one.places]
            colour, dashes = _LINES[place % len(_LINES)]
            axes.plot(places, one.values, color=LIGHT[colour], linewidth=1.5, dashes=dashes, marker="o",
                      markersize=5, label=drawing.clean(one.name))  # fmt: skip
            spans = [[(x, low), (x, high)] for x, low, high in zip(places, one.low, one.high, strict=True)
                     if low is not None and high is not None]  # fmt: skip
            axes.add_collection(LineCollection(spans, colors=LIGHT[colour], linewidths=1.3), autolim=True)
        axes.autoscale_view()
        drawing.counts_below(axes, every)
        if line is not None:
            axes.axhline(line, color=LIGHT["muted"], linewidth=1, dashes=(4, 3), zorder=1)
        drawing.name_axes(axes, below, axis)
        drawing.names_above(figure, len(trends))
        return rendered(figure, form)


def confusion(
    counts: Sequence[Sequence[float]], names: Sequence[str], *, axis: str = "predicted", side: str = "label",
    form: Form = "svg",
) -> bytes:  # fmt: skip
    """Of the rows of each class (from the top) the percentage that was predicted as each (from the left).

    counts: (C, C) rows by label and prediction. Up to 20 classes have their numbers written in; a class without rows
    stays empty.
    """
    with drawing.style():
        size = len(names)
        shares = [[100 * cell / sum(row) if sum(row) else math.nan for cell in row] for row in counts]
        longest = 6.2 * max((len(drawing.clean(name)) for name in names), default=1)
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
            ticks(range(size), [drawing.clean(name)[:22] for name in names], rotation=rotation, fontsize=font)
        axes.tick_params(colors=LIGHT["ink"], length=0, pad=4)
        drawing.bare(axes)
        axes.set_xlabel(drawing.clean(axis), color=LIGHT["muted"], labelpad=5)
        axes.set_ylabel(drawing.clean(side), color=LIGHT["muted"], labelpad=5)
        return rendered(figure, form)


def cloud(
    points: Sequence[tuple[float, float]], groups: Sequence[str], *, axes_names: tuple[str, str] = ("", ""),
    form: Form = "svg",
) -> bytes:  # fmt: skip
    """Points in the plane, coloured and shaped by their group; at most twelve groups are told apart, others are grey.

    The groups with most points come first in the key.
    """
    with drawing.style():
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
                      markeredgewidth=0, color=colour, alpha=0.75, label=drawing.clean(name)[:18])  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        drawing.bare(axes)
        axes.set_xlabel(drawing.clean(axes_names[0]), color=LIGHT["muted"], labelpad=3, fontsize=FONT - 1)
        axes.set_ylabel(drawing.clean(axes_names[1]), color=LIGHT["muted"], labelpad=3, fontsize=FONT - 1)
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
    with drawing.style():
        keys = drawing.KEY * -(-len(series) // 3)
        height = 210.0 + keys
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        top = keys + drawing.MARGIN
        axes = figure.add_axes((0.12, drawing.AXIS / height, 0.86, 1 - (top + drawing.AXIS) / height), facecolor="none")
        shades = [(LIGHT[_LINES[place % len(_LINES)][0]], 0.75 if place < len(_LINES) else 0.35)
                  for place in range(len(series))]  # fmt: skip
        areas = axes.stackplot(series[0].steps, *(one.values for one in series), linewidth=0,
                               labels=[drawing.clean(one.name) for one in series])  # fmt: skip
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
        axes.set_xlabel(drawing.clean(below), color=LIGHT["muted"], labelpad=3)
        axes.set_ylabel(drawing.clean(axis), color=LIGHT["muted"], labelpad=4)
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
