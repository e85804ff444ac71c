"""The HTML page: everything it says is in report.json, it needs nothing from elsewhere, and names stay text."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seerctl.audit import report as reports
from seerctl.audit.fairness import audit_fairness
from seerctl.audit.policy import load_policy
from seerctl.audit.report import NO_PAGE, PAGE, html, save
from seerctl.errors import UsageError
from seerctl.figures import DARK, LIGHT
from tests.audit.reports import check, every_suite, record

MAX = 2_000_000
VOID = {"meta", "img", "br", "link", "input", "hr"}
WORDS = {"FAIL": "Fail", "PASS": "Pass", "INCONCLUSIVE": "Undecided", "NOT ASSESSED": "Not assessed"}


class Page(HTMLParser):
    """Tags, texts, tables by the heading before them; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.heading = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h2", "h3"):
            self.heading = ""
        if tag == "table":
            self.tables.append((self.heading, []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if "h2" in self.open or "h3" in self.open:
            self.heading = f"{self.heading} {data}".strip()
        if "td" in self.open or "th" in self.open:
            self.tables[-1][1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def table(self, heading: str) -> list[list[str]]:
        """The rows below the header of the table under `heading`."""
        return next(rows for title, rows in self.tables if title.startswith(heading))[1:]


def predictions(where: Path, rates: dict[str, float], rows: int = 3000, classes: int = 2, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    names = list(rates)
    group = generator.integers(0, len(names), rows)
    label = generator.integers(0, classes, rows)
    right = generator.random(rows) < np.array(list(rates.values()))[group]
    frame = pd.DataFrame({
        "key": [f"k{row}" for row in range(rows)], "label": label,
        "prediction": np.where(right, label, (label + 1) % classes), "group": np.array(names, dtype=object)[group],
    })  # fmt: skip
    frame.to_csv(where / "p.csv", index=False)
    return where / "p.csv"


def report_on(path: Path, policy: str = "", groups: Sequence[str] = ("group",)) -> dict[str, Any]:
    where = None
    if policy:
        where = path.with_name("audit.toml")
        where.write_text(policy)
    return json.loads(json.dumps(audit_fairness(path, load_policy(where), groups)))


def shown(value: float | None, digits: int = 1, sign: str = "+", factor: float = 100.0) -> str:
    """A number as the page writes it, made here by other means than there."""
    assert value is not None
    text = f"{factor * value:{sign}.{digits}f}"
    return text.strip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def test_every_number_is_that_of_the_report(tmp_path: Path) -> None:
    report = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9, "c": 0.6, "d": 0.895}))
    page = Page(html(report))
    rows_seen = 0
    for found in report["checks"]:
        rows = page.table(found["id"])
        assert len(rows) == len(found["comparisons"])
        for row, entry in zip(rows, found["comparisons"], strict=True):
            interval = f"{shown(entry['low'])} to {shown(entry['high'])}"
            name = f"group {entry['group']['group']}" + (f" (class {entry['class']})" if entry["class"] else "")
            assert row[:-1] == [
                name, shown(entry["value"]), interval, shown(entry["rate"]["value"], sign=""),
                shown(entry["rest"]["value"], sign=""), f"{entry['rate']['trials']:,}",
            ]  # fmt: skip
            assert row[-1].split()[-1] == WORDS[entry["verdict"]]
            rows_seen += 1
    assert rows_seen == sum(sum(found["tally"].values()) for found in report["checks"])
    total = sum(entry["n"] for entry in report["groups"][0]["groups"])
    for row, entry in zip(page.table("group"), report["groups"][0]["groups"], strict=True):
        accuracy = entry["accuracy"]
        assert row == [
            entry["group"]["group"], f"{entry['n']:,}", shown(entry["n"] / total, sign=""),
            shown(accuracy["value"], sign=""),
            f"{shown(accuracy['low'], sign='')} to {shown(accuracy['high'], sign='')}",
        ]  # fmt: skip
    for value in (report["policy"]["sha256"], report["inputs"]["sha256"], report["versions"]["numpy"]):
        assert value in page.text
    assert all(limit in page.text for limit in report["limits"])


def test_charts_show_the_same_numbers(tmp_path: Path) -> None:
    report = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.6}))
    page = html(report)
    accuracy = next(found for found in report["checks"] if found["id"] == "accuracy")
    section = page[page.index('id="check-', page.index("<h2><bdi>accuracy") - 80) :].split("</section>")[0]
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", section)
    for entry in accuracy["comparisons"]:
        assert shown(entry["value"]) in drawn
        assert shown(entry["rate"]["value"], sign="") in drawn
        assert f"group {entry['group']['group']}" in drawn


