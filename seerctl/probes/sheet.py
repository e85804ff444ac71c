"""Retrieval sheets: query pictures and the indexed ones most like them, framed by whether their label is equal."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seerctl.augment.decode import DecodeError, to_rgb
from seerctl.errors import InputError
from seerctl.features.store import FeatureFile
from seerctl.probes.knn import neighbours, unit
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_metadata

SIDE = 72  # pixels of a picture in the sheet
FRAME, GAP, BEFORE = 4, 4, 18
PAPER, QUERY, RIGHT, WRONG, UNKNOWN = "#ffffff", "#59626d", "#1f62ab", "#b01040", "#d9dee4"


@dataclass(frozen=True, slots=True)
class Row:
    """A query and its neighbours, nearest first: keys, and whether each has the query's label (None: not known)."""

    query: str
    label: str
    found: tuple[str, ...]
    right: tuple[bool | None, ...]


def nearest(
    queries: FeatureFile, index: FeatureFile, target: str | None, *, rows: int = 8, columns: int = 8
) -> list[Row]:
    """Up to `rows` queries, one of each class in turn by key, with their `columns` nearest rows of the index by cosine.

    A row never finds itself: what has the query's key is left out.
    """
    labels = [_labels(file, target) for file in (queries, index)]
    chosen = _chosen(queries.keys, labels[0], rows)
    features = queries.features()[chosen]
    many = min(columns + 1, len(index))
    _, found = neighbours(unit(features), unit(index.features()), many)
    return [_row(queries, index, row, places, labels, columns) for row, places in zip(chosen, found, strict=True)]


def _labels(file: FeatureFile, target: str | None) -> NDArray[np.object_]:
    """(N,) names, None where there is no label."""
    if target is None or target not in file.columns:
        return np.full(len(file), None, dtype=object)
    column = file.columns[target].coded()
    names: NDArray[np.object_] = np.array([*(column.categories or ()), None], dtype=object)
    return np.asarray(names[column.values])


def _chosen(keys: NDArray[np.bytes_], labels: NDArray[np.object_], rows: int) -> NDArray[np.intp]:
    order = np.argsort(keys, kind="stable")
    queues: dict[Any, list[int]] = {}
    for row in order.tolist():
        queues.setdefault(labels[row], []).append(row)
    turns = [queue[turn] for turn in range(rows) for _, queue in sorted(queues.items(), key=lambda item: str(item[0]))
             if turn < len(queue)]  # fmt: skip
    return np.array(turns[:rows], dtype=np.intp)


def _row(
    queries: FeatureFile, index: FeatureFile, row: int, places: NDArray[np.int64],
    labels: Sequence[NDArray[np.object_]], columns: int,
) -> Row:  # fmt: skip
    key, label = queries.keys[row], labels[0][row]
    others = [place for place in places.tolist() if index.keys[place] != key][:columns]
    right = tuple(None if label is None or labels[1][o] is None else labels[1][o] == label for o in others)
    return Row(_text(key), "" if label is None else str(label), tuple(_text(index.keys[o]) for o in others), right)


def _text(key: bytes) -> str:
    return bytes(key).decode("ascii", "replace")


def sheet(rows: Sequence[Row], data: Sequence[Path]) -> bytes:
    """The sheet as PNG: a query a row at the left, grey; what has its label in a blue frame, the rest in a red one with
    a cut corner.

    data: shard sets that have the pictures, by key.

    Raises:
        InputError: no shard set, a damaged one, or none has any of these pictures.
    """
    wanted = {key for row in rows for key in (row.query, *row.found)}
    pictures = {key: image for where in data for key, image in _images(where, wanted)}
    if not pictures:
        raise InputError(
            f"{', '.join(map(str, data))}: none of the pictures is here, such as '{min(wanted, default='')}'",
            "Name the shard sets that the features are of",
        )
    step, longest = SIDE + 2 * FRAME + GAP, max(len(row.found) for row in rows)
    canvas = Image.new("RGB", (step * (1 + longest) + BEFORE, step * len(rows)), PAPER)
    for line, row in enumerate(rows):
        _place(canvas, pictures, row.query, (0, line * step), QUERY, crossed=False)
        for place, (key, right) in enumerate(zip(row.found, row.right, strict=True)):
            colour = UNKNOWN if right is None else RIGHT if right else WRONG
            _place(canvas, pictures, key, (step * (1 + place) + BEFORE, line * step), colour, crossed=right is False)
    out = io.BytesIO()
    canvas.quantize(192, Image.Quantize.MEDIANCUT).save(out, "PNG", optimize=True)
    return out.getvalue()


def _images(where: Path, wanted: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
    """(key, picture of at most `SIDE` pixels) of the wanted samples that a shard set has; damaged ones are left out."""
    with ShardSet.open(where) as shards:
        for position, raw in enumerate(read_metadata(shards, ()).keys.tolist()):
            key = _text(raw)
            if key not in wanted:
                continue
            try:
                picture = Image.fromarray(to_rgb(shards.read(position).image))
            except DecodeError:
                continue
            scale = SIDE / max(picture.size)
            yield (
                key,
                picture.resize(
                    (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
                    Image.Resampling.LANCZOS,
                ),
            )


def _place(
    canvas: Image.Image, pictures: Mapping[str, Image.Image], key: str, corner: tuple[int, int], colour: str, *,
    crossed: bool,
) -> None:  # fmt: skip
    draw, (left, top) = ImageDraw.Draw(canvas), corner
    size = SIDE + 2 * FRAME
    draw.rectangle((left, top, left + size - 1, top + size - 1), outline=colour, width=FRAME)
    if key in pictures:
        picture = pictures[key]
        canvas.paste(picture, (left + (size - picture.width) // 2, top + (size - picture.height) // 2))
    if crossed:
        draw.polygon([(left, top), (left + 16, top), (left, top + 16)], fill=colour)
