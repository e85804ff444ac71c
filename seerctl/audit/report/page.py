"""The report as one HTML page that needs nothing else: no scripts, no resources from elsewhere, below 2 MB.

Made for somebody who does not read statistics every day: the verdict first, then what failed, in words, pictures and
numbers; protocol and hashes come last. Needs the `report` extra (jinja2, matplotlib). What comes from data is escaped
by the template, and a content policy in the page forbids scripts on top.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from seerctl import figures
from seerctl.audit.report import view
from seerctl.audit.report.summary import trials_of
from seerctl.audit.report.view import Check, Record, Report
from seerctl.figures import DARK, LIGHT, Kind, Point

if TYPE_CHECKING:
    from seerctl.audit.examples import Example

TEMPLATES = Path(__file__).parents[1] / "templates"
MAX_BYTES = 1_900_000
_KINDS: dict[str, Kind] = {"FAIL": "fail", "PASS": "pass", "INCONCLUSIVE": "unsure"}
_NAME = 120  # characters of a name in the page


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a report a page shows: rows of a table, rows of a chart, checks with their comparisons, charts."""

    rows: int
    chart: int = 16
    checks: int = 400
    charts: int = 40


_ROOMS = (Room(1000), Room(300), Room(100), Room(30, 12, 100, 30), Room(10, 8, 40, 16), Room(5, 5, 10, 6))


def html(report: Report, examples: Sequence[Example] = ()) -> str:
    """The page, from the values of report.json alone; of a report that is too large it shows the most urgent rows.

    examples: pictures to embed; only they show single rows of the data.
    """
    figure = _Figures()
    page = ""
    for room in _ROOMS:
        page = _render(report, examples, room, figure)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def _render(report: Report, examples: Sequence[Example], room: Room, figure: _Figures) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_plain,
        loader=jinja2.FileSystemLoader(TEMPLATES),
    )  # fmt: skip
    environment.filters["name"] = lambda text: view.shorten(view.visible(text), _NAME)
    return environment.get_template("report.html.j2").render(_context(report, examples, room, figure))


