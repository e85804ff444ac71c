"""Comparisons against references worked out in other ways, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from seerctl.errors import GateFailed, Inconclusive, InputError, UsageError
from seerctl.probes.compare import check_worse, compare, is_audit, markdown, read_contestant
from seerctl.probes.registry import run_protocol
from seerctl.stats import mcnemar, newcombe, newcombe_paired
from tests.feature_files import clouds, write_features

LINEAGE = {"made_by": "extract", "batch": 64}


def probe(where: Path, name: str, *, noise: float, start: int = 1000, seed: int = 7, parameters: int = 0) -> Path:
    """The report of a kNN probe on 200 rows, of features that are blurred by `noise`; the rows are the same."""
    lineage = {**LINEAGE, **({"parameters": parameters, "images_seen": 10 * parameters} if parameters else {})}
    files = {}
    for side, count, first, of in (("train", 300, 0, 1), ("test", 200, start, seed)):
        points, labels = clouds(count, classes=6, seed=of)
        points = points + noise * np.random.default_rng(of + 50).normal(size=points.shape).astype(np.float32)
        groups = [("old", "young")[row % 2] for row in range(count)]
        columns = {"label": labels, "group": groups}
        files[side] = write_features(where / f"{name}-{side}.h5", points, columns, start=first, lineage=lineage)
    result = run_protocol("knn", files, "label", {"k": [5]})
    result.save_predictions(where / f"{name}.csv")
    result.save(where / f"{name}.json")
    return where / f"{name}.json"


def test_mcnemar_is_the_binomial_test() -> None:
    for first, second in ((0, 0), (3, 3), (1, 9), (30, 12), (0, 6)):
        expected = binomtest(first, first + second).pvalue if first + second else 1.0
        assert mcnemar(first, second) == pytest.approx(expected)


def test_the_paired_interval_of_a_published_example() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 2635-2650), table II, method 10."""
    found = newcombe_paired(36, 12, 2, 0)
    assert (float(found.low), float(found.high)) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert float(found.value) == pytest.approx(10 / 50)
    unpaired = newcombe(50, 100, 40, 100)
    independent = newcombe_paired(20, 30, 20, 30)  # phi is 0
    assert float(independent.low) == pytest.approx(float(unpaired.low))
    assert float(independent.high) == pytest.approx(float(unpaired.high))


def test_differences_follow_from_the_tables(tmp_path: Path) -> None:
    paths = [probe(tmp_path, "a", noise=2.0), probe(tmp_path, "b", noise=0.5), probe(tmp_path, "c", noise=1.5)]
    found = compare([read_contestant(path) for path in paths])
    assert found["correction"] == {"intervals": "bonferroni", "p": "holm", "comparisons": 6}
    frames = [pd.read_csv(path.with_suffix(".csv")).set_index("key") for path in paths]
    hits = [(frame.label == frame.prediction) for frame in frames]
    for record in found["differences"]:
        other = hits[[str(path) for path in paths].index(record["report"])]
        if record["metric"] == "top1":
            assert record["value"] == pytest.approx(other.mean() - hits[0].mean())
            assert (record["gained"], record["lost"]) == ((other & ~hits[0]).sum(), (hits[0] & ~other).sum())
            assert record["p"] == pytest.approx(mcnemar(record["gained"], record["lost"]))
            assert record["level"] == pytest.approx(1 - 0.05 / 6)
        if record["metric"] == "mean_per_class":
            recalls = [h.groupby(frames[0].label).mean().mean() for h in (other, hits[0])]
            assert record["value"] == pytest.approx(recalls[0] - recalls[1])
        assert record["method"].startswith("newcombe, paired")
        assert record["low"] < record["value"] < record["high"]
        assert record["p"] <= record["p_adjusted"] <= 1
    text = markdown(found)
    assert f"| {paths[1]} | top1 | +" in text


def test_pairing_is_by_key_not_by_order(tmp_path: Path) -> None:
    one, two = probe(tmp_path, "a", noise=2.0), probe(tmp_path, "b", noise=0.5)
    before = compare([read_contestant(one), read_contestant(two)])["differences"]
    frame = pd.read_csv(two.with_suffix(".csv")).sample(frac=1, random_state=1)
    frame.to_csv(two.with_suffix(".csv"), index=False)
    assert read_contestant(two).why.endswith("has changed since")
    _rename(two, two.with_suffix(".csv"))
    after = compare([read_contestant(one), read_contestant(two)])["differences"]
    assert [(r["value"], r["low"], r["high"]) for r in after] == [
        pytest.approx((r["value"], r["low"], r["high"])) for r in before
    ]  # fmt: skip


def _rename(report: Path, table: Path) -> None:
    import hashlib

    value = json.loads(report.read_text())
    value["predictions"] = {"path": str(table), "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
    report.write_text(json.dumps(value))


def test_without_tables_the_intervals_are_compared(tmp_path: Path) -> None:
    one, two = probe(tmp_path, "a", noise=2.0), probe(tmp_path, "b", noise=0.5)
    paired = compare([read_contestant(one), read_contestant(two)], ["top1"])["differences"][0]
    one.with_suffix(".csv").unlink()
    contestants = [read_contestant(one), read_contestant(two)]
    assert contestants[0].why == f"{one.with_suffix('.csv')} is not there"
    (record,) = compare(contestants, ["top1"])["differences"]
    assert record["method"].endswith("not paired")
    assert record["value"] == pytest.approx(paired["value"])
    a, b = (json.loads(path.read_text())["metrics"]["top1"] for path in (one, two))
    expected = newcombe(b["value"] * 200, 200, a["value"] * 200, 200)
    assert (record["low"], record["high"]) == pytest.approx((float(expected.low), float(expected.high)), abs=1e-9)
    assert record["high"] - record["low"] > paired["high"] - paired["low"]


def test_gate(tmp_path: Path) -> None:
    weak, strong = (read_contestant(probe(tmp_path, n, noise=noise)) for n, noise in (("weak", 3.0), ("strong", 0.1)))
    same = compare([weak, weak], ["top1"])
    check_worse(same, 0.05)
    with pytest.raises(Inconclusive, match="may be worse by more than 0"):
        check_worse(compare([weak, weak], ["mean_per_class"]), 0.0)
    check_worse(compare([weak, strong]), 0.0)
    with pytest.raises(GateFailed, match=r"worse by more than 0\.01: .*weak\.json: top1 -"):
        check_worse(compare([strong, weak]), 0.01)


def test_refusals(tmp_path: Path) -> None:
    one = read_contestant(probe(tmp_path, "a", noise=1.0))
    other_rows = read_contestant(probe(tmp_path, "b", noise=1.0, start=2000))
    other_labels = read_contestant(probe(tmp_path, "c", noise=1.0, seed=9))
    cases: list[tuple[Any, Any, str]] = [
        ([one], UsageError, "one report"),
        ([one, other_rows], InputError, "are not among its 200"),
        ([one, other_labels], InputError, "another label"),
    ]
    for contestants, error, message in cases:
        with pytest.raises(error, match=message):
            compare(contestants)
    with pytest.raises(UsageError, match=r"Did you mean 'top1'"):
        compare([one, one], ["top11"])
    (tmp_path / "x.json").write_text('{"schema": "seerctl.audit/1", "checks": []}')
    assert is_audit(tmp_path / "x.json")
    with pytest.raises(InputError, match="not a report of seerctl probe"):
        read_contestant(tmp_path / "x.json")
