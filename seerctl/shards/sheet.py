"""A contact sheet of a shard set: people would rather look.

Which pictures are shown depends on the seed and the keys alone (the lowest keyed hashes), so that two sheets of the
same samples are the same, however they are cut into shards.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from seerctl.augment.decode import DecodeError, to_rgb
from seerctl.errors import UsageError, did_you_mean, one_line
from seerctl.files import atomic_write
from seerctl.shards.index import Sample, ShardSet
from seerctl.shards.jsons import read_metas
from seerctl.shards.shuffle import Shuffle
from seerctl.shards.summary import kind_of

MAX_ROWS = 24  # values that have a row; the rest is counted
COUNT, PER_ROW = 48, 10  # pictures on a sheet, or in each row of one by a column
MAX_COUNT = 2000
_BINS = 10
_TILE, _GAP, _LINE, _FONT = 160, 8, 15, 12
_INK, _PALE, _PAPER, _EMPTY = (20, 20, 20), (110, 110, 110), (255, 255, 255), (225, 225, 225)


@dataclass(slots=True)
class Row:
    """Pictures that stand together: how many there are of the kind, and the positions of those that are shown."""

    title: str
    count: int = 0
    chosen: list[tuple[int, int]] = field(default_factory=list)  # (minus the hash, position), a heap

    def offer(self, place: int, position: int, most: int) -> None:
        """Count one, and show it if its hash is among the `most` lowest."""
        self.count += 1
        item = (-place, position)
        if len(self.chosen) < most:
            heapq.heappush(self.chosen, item)
        else:
            heapq.heappushpop(self.chosen, item)

    @property
    def positions(self) -> list[int]:
        """Those shown, in the order of their hashes."""
        return [position for _, position in sorted(self.chosen, reverse=True)]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was drawn: pictures, rows, values that had no room, and pictures that could not be decoded."""

    pictures: int
    rows: int
    more: int
    undecodable: int