def _plain(value: Any) -> Any:
    """What the template puts into the page: no marks that cannot be seen, units not torn from their numbers."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"(?<=\d) (?=%|points?\b)", "\u00a0", view.visible(value))


class _Figures:
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


def _context(report: Report, examples: Sequence[Example], room: Room, figure: _Figures) -> dict[str, Any]:
    checks = [_check(check, room, figure, number) for number, check in enumerate(report["checks"][: room.checks])]
    facts = [*view.facts(report["inputs"], "inputs"), *view.facts(report.get("baseline") or {}, "baseline")]
    for suite, section in (report.get("sections") or {}).items():
        facts += view.facts(section.get("inputs") or {}, suite)
    facts += view.facts(report["versions"], "versions")
    small = view.not_assessed(report, joiner=" ")
    return {
        "light": LIGHT, "dark": DARK, "report": report, "title": view.heading(report), "said": _said(report),
        "total": view.total_tally(report), "checks": checks, "more_checks": len(report["checks"]) - len(checks),
        "failing": _failing(report), "failures": len(_failed(report)),
        "groups": [_grouping(g, room, figure) for g in report.get("groups") or ()],
        "sections": [_section(name, section, room, figure) for name, section in (report.get("sections") or {}).items()],
        "small": small[: room.rows], "more_small": max(0, len(small) - room.rows),
        "not_run": [view.visible(entry["check"]) for entry in report.get("not_run") or ()],
        "limits": view.limits_of(report), "facts": facts[: room.rows],
        "several": len(view.suites_of(report)) > 1, "stats": report["policy"]["stats"], "examples": examples,
        "policy": _source(report["policy"]),
    }  # fmt: skip


def _source(policy: Mapping[str, Any]) -> Markup:
    """The policy as indented JSON, ready for the page."""
    lines = json.dumps(policy, indent=1, ensure_ascii=False)[:40_000].split("\n")
    return escape("\n".join(view.spelled_out(line) for line in lines))


def _said(report: Report) -> dict[str, str]:
    """The verdict for somebody who has never seen one."""
    counting = [check for check in report["checks"] if check["severity"] == "fail"]
    tally = {name: sum(check["tally"].get(name, 0) for check in counting) for name in view.VERDICTS}
    undecided = _count(tally["INCONCLUSIVE"] + tally["NOT ASSESSED"], "comparison")
    empty = [check["id"] for check in counting if not any(check["tally"].values())]
    warned = sum(check["verdict"] == "FAIL" for check in report["checks"] if check["severity"] == "warn")
    extra = f" {_count(warned, 'check')} that can only warn failed as well." if warned else ""
    if report["verdict"] == "FAIL":
        verb = "lies" if tally["FAIL"] == 1 else "lie"
        chance = (
            "" if all(record.get("exact") for _, _, record in _failed(report)) else ", by more than chance explains"
        )
        said = f"{_count(tally['FAIL'], 'comparison')} {verb} beyond what the policy allows{chance}."
        return {"word": "Failed", "kind": "fail", "text": said + extra}
    if report["verdict"] == "INCONCLUSIVE":
        what = "there was nothing to compare" if undecided.startswith("0 ") else f"{undecided} could not be judged"
        said = f"Nothing failed, but {what}: neither a pass nor a failure. More data may decide it."
        return {"word": "Undecided", "kind": "unsure", "text": said + extra}
    if undecided.startswith("0 ") and not empty:
        return {"word": "Passed", "kind": "pass",
                "text": "Every comparison that the policy asks for lies within what it allows." + extra}  # fmt: skip
    said = f"Nothing that counts failed. {undecided} could not be judged; the policy lets them pass."
    return {"word": "Passed", "kind": "pass", "text": said + extra}


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _failed(report: Report) -> list[tuple[int, Check, Record]]:
    """(number of the check, check, comparison) of all failures that count, as far as the report lists them."""
    return [
        (number, check, record)
        for number, check in enumerate(report["checks"])
        for record in view.judged(check)
        if record["verdict"] == "FAIL" and check["severity"] == "fail"
    ]


def _failing(report: Report) -> list[dict[str, Any]]:
    """The worst failures in words."""
    return [
        {
            "anchor": f"check-{number}", "text": sentence(check, record),
            "name": view.name_of(record, joiner=" ") if record["group"] else check["id"],
        }
        for number, check, record in _failed(report)[:6]
    ]  # fmt: skip


def sentence(check: Check, record: Record) -> str:
    """A comparison in words: "accuracy 70.0 %, everyone else 82.0 %: 12.0 points lower"."""
    scale, own = view.scale_of(check), view.rate_scale(check)
    title, value = view.in_sentence(view.title_of(check)), record["value"]
    if view.against(check) == "threshold":
        return f"{title}: {_typeset(scale.full(value))}, demanded: {view.demand(check)}"
    side = "lower" if value < 0 else "higher"
    gap = f"{scale.full(abs(value), sign=False)} {side}"
    rate, rest = view.own_of(record).get("value"), view.other_of(record).get("value")
    other = "everyone else" if view.against(check) == "rest" else "before"
    if rate is None or rest is None:
        return f"{title} {_typeset(gap)}, demanded: {view.demand(check)}"
    both = f"{own.full(rate, sign=False)}, {other} {own.full(rest, sign=False)}: {gap}"
    return f"{title} {_typeset(both)}"


# ------------------------------------------------------------------------------------------------------------- checks


def _check(check: Check, room: Room, figure: _Figures, number: int) -> dict[str, Any]:
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
        "name": view.name_of(record, joiner=" "), "cells": [*map(_typeset, cells), f"{trials_of(record):,}"],
        "verdict": record["verdict"],
    }  # fmt: skip


def _typeset(text: str) -> str:
    """Numbers with a real minus."""
    return text.replace("-", "\u2212")


def _charts(check: Check, room: Room, figure: _Figures) -> list[dict[str, Any]]:
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


def _grouping(grouping: Mapping[str, Any], room: Room, figure: _Figures) -> dict[str, Any]:
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


def _section(suite: str, section: Mapping[str, Any], room: Room, figure: _Figures) -> dict[str, Any]:
    return {
        "suite": suite,
        "tables": [_table(table, room) for table in section.get("tables") or ()],
        "charts": [_bars(chart, room, figure) for chart in (section.get("charts") or ())[: room.charts]],
    }


def _table(table: Mapping[str, Any], room: Room) -> dict[str, Any]:
    numeric = [view.is_numeric(table["rows"], column) for column in range(len(table["columns"]))]
    rows = [
        [
            (_typeset(view.cell(value)) if right else view.cell(value), right)
            for value, right in zip(row, numeric, strict=True)
        ]
        for row in table["rows"][: room.rows]
    ]
    return {
        "title": table["title"], "head": list(zip(table["columns"], numeric, strict=True)), "rows": rows,
        "note": table.get("note") or "", "more": max(0, len(table["rows"]) - room.rows),
    }  # fmt: skip


def _bars(chart: Mapping[str, Any], room: Room, figure: _Figures) -> dict[str, Any]:
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
