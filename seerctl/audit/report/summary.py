"""The report as Markdown, for a job's summary page on GitHub or a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seerctl.audit.report import view
from seerctl.audit.report.view import Check, Report

SHOWN = 10  # comparisons a check lists, rows of a table of a suite
MAX_MARKDOWN = 60_000  # characters; a comment on GitHub holds 65,535
WIDEST = 160  # characters of a cell
SENTENCE = 1000  # and of a line of text


def markdown(report: Report) -> str:
    """The report as Markdown, worst first, short enough for a comment on a pull request."""
    lines = [
        f"## {view.heading(report)}: {report['verdict']}", "",
        escape(report["headline"], SENTENCE), "",
        *table(
            ("check", "metric", "demanded", "verdict", "comparisons"),
            (
                (
                    escape(check["id"]) + (" (warning only)" if check["severity"] == "warn" else ""),
                    escape(check["metric"]), escape(view.demand(check)), f"**{check['verdict']}**",
                    view.tally_text(check["tally"]),
                )
                for check in report["checks"]
            ),
        ),
    ]  # fmt: skip
    for check in report["checks"]:
        lines += comparisons(check)
    for suite, section in (report.get("sections") or {}).items():
        lines += _section(suite, section)
    lines += _small(report)
    if report.get("not_run"):
        lines += [f"Not run: {', '.join(escape(entry['check']) for entry in report['not_run'][:SHOWN])}.", ""]
    lines += [
        "### What this does not show",
        "",
        *(f"- {escape(limit, SENTENCE)}" for limit in view.limits_of(report)),
        "",
    ]
    return _cut([*lines, *_protocol(report)])


def comparisons(check: Check, heading: str = "###") -> list[str]:
    """A check's comparisons as a table, the most urgent first."""
    judged = view.judged(check)
    if not judged:
        return []
    scale, own = view.scale_of(check), view.rate_scale(check)
    name = {"rest": "gap", "baseline": "change"}.get(view.against(check), "value")
    gaps = view.against(check) != "threshold"
    owns, others = (gaps and any(map(of, judged)) for of in (view.own_of, view.other_of))
    header = ["group", f"{name}, {scale.unit}".rstrip(", "), "interval"]
    header += [f"own {own.unit}".rstrip()] * owns
    header += [f"{'rest' if name == 'gap' else 'before'} {own.unit}".rstrip()] * others
    rows = []
    for record in judged[:SHOWN]:
        cells = [escape(view.name_of(record)), scale.text(record["value"]), view.span(record, scale)]
        cells += [own.text(view.own_of(record).get("value"))] * owns
        cells += [own.text(view.other_of(record).get("value"))] * others
        rows.append((*cells, f"{trials_of(record):,}", record["verdict"]))
    header += ["n", "verdict"]
    lines = [f"{heading} {escape(check['id'])}: {check['verdict']}", "", *table(header, rows, numeric=range(1, 99))]
    more = len(judged) - SHOWN + check.get("omitted", 0)
    if more > 0:
        lines[-1:] = ["", f"{more:,} more{' in report.json' if not check.get('omitted') else ''}.", ""]
    return lines


def trials_of(record: Mapping[str, Any]) -> int:
    """The trials behind a rate, or the rows behind any other number."""
    return int((record.get("rate") or {}).get("trials", record.get("n") or 0))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> list[str]:
    """A Markdown table of cells that are escaped already, with an empty line after it."""
    right = set(numeric)
    rule = "|".join("--:" if column in right and name != "verdict" else "---" for column, name in enumerate(header))
    return [f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _section(suite: str, section: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for found in section.get("tables") or ():
        rows = [tuple(escape(view.cell(value)) for value in row) for row in found["rows"][:SHOWN]]
        numeric = [c for c in range(len(found["columns"])) if view.is_numeric(found["rows"], c)]
        header = [escape(name) for name in found["columns"]]
        lines += [f"### {escape(suite)}: {escape(found['title'])}", "", *table(header, rows, numeric)]
        more = len(found["rows"]) - SHOWN
        lines += [f"{more:,} more in report.json.", ""] if more > 0 else []
        lines += [escape(found["note"], SENTENCE), ""] if found.get("note") else []
    for chart in section.get("charts") or ():
        # Indented code: whatever a label holds, it stays text.
        lines += [f"### {escape(suite)}: {escape(chart['title'])}", ""]
        lines += [*(f"    {line}" for line in view.chart_lines(chart, SHOWN)), ""]
    return lines


def _small(report: Report) -> list[str]:
    small = view.not_assessed(report)
    if not small:
        return []
    more = [f"- and {len(small) - SHOWN} more in report.json"] if len(small) > SHOWN else []
    return ["### Not assessed", "", *(f"- {escape(f'{name}: {why}')}" for name, why in small[:SHOWN]), *more, ""]


def _protocol(report: Report) -> list[str]:
    inputs, policy = report["inputs"], report["policy"]
    stats = policy["stats"]
    what = ""
    if inputs.get("predictions"):
        what = f"{inputs.get('rows', 0):,} rows of `{code(inputs['predictions'])}` (sha256 `{inputs['sha256'][:16]}`), "
    return [
        f"{what}policy `{code(policy['source'])}` (sha256 `{policy['sha256'][:16]}`), alpha {stats['alpha']}, "
        f"{stats['correction']} over each {stats['family']}, seerctl {report['versions']['seerctl']}.", "",
    ]  # fmt: skip


def escape(text: str, longest: int = WIDEST) -> str:
    """Names come from strangers: no table breaks, HTML, links, mentions, formulas, or marks that nobody sees."""
    flat = view.shorten(view.visible(text), longest)
    return re.sub(r"([\\`*_\[\]|<>@#$&~]|:(?=//))", r"\\\1", flat).replace("www.", "www\\.")


def code(text: str) -> str:
    """A name between backticks, where a backslash escapes nothing."""
    return view.shorten(view.visible(text), WIDEST).replace("`", "'").replace("|", "\u00a6")


def _cut(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if len(text) <= MAX_MARKDOWN:
        return text
    return text[:MAX_MARKDOWN].rsplit("\n", 1)[0] + "\n\nCut here; the whole report is in report.json.\n"
