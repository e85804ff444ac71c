"""The robustness suite: numbers by hand, pairing, intervals by simulation, lines of other models, invariance pairs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.audit.groups import Bin
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.robustness import METRICS, _difference, _paired, audit_robustness
from seerctl.audit.suite import Finding, SuiteResult
from seerctl.errors import InputError, UsageError
from seerctl.lines import Line, above_line, expit, logit, read_lines
from seerctl.stats import Estimate, newcombe, wilson
from tests.feature_files import key, write_features

Rows = Sequence[Sequence[Any]]


def table(path: Path, rows: Rows, *extra: str) -> Path:
    """A table of (key number, label, prediction, *extra)."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", "prediction", *extra])
        writer.writerows([[key(row[0]), *row[1:]] for row in rows])
    return path


def results(path: Path, right: Sequence[int], *columns: Sequence[Any], names: Sequence[str] = ()) -> Path:
    """A table whose row i has label "a" or "b" and is right where `right` says so."""
    rows = []
    for number, correct in enumerate(right):
        label = "ab"[number % 2]
        rows.append([number, label, label if correct else "ba"[number % 2], *(column[number] for column in columns)])
    return table(path, rows, *names)


def check(metric: str, **settings: Any) -> SuiteCheck:
    settings.setdefault("id", metric)
    if settings.get("against") is None:
        settings |= {"op": "<=", "threshold": 0.5}
    return SuiteCheck(suite="robustness", metric=metric, **{"min_n": 1, **settings})


def one(result: SuiteResult) -> Finding:
    (finding,) = result.findings
    return finding


def limits(finding: Finding, alpha: float = 0.05) -> tuple[float, float]:
    assert finding.interval is not None
    return finding.interval(alpha)


CLEAN = [1] * 8 + [0] * 2
FOG = [1] * 5 + [0] * 4 + [1]


def test_accuracies_and_drops_by_hand(tmp_path: Path) -> None:
    clean, fog = results(tmp_path / "clean.csv", CLEAN), results(tmp_path / "fog-3.csv", FOG)
    checks = [check(name) for name in ("clean_accuracy", "shifted_accuracy", "drop", "relative_drop",
                                       "corruption_error", "relative_corruption_error")]  # fmt: skip
    found = {finding.metric: finding for finding in audit_robustness(clean, [fog], checks).findings}
    values = {name: finding.value for name, finding in found.items()}
    assert values == pytest.approx({
        "clean_accuracy": 0.8, "shifted_accuracy": 0.6, "drop": 0.2, "relative_drop": 0.25, "corruption_error": 0.4,
        "relative_corruption_error": 0.2,
    })  # fmt: skip
    assert found["drop"].group == found["relative_drop"].group == {"shift": "fog:3"}
    assert found["clean_accuracy"].group == {}
    assert all(finding.n == 10 for finding in found.values())
    wanted = wilson(8, 10)
    assert limits(found["clean_accuracy"]) == pytest.approx((float(wanted.low), float(wanted.high)))
    assert set(values) <= set(METRICS)


