"""What all forms of a report share: numbers in the unit of their metric, names safe to show, words for verdicts.

Everything is read from report.json, and nothing in it is taken for granted that a suite may leave out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Check = Mapping[str, Any]
Record = Mapping[str, Any]

VERDICTS = ("FAIL", "INCONCLUSIVE", "NOT ASSESSED", "PASS")
ALL = "all rows"
_COUNTED = ("accuracy", "tpr", "fnr", "fpr", "precision", "npv", "selection_rate")

# For readers who do not know the terms; a metric that is not here keeps the title that its suite gave it.
MEANING = {
    "accuracy": "how often the answer is right",
    "tpr": "of what truly belongs to a class, the part that the model finds (true positive rate, recall)",
    "fnr": "of what truly belongs to a class, the part that the model misses (false negative rate)",
    "fpr": "of what does not belong to a class, the part that the model wrongly puts there (false positive rate)",
    "precision": "of what the model puts into a class, the part that belongs there",
    "npv": "of what the model does not put into a class, the part that truly is not in it (negative predictive value)",
    "selection_rate": "how often the model gives this answer, right or wrong",
    "auc": "how well the scores put what belongs to a class above all else; 50 % is chance",
    "mean_auc": "how well the scores put what belongs to a class above all else, mean of the classes; 50 % is chance",
    "hit_at_k": "how often a true label is among the k best answers",
    "balanced_accuracy": "how often the answer is right, every class counting the same",
    "calibration_error": "how far the model's confidence is from how often it is right",
    "adaptive_calibration_error": "how far the model's confidence is from how often it is right",
    "precision_at_k": "of the k pictures found to be most alike, the part that shares the attribute",
    "cramers_v": "0 where group and label have nothing to do with each other, 1 where one tells the other",
}
TITLES = {"tpr": "true positive rate", "fpr": "false positive rate"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How the numbers of a check are shown: times `factor`, with `digits` after the point, in `unit`.

    signed: whether it is a difference, shown with its sign.
    """

    factor: float
    digits: int | None
    unit: str
    signed: bool = False

    def text(self, value: float | None, *, sign: bool | None = None) -> str:
        """The number without its unit; a dash where there is none."""
        if value is None or not math.isfinite(value):
            return "\u2013"
        shown = self.factor * value
        mark = "+" if (self.signed if sign is None else sign) else ""
        if self.digits is None:
            return plain_number(shown) if not mark else f"{'+' if shown > 0 else ''}{plain_number(shown)}"
        text = f"{shown:{mark},.{self.digits}f}"
        return text.lstrip("+-") if not float(text.replace(",", "")) else text  # no "-0.0"

    def full(self, value: float | None, *, sign: bool | None = None) -> str:
        """The number with its unit."""
        return f"{self.text(value, sign=sign)} {self.unit}".rstrip()

    def limit(self, value: float) -> str:
        """A limit of the policy, as short as it was written."""
        text = f"{float(f'{self.factor * value:.9g}'):,g}"
        unit = "point" if self.unit == "points" and text == "1" else self.unit
        return f"{text} {unit}".rstrip()


PERCENT = Scale(100.0, 1, "%")
POINTS = Scale(100.0, 1, "points", signed=True)


def scale_of(check: Check) -> Scale:
    """The scale of what `check` judges: shares in percent, differences between shares in points."""
    unit = check.get("unit") or ("share" if check["metric"] in _COUNTED else "number")
    if unit == "gap":
        return POINTS
    difference = against(check) != "threshold"
    if unit == "share":
        return POINTS if difference else PERCENT
    return Scale(1.0, None, "", signed=difference)


def rate_scale(check: Check) -> Scale:
    """The scale of a group's own number beside a difference."""
    unit = check.get("unit") or "share"
    return PERCENT if unit == "share" else POINTS if unit == "gap" else Scale(1.0, None, "")


def own_of(record: Record) -> Mapping[str, Any]:
    """A group's own number beside a difference, {} where the report has none."""
    return record.get("rate") or _measured(record.get("evidence") or {})