def draw_sheet(
    shards: ShardSet,
    path: Path,
    *,
    by: str | None = None,
    count: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Sheet:
    """Draw pictures of a set, upright, with their file's name and size, as PNG: `count` of them, or in one row for each
    value of the column `by` (numbers of many values in ten ranges).

    Raises:
        UsageError: no such column, or too many pictures.
        InputError: the set is damaged.
    """
    most = count or (COUNT if by is None else PER_ROW)
    if most > MAX_COUNT:
        raise UsageError(f"a sheet of {most:,} pictures", f"Ask for at most {MAX_COUNT:,}")
    rows = _rows(shards, by, most, seed, progress)
    offered = len(rows)
    least = sorted((row.count for row in rows), reverse=True)[:MAX_ROWS][-1]
    rows = [row for row in rows if row.count >= least][:MAX_ROWS]
    canvas = _Canvas(rows, most, titled=by is not None)
    for row in rows:
        canvas.draw(row, [shards.read(position) for position in row.positions])
    with atomic_write(path) as file:
        canvas.image.save(file, "PNG", optimize=True)
    pictures = sum(len(row.chosen) for row in rows)
    return Sheet(pictures, len(rows), offered - len(rows), canvas.undecodable)


def _rows(shards: ShardSet, by: str | None, most: int, seed: int, progress: Callable[[int], None] | None) -> list[Row]:
    title = _titles(shards, by)
    place = Shuffle(seed).place()
    rows: dict[tuple[int, float, str], Row] = {}
    position = 0
    for path, _ in shards.paths():
        for key, meta in read_metas(path):
            name = title(meta["columns"])
            row = rows.setdefault(name, Row(name[2]))
            row.offer(place(key), position, most)
            position += 1
            if progress is not None:
                progress(1)
    return [rows[name] for name in sorted(rows)]


def _titles(shards: ShardSet, by: str | None) -> Callable[[dict[str, Any]], tuple[int, float, str]]:
    """The row of a sample, by its columns: (class of the order, number in it, title)."""
    if by is None:
        return lambda _: (0, 0.0, "")
    entry = shards.index["columns"].get(by)
    if entry is None:
        hint = did_you_mean(by, shards.columns) if shards.columns else "It has none"
        raise UsageError(f"{shards.location}: no column '{by}'", hint)
    values = entry.get("values")
    ranged = entry["type"] in ("integer", "number") and (values is None or len(values) > MAX_ROWS)
    low, high = (float(entry["min"]), float(entry["max"])) if ranged else (0.0, 0.0)
    width = (high - low) / _BINS or 1.0

    def title(columns: dict[str, Any]) -> tuple[int, float, str]:
        value = columns.get(by)
        if value is None:
            return 2, 0.0, f"{by}: missing"
        if ranged:
            bin_ = min(_BINS - 1, int((value - low) / width))
            return 0, bin_, f"{by}: {low + bin_ * width:.4g} to {low + (bin_ + 1) * width:.4g}"
        number = float(value) if kind_of(value) in ("integer", "number") else 0.0
        return 1, number, f"{by}: {value}"

    return title


class _Canvas:
    """The sheet: white, a grid of tiles under the title of each row."""

    def __init__(self, rows: Sequence[Row], most: int, *, titled: bool) -> None:
        largest = max((len(row.chosen) for row in rows), default=1)
        self._across = max(1, min(largest, most if titled and most <= 16 else math.ceil(math.sqrt(1.4 * largest))))
        self._titled = titled
        self._font: Any = ImageFont.load_default(_FONT)
        self._top = _GAP
        self.undecodable = 0
        height = _GAP + sum(self._height(row) for row in rows)
        self.image = Image.new("RGB", (_GAP + self._across * (_TILE + _GAP), height), _PAPER)
        self._pen = ImageDraw.Draw(self.image)

    def _height(self, row: Row) -> int:
        lines = math.ceil(len(row.chosen) / self._across)
        return lines * (_TILE + 2 * _LINE + _GAP) + (2 * _LINE if self._titled else 0)

    def draw(self, row: Row, samples: Sequence[Sample]) -> None:
        """Add one row, which may take several lines."""
        if self._titled:
            self._text(_GAP, self._top, f"{row.title}  ({row.count:,})", _INK, self.image.width - 2 * _GAP)
            self._top += 2 * _LINE
        for number, sample in enumerate(samples):
            left = _GAP + number % self._across * (_TILE + _GAP)
            self._tile(left, self._top + number // self._across * (_TILE + 2 * _LINE + _GAP), sample)
        self._top += self._height(row) - (2 * _LINE if self._titled else 0)

    def _tile(self, left: int, top: int, sample: Sample) -> None:
        size = f"{sample.meta['width']:,} x {sample.meta['height']:,} {sample.meta['format']}"
        try:
            picture = Image.fromarray(to_rgb(sample.image))
        except DecodeError:
            self.undecodable += 1
            self._pen.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill=_EMPTY)
            size = f"cannot be decoded, {size}"
        else:
            picture.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS, reducing_gap=3.0)
            self.image.paste(picture, (left + (_TILE - picture.width) // 2, top + _TILE - picture.height))
        name = str(sample.meta["source"]).rstrip("/").rpartition("/")[2] or sample.key
        self._text(left, top + _TILE + 1, name, _INK, _TILE)
        self._text(left, top + _TILE + 1 + _LINE, size, _PALE, _TILE)

    def _text(self, left: int, top: int, text: str, ink: tuple[int, int, int], room: int) -> None:
        """One line, shortened in its middle to `room` pixels."""
        text = one_line(text)[:500]
        kept = len(text)
        short = text
        while self._font.getlength(short) > room and kept > 2:
            kept -= 1
            short = f"{text[: (kept + 1) // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept // 2 :]}"
        self._pen.text((left, top), short, fill=ink, font=self._font)