def test_corruption_error_weighs_corruptions_alike(tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", [1] * 10)
    errors = {"fog-1": 1, "fog-2": 3, "snow-1": 8}
    paths = [results(tmp_path / f"{name}.csv", [0] * wrong + [1] * (10 - wrong)) for name, wrong in errors.items()]
    result = audit_robustness(clean, paths, [check("corruption_error")])
    assert one(result).value == pytest.approx(((0.1 + 0.3) / 2 + 0.8) / 2)
    assert result.data["corruption_error"] == pytest.approx(0.5)
    assert [row[0] for row in result.tables[0].rows] == ["clean", "fog:1", "fog:2", "snow:1"]
    assert result.charts[0].values == pytest.approx((0.1, 0.3, 0.8))


def test_groups_that_lose_more_than_the_rest(tmp_path: Path) -> None:
    groups = ["f", "f", "m", "m"] * 50
    clean = results(tmp_path / "clean.csv", [1] * 200, groups, names=["gender"])
    fog = results(tmp_path / "fog-3.csv", [int(group == "m" or n % 8 < 4) for n, group in enumerate(groups)])
    rest = check("relative_corruption_error", against="rest", tolerance=0.05, min_n=30)
    found = {finding.group["gender"]: finding for finding in
             audit_robustness(clean, [fog], [rest], groups=["gender"]).findings}  # fmt: skip
    assert found["f"].value == pytest.approx(0.5)
    assert found["m"].value == pytest.approx(-0.5)
    low, high = limits(found["f"])
    assert 0.3 < low < 0.5 < high < 0.7
    each = check("drop", groups=("gender",), op="<=", threshold=0.1)
    own = audit_robustness(clean, [fog], [each]).findings
    assert [(dict(f.group), f.value) for f in own] == [
        ({"shift": "fog:3", "gender": "f"}, 0.5), ({"shift": "fog:3", "gender": "m"}, 0.0),
    ]  # fmt: skip
    few = audit_robustness(clean, [fog], [check("drop", groups=("gender",), min_n=101)]).findings
    assert {finding.reason for finding in few} == {"100 rows, 101 needed"}
    by_group = audit_robustness(clean, [fog], [rest], groups=["gender"]).tables[1]
    assert [row[:4] for row in by_group.rows] == [("f", 100, 1.0, 0.5), ("m", 100, 1.0, 0.0)]


def test_groups_made_of_other_columns(tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", CLEAN, [20, 50] * 5, names=["age"])
    fog = results(tmp_path / "fog-3.csv", FOG)
    old = {"age": Bin("age", edges=(40.0,), labels=("young", "old"))}
    found = audit_robustness(clean, [fog], [check("drop", groups=("age",))], recipes=old).findings
    assert [finding.group["age"] for finding in found] == ["young", "old"]


def test_without_groups_the_rest_is_not_assessed(tmp_path: Path) -> None:
    clean, fog = results(tmp_path / "clean.csv", CLEAN), results(tmp_path / "fog-3.csv", FOG)
    rest = check("drop", against="rest", tolerance=0.05)
    assert "pass --groups" in (one(audit_robustness(clean, [fog], [rest])).reason or "")
    assert "pass --shifted" in (one(audit_robustness(clean, [], [check("drop")])).reason or "")
    assert "pass --shifted" in (one(audit_robustness(clean, [], [check("corruption_error")])).reason or "")


def test_names_of_shifts(tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", CLEAN)
    column = results(tmp_path / "x.csv", FOG, ["snow:5"] * 10, names=["corruption"])
    stem, plain = results(tmp_path / "gaussian_noise-2.csv", FOG), results(tmp_path / "sketches.csv", FOG)
    mixed = results(tmp_path / "mixed.csv", FOG, ["snow:5"] * 9 + ["fog:1"], names=["corruption"])
    found = audit_robustness(clean, [column, stem, plain, mixed], [check("drop")]).findings
    assert [finding.group["shift"] for finding in found] == ["snow:5", "gaussian_noise:2", "sketches", "mixed"]
    again = results(tmp_path / "snow-5.csv", FOG)
    with pytest.raises(UsageError, match="'snow:5' again"):
        audit_robustness(clean, [column, again], [check("drop")])


# ------------------------------------------------------------------------------------------------------------ pairing


def test_rows_pair_by_key_in_any_order(tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", CLEAN)
    rows = [[n, "ab"[n % 2], "ab"[n % 2] if FOG[n] else "ba"[n % 2]] for n in reversed(range(10))]
    turned = audit_robustness(clean, [table(tmp_path / "fog-3.csv", rows)], [check("relative_drop")])
    assert one(turned).value == pytest.approx(0.25)


def test_unlabelled_rows_are_left_out_of_both(tmp_path: Path) -> None:
    rows = [[n, "ab"[n % 2] if n < 8 else "", "a"] for n in range(10)]
    clean, fog = table(tmp_path / "clean.csv", rows), table(tmp_path / "fog-1.csv", rows)
    finding = one(audit_robustness(clean, [fog], [check("drop")]))
    assert (finding.n, finding.value) == (8, 0.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[n, "ab"[n % 2], "a"] for n in range(9)], "1 of its 10 keys are missing, 0 are not in it"),
        ([[n, "ab"[n % 2], "a"] for n in range(11)], "0 of its 10 keys are missing, 1 are not in it"),
        ([[n + 5, "ab"[n % 2], "a"] for n in range(10)], "5 of its 10 keys are missing, 5 are not in it"),
        ([[n, "ab"[n % 2] if n != 3 else "a", "a"] for n in range(10)], "1 rows have another label"),
        ([[n, "ab"[n % 2] if n != 3 else "", "a"] for n in range(10)], "1 of its 10 keys are missing"),
    ],
)  # fmt: skip
def test_other_keys_or_labels_are_refused(rows: Rows, message: str, tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", CLEAN)
    with pytest.raises(InputError, match=message):
        audit_robustness(clean, [table(tmp_path / "fog-3.csv", rows)], [check("drop")])


def test_another_data_set_is_compared_unpaired(tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", [1] * 80 + [0] * 20, ["f", "m"] * 50, names=["gender"])
    other = results(tmp_path / "sketches.csv", [1] * 30 + [0] * 30, ["f", "m"] * 30, names=["gender"])
    checks = [check("drop"), check("shifted_accuracy"), check("relative_drop"),
              check("drop", id="by gender", groups=("gender",))]  # fmt: skip
    found = audit_robustness(clean, [], checks, other=[other]).findings
    drop, accuracy, relative, *groups = found
    assert (drop.value, accuracy.value, relative.value) == pytest.approx((0.3, 0.5, 0.375))
    wanted = newcombe(80, 100, 30, 60)
    assert limits(drop) == pytest.approx((float(wanted.low), float(wanted.high)), abs=0.015)
    share = wilson(30, 60)
    assert limits(accuracy) == pytest.approx((float(share.low), float(share.high)), abs=1e-9)
    low, high = limits(relative)
    error = 0.625 * math.sqrt(0.2 / 80 + 0.5 / 30)  # of a ratio of two independent rates, by the delta method
    assert (low, high) == pytest.approx((0.375 - 1.96 * error, 0.375 + 1.96 * error), abs=0.01)
    assert [finding.group for finding in groups] == [{"shift": "sketches", "gender": g} for g in "fm"]
    assert all(finding.value == pytest.approx(0.3) for finding in groups)


# ------------------------------------------------------------------------------------------------ intervals, simulated


@pytest.mark.parametrize("metric", ["drop", "relative_drop"])
@pytest.mark.parametrize(("rows", "cells"), [(60, (0.6, 0.2, 0.05, 0.15)), (300, (0.90, 0.05, 0.03, 0.02)),
                                             (100, (0.5, 0.01, 0.01, 0.48))])  # fmt: skip
def test_paired_intervals_hold_their_level(metric: str, rows: int, cells: tuple[float, ...]) -> None:
    """cells: both right, only clean right, only shifted right, neither."""
    generator = np.random.default_rng(rows)
    p, q = cells[0] + cells[1], cells[0] + cells[2]
    truth = p - q if metric == "drop" else 1 - q / p
    held, runs = 0, 1500
    for _ in range(runs):
        draw = generator.choice(4, rows, p=cells)
        sample = _paired(metric, draw < 2, (draw == 0) | (draw == 2))(np.arange(rows), None)
        assert not isinstance(sample, str)
        low, high = sample.estimate(None).limits(0.05)
        held += low <= truth <= high
    assert 0.935 <= held / runs <= 0.998, held / runs  # nearly all where hardly a row changes


def test_nothing_changed_is_no_proof() -> None:
    same = _difference(np.zeros(100))
    assert not isinstance(same, str)
    low, high = same.estimate(None).limits(0.05)
    assert -0.03 < low < -0.01 < 0.01 < high < 0.03


def test_households_widen_the_limits(tmp_path: Path) -> None:
    homes = [f"h{n // 20}" for n in range(200)]
    clean = results(tmp_path / "clean.csv", [1] * 200, homes, names=["home"])
    fog = results(tmp_path / "fog-3.csv", [int(n // 20 % 2) for n in range(200)])
    alone = limits(one(audit_robustness(clean, [fog], [check("drop")])))
    homes_known = limits(one(audit_robustness(clean, [fog], [check("drop", household="home")])))
    assert homes_known[1] - homes_known[0] > 3 * (alone[1] - alone[0])


# ------------------------------------------------------------------------------------------------ effective robustness


def baselines(path: Path, slope: float = 0.8, intercept: float = -0.4, models: int = 6, **more: str) -> Path:
    rows = [
        {"clean": round(expit(x), 6), "shifted": round(expit(intercept + slope * x), 6), **more}
        for x in np.linspace(-1, 2, models)
    ]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_line_on_logit_axes(suffix: str, tmp_path: Path) -> None:
    line = read_lines(baselines(tmp_path / f"b{suffix}"))[None]
    assert (line.models, line.slope, line.intercept) == pytest.approx((6, 0.8, -0.4), abs=1e-3)
    assert line.at(0.7) == pytest.approx(expit(-0.4 + 0.8 * logit(0.7)), abs=1e-4)
    assert line.error(0.7) < 1e-4


def test_effective_robustness_is_the_height_above_the_line(tmp_path: Path) -> None:
    clean = results(tmp_path / "clean.csv", [1] * 700 + [0] * 300)
    fog, snow = (results(tmp_path / f"{name}.csv", [1] * 600 + [0] * 400) for name in ("fog-3", "snow-3"))
    lines = baselines(tmp_path / "b.csv", shift="fog:3")
    found = audit_robustness(clean, [fog, snow], [check("effective_robustness")], baselines=lines).findings
    expected = expit(-0.4 + 0.8 * logit(0.7))
    assert found[0].value == pytest.approx(0.6 - expected, abs=1e-4)
    assert found[0].evidence["models"] == 6
    low, high = limits(found[0])
    assert low < 0.6 - expected < high
    assert 0.04 < high - low < 0.12  # of two rates of 1,000 rows
    assert "no baseline models" in (found[1].reason or "")


def test_the_line_itself_is_uncertain() -> None:
    sure = Line(8, -0.4, 0.8, 0.01, 0.5, 4.0)
    unsure = Line(8, -0.4, 0.8, 0.5, 0.5, 4.0)
    clean, shifted = Estimate(0.7, 0.7 * 0.3 / 1000, 1000), Estimate(0.6, 0.24 / 1000, 1000)
    narrow, wide = (above_line(line, clean, shifted)(0.05) for line in (sure, unsure))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    spread = [high - low for low, high in (above_line(unsure, clean, shifted)(a) for a in (0.2, 0.05, 0.001))]
    assert spread == sorted(spread)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("clean,shifted\n" + "0.5,0.4\n" * 4, UsageError, "4 baseline models. A line needs 5 or more"),
        ("clean,shifted\n" + "0.5,0.4\n" * 6, UsageError, "one clean accuracy"),
        ("clean,shifted\n0.5,1.4\n", InputError, "row 1: 'shifted' is '1.4'"),
        ("clean,shift\n0.5,fog\n", InputError, "row 1: 'shifted' is None"),
        ("clean,shifted\n", InputError, "no baseline models"),
        ("clean,shifted\nx,0.5\n", InputError, "'clean' is 'x'"),
    ],
)  # fmt: skip
def test_refused_baselines(text: str, kind: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(kind) as caught:
        read_lines(tmp_path / "b.csv")
    assert message in str(caught.value)


def test_refused_baseline_json(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"clean": 0.5}')
    with pytest.raises(InputError, match="not a JSON list"):
        read_lines(tmp_path / "b.json")
    (tmp_path / "b.json").write_text('[{"clean": true, "shifted": 0.5}]')
    with pytest.raises(InputError, match="'clean' is True"):
        read_lines(tmp_path / "b.json")
    with pytest.raises(InputError, match="no such file"):
        read_lines(tmp_path / "none.csv")


# ------------------------------------------------------------------------------------------------------------- pairs


def tones(path: Path, predictions: Sequence[str], objects: Sequence[str], skin: Sequence[str]) -> Path:
    rows = [[n, "a" if n % 2 else "b", p, o, s] for n, (p, o, s) in enumerate(zip(predictions, objects, skin,
            strict=True))]  # fmt: skip
    return table(path, rows, "base", "tone")


PAIRS = ("base", "tone")


def test_equal_predictions_by_hand(tmp_path: Path) -> None:
    clean = tones(tmp_path / "c.csv", "aab" + "bb" + "ab" + "a", "xxxyyzzw", "12312121")
    result = audit_robustness(clean, [], [check("prediction_invariance", columns=PAIRS)])
    finding = one(result)
    # x: 1 of 3 pairs, y: 1 of 1, z: 0 of 1 (its rows are of two tones), w: alone
    assert (finding.value, finding.n, finding.evidence["pairs"]) == (pytest.approx(2 / 5), 3, 5)
    low, high = limits(finding)
    assert 0 <= low < 0.4 < high <= 1
    shown = {row[:2]: row[2:] for row in result.tables[1].rows}
    assert shown == {("1", "2"): (3, pytest.approx(2 / 3)), ("1", "3"): (1, 0.0), ("2", "3"): (1, 0.0)}
    assert any("differ in one attribute" in limit for limit in result.limits)


def test_rows_of_one_variant_are_no_pair(tmp_path: Path) -> None:
    clean = tones(tmp_path / "c.csv", "abab", "xxyy", "1122")
    assert one(audit_robustness(clean, [], [check("prediction_invariance", columns=PAIRS)])).reason


def test_objects_not_pairs_are_independent(tmp_path: Path) -> None:
    """Ten objects in ten tones, half of them always equal: 450 pairs, but the limits are those of ten objects."""
    objects = [chr(97 + n // 10) for n in range(100)]
    predictions = ["a" if n < 50 else str(n) for n in range(100)]
    clean = tones(tmp_path / "c.csv", predictions, objects, [str(n % 10) for n in range(100)])
    finding = one(audit_robustness(clean, [], [check("prediction_invariance", columns=PAIRS)]))
    assert finding.value == 0.5
    low, high = limits(finding)
    wanted = wilson(5, 10)
    assert high - low == pytest.approx(float(wanted.high - wanted.low), rel=0.2)


def test_common_neighbours_by_hand(tmp_path: Path) -> None:
    clean = tones(tmp_path / "c.csv", "aaaaaa", "xxyyzz", "121212")
    angles = np.radians([0, 90, 5, 85, 10, 80])  # tone decides where a picture lies, the object hardly
    apart = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    angles = np.radians([0, 1, 40, 41, 80, 81])  # the object decides
    close = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    for features, k, wanted in ((apart, 2, 0.0), (close, 2, 1.0), (apart, 3, 1 / 3 * 2)):
        path = write_features(tmp_path / "f.h5", features, {"label": ["a"] * 6})
        asked = check("neighbour_invariance", columns=PAIRS, k=k)
        finding = one(audit_robustness(clean, [], [asked], features=path))
        path.unlink()
        if k == 3:  # of four candidates each: two of three are common at least
            assert finding.value >= wanted - 1e-9
        else:
            assert finding.value == pytest.approx(wanted)


def test_refused_features(tmp_path: Path) -> None:
    clean = tones(tmp_path / "c.csv", "aaaaaa", "xxyyzz", "121212")
    features = write_features(tmp_path / "f.h5", np.eye(6, dtype=np.float32), {"label": ["a"] * 6}, start=1)
    with pytest.raises(InputError, match="no features of 1 of the 6"):
        audit_robustness(clean, [], [check("neighbour_invariance", columns=PAIRS)], features=features)
    features = write_features(tmp_path / "h.h5", np.eye(6, dtype=np.float32), {"label": ["a"] * 6}, corruption="fog:3")
    with pytest.raises(InputError, match="corrupted by fog:3"):
        audit_robustness(clean, [], [check("neighbour_invariance", columns=PAIRS)], features=features)
    features = write_features(tmp_path / "g.h5", np.eye(6, dtype=np.float32), {"label": ["a"] * 6})
    with pytest.raises(InputError, match="fewer than 10 pictures of other objects"):
        audit_robustness(clean, [], [check("neighbour_invariance", columns=PAIRS)], features=features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "prediction_invariance"}, "needs two columns"),
        ({"metric": "prediction_invariance", "columns": ("base", "tine")}, "no column 'tine'"),
        ({"metric": "neighbour_invariance", "columns": PAIRS}, "Pass --features"),
        ({"metric": "effective_robustness"}, "Pass --models"),
        ({"metric": "drop", "k": 3}, "drop has no use for 'k'"),
        ({"metric": "drop", "columns": PAIRS}, "drop has no use for 'columns'"),
        ({"metric": "drop", "groups": ("gendre",)}, "no column 'gendre'"),
        ({"metric": "drop", "household": "home"}, "no column 'home'"),
    ],
)  # fmt: skip
def test_refused_checks(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    clean = tones(tmp_path / "c.csv", "aaaaaa", "xxyyzz", "121212")
    with pytest.raises(UsageError) as caught:
        audit_robustness(clean, [clean], [check(**settings)])
    assert message in str(caught.value)
