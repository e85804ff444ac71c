"""The report as one HTML page that needs nothing else: no scripts, no resources from elsewhere, below 2 MB.

Made for somebody who does not read statistics every day: the verdict first, then what failed, in words, pictures and
numbers; protocol and hashes come last. Needs the `report` extra (jinja2, matplotlib). What comes from data is escaped
by the template, and a content policy in the page forbids scripts on top.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from seerctl.audit.report import view
from seerctl.audit.report.blocks import Figures, Room, check_block, grouping_block, section_block, typeset
from seerctl.audit.report.view import Check, Record, Report
from seerctl.figures import DARK, LIGHT

if TYPE_CHECKING:
    from seerctl.audit.examples import Example

TEMPLATES = Path(__file__).parents[1] / "templates"
MAX_BYTES = 1_900_000
_NAME = 120  # characters of a name in the page
_ROOMS = (Room(1000), Room(300), Room(100), Room(30, 12, 100, 30), Room(10, 8, 40, 16), Room(5, 5, 10, 6))


def html(report: Report, examples: Sequence[Example] = ()) -> str:
    """The page, from the values of report.json alone; of a report that is too large it shows the most urgent rows.

    examples: pictures to embed; only they show single rows of the data.
    """
    figure = Figures()
    page = ""
    for room in _ROOMS:
        page = _render(report, examples, room, figure)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def _render(report: Report, examples: Sequence[Example], room: Room, figure: Figures) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_plain, loader=jinja2.FileSystemLoader(TEMPLATES),
    )  # fmt: skip
    environment.filters["name"] = lambda text: view.shorten(view.visible(text), _NAME)
    return environment.get_template("report.html.j2").render(_context(report, examples, room, figure))


def _plain(value: Any) -> Any:
    """What the template puts into the page: no marks that cannot be seen, units not torn from their numbers."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"(?<=\d) (?=%|points?\b)", "\u00a0", view.visible(value))


def _context(report: Report, examples: Sequence[Example], room: Room, figure: Figures) -> dict[str, Any]:
    checks = [check_block(check, room, figure, number) for number, check in enumerate(report["checks"][: room.checks])]
    facts = [*view.facts(report["inputs"], "inputs"), *view.facts(report.get("baseline") or {}, "baseline")]
    for suite, section in (report.get("sections") or {}).items():
        facts += view.facts(section.get("inputs") or {}, suite)
    facts += view.facts(report["versions"], "versions")
    small, sections = view.not_assessed(report, joiner=" "), (report.get("sections") or {}).items()
    return {
        "light": LIGHT, "dark": DARK, "report": report, "title": view.heading(report), "said": _said(report),
        "total": view.total_tally(report), "checks": checks, "more_checks": len(report["checks"]) - len(checks),
        "failing": _failing(report), "failures": len(_failed(report)),
        "groups": [grouping_block(g, room, figure) for g in report.get("groups") or ()],
        "sections": [section_block(name, section, room, figure) for name, section in sections],
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
        return f"{title}: {typeset(scale.full(value))}, demanded: {view.demand(check)}"
    side = "lower" if value < 0 else "higher"
    gap = f"{scale.full(abs(value), sign=False)} {side}"
    rate, rest = view.own_of(record).get("value"), view.other_of(record).get("value")
    other = "everyone else" if view.against(check) == "rest" else "before"
    if rate is None or rest is None:
        return f"{title} {typeset(gap)}, demanded: {view.demand(check)}"
    both = f"{own.full(rate, sign=False)}, {other} {own.full(rest, sign=False)}: {gap}"
    return f"{title} {typeset(both)}"
