"""Several models on the same rows: differences of every score with corrected intervals, row by row where possible.

The first report is what the others are compared with. Where both name their predictions and these are unchanged, rows
are paired by key: Newcombe's paired interval and McNemar's test for a rate, the same class by class for
`mean_per_class`. Other scores are compared by the intervals that their reports give, as if of independent rows, which
finds less. Intervals hold together (Bonferroni) over all comparisons, p-values are adjusted by Holm's method.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl import __version__
from seerctl.errors import GateFailed, Inconclusive, InputError, UsageError, did_you_mean
from seerctl.files import read_json, sha256_file
from seerctl.predictions import Predictions, read_predictions
from seerctl.probes.report import PREDICTIONS, SCHEMA, inputs_of, value_text
from seerctl.stats import adjust, mcnemar, newcombe_paired, two_sided_p, z_quantile

COMPARISON = "seerctl.probe-comparison/1"
AUDIT = "seerctl.audit/1"
RATES = ("top1", "top5", "mean_per_class")  # that follow from a table of predictions
_OF_K = re.compile(r".*_k\d+")


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """A report, and the predictions behind it (None, and `why`, where they are not there any more)."""

    path: Path
    report: Mapping[str, Any]
    table: Predictions | None
    why: str = ""

    @property
    def side(self) -> Mapping[str, Any]:
        """What the report says of the features it scores."""
        inputs = inputs_of(self.report)
        return inputs.get("test") or next(iter(inputs.values()), {})

    def facts(self) -> dict[str, Any]:
        """What a comparison says of it."""
        side = self.side
        known = {name: side[name] for name in ("parameters", "images_seen") if name in side}
        return {
            "report": str(self.path), "sha256": sha256_file(self.path), "protocol": self.report["protocol"],
            "model": side.get("model", ""), "layer": side.get("layer", ""), **known,
            "paired": self.table is not None, **({"why": self.why} if self.why else {}),
        }  # fmt: skip


def is_audit(path: Path) -> bool:
    """Whether the JSON at `path` is a report of `seerctl audit`."""
    report = read_json(path)
    return isinstance(report, dict) and report.get("schema") == AUDIT and isinstance(report.get("checks"), list)


def read_contestant(path: Path) -> Contestant:
    """The report of a probe at `path`, with its predictions where they are unchanged.

    Raises:
        InputError: no such file, or no report of `seerctl probe`.
    """
    report = read_json(path)
    if not isinstance(report, dict) or report.get("schema") != SCHEMA or not isinstance(report.get("metrics"), dict):
        raise InputError(f"{path}: not a report of seerctl probe", "Pass what 'seerctl probe PROTOCOL -o' wrote")
    named = report.get(PREDICTIONS)
    if not isinstance(named, dict) or not isinstance(named.get("path"), str):
        return Contestant(path, report, None, "it names no predictions")
    found = next((p for p in (Path(named["path"]), path.parent / Path(named["path"]).name) if p.is_file()), None)
    if found is None:
        return Contestant(path, report, None, f"{named['path']} is not there")
    if sha256_file(found) != named.get("sha256"):
        return Contestant(path, report, None, f"{found} has changed since")
    return Contestant(path, report, read_predictions(found, (), ranked=True, lists=True))


def shared_metrics(contestants: Sequence[Contestant], wanted: Sequence[str] = ()) -> list[str]:
    """The metrics to compare: `wanted`, or all that every report has, but for those of single k.

    Raises:
        UsageError: a wanted one that a report does not have, or none in common.
    """
    common = [name for name in contestants[0].report["metrics"]
              if all(name in one.report["metrics"] for one in contestants)]  # fmt: skip
    for name in wanted:
        if name not in common:
            raise UsageError(f"--metric {name}: not in every report", did_you_mean(name, common) if common else "")
    found = list(wanted) or [name for name in common if not _OF_K.fullmatch(name)] or common
    if not found:
        raise UsageError("compare: the reports have no metric in common", "Compare reports of one protocol")
    return found


def compare(contestants: Sequence[Contestant], metrics: Sequence[str] = (), *, alpha: float = 0.05) -> dict[str, Any]:
    """Every other model's scores less the first one's, as plain JSON values.

    Raises:
        UsageError: fewer than two reports, or other targets, or see `shared_metrics`.
        InputError: tables of other rows or labels.
    """
    if len(contestants) < 2:
        raise UsageError("compare: one report", "Name two or more")
    first, others = contestants[0], contestants[1:]
    for other in others:
        if other.report.get("target") != first.report.get("target"):
            raise UsageError(f"{other.path}: another target than {first.path}", "Compare models on one task")
    names = shared_metrics(contestants, metrics)
    level = alpha / (len(names) * len(others))
    records = [_record(first, other, name, level) for other in others for name in names]
    for record, p in zip(records, adjust([record["p"] for record in records], "holm"), strict=True):
        record["p_adjusted"] = float(p)
    return {
        "schema": COMPARISON, "seerctl": __version__, "target": first.report.get("target"),
        "alpha": alpha, "correction": {"intervals": "bonferroni", "p": "holm", "comparisons": len(records)},
        "models": [_scored(one, names) for one in contestants], "differences": records,
    }  # fmt: skip


def _scored(one: Contestant, names: Sequence[str]) -> dict[str, Any]:
    return {**one.facts(), "metrics": {name: one.report["metrics"][name] for name in names}}


def _record(first: Contestant, other: Contestant, name: str, level: float) -> dict[str, Any]:
    facts = {"report": str(other.path), "against": str(first.path), "metric": name, "level": 1 - level}
    if name in RATES and first.table is not None and other.table is not None:
        pair = _pair(first, other)
        hits = None if pair is None else _hits(*pair, name)
        if hits is not None and pair is not None:
            return {
                **facts,
                **(_of_means(pair[0], *hits, level) if name == "mean_per_class" else _of_rates(*hits, level)),
            }
    return {**facts, **_unpaired(first.report["metrics"][name], other.report["metrics"][name], level)}


def _pair(first: Contestant, other: Contestant) -> tuple[Predictions, Predictions, NDArray[np.intp]] | None:
    """Both tables and the row of the other's for each of the first's; None for lists of labels.

    Raises:
        InputError: other keys or other labels.
    """
    one, two = first.table, other.table
    assert one is not None
    assert two is not None
    if one.truth is not None or two.truth is not None:
        return None
    place = {key: row for row, key in enumerate(two.keys.tolist())}
    rows = [place.get(key, -1) for key in one.keys.tolist()]
    absent = rows.count(-1)
    if absent or len(one) != len(two):
        raise InputError(
            f"{other.path}: {absent:,} of the {len(one):,} rows of {first.path} are not among its {len(two):,}",
            "Compare models on the same test set",
        )
    order = np.array(rows, dtype=np.intp)
    differ = _names(one, one.label) != _names(two, two.label)[order]
    if differ.any():
        key = one.keys[int(np.argmax(differ))]
        raise InputError(
            f"{other.path}: {int(differ.sum()):,} rows have another label than in {first.path}, first {key}"
        )
    return one, two, order


def _names(table: Predictions, codes: NDArray[np.int32]) -> NDArray[np.object_]:
    return np.array([*table.classes, ""], dtype=object)[codes]


def _hits(
    one: Predictions, two: Predictions, order: NDArray[np.intp], name: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """(n,) whether each labelled row was right under the first and the other model; None without five ranks."""
    sides = []
    for table in (one, two):
        if name == "top5":
            if table.top.shape[1] < 5:
                return None
            sides.append((table.top == table.label[:, None]).any(1) & (table.label >= 0))
        else:
            sides.append((table.prediction == table.label) & (table.label >= 0))
    known = one.label >= 0
    return sides[0][known], sides[1][order][known]


def _of_rates(one: NDArray[np.bool_], two: NDArray[np.bool_], level: float) -> dict[str, Any]:
    gained, lost = int((two & ~one).sum()), int((one & ~two).sum())
    interval = newcombe_paired(int((one & two).sum()), gained, lost, int((~one & ~two).sum()), level)
    return {
        **_limits(*interval), "n": len(one), "gained": gained, "lost": lost, "p": mcnemar(gained, lost),
        "method": "newcombe, paired; mcnemar, exact",
    }  # fmt: skip


def _of_means(table: Predictions, one: NDArray[np.bool_], two: NDArray[np.bool_], level: float) -> dict[str, Any]:
    """The difference of the means over classes; its limits from those of the classes' paired differences."""
    label = table.label[table.label >= 0]
    cells = [
        np.bincount(label[mask], minlength=len(table.classes))
        for mask in (one & two, two & ~one, one & ~two, ~one & ~two)
    ]
    there = np.sum(cells, axis=0) > 0
    both, gained, lost, neither = (cell[there] for cell in cells)
    interval = newcombe_paired(both, gained, lost, neither, level)
    value, count = float(interval.value.mean()), int(there.sum())
    low = value - math.sqrt(float(((interval.value - interval.low) ** 2).sum())) / count
    high = value + math.sqrt(float(((interval.high - interval.value) ** 2).sum())) / count
    return {
        **_limits(value, low, high), "n": len(label), "p": _p_of(value, low, high, level),
        "method": "newcombe, paired within classes (method of variance estimates recovery)",
    }  # fmt: skip


