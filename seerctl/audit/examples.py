"""The pictures of the worst-off rows, when somebody asks to see them: small, and without anything but their pixels.

They go into report.html alone, never into report.json: a report is handed around and compared with, and by default it
holds aggregates only.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seerctl.audit.report import view
from seerctl.augment.decode import DecodeError, to_rgb
from seerctl.errors import InputError
from seerctl.predictions import Predictions
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_metadata

SIZE = 96  # pixels of the longer side
MOST = 100  # pictures in one report, at some 3 kB each
_URGENT = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True, slots=True)
class Example:
    """One row: what it is, what was said of it (score None where there is none), and its picture as a data URI.

    uri is empty, and width and height 0, where the picture cannot be decoded.
    """

    key: str
    group: str
    label: str
    prediction: str
    score: float | None
    uri: str
    width: int
    height: int


def worst_examples(report: Mapping[str, Any], table: Predictions, data: Path, number: int) -> list[Example]:
    """The pictures of the `number` worst-off rows of `table`, out of the shard set `data`, by key.

    Raises:
        InputError: no shard set at `data`, it is damaged, or it has none of these rows.
    """
    rows = worst_rows(report, table, min(number, MOST))
    with ShardSet.open(data) as shards:
        keys = read_metadata(shards, ()).keys
        position = {key.decode(): place for place, key in enumerate(keys.tolist())}
        found = [(row, group) for row, group in rows if table.keys[row] in position]
        if rows and not found:
            raise InputError(
                f"{data}: has none of the worst-off rows, such as '{table.keys[rows[0][0]]}'",
                "Name the shard set that the predictions were made on",
            )
        return [_example(table, row, group, shards.read(position[table.keys[row]]).image) for row, group in found]


def worst_rows(report: Mapping[str, Any], table: Predictions, number: int) -> list[tuple[int, str]]:
    """(row, group) of at most `number` rows on which the model was wrong, in turn from the most urgent comparisons.

    Within a group the surest mistakes come first (by score, then by key). Comparisons of fairness only: failing ones,
    and where none fails, undecided ones, then passing ones.
    """
    wrong = (table.label >= 0) & (table.label != table.prediction)
    columns = {name: (column.coded().values, column.coded().categories or ()) for name, column in table.columns.items()}
    chosen: list[tuple[int, str]] = []
    for verdict in _URGENT:
        queues = []
        for record in _comparisons(report, verdict, columns):
            members = wrong & _members(record, table, columns)
            order = sorted(np.flatnonzero(members).tolist(), key=lambda row: (_doubt(table, row), table.keys[row]))
            queues.append((view.name_of(record, joiner=" "), order))
        chosen = _in_turn(queues, number)
        if chosen:
            break
    return chosen


def _comparisons(report: Mapping[str, Any], verdict: str, columns: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Judged comparisons of one verdict, between groups of columns that the table has."""
    return [
        record
        for check in report["checks"]
        if view.suite_of(check) == "fairness"
        for record in view.judged(check)
        if record["verdict"] == verdict and record["group"] and all(name in columns for name in record["group"])
    ]


def _members(record: Mapping[str, Any], table: Predictions, columns: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(N,) the rows of a comparison's group; where it is about one class, those labelled or predicted so."""
    mask = np.ones(len(table), dtype=np.bool_)
    for name, value in record["group"].items():
        codes, categories = columns[name]
        mask &= codes == (categories.index(value) if value in categories else -2)
    if record.get("class") in table.classes:
        code = table.classes.index(record["class"])
        mask &= (table.label == code) | (table.prediction == code)
    return mask


def _doubt(table: Predictions, row: int) -> float:
    score = table.score[row]
    return 0.0 if np.isnan(score) else -float(score)


def _in_turn(queues: Sequence[tuple[str, list[int]]], number: int) -> list[tuple[int, str]]:
    """One row of each queue after the other, none twice."""
    chosen: dict[int, str] = {}
    for turn in range(max((len(rows) for _, rows in queues), default=0)):
        for group, rows in queues:
            if len(chosen) == number:
                return list(chosen.items())
            if turn < len(rows):
                chosen.setdefault(rows[turn], group)
    return list(chosen.items())


def _example(table: Predictions, row: int, group: str, image: bytes) -> Example:
    uri, (width, height) = thumbnail(image)
    score = float(table.score[row])
    return Example(
        str(table.keys[row]), group, table.classes[table.label[row]], table.classes[table.prediction[row]],
        None if np.isnan(score) else score, uri, width, height,
    )  # fmt: skip


def thumbnail(image: bytes, size: int = SIZE) -> tuple[str, tuple[int, int]]:
    """A stored picture as a JPEG data URI of at most `size` pixels a side, and its width and height.

    It is encoded anew from its pixels, so that nothing of its metadata comes along; ("", (0, 0)) where it is damaged.
    """
    try:
        picture = Image.fromarray(to_rgb(image))
    except DecodeError:
        return "", (0, 0)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii"), picture.size
