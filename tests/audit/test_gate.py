"""Verdicts: by hand at the borders, by definition of the corrections, and by simulation of the error rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from seerctl.audit.counts import GroupCounts
from seerctl.audit.gate import Before, FindingBlock, Judged, Verdict, judge, make_block, records
from seerctl.audit.policy import Check, Stats, SuiteCheck
from seerctl.audit.suite import Finding
from seerctl.errors import UsageError
from seerctl.stats import macro, newcombe, wilson, z_quantile

ONE = Stats(correction="none")


def groups_of(correct: Sequence[int], n: Sequence[int]) -> GroupCounts:
    """Groups with `correct` right predictions among `n` rows, all labelled and predicted class 1 when right."""
    right, rows = np.array(correct), np.array(n)
    zero = np.zeros_like(rows)
    return GroupCounts(
        ("g",), tuple((f"g{i}",) for i in range(len(n))), rows, np.stack([zero, rows], 1),
        np.stack([rows - right, right], 1), np.stack([zero, right], 1), 0,
    )  # fmt: skip


def verdicts(check: Check, counts: GroupCounts, stats: Stats = ONE) -> list[str]:
    return [record["verdict"] for record in records(one(check, counts, stats))]


def one(check: Check, counts: GroupCounts, stats: Stats = ONE) -> Judged:
    return judge([make_block(check, counts, ("0", "1"))], stats)[0]


ACCURACY = Check("accuracy", "accuracy")


def test_fail_pass_and_inconclusive() -> None:
    assert verdicts(ACCURACY, groups_of([700, 900], [1000, 1000])) == ["FAIL", "FAIL"]
    assert verdicts(ACCURACY, groups_of([9000, 9010], [10_000, 10_000])) == ["PASS", "PASS"]
    assert verdicts(ACCURACY, groups_of([85, 90], [100, 100])) == ["INCONCLUSIVE", "INCONCLUSIVE"]


def test_the_interval_decides() -> None:
    counts = groups_of([640, 900], [800, 1000])
    gap = newcombe(640, 800, 900, 1000)
    assert gap.low == pytest.approx(-0.1339, abs=1e-3)
    for tolerance, wanted in ((-gap.high - 1e-6, "FAIL"), (-gap.high + 1e-6, "INCONCLUSIVE"),
                              (-gap.low - 1e-6, "INCONCLUSIVE"), (-gap.low + 1e-6, "PASS")):  # fmt: skip
        check = Check("a", "accuracy", tolerance=float(tolerance))
        assert verdicts(check, counts) == [wanted, wanted]
    record = records(one(ACCURACY, counts))[0]
    assert (record["value"], record["low"], record["high"]) == pytest.approx(tuple(map(float, gap)))
    assert record["rate"]["value"] == 0.8
    assert record["rest"] == {
        "value": 0.9, "events": 900, "trials": 1000, "low": float(wilson(900, 1000).low),
        "high": float(wilson(900, 1000).high),
    }  # fmt: skip


def test_one_sided() -> None:
    counts = groups_of([700, 900], [1000, 1000])
    assert verdicts(Check("a", "accuracy", op=">="), counts) == ["FAIL", "PASS"]
    assert verdicts(Check("a", "accuracy", op="<="), counts) == ["PASS", "FAIL"]


def test_thresholds_and_zero_events() -> None:
    limit = Check("a", "accuracy", against="threshold", threshold=0.8, op=">=")
    assert verdicts(limit, groups_of([900, 600, 81], [1000, 1000, 100])) == ["PASS", "FAIL", "INCONCLUSIVE"]
    harm = Check("h", "selection_rate", positive="1", against="threshold", threshold=0.05, op="<=")
    few = groups_of([0], [62])
    record = records(one(harm, few))[0]
    assert record["verdict"] == "INCONCLUSIVE"  # 0 of 62 still allows 5.8 %
    assert (record["value"], record["rate"]["events"]) == (0.0, 0)
    assert record["high"] == pytest.approx(0.0583, abs=1e-4)
    assert verdicts(harm, groups_of([0], [100])) == ["PASS"]


def test_small_groups_are_listed_not_judged() -> None:
    found = records(one(ACCURACY, groups_of([29, 0, 500], [29, 0, 1000])))
    assert found[0]["verdict"] == "NOT ASSESSED"
    assert found[0]["reason"] == "29 rows, 30 needed"
    assert "low" not in found[0]
    lonely = records(one(ACCURACY, groups_of([50], [100])))
    assert lonely[0]["reason"] == "no other group to compare with"
    small_rest = records(one(ACCURACY, groups_of([90, 10], [100, 10])))
    assert small_rest[0]["reason"] == "10 rows in the rest, 30 needed"
    counts = groups_of([60, 60], [100, 100])
    positives = GroupCounts(
        counts.grouping, counts.groups, counts.n, np.array([[80, 20], [10, 90]]), counts.predicted, counts.correct, 0
    )
    tpr = records(one(Check("t", "tpr"), positives))
    assert [record["reason"] for record in tpr] == ["20 positives, 30 needed", "20 positives in the rest, 30 needed"]


def test_positive_classes() -> None:
    counts = groups_of([700, 900], [1000, 1000])
    assert [r["class"] for r in records(one(Check("s", "selection_rate"), counts))] == ["1", "1"]
    block = make_block(Check("s", "selection_rate"), counts, ("cat", "dog"))
    assert block.classes == ("cat", "dog")
    assert make_block(Check("s", "tpr", positive="cat"), counts, ("cat", "dog")).classes == ("cat",)
    with pytest.raises(UsageError, match=r"no class 'cta' in the table\. Did you mean 'cat'"):
        make_block(Check("s", "tpr", positive="cta"), counts, ("cat", "dog"))


def test_a_mean_over_classes_compares_what_both_sides_have() -> None:
    counts = GroupCounts(
        ("g",), (("a",), ("b",)), np.array([120, 200]), np.array([[60, 60, 0], [80, 60, 60]]),
        np.array([[60, 60, 0], [80, 60, 60]]), np.array([[30, 60, 0], [72, 60, 6]]), 0,
    )  # fmt: skip
    found = records(judge([make_block(Check("m", "tpr", average="macro"), counts, ("x", "y", "z"))], ONE)[0])
    assert found[0]["class"] == "macro"
    assert found[0]["rate"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert found[0]["rest"]["value"] == pytest.approx((0.9 + 1) / 2)  # class z is not in group a
    own, rest = macro([30, 60], [60, 60]), macro([72, 60], [80, 60])
    assert found[0]["value"] == pytest.approx(float(own.value - rest.value))
    low = own.value - rest.value - np.hypot(own.value - own.low, rest.high - rest.value)
    assert found[0]["low"] == pytest.approx(float(low))


# ------------------------------------------------------------------------------------------------------- corrections


def family() -> list[GroupCounts]:
    generator = np.random.default_rng(3)
    return [groups_of(generator.binomial(400, [0.6, 0.8, 0.8, 0.8]), [400] * 4) for _ in range(3)]


@pytest.mark.parametrize("scope", ["report", "check"])
def test_bonferroni_is_the_interval_at_alpha_over_m(scope: str) -> None:
    blocks = [make_block(Check(str(i), "accuracy"), counts, ("0", "1")) for i, counts in enumerate(family())]
    total = 12 if scope == "report" else 4
    for judged, counts in zip(judge(blocks, Stats(0.05, "bonferroni", scope)), family(), strict=True):  # type: ignore[arg-type]
        rest = counts.rest()
        gap = newcombe(counts.correct[:, 1], counts.n, rest.correct[:, 1], rest.n, 0.05 / total)
        np.testing.assert_allclose(judged.low[:, 0], gap.low)
        np.testing.assert_allclose(judged.high[:, 0], gap.high)
        beyond = (gap.low > 0.05) | (gap.high < -0.05)
        np.testing.assert_array_equal(judged.verdict[:, 0] == Verdict.FAIL, beyond)


def test_holm_steps_down_by_its_definition() -> None:
    blocks = [make_block(Check(str(i), "accuracy"), counts, ("0", "1")) for i, counts in enumerate(family())]
    judged = judge(blocks, Stats(0.05, "holm"))
    holm = np.concatenate([j.verdict[:, 0] for j in judged])
    # by hand: the most extreme first, each at alpha / (how many are left), until one does not fail
    pairs = [(counts, counts.rest(), row) for counts in family() for row in range(4)]
    left, failed = list(range(12)), set()
    while left:
        level = 0.05 / len(left)
        gaps = {
            i: newcombe(pairs[i][0].correct[pairs[i][2], 1], pairs[i][0].n[pairs[i][2]],
                        pairs[i][1].correct[pairs[i][2], 1], pairs[i][1].n[pairs[i][2]], level)
            for i in left
        }  # fmt: skip
        worst = max(left, key=lambda i: max(gaps[i].low - 0.05, -0.05 - gaps[i].high))
        if not (gaps[worst].low > 0.05 or gaps[worst].high < -0.05):
            break
        failed.add(worst)
        left.remove(worst)
    assert {i for i in range(12) if holm[i] == Verdict.FAIL} == failed
    bonferroni = np.concatenate([j.verdict[:, 0] for j in judge(blocks, Stats(0.05, "bonferroni"))])
    assert failed >= {i for i in range(12) if bonferroni[i] == Verdict.FAIL}
    assert failed
    # an interval that is reported never contradicts its verdict
    for result in judged:
        fails = result.verdict == Verdict.FAIL
        assert ((result.low > 0.05) | (result.high < -0.05))[fails].all()
        passes = result.verdict == Verdict.PASS
        assert ((result.low >= -0.05) & (result.high <= 0.05))[passes].all()


def test_warnings_are_a_family_of_their_own() -> None:
    counts = family()[0]
    strict = make_block(Check("f", "accuracy"), counts, ("0", "1"))
    warned = [make_block(Check(f"w{i}", "accuracy", severity="warn"), counts, ("0", "1")) for i in range(20)]
    alone, together = judge([strict], Stats())[0], judge([strict, *warned], Stats())[0]
    np.testing.assert_array_equal(alone.low, together.low)


# ------------------------------------------------------------------------------------------------------- simulation


def report_fails(generator: np.random.Generator, rows: int, rates: np.ndarray, check: Check, stats: Stats) -> bool:
    """Whether a report on 48 groups (of shares as in a 2 x 6 x 4 design) fails; positives are half of the rows."""
    shares = np.outer([0.5, 0.5], np.outer([0.3, 0.25, 0.2, 0.1, 0.1, 0.05], [0.4, 0.3, 0.2, 0.1]).ravel()).ravel()
    positives = generator.multinomial(rows // 2, shares)
    hits = generator.binomial(positives, rates)
    return bool((one(check, groups_of(hits, positives), stats).verdict == Verdict.FAIL).any())


def test_error_rates() -> None:
    generator, sets = np.random.default_rng(11), 200
    tpr = Check("tpr", "tpr")
    equal, worst = np.full(48, 0.8), np.full(48, 0.8)
    worst[5] = 0.5
    for rows in (5_000, 20_000):
        false = sum(report_fails(generator, rows, equal, tpr, Stats()) for _ in range(sets)) / sets
        assert false <= 0.02
    strict = Check("tpr", "tpr", tolerance=0.0)
    false = sum(report_fails(generator, 20_000, equal, strict, Stats()) for _ in range(sets)) / sets
    assert false <= 0.09  # nominal 5 % at most; 200 sets: three standard errors of chance
    point = sum(report_fails(generator, 20_000, equal, tpr, Stats(0.4999, "none")) for _ in range(sets)) / sets
    assert point > 0.5  # without correction the same data fail: the test can tell
    found = sum(report_fails(generator, 20_000, worst, tpr, Stats()) for _ in range(sets)) / sets
    assert found >= 0.95


# --------------------------------------------------------------------------------------------------------- findings


def demand(**keys: Any) -> SuiteCheck:
    return SuiteCheck(**{"id": "s", "suite": "leakage", "metric": "m", "threshold": 0.1, "op": "<=", **keys})


def normal(value: float, spread: float, n: int = 100, **keys: Any) -> Finding:
    """A finding with a normal interval."""
    return Finding(
        "s", "m", value, n, interval=lambda a: tuple(value + spread * z_quantile(a) * np.array([-1.0, 1.0])), **keys
    )


def judged_findings(check: SuiteCheck, *findings: Finding, stats: Stats = ONE, **keys: Any) -> list[dict[str, Any]]:
    return records(judge([FindingBlock(check, findings, **keys)], stats)[0])


def test_findings_are_judged_by_their_own_intervals() -> None:
    found = judged_findings(demand(), normal(0.5, 0.1), normal(0.0, 0.04), normal(0.15, 0.1), normal(0.05, 0.1))
    assert [record["verdict"] for record in found] == ["FAIL", "PASS", "INCONCLUSIVE", "INCONCLUSIVE"]
    assert found[0]["low"] == pytest.approx(0.5 - 0.196, abs=1e-3)
    assert found[0]["excess"] == pytest.approx(0.4)
    assert found[0]["rate"] == pytest.approx({"value": 0.5, "trials": 100, "low": 0.304, "high": 0.696}, abs=1e-3)
    within = demand(op="within", tolerance=0.05)
    assert [r["verdict"] for r in judged_findings(within, normal(0.1, 0.01), normal(0.1, 0.1), normal(0.3, 0.01))] == [
        "PASS", "INCONCLUSIVE", "FAIL",
    ]  # fmt: skip


def test_exact_findings_are_judged_as_they_are_and_join_no_family() -> None:
    exact = [Finding("s", "m", value, 3) for value in (0.0, 0.1, 0.1000000000000001, 0.2)]
    found = judged_findings(demand(), *exact)
    assert [record["verdict"] for record in found] == ["PASS", "PASS", "PASS", "FAIL"]
    assert found[3]["exact"] is True
    assert (found[3]["low"], found[3]["high"], found[3]["level"]) == (0.2, 0.2, None)
    alone = judged_findings(demand(), normal(0.0, 0.04), stats=Stats())[0]
    crowd = judged_findings(demand(), normal(0.0, 0.04), *exact, stats=Stats())[0]
    assert alone == crowd


def test_findings_that_cannot_be_judged_are_listed() -> None:
    found = judged_findings(
        demand(), normal(0.5, 0.1, n=29), Finding("s", "m", float("nan"), 90),
        Finding("s", "m", 0.5, 90, reason="no file"),
    )  # fmt: skip
    assert {record["verdict"] for record in found} == {"NOT ASSESSED"}
    assert [record["reason"] for record in found] == ["29 rows, 30 needed", "not a number", "no file"]
    assert "value" not in found[1]
    unknown = Finding("s", "m", 0.5, 90, interval=lambda _: (float("nan"), float("nan")))
    assert judged_findings(demand(), unknown)[0]["verdict"] == "INCONCLUSIVE"


def test_one_family_over_counted_rates_and_findings() -> None:
    counts = groups_of([700, 900], [1000, 1000])
    block, finding = make_block(ACCURACY, counts, ("0", "1")), FindingBlock(demand(), (normal(0.5, 0.1),))
    rates, other = judge([block, finding], Stats(0.03, "bonferroni"))
    np.testing.assert_allclose(rates.level, 0.01)
    np.testing.assert_allclose(other.level, 0.01)
    apart, alone = judge([block, finding], Stats(0.03, "bonferroni", "check"))
    assert (apart.level[0, 0], alone.level[0, 0]) == pytest.approx((0.015, 0.03))
    warned = FindingBlock(demand(severity="warn"), (normal(0.5, 0.1),))
    assert judge([block, warned], Stats(0.03, "bonferroni"))[0].level[0, 0] == pytest.approx(0.015)


def test_holm_over_findings_by_hand() -> None:
    values = [0.40, 0.36, 0.31, 0.05]  # against a limit of 0.1, spread 0.1: z = 3.0, 2.6, 2.1
    found = judged_findings(demand(), *(normal(value, 0.1) for value in values), stats=Stats(0.05, "holm"))
    p = [math.erfc(z / math.sqrt(2)) for z in (3.0, 2.6, 2.1)]
    assert p[0] < 0.05 / 4 < 0.05 / 3 > p[1]
    assert p[2] > 0.05 / 2
    assert [record["verdict"] for record in found] == ["FAIL", "FAIL", "INCONCLUSIVE", "INCONCLUSIVE"]
    assert found[1]["low"] > 0.1


def test_changes_of_findings_since_a_baseline() -> None:
    check = demand(against="baseline", threshold=None, op=">=", tolerance=0.05)
    before = (Before(0.8, (0.78, 0.82)), Before(0.5, None), None)
    found = judged_findings(
        check, normal(0.6, 0.01), Finding("s", "m", 0.5, 50), normal(0.8, 0.01), before=before
    )  # fmt: skip
    assert [record["verdict"] for record in found] == ["FAIL", "PASS", "NOT ASSESSED"]
    assert found[0]["value"] == pytest.approx(-0.2)
    assert found[0]["high"] == pytest.approx(-0.2 + math.hypot(0.01 * 1.96, 0.02), abs=1e-4)
    assert found[0]["baseline"] == {"value": 0.8, "low": 0.78, "high": 0.82}
    assert found[2]["reason"] == "not in the baseline report"
