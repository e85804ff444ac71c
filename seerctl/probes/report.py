"""The report of a classification probe: every score with its interval, the whole protocol, one JSON for scripts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seerctl import __version__, predictions
from seerctl.errors import GateFailed, UsageError, did_you_mean
from seerctl.files import write_json
from seerctl.predictions import Predictions
from seerctl.probes.task import Task
from seerctl.stats import Interval, macro, wilson

SCHEMA = "seerctl.probe/1"
RANKS = 5
ALPHA = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ProbeResult:
    """A finished probe: the report as plain JSON values and the prediction for every test row.

    scores: (Q, C) those of every class, None where they were not asked for.
    """

    report: dict[str, Any]
    predictions: Predictions
    scores: NDArray[np.floating] | None = None

    def save(self, path: Path) -> None:
        """Write the report atomically as JSON."""
        write_json(path, self.report)

    def save_scores(self, path: Path) -> None:
        """Write the scores of every class atomically as HDF5 (see `seerctl.scores`)."""
        from seerctl.scores import write_scores  # noqa: PLC0415  # h5py, for those who want scores

        assert self.scores is not None
        write_scores(path, self.predictions.keys, self.predictions.classes, self.scores)


def write_lineage(table: Path, report: Mapping[str, Any]) -> None:
    """Note beside a table of predictions the features that it is of."""
    made_from = [
        {"kind": "features", "role": role, "path": report[role]["path"], "sha256": report[role]["sha256"]}
        for role in ("train", "test")
    ]
    predictions.write_lineage(table, f"probe {report['protocol']}", made_from)


def rank(scores: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The best five classes of each row of `scores` (Q, C) and their scores, best first; ties by class order."""
    tensor = torch.from_numpy(scores)
    best, order = torch.sort(tensor, dim=1, descending=True, stable=True)
    keep = min(RANKS, scores.shape[1])
    return order[:, :keep].to(torch.int32).numpy(), best[:, :keep].numpy()


def metric(interval: Interval, n: int) -> dict[str, Any]:
    """One entry of a report's `metrics`; values are fractions."""
    return {"value": float(interval.value), "low": float(interval.low), "high": float(interval.high), "n": n}


def hit_metrics(labels: NDArray[np.int64], top: NDArray[np.int32], classes: int, suffix: str = "") -> dict[str, Any]:
    """`top1` and, with more than five classes, `top5`, with Wilson intervals at 95 %."""
    hits = top == labels[:, None]
    found = {f"top1{suffix}": metric(wilson(hits[:, 0].sum(), len(labels), ALPHA), len(labels))}
    if classes > RANKS:
        found[f"top5{suffix}"] = metric(wilson(hits.any(1).sum(), len(labels), ALPHA), len(labels))
    return found


