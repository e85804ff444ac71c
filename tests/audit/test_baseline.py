"""Regressions: paired against the definition and McNemar's test, unpaired from a report alone, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seerctl.audit import baseline as module
from seerctl.audit.baseline import load_baseline
from seerctl.audit.fairness import audit_fairness
from seerctl.audit.policy import load_policy
from seerctl.errors import InputError, UsageError
from seerctl.stats import wilson

CHECK = '[[check]]\nid = "no-worse"\nmetric = "accuracy"\ngroups = ["g"]\nagainst = "baseline"\ntolerance = 0.05\n'
PLAIN = '[stats]\ncorrection = "none"\n'


def table(rows: int = 2000, wrong_before: float = 0.1, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, rows)
    said = np.where(generator.random(rows) < wrong_before, 1 - label, label)
    return pd.DataFrame({
        "key": [f"k{i}" for i in range(rows)], "label": label, "prediction": said,
        "g": np.array(["a", "b"])[np.arange(rows) % 2], "home": [f"h{i // 10}" for i in range(rows)],
    })  # fmt: skip


def worsened(frame: pd.DataFrame, share: float, group: str = "a", seed: int = 1) -> pd.DataFrame:
    """The same rows, of which a share of one group's now get the other answer."""
    hit = (np.random.default_rng(seed).random(len(frame)) < share) & (frame.g == group)
    return frame.assign(prediction=np.where(hit, 1 - frame.prediction, frame.prediction))


def run(where: Path, now: pd.DataFrame, before: pd.DataFrame, policy: str = CHECK, **keys: Any) -> dict[str, Any]:
    """The audit of `now` against one of `before`; paired=False takes the earlier table away."""
    where.mkdir(exist_ok=True)
    (where / "audit.toml").write_text(policy)
    before.to_csv(where / "before.csv", index=False)
    now.to_csv(where / "now.csv", index=False)
    earlier = audit_fairness(where / "before.csv", load_policy(), keys.get("groups", ["g"]))
    (where / "report.json").write_text(json.dumps(earlier))
    if not keys.get("paired", True):
        (where / "before.csv").unlink()
    baseline = load_baseline(where / "report.json")
    return audit_fairness(where / "now.csv", load_policy(where / "audit.toml"), baseline=baseline)


def record(report: dict[str, Any], group: str = "a") -> dict[str, Any]:
    return next(r for r in report["checks"][0]["comparisons"] if r["group"] == {"g": group})