def _unpaired(one: Mapping[str, Any], two: Mapping[str, Any], level: float) -> dict[str, Any]:
    """The difference of two scores by their reported limits, widened from 95 % to the level."""
    method = {
        "method": "from the limits of both reports, not paired",
        **{k: one[k] for k in ("unit", "better") if k in one},
    }
    if any(side.get(name) is None for side in (one, two) for name in ("value", "low", "high")):
        given = None not in (one.get("value"), two.get("value"))
        return {"value": two["value"] - one["value"] if given else None, "low": None, "high": None,
                "n": two.get("n"), "p": 1.0, **method}  # fmt: skip
    wider = float(z_quantile(level) / z_quantile(0.05))
    gap = two["value"] - one["value"]
    low = gap - wider * math.hypot(two["value"] - two["low"], one["high"] - one["value"])
    high = gap + wider * math.hypot(two["high"] - two["value"], one["value"] - one["low"])
    return {**_limits(gap, low, high), "n": two["n"], "p": _p_of(gap, low, high, level), **method}


def _limits(value: Any, low: Any, high: Any) -> dict[str, float]:
    return {"value": float(value), "low": float(low), "high": float(high)}


def _p_of(value: float, low: float, high: float, level: float) -> float:
    """The two-sided p-value of no difference, from the side of the interval that faces zero."""
    reach = value - low if value > 0 else high - value
    if reach <= 0 or not value:
        return 1.0 if not value else 0.0
    return float(two_sided_p(abs(value) / reach * float(z_quantile(level))))


