"""The predictions table that `probe --predictions` writes and `audit` judges: csv, jsonl or parquet.

Columns: `key,label,prediction,score,top1..topK,score1..scoreK` and then the metadata of the test set under its own
names. An empty cell is a missing value. Multi-label values are JSON lists: `["cat", "dog"]`; `[]` is a row that has
none of the classes. The scores of all classes, where a metric needs them, come in a file of their own (see `scores`).
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seerctl import __version__
from seerctl.columns import Coder, Column, number_text, relabel, sort_names
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.files import atomic_write, blame, sha256_file, write_json
from seerctl.tables import CHUNK, Block, Encoded, check_suffix, open_table, pyarrow

if TYPE_CHECKING:
    from seerctl.scores import FullScores

REQUIRED = ("key", "label", "prediction")
CORE = (*REQUIRED, "score")
_RANKED = re.compile(r"(top|score)([1-9]\d*)")
_WHOLE = re.compile(r"(-?\d+)(\.0+)?")
_NAMES_OF_TRUTH = {"True": "true", "False": "false"}


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The labels of N rows that may have several: those of row i are `codes[starts[i]:starts[i + 1]]`.

    starts: (N + 1,) int64. codes: (P,) int32 into the table's classes. known: (N,) False where the label is missing.
    """

    starts: NDArray[np.int64]
    codes: NDArray[np.int32]
    known: NDArray[np.bool_]

    def rows(self) -> NDArray[np.int64]:
        """(P,) the row of each of `codes`."""
        return np.repeat(np.arange(len(self.known)), np.diff(self.starts))

    def has(self, code: int) -> NDArray[np.bool_]:
        """(N,) the rows that have the label `code`."""
        found = np.zeros(len(self.known), dtype=np.bool_)
        found[self.rows()[self.codes == code]] = True
        return found

    def of(self, row: int) -> list[int]:
        """The labels of one row."""
        return [int(code) for code in self.codes[self.starts[row] : self.starts[row + 1]]]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a classifier said about N rows.

    keys: (N,) str, unique. classes: sorted names. label, prediction: (N,) int32 codes into `classes` (an unknown label
    is -1). score: (N,) float64 of the prediction (NaN where absent). top, top_scores: (N, K) codes and scores, best
    first (-1 and NaN where absent). columns: metadata by name. truth: the labels of a multi-label table, whose `label`
    is -1 and whose `prediction` is the first of a row's predictions (-1: none). full: the scores of all classes.
    """

    keys: NDArray[np.object_]
    classes: tuple[str, ...]
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    score: NDArray[np.float64]
    top: NDArray[np.int32]
    top_scores: NDArray[np.float64]
    columns: dict[str, Column] = field(default_factory=dict)
    truth: Truth | None = None
    full: FullScores | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) the rows whose label is known."""
        return self.label >= 0 if self.truth is None else self.truth.known

    def is_a(self, code: int) -> NDArray[np.bool_]:
        """(N,) the rows that have the label `code`."""
        return self.label == code if self.truth is None else self.truth.has(code)

    def names(self) -> list[str]:
        """The table's column names in order."""
        ranks = range(1, self.top.shape[1] + 1)
        return [*CORE, *(f"top{rank}" for rank in ranks), *(f"score{rank}" for rank in ranks), *self.columns]


