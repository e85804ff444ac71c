"""A map of words: each at its place, in its group's colour, with labels that keep out of each other's way.

Labels are tried in order of importance at eight places around their point, and left out where all are taken. Letters
are looked for in every font that this machine has for their script; in an SVG they stay text, which a viewer draws (and
joins, where a script does that) with its own fonts.

Needs the `report` extra (matplotlib).
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.transforms import Bbox

from seerctl import figures
from seerctl.figures import LIGHT, Form

SIDE = 900.0  # points
_FONT = 10.0
_GAP = 4.0
_PLACES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_COLOURS = ("#3f6d9e", "#c8722b", "#1f8a70", "#b01040", "#8a6500", "#7a5ab0")
_SHAPES = ("o", "^", "s", "D")
_PREFERRED = ("Noto Sans", "Noto", "Unifont", "WenQuanYi", "Droid", "FreeSans", "Arial Unicode")


@dataclass(frozen=True, slots=True)
class Word:
    """A word at a place; shape: which of several marks it has (a language), group: which colour."""

    text: str
    x: float
    y: float
    group: int = 0
    shape: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """The picture, how many labels found room, and words with letters that no font here has."""

    image: bytes
    labelled: int
    missing: tuple[str, ...]


def draw(words: Sequence[Word], *, shapes: Sequence[str] = (), form: Form = "png") -> Drawn:
    """Draw words, the most important first; `shapes` names their marks, for a key where there are several."""
    missing = tuple(word.text for word in words if not _covered(word.text))
    families = ["DejaVu Sans", *_families("".join(word.text for word in words))]
    with mpl.rc_context({**figures.STYLE, "font.family": families}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font has are said in `missing`
        figure = Figure(figsize=(SIDE / 72, SIDE / 72), dpi=72, facecolor="none")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.95), facecolor="none")
        axes.set_axis_off()
        for word in words:
            axes.plot([word.x], [word.y], marker=_SHAPES[word.shape % len(_SHAPES)], markersize=3.5, linestyle="none",
                      color=_COLOURS[word.group % len(_COLOURS)], markeredgewidth=0, alpha=0.8)  # fmt: skip
        axes.margins(0.08)
        labelled = _label(axes, canvas, words)
        if len(shapes) > 1:
            for place, name in enumerate(shapes):
                axes.plot([], [], marker=_SHAPES[place % len(_SHAPES)], linestyle="none", markersize=5,
                          color=LIGHT["muted"], label=name or "unknown")  # fmt: skip
            figure.legend(loc="upper left", ncols=6, frameon=False, labelcolor=LIGHT["muted"], fontsize=_FONT)
        return Drawn(figures.rendered(figure, form), labelled, missing)


def _label(axes: Any, canvas: FigureCanvasAgg, words: Sequence[Word]) -> int:
    """Write the labels that find a place; returns how many."""
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer: Any = canvas.get_renderer()  # type: ignore[no-untyped-call]
    frame = axes.get_window_extent()
    taken: list[Bbox] = []
    for word in words:
        where = axes.transData.transform((word.x, word.y))
        text = axes.annotate(
            word.text, (word.x, word.y), xytext=(0, 0), textcoords="offset points", fontsize=_FONT,
            color=_COLOURS[word.group % len(_COLOURS)], ha="center", va="center",
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        for right, up in _PLACES:
            x = right * (size.width / 2 + _GAP)
            y = up * (size.height / 2 + (_GAP / 2 if right else _GAP))
            box = Bbox.from_bounds(where[0] + x - size.width / 2, where[1] + y - size.height / 2, *size.size)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                text.set_position((x, y))
                taken.append(box)
                break
        else:
            text.remove()
    return len(taken)


# -------------------------------------------------------------------------------------------------------------- fonts


@cache
def _fonts() -> dict[str, frozenset[int]]:
    """The characters of every font family of this machine, those with wide coverage first."""
    found: dict[str, frozenset[int]] = {}
    entries = sorted(font_manager.fontManager.ttflist, key=lambda e: (not e.name.startswith(_PREFERRED), e.name))
    for entry in entries:
        if entry.style != "normal" or entry.name in found or "Last Resort" in entry.name or not _scalable(entry.fname):
            continue
        try:
            found[entry.name] = frozenset(FT2Font(entry.fname).get_charmap())
        except (OSError, RuntimeError):
            continue
    return found


def _scalable(path: str) -> bool:
    """Whether matplotlib can draw with the font: coloured bitmaps (emoji) it cannot."""
    return Path(path).suffix.lower() in (".ttf", ".otf", ".ttc") and "Emoji" not in Path(path).name


def _families(text: str) -> list[str]:
    """Families that together have the letters of `text`, as far as any has."""
    lacking = {ord(c) for c in text} - _fonts().get("DejaVu Sans", frozenset())
    chosen = []
    for name, letters in _fonts().items():
        if lacking & letters:
            chosen.append(name)
            lacking -= letters
    return chosen


def _covered(text: str) -> bool:
    """Whether every visible character of `text` is in some font here."""
    visible = {ord(c) for c in text if unicodedata.category(c) not in ("Cf", "Mn", "Zs")}
    return all(any(letter in letters for letters in _fonts().values()) for letter in visible)