def other_of(record: Record) -> Mapping[str, Any]:
    """What a group is compared with, the rest or the baseline, {} where the report has none."""
    found = record.get("rest") or record.get("baseline")
    return found or _measured((record.get("evidence") or {}).get("rest") or {})


def _measured(evidence: Any) -> Mapping[str, Any]:
    value = evidence.get("value") if isinstance(evidence, Mapping) else None
    return {"value": value} if isinstance(value, (int, float)) else {}


def evidence_of(record: Record) -> list[tuple[str, str]]:
    """What a reader needs to act on a failure: keys, files, pairs; not numbers alone, which the table shows already."""
    found = {name: value for name, value in (record.get("evidence") or {}).items() if name not in ("value", "rest")}
    if all(isinstance(value, (int, float)) for value in found.values()):
        return []
    return list(facts(found))


def against(check: Check) -> str:
    """What a check compares with: "rest", "baseline" or "threshold"."""
    if check.get("against"):
        return str(check["against"])
    return "rest" if any("rest" in record for record in check["comparisons"]) else "threshold"


def plain_number(value: float) -> str:
    """A number of unknown kind as people write it: whole ones whole, else four digits that count."""
    if isinstance(value, int) or (math.isfinite(value) and float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def cell(value: Any) -> str:
    """A cell of a table of a suite."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return visible(str(value))
    return plain_number(value)


def visible(text: str) -> str:
    """`text` on one line, with marks that cannot be seen or turn the direction of writing spelled out.

    Zero-width joiners stay: emoji are made with them.
    """
    return spelled_out(" ".join(str(text).split()))


def spelled_out(text: str) -> str:
    """`visible`, with its spaces left alone."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in text)


def shorten(text: str, longest: int) -> str:
    """`text`, cut in its middle where it is longer."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}\u2026{text[len(text) - (longest - half - 1) :]}"


def name_of(record: Record, *, joiner: str = "=") -> str:
    """`gender=f, age=70+`, and the class where the number is of one; the whole where there is no group."""
    group = ", ".join(f"{visible(k)}{joiner}{visible(v)}" for k, v in (record.get("group") or {}).items()) or ALL
    cls = record.get("class")
    return group if cls in (None, "macro") else f"{group} (class {visible(cls)})"


def judged(check: Check) -> list[Record]:
    """The comparisons that have a number, the most urgent first, as in the report."""
    return [record for record in check["comparisons"] if record.get("value") is not None and "reason" not in record]


def span(record: Record, scale: Scale) -> str:
    """`-5.0 to 2.0`, or "exact" for a number that was counted over everything there is."""
    low, high = record.get("low"), record.get("high")
    if record.get("exact") or (low is None and high is None):
        return "exact"
    return f"{'any' if low is None else scale.text(low)} to {'any' if high is None else scale.text(high)}"


def tally_text(tally: Mapping[str, int]) -> str:
    """`3 fail, 2 pass`."""
    return ", ".join(f"{count:,} {name.lower()}" for name, count in tally.items() if count) or "nothing to compare"


def total_tally(report: Report) -> dict[str, int]:
    """Comparisons by verdict over all checks."""
    return {name: sum(check["tally"].get(name, 0) for check in report["checks"]) for name in VERDICTS}


def title_of(check: Check) -> str:
    """What is measured."""
    title = visible(check.get("title") or TITLES.get(check["metric"]) or str(check["metric"]).replace("_", " "))
    return title[:1].upper() + title[1:]


def in_sentence(title: str) -> str:
    """A title inside of a sentence: "AUC" stays as it is."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def suite_of(check: Check) -> str:
    """The suite of a check; reports of before there were others have fairness alone."""
    return str(check.get("suite") or "fairness")


def suites_of(report: Report) -> list[str]:
    """The suites of a report, in order."""
    listed = report.get("suites") or [report.get("suite") or "fairness"]
    return [str(entry if isinstance(entry, str) else entry.get("suite")) for entry in listed]


def heading(report: Report) -> str:
    """ "Fairness, leakage and lineage audit"."""
    *first, last = suites_of(report)
    named = f"{', '.join(first)} and {last}" if first else last
    return f"{named} audit".capitalize()


def demand(check: Check) -> str:
    """What the policy demands, in words: "within 5 points of the rest"."""
    scale, kind = scale_of(check), against(check)
    low, high = check["bounds"]
    if kind == "threshold":
        if low is not None and high is not None:
            return f"between {scale.limit(low)} and {scale.limit(high)}"
        if low is None and not high and check.get("unit") == "count":
            return "none"
        return f"at least {scale.limit(low)}" if low is not None else f"at most {scale.limit(high or 0.0)}"
    other = "everyone else" if kind == "rest" else "the baseline"
    if low is not None and high is not None:
        if math.isclose(-low, high):
            return f"within {scale.limit(high)} of {other}"
        return f"from {scale.limit(low)} to {scale.limit(high)} against {other}"
    if low is not None:
        return f"at most {scale.limit(-low)} lower than {other}"
    return f"at most {scale.limit(high or 0.0)} higher than {other}"


def not_assessed(report: Report, *, joiner: str = "=") -> list[tuple[str, str]]:
    """(who, why) of what could not be judged, each once."""
    return list(
        dict.fromkeys(
            (name_of(r, joiner=joiner), visible(r.get("reason") or "")) for r in report.get("not_assessed") or ()
        )
    )


def limits_of(report: Report) -> list[str]:
    """What the report does not show: of the whole, then of each suite."""
    found = [*map(str, report.get("limits") or ())]
    for section in (report.get("sections") or {}).values():
        found += [str(limit) for limit in section.get("limits") or ()]
    return list(dict.fromkeys(found))


def facts(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as (`a.b`, text) pairs, for inputs, versions and evidence; short lists stay in one line."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from facts(member, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(member, (Mapping, list, tuple)) for member in value):
        for number, member in enumerate(value):
            yield from facts(member, f"{prefix}[{number}]")
    elif isinstance(value, (list, tuple)):
        yield prefix, ", ".join(map(cell, value))
    elif value is not None:
        yield prefix, str(value).lower() if isinstance(value, bool) else cell(value)


def chart_lines(chart: Mapping[str, Any], shown: int, width: int = 24) -> list[str]:
    """A chart as text: label, bar, value and limits, at most `shown` rows."""
    labels, values = list(map(visible, chart["labels"]))[:shown], list(chart["values"])[:shown]
    lows, highs = (list(chart.get(name) or []) or [None] * len(values) for name in ("low", "high"))
    largest = max((abs(v) for v in values if v is not None), default=0.0) or 1.0
    name_width = min(max(map(len, labels), default=0), 40)
    lines = []
    for label, value, low, high in zip(labels, values, lows, highs, strict=False):
        if value is None:
            continue
        bar = "#" * round(width * abs(value) / largest)
        limits = f" [{plain_number(low)}, {plain_number(high)}]" if low is not None and high is not None else ""
        lines.append(f"{shorten(label, 40):<{name_width}}  {bar:<{width}}  {plain_number(value)}{limits}")
    more = len(chart["labels"]) - shown
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def aligned(table: Mapping[str, Any], shown: int, widest: int = 40) -> list[str]:
    """A table as lines of aligned text, numbers at the right, at most `shown` rows."""
    rows = [[shorten(cell(value), widest) for value in row] for row in table["rows"][:shown]]
    head = [shorten(visible(name), widest) for name in table["columns"]]
    numeric = [is_numeric(table["rows"], column) for column in range(len(head))]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [head, *rows]
    ]
    more = len(table["rows"]) - shown
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def is_numeric(rows: Sequence[Sequence[Any]], column: int) -> bool:
    """Whether a column of a table holds numbers only."""
    values = [row[column] for row in rows if row[column] is not None]
    return bool(values) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
