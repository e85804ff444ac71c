"""Policies: the shipped one, everything that a file may get wrong, and which groupings follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seerctl.audit.groups import Bin, Map, derive, sources
from seerctl.audit.policy import SHIPPED, Check, Policy, SuiteCheck, load_policy, parse_grouping
from seerctl.columns import Column
from seerctl.errors import InputError, UsageError

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


# ------------------------------------------------------------------------------------------------ checks of any suite

SUITE = '[[check]]\nid = "a"\nsuite = "representation"\nmetric = "share"\n'


def test_a_check_is_what_its_metric_says(tmp_path: Path) -> None:
    counted, scored, share = load(
        tmp_path,
        '[[check]]\nid = "a"\nsuite = "fairness"\nmetric = "tpr"\npositive = "1"\n'
        '[[check]]\nid = "b"\nmetric = "auc"\npositive = "1"\nagainst = "rest"\n'
        '[[check]]\nid = "c"\nsuite = "representation"\nmetric = "share"\nop = "within"\nthreshold = 0.5\n'
        "tolerance = 0.1\nk = 3\n",
    ).check
    assert isinstance(counted, Check)
    assert (counted.suite, counted.positive) == ("fairness", "1")
    assert isinstance(scored, SuiteCheck)
    assert (scored.suite, scored.cls, scored.bounds, scored.min_n) == ("fairness", "1", (-0.05, 0.05), 30)
    assert isinstance(share, SuiteCheck)
    assert share.bounds == pytest.approx((0.4, 0.6))
    assert share.k == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE.replace("representation", "represent"), "suite' is 'represent'. Did you mean 'representation'"),
        (SUITE.replace('"representation"', "5"), "suite' is 5"),
        (SUITE.replace('"share"', '"shares"'), "metric' is 'shares'. Did you mean 'share'"),
        (SUITE.replace('metric = "share"\n', ""), "'check\\[0\\].metric' is missing"),
        (CHECK.replace('"accuracy"', '"auk"'), "metric' is 'auk'. Did you mean 'auc'"),
        (CHECK.replace('"accuracy"', '["auc"]'), "check\\[0\\].metric"),
        (SUITE, "needs 'threshold'"),
        (SUITE + "threshold = 0.5\n", 'needs op = ">=", "<=" or "within"'),
        (SUITE + 'threshold = 0.5\nop = "within"\n', "'tolerance' with op"),
        (SUITE + 'threshold = 0.5\nop = ">="\ntolerance = 0.1\n', "'tolerance' with op"),
        (SUITE + 'against = "rest"\nthreshold = 0.5\n', "other comparisons take 'tolerance'"),
        (SUITE + 'threshold = nan\nop = ">="\n', "not a finite number"),
        (SUITE + 'against = "rest"\ntolerance = -1\n', "below 0"),
        (SUITE + 'threshold = 0.5\nop = ">="\nmin_n = 0\n', "'min_n' and 'k'"),
        (SUITE + 'threshold = 0.5\nop = ">="\nk = 0\n', "'min_n' and 'k'"),
        (SUITE + "positive = 5\n", "positive' has to be the name of a class"),
        (SUITE + 'cls = "1"\n', "positive' has to be the name of a class"),
        (SUITE + "tolerence = 0.1\n", "Did you mean 'tolerance'"),
        (CHECK + 'against = "baseline"\nthreshold = 0.5\n', "'tolerance' with"),
        (CHECK + '[stats]\nmethod = "jackknife"\n', "method"),
        (CHECK + "[stats]\nreplicates = 10\n", "'replicates' is 10"),
        (CHECK + "[stats]\nseed = -1\n", "'seed' is -1"),
        (CHECK + '[data]\ncluster = ""\n', "'cluster' has to be a column"),
        (CHECK + "[data]\nmin_clusters = 1\n", "'min_clusters' 2 or more"),
        (CHECK + '[[bin]]\ncolumn = "age"\n', "either 'edges'"),
        (CHECK + '[[bin]]\ncolumn = "age"\nedges = [3, 2]\n', "have to be finite and to grow"),
        (CHECK + '[[bin]]\ncolumn = "age"\nedges = [3, nan]\n', "have to be finite and to grow"),
        (CHECK + '[[bin]]\ncolumn = "age"\nedges = [3]\nlabels = ["a", "b", "c"]\n', "1 edges make 2 bins"),
        (CHECK + '[[bin]]\ncolumn = "age"\nedges = [3]\nlabels = ["a", "a"]\n', "to differ"),
        (CHECK + '[[bin]]\ncolumn = "age"\nedges = [3]\nready = "age"\n', "either 'edges'"),
        (CHECK + '[[bin]]\ncolumn = "age"\nready = "height"\n', "ready"),
        (CHECK + '[[bin]]\ncolumn = "a"\nready = "age"\n[[map]]\ncolumn = "b"\nname = "a"\nvalues = { x = "y" }\n',
         "column 'a' is made twice"),
        (CHECK + '[[map]]\ncolumn = "skin"\n', "either 'values'"),
        (CHECK + '[[map]]\ncolumn = "skin"\nvalues = { 1 = "" }\n', "has to get a name"),
        (CHECK + '[[map]]\ncolumn = "skin"\nvalues = { 1 = 2 }\n', "must be str"),
        (CHECK + "[balance]\nrepresentation = true\n", "representation"),
        ("check = [5]", "check"),
        ("check = 5", "must be a list"),
    ],
)  # fmt: skip
def test_wrong_checks_of_any_suite(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_only_getting_worse_counts_against_a_baseline(tmp_path: Path) -> None:
    text = '[[check]]\nid = "a"\nmetric = "{}"\nagainst = "baseline"\n'
    bounds = {
        metric: load(tmp_path, text.format(metric)).check[0].bounds
        for metric in ("accuracy", "fpr", "selection_rate", "auc", "calibration_error")
    }
    worse = {"low": (-0.05, float("inf")), "high": (-float("inf"), 0.05), "both": (-0.05, 0.05)}
    assert bounds == {
        "accuracy": worse["low"], "fpr": worse["high"], "selection_rate": worse["both"], "auc": worse["low"],
        "calibration_error": worse["high"],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ made columns


def test_bins() -> None:
    ages = Column(np.array([5, 17.9, 18, 29, 30, 70, 99, np.nan]))
    edges = (18.0, 30.0, 70.0)
    assert Bin("age", edges).apply(ages, "t").texts() == [
        "<18", "<18", "[18,30)", "[18,30)", "[30,70)", ">=70", ">=70", "",
    ]  # fmt: skip
    named = Bin("age", edges, ("young", "adult", "old")).apply(ages, "t")
    assert named.texts() == ["", "", "young", "young", "adult", "old", "old", ""]
    assert named.categories == ("young", "adult", "old")
    inner = Bin("age", edges, ("young", "adult")).apply(ages, "t")
    assert inner.texts() == ["", "", "young", "young", "adult", "", "", ""]
    words = Column(np.array([0, 1, -1], dtype=np.int32), ("18", "7.5"))
    assert Bin("age", ready="age").apply(words, "t").texts() == ["18-29", "<18", ""]
    with pytest.raises(InputError, match="t: column 'age' holds 'old', not a number"):
        Bin("age", edges).apply(Column(np.array([0], dtype=np.int32), ("old",)), "t")


def test_income_buckets_are_the_papers() -> None:
    incomes = np.exp(np.linspace(1.6, 10.4, 500))
    names = {1: "low", 2: "medium", 3: "high"}
    wanted = [names[round(float(np.log(income)) / 3)] for income in incomes]
    assert Bin("income", ready="income").apply(Column(incomes), "t").texts() == wanted
    assert Bin("income", ready="income").apply(Column(np.array([0.5, 9e9])), "t").texts() == ["low", "high"]


def test_maps() -> None:
    tones = Column(np.array([0, 1, 2, -1, 3], dtype=np.int32), ("1", "VI", "iii", "unknown"))
    assert Map("skin", ready="fitzpatrick").apply(tones, "t").texts() == ["lighter", "darker", "lighter", "", ""]
    other = Map("skin", {"1": "one"}, other="more").apply(tones, "t")
    assert other.texts() == ["one", "more", "more", "", "more"]
    with pytest.raises(InputError, match="t: no value of 'skin' is one of 7"):
        Map("skin", {"7": "seven"}).apply(tones, "t")


def test_made_columns_beside_and_in_place_of_their_source() -> None:
    recipes = {"old": Bin("age", (60.0,), ("no", "yes"), name="old"), "skin": Map("skin", {"1": "light"})}
    assert sources(["old", "skin", "g", "age"], recipes) == ["age", "skin", "g"]
    columns = {"age": Column(np.array([50, 70])), "skin": Column(np.array([0, 1], dtype=np.int32), ("1", "2"))}
    made = derive(columns, ["old", "skin"], recipes, "t")
    assert (made["old"].texts(), made["skin"].texts(), made["age"].texts()) == (
        ["no", "yes"], ["light", ""], ["50", "70"],
    )  # fmt: skip
    with pytest.raises(InputError, match="t: no column 'age'"):
        derive({}, ["old"], recipes, "t")


def test_what_the_shipped_default_shows_in_comments_is_a_policy(tmp_path: Path) -> None:
    comments = (SHIPPED / "default.toml").read_text().split("# What else a policy may say:\n")[1]
    policy = load(tmp_path, "\n".join(line.removeprefix("#   ") for line in comments.splitlines()))
    assert [check.against for check in policy.check] == ["baseline", "threshold"]
    assert (policy.data.cluster, policy.stats.method) == ("household", "bootstrap")
    assert set(policy.recipes) == {"age", "skin"}
