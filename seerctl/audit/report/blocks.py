"""The parts of the HTML page, as plain values for its template: checks, groups, sections of suites, their figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from seerctl import figures
from seerctl.audit.report import view
from seerctl.audit.report.summary import trials_of
from seerctl.audit.report.view import Check, Record
from seerctl.figures import Kind, Point

_KINDS: dict[str, Kind] = {"FAIL": "fail", "PASS": "pass", "INCONCLUSIVE": "unsure"}


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a report a page shows: rows of a table, rows of a chart, checks with their comparisons, charts."""

    rows: int
    chart: int = 16
    checks: int = 400
    charts: int = 40


class Figures:
    """Figures of a page: each drawn once, with an id of its own, also when the page is made again with less room."""

    def __init__(self) -> None:
        self.drawn: dict[Any, Markup] = {}

    def intervals(self, points: Sequence[Point], **options: Any) -> Markup:
        return self._once(figures.intervals, points, options)

    def bars(self, points: Sequence[Point], **options: Any) -> Markup:
        return self._once(figures.bars, points, options)

    def _once(self, draw: Any, points: Sequence[Point], options: dict[str, Any]) -> Markup:
        key = (draw, tuple(points), tuple(sorted(options.items())))
        if key not in self.drawn:
            svg = figures.inline(draw(points, **options), f"f{len(self.drawn)}")
            self.drawn[key] = Markup(svg)  # noqa: S704 (matplotlib escapes the labels)
        return self.drawn[key]


# ------------------------------------------------------------------------------------------------------------- checks


def check_block(check: Check, room: Room, figure: Figures, number: int) -> dict[str, Any]:
    judged, scale, own = view.judged(check), view.scale_of(check), view.rate_scale(check)
    kind = view.against(check)
    shown = judged[: room.rows]
    gaps = kind != "threshold"
    owns, others = (gaps and any(map(of, judged)) for of in (view.own_of, view.other_of))
    return {
        "id": check["id"], "anchor": f"check-{number}", "title": view.title_of(check),
        "meaning": view.MEANING.get(check["metric"], ""), "demand": view.demand(check), "verdict": check["verdict"],
        "warn": check["severity"] == "warn", "tally": _tally(check), "suite": view.suite_of(check),
        "charts": _charts(check, room, figure) if number < room.charts else [],
        "head": [
            "Group",
            {"rest": "Gap", "baseline": "Change"}.get(kind, view.title_of(check)) + _in(scale.unit),
            "Range",
            *(["Own" + _in(own.unit)] if owns else []),
            *([("Rest" if kind == "rest" else "Before") + _in(own.unit)] if others else []),
            "Rows",
        ],
        "rows": [_row(record, scale, own, owns, others) for record in shown],
        "more": len(judged) - len(shown) + check.get("omitted", 0),
        "unjudged": check["tally"].get("NOT ASSESSED", 0),
        "evidence": [
            (view.name_of(record, joiner=" "), view.evidence_of(record)[:24])
            for record in judged[:10]
            if record["verdict"] == "FAIL" and view.evidence_of(record)
        ],
    }  # fmt: skip


def _tally(check: Check) -> str:
    """The tally in the words of the page."""
    return view.tally_text(check["tally"]).replace("inconclusive", "undecided")


def _in(unit: str) -> str:
    return f", {unit}" if unit else ""


def _row(record: Record, scale: view.Scale, own: view.Scale, owns: bool, others: bool) -> dict[str, Any]:
    cells = [scale.text(record["value"]), view.span(record, scale)]
    for of, shown in ((view.own_of, owns), (view.other_of, others)):
        cells += [own.text(of(record).get("value"))] * shown
    return {
        "name": view.name_of(record, joiner=" "), "cells": [*map(typeset, cells), f"{trials_of(record):,}"],
        "verdict": record["verdict"],
    }  # fmt: skip


def typeset(text: str) -> str:
    """Numbers with a real minus."""
    return text.replace("-", "\u2212")


def _charts(check: Check, room: Room, figure: Figures) -> list[dict[str, Any]]:
    """The judged numbers against the allowed range, and, where those are gaps, the groups' own rates."""
    judged, scale, own = view.judged(check), view.scale_of(check), view.rate_scale(check)
    records = judged[: room.chart]
    if not records or (len(records) < 3 and all(record.get("exact") for record in records)):
        return []  # a counted number or two say it better
    low, high = check["bounds"]
    allowed = tuple(
        (infinite if limit is None else scale.factor * limit)
        for limit, infinite in ((low, -math.inf), (high, math.inf))
    )
    gaps = view.against(check) != "threshold"
    rest = "everyone else" if view.against(check) == "rest" else "the baseline"
    axis = f"difference to {rest}" if gaps else view.title_of(check)
    points = [_point(record, record, scale, _KINDS.get(record["verdict"], "plain")) for record in records]
    some = (
        f", the {len(records)} most urgent of {len(judged) + check.get('omitted', 0):,}"
        if len(records) < len(judged)
        else ""
    )
    charts = [{
        "caption": f"{axis[:1].upper()}{axis[1:]}, with its range, and what is allowed{some}",
        "svg": figure.intervals(points, allowed=allowed, line=0.0 if gaps else None, axis=axis + _in(scale.unit),
                                digits=_digits(scale, points), signed=gaps),
    }]  # fmt: skip
    if gaps and any(map(view.own_of, records)):
        points = [_point(record, view.own_of(record), own, "plain") for record in records if view.own_of(record)]
        limits = ", each with its 95 % interval" if any(point.low is not None for point in points) else ""
        caption = f"{view.title_of(check)} of the same groups{limits}"
        svg = figure.bars(points, axis=view.title_of(check) + _in(own.unit), digits=_digits(own, points))
        charts.append({"caption": caption, "svg": svg})
    return charts


