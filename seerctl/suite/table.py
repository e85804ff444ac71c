"""The table of a suite: ours beside what was published, as JSON, CSV, Markdown and one HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seerctl import __version__
from seerctl.audit.report.files import can_draw
from seerctl.files import atomic_write, write_json
from seerctl.suite.needs import Missing
from seerctl.suite.runner import SCHEMA, Outcome, Plan
from seerctl.suite.spec import Entry, Published

FIELDS = (
    "entry", "task", "protocol", "metric", "model", "status", "value", "low", "high", "n", "unit", "whose", "source",
    "note",
)  # fmt: skip


def summary(
    plan: Plan, description: str, outcomes: Sequence[Outcome], lacking: Sequence[Missing] = (),
    entries: Sequence[Entry] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What suite.json holds: every entry with each model's score, or why there is none, and the published values.

    entries: all of the suite, those that were left out too.
    """
    return {
        "schema": SCHEMA, "suite": plan.suite, "description": description, "seerctl": __version__,
        "models": [{"model": model.spec, "sha256": model.sha256} for model in plan.models],
        "entries": [_entry(plan, entry, outcomes, lacking) for entry in (entries or plan.entries)],
    }  # fmt: skip


def _entry(plan: Plan, entry: Entry, outcomes: Sequence[Outcome], lacking: Sequence[Missing]) -> dict[str, Any]:
    ours = [_ours(plan, one) for one in outcomes if one.entry.name == entry.name]
    why = list(dict.fromkeys(one.what for one in lacking if one.entry == entry.name))
    status = "elsewhere" if entry.elsewhere else "missing" if why else "run" if ours else "not run"
    return {
        "entry": entry.name, "task": entry.task, "protocol": entry.protocol, "metric": entry.metric,
        "options": {key: list(value) if isinstance(value, tuple) else value for key, value in entry.options.items()},
        "layers": list(entry.layers), "size": entry.size or None, "status": status, "missing": why, "ours": ours,
        "published": [published(one) for one in entry.comparable()],
        "other_protocols": [published(one) for one in entry.published if one not in entry.comparable()],
        "elsewhere": entry.elsewhere, "note": entry.note,
    }  # fmt: skip


def published(one: Published) -> dict[str, Any]:
    """A published value as plain JSON."""
    return {"model": one.model, "value": one.value, "metric": one.metric, "protocol": one.protocol,
            "source": one.source, "differs": one.differs}  # fmt: skip