def class_metrics(task: Task, prediction: NDArray[np.int32]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`mean_per_class` (the unweighted mean of the classes' accuracies) and one entry a class, in class order."""
    count = len(task.classes)
    rows = np.bincount(task.test.labels, minlength=count)
    correct = np.bincount(task.test.labels[prediction == task.test.labels], minlength=count)
    single = wilson(correct, rows, ALPHA)
    mean = {"mean_per_class": metric(macro(correct, rows, ALPHA), int(rows.sum()))}
    table = [
        {
            "class": name, "n": int(rows[code]), "correct": int(correct[code]),
            "accuracy": float(single.value[code]) if rows[code] else None,
            "low": float(single.low[code]), "high": float(single.high[code]),
        }
        for code, name in enumerate(task.classes)
    ]  # fmt: skip
    return mean, table


def make_result(
    task: Task,
    protocol: str,
    settings: Mapping[str, Any],
    scores: tuple[NDArray[np.int32], NDArray[np.float64]],
    more: Mapping[str, Any] | None = None,
    full: NDArray[np.floating] | None = None,
) -> ProbeResult:
    """The result of `protocol` from its ranked classes and scores; `more` are metrics of the protocol's own.

    full: the scores of every class (Q, C), to be kept.
    """
    top, top_scores = scores
    mean, per_class = class_metrics(task, top[:, 0])
    report = {
        "schema": SCHEMA,
        "protocol": protocol,
        "target": task.target,
        "settings": dict(settings),
        "metrics": {**hit_metrics(task.test.labels, top, len(task.classes)), **mean, **(more or {})},
        "interval": {"method": "wilson", "level": 1 - ALPHA},
        "per_class": per_class,
        "classes": len(task.classes),
        "train": dict(task.train.origin),
        "test": dict(task.test.origin),
        "warnings": list(task.warnings),
        "versions": versions(),
    }
    return ProbeResult(report, _predictions(task, top, top_scores), full)


def versions() -> dict[str, str]:
    """What computed the numbers."""
    return {
        "seerctl": __version__, "python": platform.python_version(), "torch": str(torch.__version__),
        "numpy": np.__version__,
    }  # fmt: skip


def _predictions(task: Task, top: NDArray[np.int32], top_scores: NDArray[np.float64]) -> Predictions:
    return Predictions(
        keys=np.array([key.decode("ascii", "replace") for key in task.test.keys], dtype=object),
        classes=task.classes,
        label=task.test.labels.astype(np.int32),
        prediction=top[:, 0],
        score=top_scores[:, 0],
        top=top,
        top_scores=top_scores,
        columns={name: column for name, column in task.test.columns.items() if name != task.target},
    )


# ------------------------------------------------------------------------------------------------------------- gates


def parse_minima(texts: Iterable[str], known: Sequence[str]) -> dict[str, float]:
    """`METRIC=VALUE` texts as numbers, checked before the work starts.

    Raises:
        UsageError: no such metric in this protocol, or no number.
    """
    minima = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in known:
            raise UsageError(f"--min {text}: no metric '{name}' in this probe", did_you_mean(name, known))
        try:
            minima[name] = float(value)
        except ValueError:
            raise UsageError(f"--min {text}: '{value}' is not a number", f"Write --min {name}=0.5") from None
        if not equals or not 0.0 <= minima[name] <= 1.0:
            raise UsageError(f"--min {text}: not a fraction between 0 and 1", "50 % is 0.5")
    return minima


def check_minima(report: Mapping[str, Any], minima: Mapping[str, float]) -> None:
    """Compare point values with the demanded ones.

    Raises:
        GateFailed: a value is below its minimum.
        UsageError: this run could not have the metric (top5 of five classes, a k beyond the training rows).
    """
    metrics = report["metrics"]
    absent = [name for name in minima if name not in metrics]
    if absent:
        raise UsageError(f"--min {absent[0]}: this run has no such metric", f"It has: {', '.join(metrics)}")
    missed = [
        f"{name} {metrics[name]['value']:.4f} < {minimum:g}"
        for name, minimum in minima.items()
        if metrics[name]["value"] < minimum
    ]
    if missed:
        raise GateFailed("probe: " + ", ".join(missed))


def text_table(report: Mapping[str, Any], weakest: int = 3) -> str:
    """The report for people: scores in percent with their 95 % intervals, and the weakest classes."""
    train, test = report["train"], report["test"]
    lines = [
        f"{report['protocol']} on '{report['target']}': {report['classes']} classes, "
        f"{train['rows']:,} train, {test['rows']:,} test, {train['model']} {train['layer']} ({train['dim']})"
    ]
    width = max(map(len, report["metrics"]))
    lines += [
        f"  {name:<{width}}  {100 * m['value']:6.2f} %  [{100 * m['low']:.2f}, {100 * m['high']:.2f}]"
        for name, m in report["metrics"].items()
    ]
    scored = sorted((row for row in report["per_class"] if row["n"]), key=lambda row: row["accuracy"])
    if len(scored) > weakest:
        worst = ", ".join(f"{row['class']} {100 * row['accuracy']:.1f} %" for row in scored[:weakest])
        lines.append(f"  weakest classes: {worst}")
    return "\n".join(lines)