def _point(record: Record, numbers: Mapping[str, Any], scale: view.Scale, kind: Kind) -> Point:
    def scaled(name: str) -> float | None:
        return None if numbers.get(name) is None else scale.factor * numbers[name]

    value = scaled("value")
    low, high = scaled("low"), scaled("high")
    if value is not None and (low, high) != (None, None):  # open at one side
        low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    name = view.name_of(record, joiner=" ")
    return Point(name, math.nan if value is None else value, low, high, kind)


def _digits(scale: view.Scale, points: Sequence[Point]) -> int:
    if scale.digits is not None:
        return scale.digits
    values = [point.value for point in points if math.isfinite(point.value)]
    if all(value.is_integer() for value in values):
        return 0
    largest = max(map(abs, values), default=1.0) or 1.0
    return max(0, min(6, 2 - math.floor(math.log10(largest))))


# ------------------------------------------------------------------------------------- groups, sections of other suites


def grouping_block(grouping: Mapping[str, Any], room: Room, figure: Figures) -> dict[str, Any]:
    entries, columns = grouping["groups"], grouping["columns"]
    rows = sum(entry["n"] for entry in entries) or 1
    worst = sorted(entries, key=lambda entry: entry["accuracy"]["value"])[: room.chart]
    drawn = entries if len(entries) <= room.chart else worst
    points = [_point({"group": {}}, e["accuracy"], view.PERCENT, "plain") for e in drawn]
    points = [Point(", ".join(map(view.visible, e["group"].values())), p.value, p.low, p.high)
              for e, p in zip(drawn, points, strict=True)]  # fmt: skip
    some = f", the {len(drawn)} lowest of {len(entries):,}" if len(drawn) < len(entries) else ""
    return {
        "title": " \u00d7 ".join(map(view.visible, columns)),
        "count": len(entries),
        "missing": grouping["missing"],
        "caption": f"Accuracy by {' and '.join(map(view.visible, columns))} with 95 % intervals{some}",
        "chart": figure.bars(points, axis="accuracy, %") if len(columns) == 1 and points else "",
        "rows": [
            {
                "name": ", ".join(map(view.visible, entry["group"].values())), "n": f"{entry['n']:,}",
                "share": f"{100 * entry['n'] / rows:.1f}",
                "accuracy": view.PERCENT.text(entry["accuracy"]["value"]),
                "range": view.span(entry["accuracy"], view.PERCENT),
            }
            for entry in entries[: room.rows]
        ],
        "more": max(0, len(entries) - room.rows),
    }  # fmt: skip


def section_block(suite: str, section: Mapping[str, Any], room: Room, figure: Figures) -> dict[str, Any]:
    return {
        "suite": suite,
        "tables": [_table(table, room) for table in section.get("tables") or ()],
        "charts": [_bars(chart, room, figure) for chart in (section.get("charts") or ())[: room.charts]],
    }


def _table(table: Mapping[str, Any], room: Room) -> dict[str, Any]:
    numeric = [view.is_numeric(table["rows"], column) for column in range(len(table["columns"]))]
    rows = [
        [
            (typeset(view.cell(value)) if right else view.cell(value), right)
            for value, right in zip(row, numeric, strict=True)
        ]
        for row in table["rows"][: room.rows]
    ]
    return {
        "title": table["title"], "head": list(zip(table["columns"], numeric, strict=True)), "rows": rows,
        "note": table.get("note") or "", "more": max(0, len(table["rows"]) - room.rows),
    }  # fmt: skip


def _bars(chart: Mapping[str, Any], room: Room, figure: Figures) -> dict[str, Any]:
    """A suite's chart: bars where the values have no limits and count up from zero, else points with intervals."""
    size = len(chart["labels"])
    lows, highs = (chart.get(name) or [None] * size for name in ("low", "high"))
    points = [
        Point(view.visible(str(label)), math.nan if value is None else value, low, high)
        for label, value, low, high in zip(chart["labels"], chart["values"], lows, highs, strict=True)
    ][: 2 * room.chart]
    draw = figure.intervals if chart.get("low") and chart.get("line") is not None else figure.bars
    digits = _digits(view.Scale(1.0, None, ""), points)
    more = size - len(points)
    return {
        "title": chart["title"] + (f" (the first {len(points)} of {size:,})" if more else ""),
        "svg": draw(points, line=chart.get("line"), axis=chart.get("axis") or "", digits=digits) if points else "",
    }  # fmt: skip