def test_verdict_first_in_words_and_failing_groups_before_the_others(tmp_path: Path) -> None:
    report = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9, "c": 0.6}))
    failed, count = Page(html(report)), sum(found["tally"]["FAIL"] for found in report["checks"])
    assert failed.text.index("Failed") < failed.text.index("What failed") < failed.text.index("What was checked")
    assert f"{count} comparisons lie beyond what the policy allows" in failed.text
    assert re.search(r"group c: accuracy 5\d\.\d %, everyone else 9\d\.\d %: 3\d\.\d points lower", failed.text)
    assert failed.text.index("What this report does not show") < failed.text.index("Protocol")
    assert "Drawings are not people" in failed.text
    assert "A pass is not a proof" in failed.text
    passed = Page(html(report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9}, rows=40_000))))
    assert "Passed" in passed.text
    assert "Every comparison that the policy asks for lies within what it allows." in passed.text
    assert "What failed" not in passed.text
    few = Page(html(report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9}, rows=50))))
    assert "Undecided" in few.text
    assert "Nothing failed, but" in few.text
    assert few.table("Not assessed")[0][1].endswith("30 needed")


def test_the_page_needs_nothing_else() -> None:
    text = html(every_suite())
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src"):
                assert str(value).startswith(("#", "data:image/")), value
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in str(policy)
    assert "script" not in str(policy)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {str(a["href"])[1:] for t, a in page.tags if t in ("a", "use") and "href" in a}
    assert anchors <= set(ids)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_checks_and_sections_of_any_suite() -> None:
    page = Page(html(every_suite()))
    assert page.table("duplicates")[0] == ["all rows", "17", "exact", "10,000", "\u2715 Fail"]
    assert "pairs[0]aa, bb" in page.text  # evidence of a failure
    kept = page.table("kept")
    assert kept[0][:3] == ["corruption fog:3", "81.2", "78.0 to any"]
    assert page.table("auc")[0] == [
        "gender f", "\u22121.2", "\u22123.0 to +1.0", "80.0", "81.2", "400", "\u2713 Pass",
    ]  # fmt: skip
    assert page.table("change")[0] == ["all rows", "+1.0", "\u22121.0 to +3.0", "91.0", "90.0", "400", "\u2713 Pass"]
    assert page.table("bias")[0][1:3] == ["0.01234", "0.01 to 0.05"]
    assert page.table("Shares by gender") == [
        ["female", "4,498", "0.4998"],
        ["male", "4,502", "0.5002"],
        ["", "12", ""],
    ]
    assert page.table("Not assessed") == [["gender x", "3 rows, 30 needed"]]
    for said in (
        "Demanded: none", "at least 80 %", "within 5 points of everyone else", "This check only warns",
        "at most 2 points lower than the baseline", "Share of each class", "With missing ones.", "nested[1].b",
        "Columns that nobody collected", "Pictures that nobody hashed.", "Not run, so not part of the verdict: later",
    ):  # fmt: skip
        assert said in page.text, said


