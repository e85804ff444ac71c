"""What every plot of `figures` is drawn with: the colours and measures, figures with their axes, and their bytes.

Only matplotlib's object interface is used, so that no state is left behind in a caller's process.
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
_ROW, _TALL_ROW, AXIS, KEY, MARGIN = 21.0, 37.0, 36.0, 26.0, 6.0
_BESIDE = 24  # characters of a label that fit beside its row; longer ones stand above it
_LONGEST = 54
_DPI = 144  # of a PNG
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


def plane(height: float, *, named: bool) -> tuple[Figure, Axes]:
    """A figure for lines, with room above for their names."""
    height += KEY if named else 0
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
    top = (KEY if named else MARGIN) / height
    return figure, figure.add_axes((0.12, AXIS / height, 0.86, 1 - top - AXIS / height), facecolor="none")


def name_axes(axes: Axes, below: str, axis: str) -> None:
    """What runs along the bottom (`below`) and up the side (`axis`), with a grid and no frame."""
    axes.tick_params(which="both", colors=LIGHT["muted"], length=0, pad=5, labelsize=FONT - 1)
    axes.grid(color=LIGHT["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    bare(axes)
    axes.set_xlabel(clean(below), color=LIGHT["muted"], labelpad=3)
    axes.set_ylabel(clean(axis), color=LIGHT["muted"], labelpad=4)


def bare(axes: Axes) -> None:
    """No frame."""
    for spine in axes.spines.values():
        spine.set_visible(False)


def names_above(figure: Figure, lines: int) -> None:
    """The names of the lines, where there are several."""
    if lines > 1:
        figure.legend(
            loc="upper left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, borderaxespad=0.2,
            handletextpad=0.5, columnspacing=1.4, labelcolor=LIGHT["muted"], handlelength=2.2,
        )  # fmt: skip


def counts_below(axes: Axes, places: Sequence[float]) -> None:
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


def fits_beside(points: Sequence[Point]) -> bool:
    """Whether every label is short enough to stand beside its row."""
    return max((len(point.label) for point in points), default=0) <= _BESIDE


def rows(points: Sequence[Point], axis: str, written: str, *, key: bool) -> tuple[Figure, Axes]:
    """A figure as high as its rows: labels at the left (above, where they are long), values at the right."""
    with style():
        beside, count = fits_beside(points), max(len(points), 1)
        top = KEY if key else MARGIN
        height = top + count * (_ROW if beside else _TALL_ROW) + AXIS
        names = 6.5 * max(6, *(len(point.label) for point in points)) + 8 if beside and points else 10.0
        values = [_number(point.value, written) for point in points]
        numbers = 7.5 * max((len(value) for value in values), default=0) + 8
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        place = (names / WIDTH, AXIS / height, (WIDTH - names - numbers) / WIDTH, 1 - (AXIS + top) / height)
        axes = figure.add_axes(place, facecolor="none")
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_yticks([])
        axes.tick_params(axis="x", colors=LIGHT["muted"], length=0, pad=5, labelsize=FONT - 1)
        axes.grid(axis="x", color=LIGHT["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(clean(axis), color=LIGHT["muted"], labelpad=3)
        turned = axes.get_yaxis_transform()
        for row, (point, value) in enumerate(zip(points, values, strict=True)):
            where = (-6 / (WIDTH - names - numbers), row) if beside else (0.0, row - 0.34)
            axes.text(
                where[0], where[1], clean(point.label), transform=turned, color=LIGHT["ink"], va="center",
                ha="right" if beside else "left",
            )  # fmt: skip
            axes.text(
                1 + (numbers - 2) / (WIDTH - names - numbers), row, value, transform=turned, va="center", ha="right",
                color=LIGHT["ink"],
            )  # fmt: skip
        return figure, axes


def limits(axes: Axes, points: Sequence[Point], others: Sequence[float]) -> None:
    """Horizontal limits around everything that is finite, with some air."""
    values = [v for point in points for v in (point.value, point.low, point.high) if v is not None] + list(others)
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    starts, ends = (0.0 in others and edge == 0.0 and low != high for edge in (low, high))
    axes.set_xlim(low - (0.0 if starts else air), high + (0.0 if ends else air))
    axes.locator_params(axis="x", nbins=5)


def spans(axes: Axes, points: Sequence[Point], width: float, colour: str | None = None) -> None:
    """The intervals of all points as horizontal lines."""
    left, right = axes.get_xlim()
    known = [(row, p, p.low, p.high) for row, p in enumerate(points) if p.low is not None and p.high is not None]
    lines = [[(max(low, left), row), (min(high, right), row)] for row, _, low, high in known]
    colours = [colour or LIGHT[point.kind] for _, point, _, _ in known]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, zorder=3), autolim=False)


def marker(kind: Kind) -> dict[str, Any]:
    """How `Axes.plot` draws a point of this kind."""
    return {
        "marker": _MARKS[kind], "markersize": 8.5 if kind == "fail" else 7, "linestyle": "none", "zorder": 4,
        "color": LIGHT[kind], "markerfacecolor": LIGHT["paper"] if kind == "unsure" else LIGHT[kind],
        "markeredgewidth": 1.6 if kind == "unsure" else 0,
    }  # fmt: skip


def kinds_above(figure: Figure, points: Sequence[Point]) -> None:
    """What the shapes mean, above the rows, for the kinds that are there."""
    there = {point.kind for point in points}
    kinds: list[Kind] = [kind for kind, word in _WORDS.items() if word and kind in there]
    handles: list[Line2D | Patch] = [Line2D([], [], label=_WORDS[kind], **marker(kind)) for kind in kinds]
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


def clean(text: str) -> str:
    """One line that an SVG can hold, cut in its middle where it is long."""
    flat = "".join(c if c.isprintable() or c == "\u200d" else " " for c in text)
    flat = " ".join(flat.split())
    half = _LONGEST // 2
    return flat if len(flat) <= _LONGEST else f"{flat[:half]}\u2026{flat[-half + 1 :]}"


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings within: those of every plot, and none of the caller's."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that our font lacks: an SVG keeps them as text
        yield


def rendered(figure: Figure, form: Form) -> bytes:
    """The bytes of a figure."""
    out = io.BytesIO()
    with style():
        if form == "png":
            FigureCanvasAgg(figure)
            figure.savefig(out, format="png", dpi=_DPI, facecolor=LIGHT["paper"], metadata={"Software": None})
        else:
            FigureCanvasSVG(figure)
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()


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
