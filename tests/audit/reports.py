"""Reports for tests of their rendering: made by hand, with every kind of check and section that a suite may bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

VERDICTS = ("FAIL", "INCONCLUSIVE", "NOT ASSESSED", "PASS")


def record(check: str, verdict: str, value: float | None, n: int = 100, **more: Any) -> dict[str, Any]:
    return {
        "check": check,
        "metric": "m",
        "group": {},
        "class": None,
        "verdict": verdict,
        "n": n,
        "value": value,
        **more,
    }


def count(found: Iterable[dict[str, Any]]) -> dict[str, int]:
    counted = Counter(entry["verdict"] for entry in found)
    return {verdict: counted[verdict] for verdict in VERDICTS}


def check(
    name: str, suite: str, unit: str, bounds: list[float | None], found: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    tally = count(found)
    verdict = next((v for v in VERDICTS if tally[v]), "INCONCLUSIVE").replace("NOT ASSESSED", "INCONCLUSIVE")
    columns = dict.fromkeys(tuple(entry["group"]) for entry in found)
    groupings = [
        {"columns": list(names), "tally": count(entry for entry in found if tuple(entry["group"]) == names)}
        for names in columns
    ]
    return {
        "id": name, "suite": suite, "metric": name, "title": f"title of {name}", "unit": unit, "against": "threshold",
        "severity": "fail", "on_inconclusive": "hold", "bounds": bounds, "method": "of the suite", "verdict": verdict,
        "tally": tally, "groupings": groupings, "worst": None, "comparisons": found, "omitted": 0, **more,
    }  # fmt: skip


def every_suite() -> dict[str, Any]:
    """Six suites: a count that fails, exact passes, shares, a number, gaps to the rest and to a baseline."""
    checks = [
        check("duplicates", "leakage", "count", [None, 0.0], [
            record("duplicates", "FAIL", 17, 10_000, low=17.0, high=17.0, exact=True, level=None, excess=17.0,
                   evidence={"pairs": [["aa", "bb"]], "value": 17}),
        ]),
        check("kept", "robustness", "share", [0.8, None], [
            record("kept", "INCONCLUSIVE", 0.8125, 5_000, low=0.78, high=None, group={"corruption": "fog:3"}),
            record("kept", "PASS", 0.9125, 5_000, low=0.88, high=0.94, group={"corruption": "blur:3"}),
        ]),
        check("auc", "fairness", "share", [-0.05, 0.05], [
            record("auc", "PASS", -0.0125, 400, low=-0.03, high=0.01, group={"gender": "f"}, level=0.99,
                   evidence={"value": 0.8, "rows": 400, "rest": {"value": 0.8125, "rows": 500}}),
            {**record("auc", "NOT ASSESSED", None, 3, group={"gender": "x"}, reason="3 rows, 30 needed")},
        ], against="rest"),
        check("change", "fairness", "share", [-0.02, None], [
            record("change", "PASS", 0.01, 400, low=-0.01, high=0.03, rate={"value": 0.91, "low": 0.9, "high": 0.92,
                   "trials": 400}, baseline={"value": 0.9, "low": 0.89, "high": 0.91}),
        ], against="baseline"),
        check("bias", "representation", "number", [None, 0.1], [
            record("bias", "PASS", 0.01234, 5_000, low=0.01, high=0.05, group={"gender": "f"}),
        ], severity="warn"),
        check("gps", "privacy", "count", [None, 0.0], [record("gps", "PASS", 0, 10_000, exact=True)]),
        check("links", "lineage", "count", [None, 0.0], [record("links", "PASS", 0, 4, low=0.0, high=0.0, exact=True)]),
    ]  # fmt: skip
    suites = ["fairness", "representation", "robustness", "leakage", "privacy", "lineage"]
    section = {
        "inputs": {"data": ["shards/train"], "index_sha256": "ab" * 32},
        "tables": [{
            "title": "Shares by gender", "columns": ["gender", "rows", "share"],
            "rows": [["female", 4498, 0.4998], ["male", 4502, 0.5002], [None, 12, None]], "note": "With missing ones.",
        }],
        "charts": [
            {"title": "Share of each class", "labels": [f"class {i}" for i in range(30)], "low": None, "high": None,
             "values": [i / 30 for i in range(30)], "line": None, "axis": "share"},
            {"title": "Accuracy by severity", "labels": ["1", "2"], "values": [0.9, None], "low": [0.88, None],
             "high": [0.92, None], "line": 0.95, "axis": "accuracy"},
        ],
        "data": {"deep": [1, 2]}, "limits": ["Columns that nobody collected cannot be counted."],
    }  # fmt: skip
    return {
        "schema": "seerctl.audit/1", "suite": "fairness", "suites": suites, "verdict": "FAIL", "exit_code": 3,
        "headline": "FAIL: 9 comparisons", "inputs": {"nested": [{"a": 1}, {"b": True}]},
        "policy": {"source": "audit.toml", "sha256": "cd" * 32,
                   "stats": {"alpha": 0.05, "correction": "holm", "family": "report"}},
        "checks": checks,
        "not_assessed": [r for c in checks for r in c["comparisons"] if r["verdict"] == "NOT ASSESSED"],
        "not_run": [{"check": "later", "suite": "fairness"}], "groups": [],
        "sections": {"representation": section, "leakage": {"limits": ["Pictures that nobody hashed."]}},
        "limits": ["A limit of the whole."], "versions": {"seerctl": "0.1"},
    }  # fmt: skip
