"""What an earlier report, and the predictions it judged, say of the same rows: is anything worse than it was?

Where the baseline's predictions table is there (its path and hash are in its report), both models are compared row by
row, so that only rows on which they differ count: Newcombe's paired interval. Without it rates are compared as if of
two independent samples, which finds less, and the report says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.clusters import Frame
from seerctl.audit.counts import GroupCounts
from seerctl.audit.gate import Before, Block, FindingBlock, Side, select
from seerctl.audit.policy import Check
from seerctl.audit.suite import Finding
from seerctl.columns import Column, sort_names
from seerctl.errors import InputError
from seerctl.files import blame, sha256_file
from seerctl.predictions import Predictions, read_predictions
from seerctl.stats import Floats, z_quantile

SCHEMAS = ("seerctl.audit/1",)
MOST_BYTES = 256 << 20  # of a report
_MOST_HASHED = 1_000_000  # rows; sorting their keys takes a second
_PAIRED = ("accuracy", "tpr", "fnr", "fpr", "selection_rate")  # whose trials depend on labels alone


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """An earlier report. predictions: the table it judged, where that is still there; why: it is not."""

    source: str
    sha256: str
    report: Mapping[str, Any]
    predictions: Path | None = None
    why: str = ""

    @property
    def limits(self) -> list[str]:
        """What the comparison cannot show."""
        if self.predictions is not None:
            return []
        return [
            f"The rows behind the baseline {self.source} are not there ({self.why}): changes are judged as between two "
            "independent samples, which finds less than a comparison row by row."
        ]

    def check_rows(self, digest: str | None) -> None:
        """Refuse to compare with a report on other rows or labels; `digest` is that of `rows_sha256`.

        Raises:
            InputError: both digests are known and differ.
        """
        inputs = self.report.get("inputs")
        before = inputs.get("rows_sha256") if isinstance(inputs, dict) else None
        if isinstance(before, str) and digest is not None and before != digest:
            raise InputError(
                f"{self.source}: it judged rows with other keys or labels",
                "A regression is judged on the same rows with the same labels",
            )

    def as_json(self) -> dict[str, Any]:
        """What a report says of its baseline."""
        paired = self.predictions is not None
        entry = {"source": self.source, "sha256": self.sha256, "paired": paired}
        return entry | ({"predictions": str(self.predictions)} if paired else {"reason": self.why})


def rows_sha256(table: Predictions) -> str | None:
    """A hash of the keys and labels of a table in any order; None for lists of labels and more than a million rows."""
    if table.truth is not None or len(table) > _MOST_HASHED:
        return None
    names = (*table.classes, "")
    rows = sorted(f"{key}\t{names[code]}\n" for key, code in zip(table.keys, table.label.tolist(), strict=True))
    return hashlib.sha256("".join(rows).encode("utf-8", "surrogatepass")).hexdigest()


def load_baseline(path: Path, predictions: Path | None = None) -> Baseline:
    """The report at `path`, with the table it judged: `predictions`, or the one that it names if that is unchanged.

    Raises:
        InputError: no such file, not a report of `audit`, or `predictions` is not the table that it judged.
    """
    report = _read_report(path)
    inputs = report["inputs"] if isinstance(report.get("inputs"), dict) else {}
    recorded, digest = inputs.get("predictions"), inputs.get("sha256")
    make = Baseline(str(path), sha256_file(path), report)
    if predictions is not None:
        if not predictions.is_file():
            raise InputError(f"{predictions}: no such file")
        with blame(predictions):
            if not isinstance(digest, str) or sha256_file(predictions) != digest:
                raise InputError(f"{predictions}: not the table that {path} judged", "Its hash differs from the report")
        return replace(make, predictions=predictions)
    if not isinstance(recorded, str) or not isinstance(digest, str):
        return replace(make, why="it names no predictions table")
    try:
        found = next((p for p in (Path(recorded), path.parent / recorded) if p.is_file()), None)
        if found is None:
            return replace(make, why=f"{recorded} is not there")
        if sha256_file(found) != digest:
            return replace(make, why=f"{found} has changed since")
    except (OSError, ValueError):
        return replace(make, why="the table it names cannot be read")
    return replace(make, predictions=found)


def _read_report(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file", "Pass the report.json of an earlier audit")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: too large for a report of seerctl audit")
    with blame(path):
        try:
            report = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise InputError(f"{path}: not JSON", "Pass the report.json of an earlier audit") from None
    if (
        not isinstance(report, dict)
        or report.get("schema") not in SCHEMAS
        or not isinstance(report.get("checks"), list)
    ):
        raise InputError(f"{path}: not a report of seerctl audit", "Pass the report.json of an earlier audit")
    return dict(report)


# ------------------------------------------------------------------------------------------------------ row by row


def align(table: Predictions, baseline: Baseline) -> tuple[Predictions, NDArray[np.int32]]:
    """`table`, its classes widened by the baseline's, and the baseline's prediction (N,) for each of its rows.

    Raises:
        InputError: the two tables have other keys or other labels, or what `read_predictions` refuses.
    """
    assert baseline.predictions is not None
    path = baseline.predictions
    other = read_predictions(path, ())
    classes = tuple(sort_names({*table.classes, *other.classes}))
    mine, theirs = _places(table.classes, classes), _places(other.classes, classes)
    rows = _rows_of(table.keys, other.keys, path)
    label, prediction = mine[table.label], mine[table.prediction]
    differ = np.flatnonzero(theirs[other.label][rows] != label)
    if len(differ):
        raise InputError(
            f"{path}: {len(differ):,} of {len(rows):,} rows have another label, first '{table.keys[differ[0]]}'",
            "A regression is judged on the same rows with the same labels",
        )
    top = mine[table.top] if table.top.size else table.top
    widened = replace(table, classes=classes, label=label, prediction=prediction, top=top)
    return widened, theirs[other.prediction][rows]


def _places(classes: Sequence[str], among: Sequence[str]) -> NDArray[np.int32]:
    """Codes into `classes` as codes into `among`; the last entry is for -1."""
    place = {name: code for code, name in enumerate(among)}
    return np.array([*(place[name] for name in classes), -1], dtype=np.int32)


def _rows_of(keys: NDArray[np.object_], others: NDArray[np.object_], path: Path) -> NDArray[np.intp]:
    """The row of each of `keys` among `others`."""
    if len(keys) == len(others) and bool((keys == others).all()):
        return np.arange(len(keys))
    place = {key: row for row, key in enumerate(others.tolist())}
    rows = [place.get(key, -1) for key in keys.tolist()]
    absent = rows.count(-1)
    if absent or len(keys) != len(others):
        missing = next((key for key, row in zip(keys.tolist(), rows, strict=True) if row < 0), None)
        first = f", first '{missing}'" if missing is not None else ""
        raise InputError(
            f"{path}: other rows: {absent:,} of {len(keys):,} keys are not in it{first}, and it has {len(others):,}",
            "A regression is judged on the same rows with the same labels",
        )
    return np.array(rows, dtype=np.intp)


def paired(block: Block, frame: Frame, levels: Mapping[str, Column], classes: Sequence[str]) -> Block:
    """`block` with the correlation of both models' rates over the rows of `frame`.

    Newcombe's method 10 takes the correlation of a fourfold table with a continuity correction; where also the trials
    differ (precision), it is that of the rows' influences.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650.
    """
    chosen = select(block.check, classes)
    columns = range(len(classes)) if chosen.columns is None else chosen.columns
    counts, group = block.counts, frame.groups(block.counts, levels)
    kept = group >= 0
    found = np.stack([_correlations(block.check, frame, group, kept, c, len(counts.groups)) for c in columns], axis=-1)
    if chosen.is_mean:
        found = _of_means(block, found)
    elif block.check.metric == "accuracy":
        found = found[:, :1]
    return replace(block, correlation=found, method="newcombe, paired")


def _events(metric: str, frame: Frame, said: NDArray[np.int32], cls: int) -> tuple[Floats, Floats]:
    """Events and trials, 0 or 1, of each distinct row for class `cls`: the table of `indicators`, row by row."""
    is_so, so_said = frame.label == cls, said == cls
    table: dict[str, Callable[[], tuple[Any, Any]]] = {
        "accuracy": lambda: (frame.label == said, np.ones(len(said))),
        "tpr": lambda: (is_so & so_said, is_so),
        "fnr": lambda: (is_so & ~so_said, is_so),
        "fpr": lambda: (~is_so & so_said, ~is_so),
        "precision": lambda: (is_so & so_said, so_said),
        "npv": lambda: (~is_so & ~so_said, ~so_said),
        "selection_rate": lambda: (so_said, np.ones(len(said))),
    }
    events, trials = table[metric]()
    return np.asarray(events, dtype=np.float64), np.asarray(trials, dtype=np.float64)


def _correlations(
    check: Check, frame: Frame, group: NDArray[np.intp], kept: NDArray[np.bool_], cls: int, groups: int
) -> Floats:
    """(G,) the correlation of the rates of both models for one class."""
    assert frame.before is not None
    weight, where = frame.counts[kept].astype(np.float64), group[kept]
    sides = []
    for said in (frame.prediction, frame.before):
        events, trials = (table[kept] for table in _events(check.metric, frame, said, cls))
        total = np.bincount(where, weight * trials, minlength=groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.nan_to_num(np.bincount(where, weight * events, minlength=groups) / total)
        sides.append(events - rate[where] * trials)
    one, two = sides
    both, first, second = (np.bincount(where, weight * a * b, minlength=groups)
                           for a, b in ((one, two), (one, one), (two, two)))  # fmt: skip
    if check.metric in _PAIRED:  # both = (ad - bc) / n of the fourfold table
        both = np.where(both > 0, np.maximum(both - 0.5, 0.0), both)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = both / np.sqrt(first * second)
    return np.asarray(np.clip(np.where(np.isfinite(found), found, 0.0), -1.0, 1.0))


def _of_means(block: Block, correlations: Floats) -> Floats:
    """(G, 1) the correlation of two means over classes from (G, C) those of their rates."""
    assert block.other is not None
    spreads = []
    for side in (block.own, block.other):
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = side.events[:, 0] / side.trials[:, 0]
            spreads.append(np.nan_to_num(np.sqrt(rate * (1.0 - rate) / side.trials[:, 0])))
    one, two = spreads
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (correlations * one * two).sum(1) / np.sqrt((one**2).sum(1) * (two**2).sum(1))
    return np.asarray(np.nan_to_num(found))[:, None]


# ------------------------------------------------------------------------------------------------- from the report


def reported(baseline: Baseline, check: Check, counts: GroupCounts, names: Sequence[str | None]) -> Side:
    """(G, K) the rates that the baseline reported for the groups of `counts`; no trials where it has none.

    Raises:
        InputError: it judged other rows: a group of another size.
    """
    listed = {}
    for entry in _entries(baseline.report, check.metric):
        if tuple(entry["group"]) == counts.grouping:
            listed[tuple(entry["group"].values()), entry["class"]] = entry
    events, trials = np.zeros((len(counts.groups), len(names))), np.zeros((len(counts.groups), len(names)))
    for row, group in enumerate(counts.groups):
        for column, name in enumerate(names):
            if (group, name) not in listed:
                continue
            entry = listed[group, name]
            if entry["n"] != int(counts.n[row]):
                raise InputError(
                    f"{baseline.source}: its group {dict(zip(counts.grouping, group, strict=True))} has {entry['n']} "
                    f"rows, now {int(counts.n[row])}",
                    "A regression is judged on the same rows",
                )
            trials[row, column] = _worth(entry["rate"])
            events[row, column] = trials[row, column] * entry["rate"]["value"]
    return Side(events, trials)


def _worth(rate: Mapping[str, Any]) -> float:
    """The trials behind a reported rate, or as many as would have its limits."""
    if "events" in rate:
        return float(rate["trials"])
    half, value = (rate["high"] - rate["low"]) / 2.0, rate["value"]
    variance = (half / float(z_quantile(0.05))) ** 2
    return float(value * (1.0 - value) / variance) if variance > 0 and 0 < value < 1 else float(rate["trials"])


def _entries(report: Mapping[str, Any], metric: str, check: str | None = None) -> list[dict[str, Any]]:
    """The comparisons of a metric (of a check) that have a rate; anything that is not as it should be is left out."""
    found = []
    for listed in report["checks"]:
        if not isinstance(listed, dict) or listed.get("metric") != metric or check not in (None, listed.get("id")):
            continue
        comparisons = listed.get("comparisons")
        for entry in comparisons if isinstance(comparisons, list) else ():
            if isinstance(entry, dict) and _is_entry(entry):
                found.append(entry)
    return found


def _is_entry(entry: Mapping[str, Any]) -> bool:
    rate, group, cls = entry.get("rate"), entry.get("group"), entry.get("class")
    if not isinstance(rate, dict) or not isinstance(group, dict) or not isinstance(cls, str | None):
        return False
    numbers = [rate.get("value"), rate.get("trials"), entry.get("n"), *(rate[k] for k in ("low", "high") if k in rate)]
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
        return False
    limited = "events" in rate or ("low" in rate and "high" in rate) or bool(entry.get("exact"))
    return limited and all(isinstance(value, str) for value in group.values()) and rate["trials"] >= 0


def with_reported(block: FindingBlock, baseline: Baseline | None) -> FindingBlock:
    """`block` with what the baseline reported of each finding under the same check, by group and class."""
    if baseline is None:
        return block
    entries = _entries(baseline.report, block.check.metric, block.check.id)
    listed = {(tuple(sorted(entry["group"].items())), entry["class"]): entry for entry in entries}

    def before(finding: Finding) -> Before | None:
        entry = listed.get((tuple(sorted(finding.group.items())), finding.cls))
        if entry is None:
            return None
        rate = entry["rate"]
        limits = (float(rate["low"]), float(rate["high"])) if "low" in rate and "high" in rate else None
        return Before(float(rate["value"]), limits)

    return replace(block, before=tuple(before(finding) for finding in block.findings))
