"""Several suites in one report: one family, one verdict, sections, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seerctl.audit.baseline import load_baseline
from seerctl.audit.policy import LoadedPolicy, SuiteCheck, load_policy, shipped
from seerctl.audit.suite import Bars, Finding, SuiteName, SuiteResult, Table
from seerctl.audit.suites import Inputs, audit, part_of
from seerctl.audit.summary import _apart, assemble, jsonable
from seerctl.errors import UsageError
from seerctl.features.store import FeatureFile
from seerctl.weighting import read_weights
from tests.feature_files import write_features
from tests.streams import meta_of, shards_of, stream_of

SUITES: tuple[SuiteName, ...] = ("fairness", "representation", "robustness", "leakage", "privacy", "lineage")
FAIRNESS = '[[check]]\nid = "acc"\nmetric = "accuracy"\ngroups = ["g"]\n'
PRESENT = '[[check]]\nid = "there"\nsuite = "representation"\nmetric = "count"\nop = ">="\nthreshold = 20\n'


def policy(tmp_path: Path, text: str) -> LoadedPolicy:
    (tmp_path / "audit.toml").write_text(text)
    return load_policy(tmp_path / "audit.toml")


def predictions(tmp_path: Path, rows: int = 4000, wrong: Sequence[float] = (0.1, 0.1), **columns: Any) -> Path:
    generator = np.random.default_rng(0)
    group, label = np.arange(rows) % 2, generator.integers(0, 2, rows)
    said = np.where(generator.random(rows) < np.array(wrong)[group], 1 - label, label)
    frame = pd.DataFrame({
        "key": [f"k{i}" for i in range(rows)], "label": label, "prediction": said,
        "score": np.where(said == label, 0.9, 0.6), "g": np.array(["a", "b"])[group], **columns,
    })  # fmt: skip
    frame.to_csv(tmp_path / "p.csv", index=False)
    return tmp_path / "p.csv"


def shard_set(where: Path, share: float = 0.5, rows: int = 300) -> Path:
    samples = []
    for number in range(rows):
        data = f"{where.name} {number}".encode()
        group = "a" if number < share * rows else "b"
        label = ("nurse", "smith")[int(number % 10 < (7 if group == "a" else 3))]
        samples.append((data, meta_of(data, f"{number}.jpg", {"g": group, "label": label})))
    shards_of(where, stream_of(samples))
    return where


def test_two_suites_are_one_family_and_one_verdict(tmp_path: Path) -> None:
    inputs = Inputs(predictions(tmp_path), data=(shard_set(tmp_path / "set"),), groups=("g",))
    loaded = policy(tmp_path, FAIRNESS + PRESENT)
    report = audit(["fairness", "representation"], inputs, loaded)
    assert (report["verdict"], report["suites"], report["suite"]) == (
        "PASS",
        ["fairness", "representation"],
        "fairness",
    )
    assert {check["id"]: check["suite"] for check in report["checks"]} == {"acc": "fairness", "there": "representation"}
    count = next(check for check in report["checks"] if check["id"] == "there")
    assert (count["unit"], count["against"], count["bounds"]) == ("count", "threshold", [20.0, None])
    assert [r["exact"] for r in count["comparisons"]] == [True, True]
    assert report["sections"]["representation"]["tables"]
    assert report["not_run"] == []
    json.dumps(report, allow_nan=False)
    failing = audit(["fairness", "representation"], inputs, policy(tmp_path, FAIRNESS + PRESENT.replace("20", "200")))
    assert (failing["verdict"], failing["exit_code"], failing["checks"][0]["id"]) == ("FAIL", 3, "there")
    assert "there: g=" in failing["headline"]
    assert "has 150, demanded >= 200" in failing["headline"]


def test_checks_of_other_suites_are_said_not_to_have_run(tmp_path: Path) -> None:
    report = audit(["fairness"], Inputs(predictions(tmp_path)), policy(tmp_path, FAIRNESS + PRESENT))
    assert report["not_run"] == [{"check": "there", "suite": "representation"}]
    with pytest.raises(UsageError, match="no check of the representation suite"):
        audit(["representation"], Inputs(), policy(tmp_path, FAIRNESS))


def test_the_inputs_of_each_suite(tmp_path: Path) -> None:
    loaded = load_policy(None, SUITES)
    for suite, message in (
        ("fairness", "--predictions"), ("representation", "--data SET"), ("robustness", "--predictions"),
        ("leakage", "--data TRAIN --data TEST"), ("privacy", "--data SET"), ("lineage", "--artefact FILE"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            audit([suite], Inputs(groups=("g",)), loaded)


def test_metrics_beyond_counts_join_the_fairness_suite(tmp_path: Path) -> None:
    text = FAIRNESS + '[[check]]\nid = "ece"\nmetric = "overconfidence"\ngroups = ["g"]\nagainst = "rest"\n'
    report = audit(["fairness"], Inputs(predictions(tmp_path, wrong=(0.1, 0.4))), policy(tmp_path, text))
    check = next(check for check in report["checks"] if check["id"] == "ece")
    assert (check["metric"], check["verdict"], check["unit"]) == ("overconfidence", "FAIL", "gap")
    record = next(record for record in check["comparisons"] if record["group"] == {"g": "b"})
    frame = pd.read_csv(tmp_path / "p.csv")
    means = (frame.score - (frame.label == frame.prediction)).groupby(frame.g).mean()
    assert record["value"] == pytest.approx(means["b"] - means["a"])
    assert record["low"] < record["value"] < record["high"]
    assert (record["rate"]["value"], record["rest"]["value"]) == pytest.approx((means["b"], means["a"]))
    assert "points above the rest (" in check["worst"] or "points below the rest (" in check["worst"]
    assert report["exit_code"] == 3


def test_findings_against_a_baseline(tmp_path: Path) -> None:
    text = '[[check]]\nid = "auc"\nmetric = "overconfidence"\ngroups = ["g"]\nop = "<="\nthreshold = 0.5\n'
    before = audit(["fairness"], Inputs(predictions(tmp_path)), policy(tmp_path, text))
    (tmp_path / "report.json").write_text(json.dumps(before))
    now = predictions(tmp_path, wrong=(0.1, 0.5))
    compares = text.replace('op = "<="\nthreshold = 0.5', 'against = "baseline"\nop = "<="\ntolerance = 0.05')
    with pytest.raises(UsageError, match="Pass --baseline"):
        audit(["fairness"], Inputs(now), policy(tmp_path, compares))
    baseline = load_baseline(tmp_path / "report.json")
    report = audit(["fairness"], Inputs(now, baseline=baseline), policy(tmp_path, compares))
    found = {record["group"]["g"]: record for record in report["checks"][0]["comparisons"]}
    assert (found["a"]["verdict"], found["b"]["verdict"]) == ("PASS", "FAIL")
    for record in found.values():
        assert record["value"] == pytest.approx(record["rate"]["value"] - record["baseline"]["value"])
    assert report["baseline"]["paired"] is False


def test_retrieval_from_features(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = 200
    gender = generator.integers(0, 2, rows).astype(np.int32)
    features = generator.normal(size=(rows, 8)).astype(np.float32)
    features[:, 0] += np.where(gender == 1, 6, -6)
    columns = {
        "gender": ["fm"[code] for code in gender], "age": generator.integers(18, 80, rows).tolist(),
        "skin": [str(tone) for tone in generator.integers(1, 7, rows)],
    }  # fmt: skip
    path = write_features(tmp_path / "f.h5", features, columns)
    with FeatureFile.open(path) as file:
        assert set(file.columns) == {"gender", "age", "skin"}
    report = audit(["fairness"], Inputs(features=(path,)), load_policy("seer-retrieval"))
    values = {tuple(r["group"].items()): r for r in report["checks"][0]["comparisons"]}
    groups = {value for group in values for name, value in group if name == "age"}
    assert groups <= {"18-29", "30-44", "45-69", "70+"}
    assert {value for group in values for name, value in group if name == "skin"} == {"lighter", "darker"}
    assert all(record["evidence"]["value"] > 0.9 for record in values.values())
    assert report["inputs"]["features"]["path"] == str(path)
    with pytest.raises(UsageError, match="Pass --features"):
        audit(["fairness"], Inputs(predictions(tmp_path)), load_policy("seer-retrieval"))


def test_balance_writes_weights_beside_the_report_of_the_set(tmp_path: Path) -> None:
    where = shard_set(tmp_path / "set", share=0.3)
    inputs = Inputs(data=(where,), groups=("g",), weights=tmp_path / "w.h5")
    alone = audit([], inputs, load_policy(None, ()))
    weights = read_weights(tmp_path / "w.h5")
    assert len(weights.weight) == 300
    assert (alone["exit_code"], alone["checks"], alone["suites"]) == (0, [], ["representation"])
    assert "shares are off by 20.0 points, weighted by" in alone["headline"]
    assert alone["sections"]["representation"]["data"]["balance"]["samples"] == 300
    first = weights.weight.reshape(-1).sum()
    both = audit(["representation"], inputs, policy(tmp_path, PRESENT + "[balance]\nassociation = false\n"))
    assert read_weights(tmp_path / "w.h5").weight.sum() == pytest.approx(first, rel=1e-3)
    section = both["sections"]["representation"]
    assert {"balance"} < set(section["data"])
    assert any(table["title"].startswith("Balance") for table in section["tables"])
    assert both["balance"]["weights"] == str(tmp_path / "w.h5")
    with pytest.raises(UsageError, match="Pass --data SET"):
        audit([], Inputs(weights=tmp_path / "x.h5"), load_policy(None, ()))


def test_sections_hold_what_a_suite_says(tmp_path: Path) -> None:
    check = SuiteCheck("c", "leakage", "exact", op="<=", threshold=0.1)
    unknown = SuiteCheck("d", "leakage", "near", op="<=", threshold=0.1)
    result = SuiteResult(
        "leakage", (Finding("c", "exact", 0.5, 10, evidence={"keys": ["a"]}),),
        (Table("T", ("x",), ((1,), (float("nan"),))),), (Bars("B", ("x",), (np.float64(1.0),)),), {"train": "t"},
        ("No crops.",), {"n": np.int64(3), "where": Path("p")},
    )  # fmt: skip
    loaded = load_policy("leakage")
    part = part_of(result, [check, unknown])
    assert [len(block.assessed()) for block in part.blocks] == [1, 0]
    section = part.section
    assert section["tables"][0] == {"title": "T", "columns": ["x"], "rows": [[1], [None]], "note": ""}
    assert section["charts"][0]["values"] == [1.0]
    assert section["data"] == {"n": 3, "where": "p"}
    changed = LoadedPolicy(type(loaded.policy)((check, unknown)), "here", "0")
    report = assemble([part], changed)
    first, empty = report["checks"]
    assert (first["verdict"], first["comparisons"][0]["evidence"]) == ("FAIL", {"keys": ["a"]})
    assert (empty["id"], empty["verdict"]) == ("d", "INCONCLUSIVE")  # a check without a number does not pass
    assert json.loads(json.dumps(jsonable(np.arange(2)))) == [0, 1]


def test_ready_policies_have_unique_checks_and_can_be_joined() -> None:
    assert {"default", "representation", "robustness", "leakage", "seer-people", "seer-geography"} <= set(shipped())
    loaded = load_policy(None, SUITES)
    assert {check.suite for check in loaded.policy.check} == set(SUITES)
    assert loaded.source == "shipped:" + "+shipped:".join(("default", *SUITES[1:]))
    assert len(loaded.sha256) == 64
    for name in shipped():
        assert load_policy(name).policy.title


def test_seer_people(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    path = predictions(
        tmp_path, 6000, skin=generator.integers(1, 7, 6000), gender=generator.choice(["f", "m"], 6000),
        age=generator.integers(10, 90, 6000),
    )  # fmt: skip
    report = audit(["fairness"], Inputs(path), load_policy("seer-people"))
    columns = [tuple(entry["columns"]) for entry in report["groups"]]
    assert columns == [("skin",), ("gender",), ("age",), ("gender", "skin")]
    sizes = {entry["group"]["skin"]: entry["n"] for entry in report["groups"][0]["groups"]}
    frame = pd.read_csv(path)
    assert sizes == {"lighter": int((frame.skin <= 3).sum()), "darker": int((frame.skin > 3).sum())}
    ages = {entry["group"]["age"]: entry["n"] for entry in report["groups"][2]["groups"]}
    assert ages["30-44"] == int(((frame.age >= 30) & (frame.age < 45)).sum())
    assert list(ages) == ["<18", "18-29", "30-44", "45-69", "70+"]


def test_seer_geography(tmp_path: Path) -> None:
    rows, homes = 6000, 120
    generator = np.random.default_rng(2)
    home = np.arange(rows) % homes
    income = np.exp(generator.uniform(2, 9, homes))[home]
    path = predictions(
        tmp_path, rows, household=[f"h{h}" for h in home], income=income.round(2),
        region=np.array(["Africa", "Asia", "Europe"])[home % 3],
    )  # fmt: skip
    frame = pd.read_csv(path)
    for rank in range(1, 6):
        frame[f"top{rank}"] = frame.prediction if rank == 1 else None
        frame[f"score{rank}"] = 0.9 if rank == 1 else None
    frame.to_csv(path, index=False)
    report = audit(["fairness"], Inputs(path), load_policy("seer-geography"))
    by = {check["id"]: check for check in report["checks"]}
    rates = {tuple(r["group"].values()): r for r in by["household-hit-rate"]["comparisons"]}
    assert {("low",), ("medium",), ("high",), ("Africa",), ("Africa", "low")} <= set(rates)
    right = (frame.label == frame.prediction).groupby(frame.household).mean()
    inside = frame.groupby("household").region.first()[right.index] == "Africa"
    assert rates["Africa",]["value"] == pytest.approx(right[inside].mean() - right[~inside].mean())
    assert by["accuracy"]["method"].startswith("bootstrap of whole clusters by 'household'")
    assert any("Published" in table["title"] for table in report["sections"]["fairness"]["tables"])


def test_seer_labels_needs_no_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    rows = 2000
    classes = np.array(["people", "face", "monkey", "chair", "table", "cup"])
    frame = pd.DataFrame({
        "key": [f"k{i}" for i in range(rows)], "label": "", "skin": generator.integers(1, 7, rows),
        "gender": generator.choice(["f", "m"], rows), "age": generator.integers(10, 90, rows),
    })  # fmt: skip
    for rank in range(1, 6):  # monkeys are among the five best of darker skin alone
        frame[f"top{rank}"] = classes[np.where(frame.skin > 3, rank, (rank + 2) % 6)]
        frame[f"score{rank}"] = 0.9 / rank
    frame["prediction"] = frame.top1
    frame.to_csv(tmp_path / "p.csv", index=False)
    report = audit(["fairness"], Inputs(tmp_path / "p.csv"), load_policy("seer-labels"))
    values = {r["group"].get("skin"): r["value"] for r in report["checks"][0]["comparisons"] if len(r["group"]) == 1}
    assert (values["darker"], values["lighter"]) == (1.0, 0.0)
    assert (report["inputs"]["rows"], report["inputs"]["unlabelled"], report["exit_code"]) == (rows, 0, 3)


@pytest.mark.parametrize(
    ("value", "bound", "text"),
    [(0.0102, 0.01, "1.02"), (0.07004, 0.07, "7.004"), (0.01, 0.01, "1.0"), (0.034, 0.01, "3.4"), (0.0, 0.01, "0.0")],
)
def test_a_value_is_not_rounded_onto_its_bound(value: float, bound: float, text: str) -> None:
    assert _apart(value, (-math.inf, bound), True) == text
