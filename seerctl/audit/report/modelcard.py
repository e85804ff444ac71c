"""The section of a model card that an audit fills, under the headings of Mitchell et al. 2019 (arXiv 1810.03993).

What an audit cannot know (intended use, training data, ethical considerations) is left to the model's authors. The YAML
block at the top is Hugging Face's `model-index`, where the report has an accuracy to put there; paste the rest into the
model's README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from seerctl.audit.report import view
from seerctl.audit.report.summary import SENTENCE, code, escape, table, trials_of
from seerctl.audit.report.view import Check, Record, Report

SHOWN = 20  # rows of a table
MAX_METRICS = 60  # of the model-index


def card(report: Report) -> str:
    """Markdown with Factors, Metrics, Evaluation Data, Quantitative Analyses, and Caveats and Recommendations."""
    lines = [
        *_model_index(report),
        *_factors(report),
        *_metrics(report),
        *_evaluation_data(report),
        *_analyses(report),
        "## Caveats and Recommendations", "",
        *(f"- {escape(limit, SENTENCE)}" for limit in view.limits_of(report)),
        *(f"- Not assessed: {escape(f'{name}: {why}')}" for name, why in view.not_assessed(report)[:SHOWN]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _model_index(report: Report) -> list[str]:
    """https://github.com/huggingface/hub-docs/blob/main/modelcard.md: task, dataset and metrics need a type."""
    metrics = list(_accuracies(report))[:MAX_METRICS]
    if not metrics:
        return []
    inputs = report["inputs"]
    name = PurePath(str(inputs.get("predictions") or "predictions")).stem
    lines = ["---", "model-index:", f"- name: {_yaml(inputs.get('model') or name)}", "  results:", "  - task:"]
    lines += ["      type: image-classification", "    dataset:"]
    lines += [
        f"      type: {_yaml(name)}",
        f"      name: {_yaml(PurePath(str(inputs.get('predictions') or name)).name)}",
    ]
    lines += ([f"      revision: {_yaml(inputs['sha256'])}"] if inputs.get("sha256") else []) + ["    metrics:"]
    for title, value in metrics:
        lines += ["    - type: accuracy", f"      value: {value!r}", f"      name: {_yaml(title)}"]
    return [*lines, "---", ""]


def _accuracies(report: Report) -> Iterator[tuple[str, float]]:
    """Accuracy of all rows, where a grouping without missing values gives it, then of the groups of single columns."""
    groupings = report.get("groups") or ()
    whole: Sequence[Record] = next(
        (grouping["groups"] for grouping in groupings if not grouping["missing"] and grouping["groups"]), []
    )
    rows = sum(entry["n"] for entry in whole)
    if rows:
        yield "Accuracy", round(sum(entry["n"] * entry["accuracy"]["value"] for entry in whole) / rows, 12)
    for grouping in groupings:
        if len(grouping["columns"]) == 1:
            for entry in grouping["groups"]:
                yield f"Accuracy, {view.name_of(entry)}", float(entry["accuracy"]["value"])


def _yaml(text: Any) -> str:
    """A double-quoted scalar: JSON's strings are YAML's."""
    return json.dumps(view.visible(str(text)), ensure_ascii=False)


def _factors(report: Report) -> list[str]:
    lines = ["## Factors", "", "Groups are those of the columns that the audit was given:", ""]
    for grouping in report.get("groups") or ():
        missing = f", {grouping['missing']:,} rows without a value" if grouping["missing"] else ""
        named = ", ".join(f"{_group(entry)} ({entry['n']:,})" for entry in grouping["groups"][:SHOWN])
        more = f" and {len(grouping['groups']) - SHOWN:,} more" if len(grouping["groups"]) > SHOWN else ""
        lines.append(f"- **{escape(' x '.join(grouping['columns']))}**: {named}{more}{missing}")
    if not report.get("groups"):
        lines[-2:] = ["This audit compares no groups.", ""]
    return [*lines, ""] if lines[-1] else lines


def _group(entry: Record) -> str:
    return escape(" x ".join(map(str, entry["group"].values())))


def _metrics(report: Report) -> list[str]:
    stats = report["policy"]["stats"]
    rows = []
    for check in report["checks"]:
        meaning = view.MEANING.get(check["metric"])
        title = escape(view.title_of(check)) + (f": {meaning}" if meaning else "")
        rows.append((escape(check["id"]), title, escape(view.demand(check)), f"**{check['verdict']}**"))
    return [
        "## Metrics", "",
        f"Verdict of `seerctl audit` {report['versions']['seerctl']}: **{report['verdict']}**, by intervals at alpha "
        f"{stats['alpha']} corrected ({stats['correction']}) over each {stats['family']}, under the policy "
        f"`{code(report['policy']['source'])}` (sha256 `{report['policy']['sha256'][:16]}`).", "",
        *table(("check", "metric", "demanded", "verdict"), rows),
    ]  # fmt: skip


def _evaluation_data(report: Report) -> list[str]:
    found: list[tuple[str, str]] = list(view.facts(report["inputs"]))
    for suite, section in (report.get("sections") or {}).items():
        found += [(f"{suite}: {name}", value) for name, value in view.facts(section.get("inputs") or {})]
    return ["## Evaluation Data", "", *(f"- {escape(name)}: `{code(value)}`" for name, value in found[:SHOWN]), ""]


def _analyses(report: Report) -> list[str]:
    lines = ["## Quantitative Analyses", ""]
    kinds = (("Unitary Results", (0, 1)), ("Intersectional Results", (2, 3)))
    for title, sizes in kinds:
        part: list[str] = []
        for check in report["checks"]:
            part += _analysis(check, [r for r in view.judged(check) if len(r.get("group") or ()) in sizes])
        if part:
            lines += [f"### {title}", "", *part]
    return lines


def _analysis(check: Check, records: list[Mapping[str, Any]]) -> list[str]:
    if not records:
        return []
    scale, own = view.scale_of(check), view.rate_scale(check)
    absolute = view.against(check) == "threshold"
    header = ["group", *([] if absolute else [f"own {own.unit}".rstrip()]), f"judged {scale.unit}".rstrip(), "interval"]
    rows = []
    for record in records[:SHOWN]:
        cells = [escape(view.name_of(record)), *([] if absolute else [own.text(view.own_of(record).get("value"))])]
        cells += [scale.text(record["value"]), view.span(record, scale), f"{trials_of(record):,}", record["verdict"]]
        rows.append(cells)
    more = len(records) - SHOWN + check.get("omitted", 0)
    tail = [f"{more:,} more.", ""] if more > 0 else []
    title = f"{escape(check['id'])} ({escape(view.in_sentence(view.title_of(check)))}, {escape(view.demand(check))})"
    return [title, "", *table([*header, "n", "verdict"], rows, numeric=range(1, 99)), *tail]