def _ours(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    model = outcome.model.spec if outcome.model else ""
    if outcome.report is None:
        return {"model": model, "status": "failed", "reason": str(outcome.error)}
    report, name = outcome.report, outcome.entry.metric
    path = str(plan.report(outcome.entry, outcome.model).relative_to(plan.output))
    if name not in report["metrics"]:
        return {"model": model, "status": "failed", "report": path,
                "reason": f"its report has no {name}, but {', '.join(report['metrics'])}"}  # fmt: skip
    return {"model": model or _model_in(report), "status": "kept" if outcome.kept else "done", "report": path,
            **report["metrics"][name]}  # fmt: skip


def _model_in(report: Mapping[str, Any]) -> str:
    """The model that features are of, as their file names it."""
    return next((str(side["model"]) for side in report.values() if isinstance(side, dict) and "model" in side), "")


def shown(value: float | None, unit: str | None = None) -> str:
    """A metric's value for people: percent with one decimal place, or a number of its unit."""
    if value is None:
        return "undefined"
    return f"{100 * value:.1f} %" if unit is None else f"{value:.4g}{' ' + unit if unit else ''}"


def score(ours: Mapping[str, Any]) -> str:
    """A score with its interval."""
    if "value" not in ours:
        return "failed"
    unit, limits = ours.get("unit"), [ours.get("low"), ours.get("high")]
    if None in limits:
        return shown(ours["value"], unit)
    low, high = (shown(limit, "" if unit else None).removesuffix(" %") for limit in limits)
    return f"{shown(ours['value'], unit)} [{low}, {high}]"


def markdown(table: Mapping[str, Any]) -> str:
    """The table for a README or a pull request: one column a model, published values beside them."""
    models = models_of(table)
    head = ["benchmark", "protocol", "metric", *models, "published, same protocol"]
    rows = [[entry["entry"], entry["protocol"] or "elsewhere", entry["metric"] if entry["protocol"] else "",
             *(cell(entry, model) for model in models), _published_cell(entry)]
            for entry in table["entries"]]  # fmt: skip
    lines = [f"# {table['suite'] or 'Suite'}", "", table["description"], "", _row(head), _row(["---"] * len(head))]
    lines += [_row(row) for row in rows]
    notes = [f"- **{entry['entry']}**: {text}" for entry in table["entries"] for text in remarks(entry)]
    return "\n".join([*lines, *(["", "## Notes", "", *notes] if notes else []), ""])


def models_of(table: Mapping[str, Any]) -> list[str]:
    """The models of a table, as its columns."""
    named = [one["model"] for one in table["models"]]
    named += [ours["model"] for entry in table["entries"] for ours in entry["ours"]]
    return list(dict.fromkeys(named)) or ["ours"]


def cell(entry: Mapping[str, Any], model: str) -> str:
    """What stands at a model's score of an entry."""
    found = [score(ours) for ours in entry["ours"] if ours["model"] == model]
    return found[0] if found else {"missing": "needs data", "elsewhere": "", "run": ""}.get(entry["status"], "not run")


def _published_cell(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{one['model']} {one['value']:g}" for one in entry["published"])


def remarks(entry: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of an entry: what is missing or failed, where it is run, how protocols differ."""
    said = [f"missing: {what}" for what in entry["missing"]]
    said += [f"failed: {ours['reason']}" for ours in entry["ours"] if "reason" in ours]
    said += [text for text in (entry["elsewhere"], entry["note"]) if text]
    differs: dict[str, list[str]] = {}
    for one in entry["published"]:
        if one["differs"]:
            differs.setdefault(one["differs"], []).append(one["model"])
    said += [f"published {', '.join(models)}: {text}" for text, models in differs.items()]
    others: dict[tuple[str, str, str], list[str]] = {}
    for one in entry["other_protocols"]:
        key = one["protocol"], one["metric"], one["source"]
        others.setdefault(key, []).append(f"{one['model']} {one['value']:g}")
    what = "published" if entry["elsewhere"] else "published under another protocol"
    return said + [f"{what} ({protocol}, {metric}): {', '.join(values)} ({source})"
                   for (protocol, metric, source), values in others.items()]  # fmt: skip


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def csv_text(table: Mapping[str, Any]) -> str:
    """One line a value, ours as fractions and published ones as printed; `whose` tells them apart."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for entry in table["entries"]:
        base = {key: entry[key] for key in ("entry", "task", "protocol", "metric")}
        for ours in entry["ours"]:
            known = {key: ours[key] for key in FIELDS if key in ours}
            more = {"whose": "ours", "source": ours.get("report", ""), "note": ours.get("reason", "")}
            writer.writerow({**base, **known, **more})
        if not entry["ours"]:
            writer.writerow({**base, "status": entry["status"], "note": "; ".join(remarks(entry))})
        for one in (*entry["published"], *entry["other_protocols"]):
            known = {key: one[key] for key in ("model", "value", "metric", "protocol", "source")}
            writer.writerow({**base, **known, "whose": "published", "unit": "%", "note": one["differs"]})
    return out.getvalue()


def save(table: Mapping[str, Any], output: Path) -> list[str]:
    """Write suite.json, .md, .csv and, where the `report` extra is installed, .html; returns the files' names."""
    texts = {"suite.md": markdown(table), "suite.csv": csv_text(table)}
    if can_draw():
        from seerctl.suite.page import html  # noqa: PLC0415  # half a second, and an extra

        texts["suite.html"] = html(table)
    for name, text in texts.items():
        with atomic_write(output / name, "w") as file:
            file.write(text)
    write_json(output / "suite.json", table)
    return [*texts, "suite.json"]
