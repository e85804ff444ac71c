"""The pictures of the worst-off rows, when somebody asks to see them: small, and without anything but their pixels.

They go into report.html alone, never into report.json: a report is handed around and compared with, and by default it
holds aggregates only.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seerctl.audit.groups import derive
from seerctl.audit.policy import Check, Policy
from seerctl.audit.report import view
from seerctl.augment.decode import DecodeError, to_rgb
from seerctl.errors import InputError, UsageError
from seerctl.predictions import Predictions, read_predictions
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_metadata

SIZE = 96  # pixels of the longer side
MOST = 100  # pictures in one report, at some 3 kB each
Thumbnail = tuple[str, int, int]
NOTHING: Thumbnail = ("", 0, 0)
_URGENT = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True, slots=True)
class Example:
    """One row: what it is, what was said of it (score None where there is none), and its picture as a data URI.

    uri is empty, and width and height 0, where there is no picture that can be decoded.
    """

    key: str
    group: str
    label: str
    prediction: str
    score: float | None
    uri: str
    width: int
    height: int


def worst_examples(
    report: Mapping[str, Any], predictions: Path, policy: Policy, data: Sequence[Path], number: int
) -> list[Example]:
    """The pictures of the `number` worst-off rows of the table `predictions` that `report` judged under `policy`.

    data: shard sets that have the pictures, by key.

    Raises:
        InputError: no shard set, a damaged one, or none has these rows.
        UsageError: more than `MOST`.
    """
    if number > MOST:
        raise UsageError(f"--examples {number} is more than {MOST}", "A report holds a few pictures, not a data set")
    table = _table(report, predictions, policy)
    rows = worst_rows(report, table, number)
    wanted = {str(table.keys[row]) for row, _ in rows}
    pictures = {key: thumbnail(image) for where in data for key, image in _images(where, wanted)}
    if rows and not pictures:
        raise InputError(
            f"{', '.join(map(str, data))}: none of the worst-off rows is here, such as '{min(wanted)}'",
            "Name the shard set that the predictions were made on",
        )
    return [_example(table, row, group, pictures.get(str(table.keys[row]), NOTHING)) for row, group in rows]


def _table(report: Mapping[str, Any], path: Path, policy: Policy) -> Predictions:
    """The table with the columns that the report's groups are of, binned and renamed as the policy says."""
    single = any(isinstance(check, Check) for check in policy.check)
    table = read_predictions(path, lists=not single)
    made = [name for name, recipe in policy.recipes.items() if recipe.column in table.columns]
    used = {name for check in report["checks"] for record in check["comparisons"] for name in record["group"]}
    return replace(table, columns=derive(table.columns, sorted(used & set(made)), policy.recipes, str(path)))


def _images(where: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(key, stored bytes) of the wanted samples that a shard set has."""
    with ShardSet.open(where) as shards:
        for position, key in enumerate(read_metadata(shards, ()).keys.tolist()):
            if key.decode() in wanted:
                yield key.decode(), shards.read(position).image


def worst_rows(report: Mapping[str, Any], table: Predictions, number: int) -> list[tuple[int, str]]:
    """(row, group) of at most `number` rows on which the model was wrong, in turn from the most urgent comparisons.

    Within a group the surest mistakes come first (by score, then by key). Comparisons of fairness only: failing ones,
    and where none fails, undecided ones, then passing ones.
    """
    wrong = _wrong(table)
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


def _wrong(table: Predictions) -> NDArray[np.bool_]:
    """(N,) labelled rows whose prediction is not (one of) their label."""
    if table.truth is None:
        return np.asarray((table.label >= 0) & (table.label != table.prediction))
    rows, right = table.truth.rows(), np.zeros(len(table), dtype=np.bool_)
    right[rows[table.truth.codes == table.prediction[rows]]] = True
    return np.asarray(table.truth.known & ~right)


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


def _example(table: Predictions, row: int, group: str, picture: Thumbnail) -> Example:
    score, said = float(table.score[row]), int(table.prediction[row])
    labels = [int(table.label[row])] if table.truth is None else table.truth.of(row)
    return Example(
        str(table.keys[row]), group, ", ".join(table.classes[code] for code in labels),
        table.classes[said] if said >= 0 else "nothing", None if np.isnan(score) else score, *picture,
    )  # fmt: skip


def thumbnail(image: bytes, size: int = SIZE) -> Thumbnail:
    """A stored picture as a JPEG data URI of at most `size` pixels a side, its width and its height.

    It is encoded anew from its pixels, so that nothing of its metadata comes along; `NOTHING` where it is damaged.
    """
    try:
        picture = Image.fromarray(to_rgb(image))
    except DecodeError:
        return NOTHING
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, format="JPEG", quality=80)
    return ("data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii"), *picture.size)
