"""The report of a probe: every score with its interval, the whole protocol, one JSON for scripts.

What every report has, whatever the protocol: `schema, protocol, settings, metrics.<name>.{value,low,high,n}, interval,
warnings, versions`, and each of its inputs under its role (`train`, `test`, `queries`, ...) with path, hashes and rows.
A metric is a fraction, unless it has a `unit`; `better: lower` marks errors. A value that is not defined is null.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seerctl import __version__, predictions
from seerctl.files import sha256_file, write_json
from seerctl.predictions import Predictions, write_predictions
from seerctl.stats import Interval

SCHEMA = "seerctl.probe/1"
ALPHA = 0.05
PREDICTIONS = "predictions"  # the key of a report that names the table of its rows, with `path` and `sha256`
WILSON = {"method": "wilson", "level": 1 - ALPHA}


@dataclass(frozen=True, slots=True, eq=False)
class ProbeResult:
    """A finished probe: the report as plain JSON values and, where rows are predicted, the prediction for each.

    scores: (Q, C) those of every class, None where they were not asked for.
    """

    report: dict[str, Any]
    predictions: Predictions | None = None
    scores: NDArray[np.floating] | None = None

    def save(self, path: Path) -> None:
        """Write the report atomically as JSON."""
        write_json(path, self.report)

    def save_predictions(self, path: Path) -> None:
        """Write the predictions atomically as a table, and beside it the lineage; the report names the table then."""
        assert self.predictions is not None
        write_predictions(path, self.predictions)
        write_lineage(path, self.report)
        self.report[PREDICTIONS] = {"path": str(path), "sha256": sha256_file(path)}

    def save_scores(self, path: Path) -> None:
        """Write the scores of every class atomically as HDF5 (see `seerctl.scores`)."""
        from seerctl.scores import write_scores  # noqa: PLC0415  # h5py, for those who want scores

        assert self.scores is not None
        assert self.predictions is not None
        write_scores(path, self.predictions.keys, self.predictions.classes, self.scores)


def make_report(
    protocol: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    inputs: Mapping[str, Mapping[str, Any]],
    *,
    interval: Mapping[str, Any] = WILSON,
    target: str | None = None,
    more: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of any protocol. inputs: what `task.origin_of` says of each feature file, by role."""
    return {
        "schema": SCHEMA,
        "protocol": protocol,
        **({} if target is None else {"target": target}),
        "settings": dict(settings),
        "metrics": dict(metrics),
        "interval": dict(interval),
        **(more or {}),
        **{role: dict(origin) for role, origin in inputs.items()},
        "warnings": list(warnings),
        "versions": versions(),
    }


def metric(interval: Interval, n: int, unit: str = "", better: str = "") -> dict[str, Any]:
    """One entry of a report's `metrics`: a fraction, or a number in `unit`; a number that is not finite is None."""
    limits = {name: _finite(getattr(interval, name)) for name in ("value", "low", "high")}
    return {**limits, "n": n, **({"unit": unit} if unit else {}), **({"better": better} if better else {})}


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(float(number)) else None


def versions() -> dict[str, str]:
    """What computed the numbers."""
    return {
        "seerctl": __version__, "python": platform.python_version(), "torch": str(torch.__version__),
        "numpy": np.__version__,
    }  # fmt: skip


def inputs_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The feature files behind a report, by role."""
    return {
        role: entry
        for role, entry in report.items()
        if isinstance(entry, dict) and "sha256" in entry and role != PREDICTIONS
    }


def write_lineage(table: Path, report: Mapping[str, Any]) -> None:
    """Note beside a table of predictions the features that it is of."""
    made_from = [
        {"kind": "features", "role": role, "path": entry["path"], "sha256": entry["sha256"]}
        for role, entry in inputs_of(report).items()
    ]
    predictions.write_lineage(table, f"probe {report['protocol']}", made_from)


def value_text(entry: Mapping[str, Any]) -> str:
    """The value of one metric for people: percent, or the number and its unit."""
    if entry["value"] is None:
        return "undefined"
    return f"{100 * entry['value']:.2f} %" if "unit" not in entry else f"{entry['value']:.4g}"


def text_table(report: Mapping[str, Any], weakest: int = 3) -> str:
    """The report for people: scores with their 95 % intervals, in percent where they are fractions; weakest classes."""
    lines = [headline(report)]
    width = max(map(len, report["metrics"]))
    lines += [f"  {name:<{width}}  {value_text(m):>8}  {limits_text(m)}" for name, m in report["metrics"].items()]
    name = "accuracy" if "accuracy" in next(iter(report.get("per_class", [])), {}) else "value"
    rated = [row for row in report.get("per_class", []) if row["n"] and row.get(name) is not None]
    if len(rated) > weakest:
        worst = sorted(rated, key=lambda row: row[name])[:weakest]
        lines.append("  weakest classes: " + ", ".join(f"{row['class']} {100 * row[name]:.1f} %" for row in worst))
    return "\n".join(lines)


def headline(report: Mapping[str, Any]) -> str:
    inputs = inputs_of(report)
    facts = [f"{report['classes']} classes"] if "classes" in report else []
    facts += [f"{entry['rows']:,} {role}" for role, entry in inputs.items()]
    one = next(iter(inputs.values()), None)
    facts += [f"{one['model']} {one['layer']} ({one['dim']})"] if one else []
    about = f" on '{report['target']}'" if "target" in report else ""
    return f"{report['protocol']}{about}: {', '.join(facts)}"


def limits_text(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None or entry["high"] is None:
        return "no interval"
    if "unit" in entry:
        return f"[{entry['low']:.4g}, {entry['high']:.4g}]"
    return f"[{100 * entry['low']:.2f}, {100 * entry['high']:.2f}]"