def is_reserved(name: str) -> bool:
    """Whether `name` is a column of the table's own, not metadata."""
    return name in CORE or _RANKED.fullmatch(name) is not None


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the table atomically in the format of the suffix.

    Metadata whose name is one of the table's own (a column called "score") is written as `column.<name>`.
    """
    check_suffix(path)
    names = [name if index < len(predictions.names()) - len(predictions.columns) or not is_reserved(name)
             else f"column.{name}" for index, name in enumerate(predictions.names())]  # fmt: skip
    if path.suffix == ".parquet":
        _write_parquet(path, names, predictions)
        return
    with atomic_write(path, "w") as file:
        rows = itertools.chain.from_iterable(
            zip(*_cells(predictions, slice(start, start + CHUNK)), strict=True)
            for start in range(0, len(predictions), CHUNK)
        )
        _write_csv(file, names, rows) if path.suffix == ".csv" else _write_jsonl(file, names, rows)


def write_lineage(table: Path, made_by: str, made_from: Sequence[Mapping[str, str]]) -> None:
    """Write `<table>.lineage.json` beside a table: its SHA-256, and `kind, role, path, sha256` of each origin."""
    facts = {"schema": "seerctl.predictions-lineage/1", "sha256": sha256_file(table), "seerctl": __version__,
             "made_by": made_by, "made_from": [dict(origin) for origin in made_from]}  # fmt: skip
    write_json(table.with_name(table.name + ".lineage.json"), facts)


def _cells(predictions: Predictions, rows: slice) -> list[list[Any]]:
    """The columns of `rows` as plain values: str, float, int, or None where missing."""
    classes = np.array([*predictions.classes, None], dtype=object)
    columns: list[list[Any]] = [
        list(predictions.keys[rows]), _label_cells(predictions, rows, classes),
        list(classes[predictions.prediction[rows]]), _numbers(predictions.score[rows]),
    ]  # fmt: skip
    columns += [list(classes[codes]) for codes in predictions.top[rows].T]
    columns += [_numbers(scores) for scores in predictions.top_scores[rows].T]
    for column in predictions.columns.values():
        if column.categories is None:
            columns.append(_numbers(column.values[rows]))
        else:
            columns.append(list(np.array([*column.categories, None], dtype=object)[column.values[rows]]))
    return columns


def _label_cells(predictions: Predictions, rows: slice, classes: NDArray[np.object_]) -> list[Any]:
    truth = predictions.truth
    if truth is None:
        return list(classes[predictions.label[rows]])
    return [
        json.dumps([classes[code] for code in truth.of(row)], ensure_ascii=False) if truth.known[row] else None
        for row in range(*rows.indices(len(predictions)))
    ]


def _numbers(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind != "f":
        return [int(value) for value in values]
    return [None if math.isnan(value) else value for value in values.astype(float).tolist()]


def _text(value: Any) -> Any:
    return format(value, ".9g") if isinstance(value, float) else value  # 9 digits hold a float32 exactly


def _write_csv(file: IO[str], names: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(tuple(map(_text, row)) for row in rows)


def _write_jsonl(file: IO[str], names: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    for row in rows:
        file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")


def _write_parquet(path: Path, names: list[str], predictions: Predictions) -> None:
    arrow, parquet = pyarrow(path)
    cells = _cells(predictions, slice(None))
    table = arrow.table({name: arrow.array(values) for name, values in zip(names, cells, strict=True)})
    with atomic_write(path) as file:
        parquet.write_table(table, file)


def read_predictions(
    path: Path,
    columns: Iterable[str] | None = None,
    *,
    ranked: bool = False,
    lists: bool = False,
    labels: bool = True,
) -> Predictions:
    """Read a table; of its metadata only `columns` (all when None), and top/score ranks only if `ranked`.

    lists: take labels that are JSON lists, as `truth`. labels: whether labels have to be there and to share a name with
    the predictions.

    Raises:
        InputError: no such file, not a table, no row, a missing or duplicated column, ragged rows, a cell of `key` or
            `prediction` without a value, duplicated keys, a score that is not a number, no class name in common.
        UsageError: an unknown suffix, or a name in `columns` that the table does not have.
    """
    check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with blame(path):
        header, blocks = open_table(path)
        wanted = _wanted(path, header, columns, ranked)
        raw = _Raw(path, wanted, lists=lists, labels=labels)
        for block in blocks(wanted):
            raw.add(block)
    return raw.finish()


def table_header(path: Path) -> list[str]:
    """The names of a table's columns, without reading its rows.

    Raises:
        InputError: no such file, or not a table.
        UsageError: an unknown suffix.
    """
    check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with blame(path):
        return list(open_table(path)[0])


def _wanted(path: Path, header: Sequence[str], columns: Iterable[str] | None, ranked: bool) -> list[str]:
    for name in REQUIRED:
        if name not in header:
            raise InputError(f"{path}: no column '{name}'", f"It has: {', '.join(header) or 'none'}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: column '{twice[0]}' comes twice")
    extras = [name for name in header if name and not is_reserved(name)]
    asked = extras if columns is None else list(dict.fromkeys(columns))
    for name in asked:
        if name not in extras:
            raise UsageError(f"{path}: no column '{name}' to group by", did_you_mean(name, extras) if extras else "")
    ranks = [name for name in header if _RANKED.fullmatch(name)] if ranked else []
    return [*REQUIRED, *(["score"] if "score" in header else []), *ranks, *asked]


class _Raw:
    """Columns as they come in, block by block: names as codes, scores as floats."""

    def __init__(self, path: Path, names: Sequence[str], *, lists: bool, labels: bool) -> None:
        self.path, self.names = path, names
        self.lists, self.labels = lists, labels
        self.heads: dict[str, str] = {}  # lists of predictions -> the first of them
        self.rows = 0
        self.keys: list[str] = []
        self.numeric = {n: array("d") for n in names if n.startswith("score") and is_reserved(n)}
        self.coders = {n: Coder() for n in names if n != "key" and n not in self.numeric}
        self.codes = {n: array("i") for n in self.coders}

    def add(self, block: Block) -> None:
        """Take the next rows."""
        for name in self.names:
            values = block[name]
            if name == "key":
                self.keys.extend(map(_plain, values) if _mixed(values) else values)
            elif name in self.numeric:
                self.numeric[name].extend(self._scores(name, values))
            elif isinstance(values, Encoded):
                known = np.frombuffer(self.coders[name].encode(map(_plain, values.values)), dtype=np.int32)
                self.codes[name].frombytes(known[values.codes].tobytes())
            else:
                names = map(_plain, values) if _mixed(values) else values
                self.codes[name].extend(self.coders[name].encode(names))
        self.rows = len(self.keys)

    def _scores(self, name: str, values: Sequence[Any]) -> list[float]:
        try:
            scores = [math.nan if value is None or value == "" else float(value) for value in values]
        except (TypeError, ValueError):
            row = next(row for row, value in enumerate(values) if not _is_number(value))
            raise InputError(
                f"{self.path}: row {self.rows + row + 1}: '{name}' is {values[row]!r}, not a number"
            ) from None
        return scores

    def finish(self) -> Predictions:
        """The table, checked."""
        if not self.rows:
            raise InputError(f"{self.path}: no rows")
        key = first_repeated(self.keys)
        if key is not None:
            raise InputError(f"{self.path}: key '{key}' comes twice", "Each row needs a key of its own")
        if "" in self.keys:
            raise InputError(f"{self.path}: row {self.keys.index('') + 1} has no key")
        ranks = sorted(int(name[3:]) for name in self.codes if _RANKED.fullmatch(name))
        truths = self._label_lists() if self.lists else None
        shared, coded = self._classes(["label", "prediction", *(f"top{rank}" for rank in ranks)], truths or ())
        truth = None if truths is None else self._truth(truths, shared)
        missing = np.flatnonzero(coded["prediction"] < 0)
        if len(missing) and truth is None:
            raise InputError(f"{self.path}: row {missing[0] + 1} has no prediction")
        if self.labels:
            answers = [coded["prediction"], *(coded[f"top{rank}"] for rank in ranks if truth is not None)]
            self._check_names(coded["label"] if truth is None else truth.codes, answers)
        nothing = np.full(self.rows, np.nan)
        scores = {name: np.frombuffer(values) for name, values in self.numeric.items()}
        return Predictions(
            keys=np.array(self.keys, dtype=object),
            classes=shared,
            label=coded["label"],
            prediction=coded["prediction"],
            score=scores.get("score", nothing),
            top=np.stack([coded[f"top{r}"] for r in ranks], 1) if ranks else np.empty((self.rows, 0), np.int32),
            top_scores=np.stack([scores.get(f"score{r}", nothing) for r in ranks], 1)
            if ranks
            else np.empty((self.rows, 0)),
            columns={name: self._metadata(name) for name in self.codes if not is_reserved(name)},
            truth=truth,
        )

    def _label_lists(self) -> list[list[str] | None] | None:
        """For each label as written its names (None: missing), if any is a list; predictions may be lists then too."""
        written = list(self.coders["label"])
        lists = [as_list(text) for text in written]
        if not any(found is not None for found in lists):
            return None
        for text in self.coders["prediction"]:
            found = as_list(text)
            if found is not None:
                self.heads[text] = found[0] if found else ""
        return [[text] if found is None and text else found for text, found in zip(written, lists, strict=True)]

    def _truth(self, written: list[list[str] | None], classes: tuple[str, ...]) -> Truth:
        place = {name: code for code, name in enumerate(classes)}
        unique = [sorted({place[name] for name in names}) for names in (names or [] for names in written)]
        lengths, row = np.array([len(codes) for codes in unique]), np.frombuffer(self.codes["label"], dtype=np.int32)
        flat = np.array([code for codes in unique for code in codes], dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(lengths[row])]).astype(np.int64)
        first = (np.cumsum(lengths) - lengths)[row]
        source = np.arange(starts[-1]) + np.repeat(first - starts[:-1], lengths[row])
        return Truth(starts, flat[source], np.array([names is not None for names in written])[row])

    def _classes(
        self, names: Sequence[str], truths: Sequence[list[str] | None]
    ) -> tuple[tuple[str, ...], dict[str, NDArray[np.int32]]]:
        """The class names of all columns, sorted, and each column's codes into them; "" is no class."""
        tables = {name: _classes_as_written(list(self.coders[name])) for name in names}
        if truths:
            tables["label"] = [""] * len(tables["label"])
            tables["prediction"] = [self.heads.get(text, text) for text in tables["prediction"]]
        classes = sort_names(
            itertools.chain(*tables.values(), itertools.chain.from_iterable(found or () for found in truths))
        )
        classes = [name for name in classes if name]
        listed = next((name for name in classes if name.startswith("[") and _is_list(name)), None)
        if listed is not None:
            raise InputError(f"{self.path}: '{listed}' is a list of labels", "One label a row is what can be judged")
        place = {name: code for code, name in enumerate(classes)} | {"": -1}
        codes = {
            name: np.array([place[text] for text in table], dtype=np.int32)[
                np.frombuffer(self.codes[name], dtype=np.int32)
            ]
            for name, table in tables.items()
        }
        return tuple(classes), codes

    def _check_names(self, label: NDArray[np.int32], answers: Sequence[NDArray[np.int32]]) -> None:
        known = set(np.unique(label[label >= 0]).tolist())
        if not known:
            raise InputError(f"{self.path}: no row has a label")
        if not any(known & set(np.unique(codes).tolist()) for codes in answers):
            raise InputError(
                f"{self.path}: no prediction is ever the name of a label", "Write both columns with the same names"
            )

    def _metadata(self, name: str) -> Column:
        column = relabel(np.frombuffer(self.codes[name], dtype=np.int32), list(self.coders[name]))
        names = column.categories or ()
        if "" not in names:
            return column
        empty = names.index("")
        values = np.where(column.values == empty, -1, column.values - (column.values > empty)).astype(np.int32)
        return Column(values, tuple(name for name in names if name))


