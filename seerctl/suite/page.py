"""The table of a suite as one HTML page, with a chart of each model's scores. Needs the `report` extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from seerctl import figures
from seerctl.figures import Point
from seerctl.pages import render
from seerctl.suite.table import cell, models_of, remarks

TEMPLATE = Path(__file__).with_name("templates") / "suite.html.j2"


def html(table: Mapping[str, Any]) -> str:
    """The page, from the values of suite.json alone."""
    models = models_of(table)
    rows = [
        {
            "name": entry["entry"], "task": entry["task"], "protocol": entry["protocol"] or "elsewhere",
            "metric": entry["metric"] if entry["protocol"] else "", "published": entry["published"],
            "cells": [cell(entry, model) for model in models],
        }
        for entry in table["entries"]
    ]  # fmt: skip
    notes = [{"name": entry["entry"], "text": text} for entry in table["entries"] for text in remarks(entry)]
    return render(
        TEMPLATE, kind="Suite of probes", title=table["suite"] or "Suite", description=table["description"],
        counts=_counts(table), models=models, rows=rows, notes=notes,
        charts=[chart for number, model in enumerate(models) if (chart := _chart(table, model, number))],
    )  # fmt: skip


def _counts(table: Mapping[str, Any]) -> str:
    entries = table["entries"]
    run = sum(entry["status"] == "run" for entry in entries)
    failed = sum(ours["status"] == "failed" for entry in entries for ours in entry["ours"])
    return f"{run} of {len(entries)} entries were run" + (f", {failed} runs failed." if failed else ".")


def _chart(table: Mapping[str, Any], model: str, number: int) -> dict[str, Any] | None:
    """One row an entry whose metric is a share."""
    points = [
        Point(entry["entry"], 100 * ours["value"], _percent(ours["low"]), _percent(ours["high"]))
        for entry in table["entries"]
        for ours in entry["ours"]
        if ours["model"] == model and ours.get("value") is not None and ours.get("unit") is None
    ]  # fmt: skip
    if not points:
        return None
    svg = figures.intervals(points, axis="score, %")
    drawn = Markup(figures.inline(svg, f"m{number}"))  # noqa: S704 (matplotlib escapes the names)
    return {"svg": drawn, "caption": f"Scores of {model}, each in its own metric, with 95 % intervals"}


def _percent(limit: float | None) -> float | None:
    return None if limit is None else 100 * limit