HOSTILE = {
    "</script><script>alert(1)</script>": 0.6, "<img src=x onerror=alert(1)>": 0.9, "\u202egnp.exe\u202d": 0.9,
    "{{ 7 * 7 }}{% raw %}": 0.9, "' onload='x": 0.9, "x" * 5000: 0.9, "--><!--": 0.9, "\U0001f469\u200d\U0001f9b1": 0.9,
    "nul\0\x1b[31m": 0.9, "]]>&lt;b&gt;": 0.9,
}  # fmt: skip


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = np.array(list(HOSTILE), dtype=object)
    group = generator.integers(0, len(names), 9000)
    right = generator.random(9000) < np.array(list(HOSTILE.values()))[group]
    rows = [
        {"key": f"k{i}", "label": "</td>", "prediction": "</td>" if ok else '"><script>', 'g"<b>': names[g]}
        for i, (ok, g) in enumerate(zip(right, group, strict=True))
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = html(report_on(path, groups=['g"<b>']))
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "b:"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script" not in text
    assert not set("\u202e\u202d\0\x1b") & set(text)
    assert "\\u202egnp.exe\\u202d" in page.text
    assert "</script><script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}{% raw %}" in page.text
    assert "x" * 200 not in text
    assert "\U0001f469\u200d\U0001f9b1" in page.text


def test_hostile_text_in_every_field() -> None:
    """Any text of a report may come from a file of a stranger."""
    evil = "</style></script><script>alert(1)</script>\u202e'\"&"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key if key.isidentifier() else evil: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        kept = ("FAIL", "PASS", "INCONCLUSIVE", "NOT ASSESSED", "share", "gap", "count", "number", "threshold", "rest",
                "baseline", "fail", "warn")  # fmt: skip
        return evil if isinstance(value, str) and value not in kept else value

    text = html(poison(every_suite()))
    assert "<script" not in text
    assert text.count("</style>") == 1
    assert "\u202e" not in text
    assert not {tag for tag, _ in Page(text).tags} & {"script"}


@pytest.mark.parametrize("kind", ["groups", "classes", "checks", "names"])
def test_large_reports_stay_below_two_megabytes(kind: str) -> None:
    sizes = {"groups": (3, 1000), "classes": (9, 1000), "checks": (1500, 2), "names": (3, 1000)}
    checks, rows = sizes[kind]
    long = "w" * 400 if kind == "names" else ""
    found = [
        check(f"check {c}", "fairness", "share", [-0.05, 0.05], [
            record(f"check {c}", ("FAIL", "PASS")[r % 2], 0.01 * (r % 7), low=-0.01, high=0.1,
                   group={"country": f"{long}{r}"}, rate={"value": 0.8, "low": 0.7, "high": 0.9, "trials": 100},
                   rest={"value": 0.7, "trials": 900})
            for r in range(rows)
        ], against="rest")
        for c in range(checks)
    ]  # fmt: skip
    report = {**every_suite(), "checks": found, "groups": [], "sections": {}}
    text = html(report)
    assert len(text.encode()) < MAX
    assert "more in report.json" in text or kind in ("groups", "names")
    assert "check 0" in text


def test_tables_of_suites_are_cut_too() -> None:
    report = every_suite()
    report["sections"]["representation"]["tables"] = [
        {"title": f"t{i}", "columns": ["a", "b"], "rows": [["x" * 300, 0.5]] * 2000, "note": ""} for i in range(30)
    ]
    assert len(html(report).encode()) < MAX


WRAPPER = """<!DOCTYPE html><body><iframe id=page src="report.html" style="border:0;width:390px;height:4000px"></iframe>
<p id=found></p><script>
page.onload = () => {
  const inside = page.contentDocument, wide = [...inside.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > 391 && !e.closest(".scroll, pre, svg"));
  found.textContent = JSON.stringify({
    width: inside.documentElement.scrollWidth, wide: wide.map(e => e.outerHTML.slice(0, 80)),
    charts: [...inside.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect().height > 20),
    ink: getComputedStyle(inside.querySelector("figure svg text")).fill});
};
</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_at_the_width_of_a_phone(scheme: str, tmp_path: Path) -> None:
    """Nothing sticks out at 390 pixels, charts are drawn in the ink of the theme, nothing is refused or missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    report = every_suite()
    report["checks"][2]["comparisons"][0]["group"] = {"country": "w" * 300}
    (tmp_path / "report.html").write_text(html(report), encoding="utf-8")
    (tmp_path / "wrapper.html").write_text(WRAPPER)
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         "--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom",
         f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", (tmp_path / "wrapper.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(unescape(re.findall(r'<p id="found">(.*?)</p>', done.stdout)[0]))
    assert found["width"] <= 390
    assert found["wide"] == []
    assert found["charts"]
    assert all(found["charts"])
    colours = {"light": LIGHT, "dark": DARK}[scheme]
    allowed = {
        "rgb({}, {}, {})".format(*(int(colours[name][i : i + 2], 16) for i in (1, 3, 5))) for name in ("ink", "muted")
    }
    assert found["ink"] in allowed


def test_the_same_report_gives_the_same_page_and_is_left_alone() -> None:
    report = every_suite()
    before = copy.deepcopy(report)
    assert html(report) == html(report)
    assert report == before


def test_without_the_extra_all_else_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "out"
    assert PAGE in save(every_suite(), where)
    assert (where / PAGE).is_file()
    monkeypatch.setattr("seerctl.audit.report.files.can_draw", lambda: False)
    written = save(every_suite(), where)
    assert PAGE not in written
    assert sorted(path.name for path in where.iterdir()) == sorted(reports.FILES)  # none of the earlier audit's
    assert "pip install 'seerctl[report]'" in NO_PAGE
    monkeypatch.setattr("seerctl.audit.report.can_draw", lambda: False)
    with pytest.raises(UsageError, match="needs jinja2 and matplotlib"):
        html(every_suite())