def first_repeated(keys: Sequence[str]) -> str | None:
    """The first of `keys` that came before, None where all differ.

    Sorted hashes need a sixth of the memory of a set, and a third of its time for ten million keys.
    """
    hashes = np.fromiter(map(hash, keys), dtype=np.int64, count=len(keys))
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return None
    seen: set[str] = set()
    return next((key for key in keys if key in seen or seen.add(key)), None)  # type: ignore[func-returns-value]


def _classes_as_written(names: list[str]) -> list[str]:
    """Class names, with "3.0" as "3" where all are whole numbers: pandas writes integers so once one is missing."""
    matches = [_WHOLE.fullmatch(name) for name in names if name]
    if not matches or not all(matches):
        return names
    return [name if not name else name.split(".")[0] for name in names]


def _mixed(values: Sequence[Any]) -> bool:
    return not set(map(type, values)) <= {str}


def _plain(value: Any) -> str:
    """Any JSON value as the text that a csv would hold."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return _NAMES_OF_TRUTH[str(value)]
    if isinstance(value, (int, float)):
        return number_text(value) if isinstance(value, float) else str(value)
    return json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    try:
        return value is None or value == "" or math.isfinite(float(value)) or True
    except (TypeError, ValueError):
        return False


def _is_list(text: str) -> bool:
    return as_list(text) is not None


def as_list(text: str) -> list[str] | None:
    """The names in a JSON list, None where `text` is none."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return [name for item in value if (name := _plain(item))] if isinstance(value, list) else None
