"""Policies: the shipped one, everything that a file may get wrong, and which groupings follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from seerctl.audit.policy import Check, Policy, load_policy, parse_grouping
from seerctl.errors import UsageError

CHECK = '[[check]]\nid = "a"\nmetric = "accuracy"\n'


def load(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "audit.toml"
    path.write_text(text)
    return load_policy(path).policy


def test_the_shipped_default() -> None:
    loaded = load_policy()
    assert loaded.source == "shipped:default"
    assert [check.metric for check in loaded.policy.check] == ["accuracy", "tpr", "selection_rate"]
    for check in loaded.policy.check:
        assert check.bounds == (-0.05, 0.05)
        assert (check.min_n, check.needed_trials, check.severity) == (30, 30, "fail")
    assert load_policy("default").sha256 == loaded.sha256
    stats = {"alpha": 0.05, "correction": "holm", "family": "report"}
    assert loaded.as_json()["stats"] == {**stats, "method": "newcombe", "replicates": 1000, "seed": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'check' is missing"),
        ("check = []", "no \\[\\[check\\]\\]"),
        (CHECK + "tolerence = 0.1\n", "unknown key 'check\\[0\\].tolerence'. Did you mean 'tolerance'"),
        (CHECK.replace("accuracy", "acuracy"), "Did you mean 'accuracy'"),
        (CHECK + "tolerance = 5\n", "'tolerance' is 5.0, not a fraction"),
        (CHECK + 'tolerance = "0.05"\n', "check\\[0\\].tolerance"),
        (CHECK + "min_n = 0\n", "have to be 1 or more"),
        (CHECK + "min_positives = 30\n", "takes 'min_n'"),
        (CHECK + 'positive = "1"\n', "takes no 'positive'"),
        (CHECK + 'average = "macro"\n', "no meaning for accuracy"),
        (CHECK + "threshold = 0.5\n", "'threshold' goes with"),
        (CHECK + 'against = "threshold"\n', "'threshold' goes with"),
        (CHECK + 'against = "threshold"\nthreshold = 0.9\n', 'needs op = ">=" or "<="'),
        (CHECK + 'against = "threshold"\nthreshold = 0.9\nop = ">="\ntolerance = 0.1\n', "goes with against"),
        (CHECK + 'groups = "gender"\n', "must be a list"),
        (CHECK + 'severity = "error"\n', "severity"),
        (CHECK + CHECK, "two checks have the id 'a'"),
        (CHECK.replace('"a"', '" "'), "'id' is empty"),
        (CHECK + "[stats]\nalpha = 0.7\n", "'alpha' is 0.7"),
        (CHECK + '[stats]\ncorrection = "fdr"\n', "correction"),
        ("intersections = 9\n" + CHECK, "'intersections' is 9"),
        ('on_inconclusive = "ignore"\n' + CHECK, "on_inconclusive"),
        ("[[check]\n", "not valid TOML"),
        ('[[check]]\nmetric = "accuracy"\n', "'check\\[0\\].id' is missing"),
    ],
)
def test_wrong_policies(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path, text)
    assert "audit.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_policy(tmp_path / "none.toml")


def test_groupings() -> None:
    plain, own = Check("a", "accuracy"), Check("b", "accuracy", groups=("skin*age",))
    policy = Policy((plain, own), groups=("gender", "age", "skin"))
    assert policy.groupings(own, ["gender"]) == [("skin", "age")]
    pairs = [("gender", "age"), ("gender", "skin"), ("age", "skin")]
    assert policy.groupings(plain) == [("gender",), ("age",), ("skin",), *pairs]
    assert policy.groupings(plain, ["gender"]) == [("gender",)]
    assert policy.groupings(plain, ["a*b", "c", "c"]) == [("a", "b"), ("c",)]
    assert Policy((plain,), intersections=1).groupings(plain, ["a", "b"]) == [("a",), ("b",)]
    with pytest.raises(UsageError, match="Pass --groups"):
        Policy((plain,)).groupings(plain)
    for text in ("", "a*", "a*a"):
        with pytest.raises(UsageError, match="is not a column or an intersection"):
            parse_grouping(text)


def test_bounds() -> None:
    assert Check("a", "tpr", tolerance=0.1, op=">=").bounds == (-0.1, float("inf"))
    assert Check("a", "tpr", tolerance=0.1, op="<=").bounds == (-float("inf"), 0.1)
    assert Check("a", "tpr", against="threshold", threshold=0.9, op=">=").bounds == (0.9, float("inf"))
    assert Check("a", "fpr", against="threshold", threshold=0.1, op="<=").bounds == (-float("inf"), 0.1)
    assert Check("a", "tpr", min_positives=7).needed_trials == 7
    assert Check("a", "accuracy", min_n=9).needed_trials == 9