# ------------------------------------------------------------------------------------------------------------- gates


def check_worse(comparison: Mapping[str, Any], allowed: float) -> None:
    """Judge whether any model is worse than the first by more than `allowed`, by the corrected intervals.

    Raises:
        GateFailed: one surely is. Inconclusive: none surely is, but one may be.
    """
    failed, unsure = [], []
    for record in comparison["differences"]:
        sign = -1.0 if record.get("better") == "lower" else 1.0
        limits = [record["low"], record["high"]]
        low, high = (-math.inf, math.inf) if None in limits else sorted(sign * limit for limit in limits)
        said = f"{record['report']}: {record['metric']} {difference_text(record)}"
        if high < -allowed:
            failed.append(said)
        elif low < -allowed:
            unsure.append(said)
    if failed:
        raise GateFailed(f"compare: worse by more than {allowed:g}: {'; '.join(failed)}")
    if unsure:
        raise Inconclusive(
            f"compare: may be worse by more than {allowed:g}: {'; '.join(unsure)}", "More rows may decide it"
        )


# ----------------------------------------------------------------------------------------------------------- for people


def difference_text(record: Mapping[str, Any]) -> str:
    """A difference for people: in percentage points, or in the unit of the metric."""
    if record["value"] is None:
        return "undefined"
    scale, digits = (1.0, "+.4g") if "unit" in record else (100.0, "+.1f")
    said = format(scale * record["value"], digits)
    if record["low"] is None:
        return f"{said} (no interval)"
    return f"{said} [{format(scale * record['low'], digits)}, {format(scale * record['high'], digits)}]"


def markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison as Markdown, from its JSON values alone."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Mapping[str, Any]) -> Iterator[str]:
    names = list(comparison["models"][0]["metrics"])
    yield "| model | report | " + " | ".join(names) + " |"
    yield "| --- " * (len(names) + 2) + "|"
    for model in comparison["models"]:
        scores = " | ".join(value_text(model["metrics"][name]) for name in names)
        yield f"| {model['model']} {model['layer']} | {model['report']} | {scores} |"
    yield ""
    level = 100 * (1 - comparison["alpha"])
    yield f"Against {comparison['models'][0]['report']}, in points; the intervals hold together at {level:g} %:"
    yield ""
    yield "| report | metric | difference | gained / lost rows | p, adjusted |"
    yield "| --- | --- | --- | --- | --- |"
    for record in comparison["differences"]:
        rows = f"{record['gained']:,} / {record['lost']:,}" if "gained" in record else ""
        unpaired = "" if record["method"].startswith("newcombe") else " (not paired)"
        yield (
            f"| {record['report']} | {record['metric']} | {difference_text(record)}{unpaired} | {rows} | "
            f"{record['p_adjusted']:.3g} |"
        )