def test_method_10_by_its_definition(tmp_path: Path) -> None:
    before = table(400)
    now = worsened(before, 0.2)
    report = run(tmp_path, now, before, CHECK + PLAIN)
    rows = before.g == "a"
    was, is_now = (frame.prediction[rows] == frame.label[rows] for frame in (before, now))
    a, b, c, d = (int((x & y).sum()) for x, y in ((is_now, was), (is_now, ~was), (~is_now, was), (~is_now, ~was)))
    n = a + b + c + d
    one, two = wilson(a + b, n), wilson(a + c, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    difference = a * d - b * c
    phi = (max(difference - n / 2, 0) if difference > 0 else difference) / math.sqrt(product)
    gap = (b - c) / n
    dl1, du1 = float(one.value - one.low), float(one.high - one.value)
    dl2, du2 = float(two.value - two.low), float(two.high - two.value)
    found = record(report)
    assert found["value"] == pytest.approx(gap, abs=1e-12)
    assert found["low"] == pytest.approx(gap - math.sqrt(dl1**2 - 2 * phi * dl1 * du2 + du2**2), abs=1e-12)
    assert found["high"] == pytest.approx(gap + math.sqrt(du1**2 - 2 * phi * du1 * dl2 + dl2**2), abs=1e-12)
    assert (found["rate"]["events"], found["baseline"]["events"]) == (a + b, a + c)
    assert report["checks"][0]["method"] == "newcombe, paired"
    assert report["baseline"]["paired"] is True


def test_pairing_finds_what_two_samples_would_not(tmp_path: Path) -> None:
    before = table(2000, 0.3)
    now = worsened(before, 0.25)  # 0.7 right before, 0.6 now
    paired, alone = run(tmp_path / "1", now, before), run(tmp_path / "2", now, before, paired=False)
    assert (paired["exit_code"], alone["exit_code"]) == (3, 6)
    assert alone["baseline"]["paired"] is False
    assert "before.csv is not there" in alone["baseline"]["reason"]
    assert any("two independent samples" in limit for limit in alone["limits"])
    assert not any("two independent samples" in limit for limit in paired["limits"])
    assert alone["checks"][0]["method"] == "wilson, unpaired"
    one, two = record(paired), record(alone)
    assert one["value"] == pytest.approx(two["value"], abs=1e-12)
    assert (one["high"] - one["low"]) < 0.8 * (two["high"] - two["low"])
    assert record(paired, "b")["value"] == 0
    assert record(paired, "b")["verdict"] == "PASS"
    assert "below the baseline" in paired["headline"]


def test_only_getting_worse_counts_unless_the_policy_says_more(tmp_path: Path) -> None:
    before = table(4000, 0.4)
    better = before.assign(prediction=before.label)
    assert run(tmp_path, better, before)["exit_code"] == 0
    assert run(tmp_path, better, before, CHECK + 'op = "within"\n')["exit_code"] == 3
    assert run(tmp_path, before, better)["exit_code"] == 3
    same = run(tmp_path, before, before)
    assert same["exit_code"] == 0
    assert same["checks"][0]["bounds"] == [-0.05, None]
    rates = CHECK.replace("accuracy", "fpr") + 'positive = "1"\n'
    assert run(tmp_path, before, better, rates)["exit_code"] == 3
    assert run(tmp_path, better, before, rates)["exit_code"] == 0


@pytest.mark.parametrize("metric", ["tpr", "fnr", "fpr", "precision", "npv", "selection_rate"])
def test_intervals_of_every_rate_agree_with_rows_drawn_again(metric: str, tmp_path: Path) -> None:
    before = table(3000, 0.3)
    now = worsened(before, 0.2)
    policy = CHECK.replace("accuracy", metric) + 'positive = "1"\nop = "within"\n' + PLAIN
    exact = record(run(tmp_path / "1", now, before, policy))
    drawn = record(run(tmp_path / "2", now, before, policy + 'method = "bootstrap"\nreplicates = 4000\n'))
    assert exact["value"] == pytest.approx(drawn["value"], abs=1e-12)
    assert exact["low"] == pytest.approx(drawn["low"], abs=3e-3)
    assert exact["high"] == pytest.approx(drawn["high"], abs=3e-3)
    unpaired = record(run(tmp_path / "3", now, before, policy, paired=False))
    if metric in ("tpr", "selection_rate"):  # what the default policy measured
        assert unpaired["high"] - unpaired["low"] > exact["high"] - exact["low"]
    else:
        assert unpaired["reason"] == "not in the baseline report"


def test_means_over_classes(tmp_path: Path) -> None:
    before = table(3000, 0.3)
    now = worsened(before, 0.2)
    before, now = (
        f.assign(label=f.label.map({0: "cat", 1: "dog"}), prediction=f.prediction.map({0: "cat", 1: "dog"}))
        for f in (before, now)
    )
    policy = CHECK.replace("accuracy", "tpr") + 'average = "macro"\n' + PLAIN
    exact = record(run(tmp_path / "1", now, before, policy))
    drawn = record(run(tmp_path / "2", now, before, policy + 'method = "bootstrap"\nreplicates = 4000\n'))
    alone = record(run(tmp_path / "3", now, before, policy, paired=False))
    assert exact["value"] == pytest.approx(drawn["value"]) == pytest.approx(alone["value"])
    assert exact["low"] == pytest.approx(drawn["low"], abs=4e-3)
    assert alone["low"] < exact["low"] < exact["value"]


def test_households_of_both_models(tmp_path: Path) -> None:
    before = table(3000, 0.3)
    hit = (np.arange(3000) // 10 % 5 == 0) & (before.g == "a")  # every fifth household lost all it had right
    now = before.assign(prediction=np.where(hit, 1 - before.label, before.prediction))
    policy = CHECK + PLAIN
    rows, homes = (
        record(run(tmp_path / name, now, before, policy + more))
        for name, more in (("1", ""), ("2", '[data]\ncluster = "home"\n'))
    )
    assert homes["clusters"] == 300
    assert homes["value"] == pytest.approx(rows["value"])
    assert homes["high"] - homes["low"] > 1.2 * (rows["high"] - rows["low"])


def test_order_of_rows_and_new_classes_do_not_matter(tmp_path: Path) -> None:
    before = table(800)
    now = worsened(before, 0.3)
    now.loc[3, "prediction"] = 2
    straight = record(run(tmp_path / "1", now, before))
    shuffled = record(run(tmp_path / "2", now, before.sample(frac=1.0, random_state=0)))
    assert straight == shuffled


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table(300)
    with pytest.raises(InputError, match="1 of 300 keys are not in it, first 'new'"):
        run(tmp_path, before.assign(key=["new", *before.key[1:]]), before)
    with pytest.raises(InputError, match=r"0 of 299 keys are not in it, and it has 300"):
        run(tmp_path, before[1:], before)
    with pytest.raises(InputError, match="2 of 300 rows have another label, first 'k0'"):
        run(tmp_path, before.assign(label=[1 - before.label[0], 1 - before.label[1], *before.label[2:]]), before)
    with pytest.raises(InputError, match="it judged rows with other keys or labels"):
        run(tmp_path, before[2:], before, paired=False)
    monkeypatch.setattr(module, "_MOST_HASHED", 10)  # what a table of millions of rows is
    with pytest.raises(InputError, match=r"its group \{'g': 'a'\} has 150 rows, now 149"):
        run(tmp_path, before[2:], before, paired=False)
    (tmp_path / "audit.toml").write_text(CHECK)
    with pytest.raises(UsageError, match=r"'no-worse' compares with a baseline\. Pass --baseline"):
        audit_fairness(tmp_path / "now.csv", load_policy(tmp_path / "audit.toml"))


def test_a_group_that_the_baseline_did_not_have_is_not_assessed(tmp_path: Path) -> None:
    before = table(300)
    report = run(tmp_path, before, before, CHECK.replace('["g"]', '["home"]'), paired=False)
    assert {entry["reason"] for entry in report["not_assessed"]} == {"not in the baseline report"}
    assert report["exit_code"] == 6


def test_other_labels_are_noticed_without_the_rows(tmp_path: Path) -> None:
    before = table(300)
    swapped = before.assign(label=[1 - before.label[0], *before.label[1:]])
    with pytest.raises(InputError, match="other keys or labels"):
        run(tmp_path, swapped, before, paired=False)
    shuffled = before.sample(frac=1.0, random_state=1)
    assert run(tmp_path, shuffled, before, paired=False)["baseline"]["paired"] is False


def test_which_table_is_the_baselines(tmp_path: Path) -> None:
    before = table(300)
    run(tmp_path, before, before)
    report = tmp_path / "report.json"
    moved = tmp_path / "elsewhere.csv"
    (tmp_path / "before.csv").rename(moved)
    assert load_baseline(report).predictions is None
    assert load_baseline(report, moved).predictions == moved
    moved.write_text(moved.read_text().replace("k7,", "k777,"))
    with pytest.raises(InputError, match=r"not the table that .* judged"):
        load_baseline(report, moved)
    with pytest.raises(InputError, match="no such file"):
        load_baseline(report, tmp_path / "none.csv")
    table(301).to_csv(tmp_path / "before.csv", index=False)
    assert load_baseline(report).why.endswith("before.csv has changed since")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": "seerctl.audit/1"}', '{"schema": "seerctl.audit/1", "checks": 5}', "\x00", "[" * 9999,
     '{"schema": "seerctl.audit/2", "checks": []}'],
)  # fmt: skip
def test_files_that_are_no_reports(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=r"report\.json: not "):
        load_baseline(tmp_path / "report.json")
    with pytest.raises(InputError, match="no such file"):
        load_baseline(tmp_path / "none.json")


@pytest.mark.parametrize(
    "entry",
    [5, {}, {"rate": 1}, {"rate": {"value": "x", "trials": 5, "events": 1}},
     {"rate": {"value": 0.5, "trials": -5, "events": 1}}, {"rate": {"value": 0.5, "trials": 5}, "group": {"g": 7}}],
)  # fmt: skip
def test_entries_that_make_no_sense_are_left_out(entry: Any, tmp_path: Path) -> None:
    entry = {"group": {"g": "a"}, "class": None, "n": 150, **entry} if isinstance(entry, dict) else entry
    frame = table(300)
    frame.to_csv(tmp_path / "now.csv", index=False)
    (tmp_path / "audit.toml").write_text(CHECK)
    checks = [None, {"metric": "accuracy", "comparisons": [entry]}, {"metric": "accuracy", "comparisons": 5}]
    (tmp_path / "report.json").write_text(json.dumps({"schema": "seerctl.audit/1", "checks": checks, "inputs": 5}))
    baseline = load_baseline(tmp_path / "report.json")
    report = audit_fairness(tmp_path / "now.csv", load_policy(tmp_path / "audit.toml"), baseline=baseline)
    assert report["exit_code"] == 6
