"""The papers' scaling pictures: accuracy, and gaps between groups, against the size of models or the data they saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from seerctl import figures
from seerctl.errors import InputError, UsageError
from seerctl.figures import Trend
from seerctl.files import atomic_write, read_json
from seerctl.probes.compare import Contestant
from seerctl.probes.report import PREDICTIONS

Axis = Literal["params", "images"]
KEYS: dict[Axis, tuple[str, str]] = {
    "params": ("parameters", "parameters of the trunk"), "images": ("images_seen", "pictures seen in training"),
}  # fmt: skip
MOST_GROUPS = 6  # lines in one picture
METRICS = ("accuracy", "tpr", "hit_at_k")  # whose gaps are drawn


def places(contestants: Sequence[Contestant], axis: Axis) -> list[float]:
    """Where each model stands on the axis.

    Raises:
        UsageError: a report does not say it.
    """
    assert axis in get_args(Axis)
    key, name = KEYS[axis]
    found = []
    for one in contestants:
        value = one.side.get(key)
        if not isinstance(value, (int, float)) or value <= 0:
            why = "" if axis == "params" else "; only features of a run or of its weights.safetensors know it"
            raise UsageError(f"{one.path}: does not say the {name}{why}", "Extract and probe again with this version")
        found.append(float(value))
    return found


def trends(comparison: Mapping[str, Any], where: Sequence[float]) -> dict[str, list[Trend]]:
    """One line for each metric that is a fraction, in percent."""
    order = sorted(range(len(where)), key=lambda place: where[place])
    found: dict[str, list[Trend]] = {}
    for name in comparison["models"][0]["metrics"]:
        scores = [comparison["models"][place]["metrics"][name] for place in order]
        if any("unit" in score or score["value"] is None for score in scores):
            continue
        found[name] = [Trend(name, [where[place] for place in order], *_percent(scores))]
    return found


def gap_trends(
    audits: Sequence[Path], contestants: Sequence[Contestant], where: Sequence[float]
) -> dict[str, list[Trend]]:
    """For each check of groups against the rest, a line for each of the groups with the widest gaps, in points.

    Raises:
        InputError: an audit of other predictions than those of the contestants, or fewer than two audits.
    """
    if not audits:
        return {}
    judged = sorted(((where[_judges(path, contestants)], read_json(path)) for path in audits), key=lambda pair: pair[0])
    if len(judged) < 2:
        raise InputError(f"{audits[0]}: one audit makes no picture", "Name the audits of two models or more")
    found: dict[str, dict[str, list[tuple[float, Mapping[str, Any]]]]] = {}
    for place, report in judged:
        for check, group, record in _records(report):
            found.setdefault(check, {}).setdefault(group, []).append((place, record))
    return {check: _widest(groups, len(judged)) for check, groups in found.items() if _widest(groups, len(judged))}


def _judges(path: Path, contestants: Sequence[Contestant]) -> int:
    """The contestant whose predictions an audit judged."""
    digest = (read_json(path).get("inputs") or {}).get("sha256")
    for place, one in enumerate(contestants):
        named = one.report.get(PREDICTIONS)
        if digest and isinstance(named, dict) and named.get("sha256") == digest:
            return place
    raise InputError(
        f"{path}: judged the predictions of none of these probes",
        "Probe with --predictions, audit that table, and name both reports",
    )


def _records(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for check in report["checks"]:
        if check.get("against") != "rest" or check.get("metric") not in METRICS:
            continue
        for record in check["comparisons"]:
            if record.get("class") is None and record.get("group") and record.get("value") is not None:
                yield check["id"], " ".join(record["group"].values()), record


def _widest(groups: Mapping[str, list[tuple[float, Mapping[str, Any]]]], models: int) -> list[Trend]:
    whole = {name: rows for name, rows in groups.items() if len(rows) == models}
    order = sorted(whole, key=lambda name: (-max(abs(record["value"]) for _, record in whole[name]), name))
    return [Trend(name, [place for place, _ in whole[name]], *_percent([record for _, record in whole[name]]))
            for name in order[:MOST_GROUPS]]  # fmt: skip


def _percent(records: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float | None], list[float | None]]:
    scaled = [[None if record.get(key) is None else 100 * record[key] for record in records]
              for key in ("value", "low", "high")]  # fmt: skip
    return [value for value in scaled[0] if value is not None], scaled[1], scaled[2]


def draw(
    scores: Mapping[str, Sequence[Trend]], gaps: Mapping[str, Sequence[Trend]], axis: Axis, output: Path
) -> list[str]:
    """Write `scaling-<metric>` and `gap-<check>` as SVG and PNG into `output`; returns the files' names."""
    written = []
    jobs: list[tuple[str, Sequence[Trend], str, float | None]]
    jobs = [(f"scaling-{name}", some, f"{name}, %", None) for name, some in scores.items()]
    jobs += [(f"gap-{name}", some, f"{name}: gap to the rest, points", 0.0) for name, some in gaps.items()]
    for name, some, side, line in jobs:
        for form in figures.FORMS:
            with atomic_write(output / f"{name}.{form}") as file:
                file.write(figures.scaling(some, axis=side, below=KEYS[axis][1], line=line, form=form))
            written.append(f"{name}.{form}")
    return written
