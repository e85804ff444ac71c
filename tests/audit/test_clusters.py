"""The bootstrap of rows and of clusters: against closed forms, against a plain loop, and by its coverage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seerctl.audit import clusters as module
from seerctl.audit.clusters import make_frame, with_spread
from seerctl.audit.counts import count
from seerctl.audit.fairness import audit_fairness
from seerctl.audit.gate import Block, make_block
from seerctl.audit.policy import Check, load_policy
from seerctl.columns import Column
from seerctl.errors import UsageError
from seerctl.stats import newcombe, z_quantile


def households(
    generator: np.random.Generator, number: int, rows: int, spread: float, rate: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Household of each row, its group (whole households), and whether the answer is right."""
    house = np.repeat(np.arange(number), rows)
    group = (np.arange(number) % 3)[house]
    chance = generator.beta(rate / spread, (1 - rate) / spread, number) if spread else np.full(number, rate)
    return house.astype(np.int32), group.astype(np.int32), generator.random(len(house)) < chance[house]


def block_of(check: Check, group: np.ndarray, right: np.ndarray, label: np.ndarray | None = None) -> tuple[Block, Any]:
    label = np.ones(len(group), dtype=np.int32) if label is None else label
    prediction = np.where(right, label, 1 - label).astype(np.int32)
    columns = {"g": Column(group, ("a", "b", "c"))}
    counts = count(label, prediction, 2, columns, [("g",)])[("g",)]
    return make_block(check, counts, ("0", "1")), (label, prediction, 2, columns)


def drawn(block: Block, data: Any, cluster: np.ndarray | None, replicates: int = 1000, **keys: Any) -> Block:
    frame = make_frame(*data, cluster=cluster)
    options = {"seed": 0, "min_clusters": 10, "what": "x", **keys}
    return with_spread([block], frame, data[3], ("0", "1"), replicates=replicates, **options)[0]


ACCURACY = Check("a", "accuracy")


def test_rows_drawn_again_say_what_newcombe_says() -> None:
    _, group, right = households(np.random.default_rng(0), 3000, 1, 0.0)
    block, data = block_of(ACCURACY, group, right)
    z = z_quantile(np.full((3, 1), 0.001))
    ours, plain = drawn(block, data, None, 4000).interval(z), block.interval(z)
    np.testing.assert_allclose(ours.value, plain.value)
    np.testing.assert_allclose(ours.low, plain.low, atol=3e-3)
    np.testing.assert_allclose(ours.high, plain.high, atol=3e-3)
    again = drawn(block, data, None, 4000).interval(z)
    np.testing.assert_array_equal(again.low, ours.low)
    other = drawn(block, data, None, 4000, seed=1).interval(z)
    assert (other.low != ours.low).any()


def test_clusters_against_a_plain_loop_over_replicates() -> None:
    generator = np.random.default_rng(1)
    house, _, right = households(generator, 60, 7, 0.4)
    group = generator.integers(0, 3, len(house)).astype(np.int32)  # households are in several groups here
    label = generator.integers(0, 2, len(house)).astype(np.int32)
    for check in (ACCURACY, Check("t", "tpr", positive="1"), Check("p", "precision", positive="1")):
        block, data = block_of(check, group, right, label)
        ours = drawn(block, data, house, 3000)
        gaps = []
        for _ in range(3000):
            chosen = generator.integers(0, 60, 60)
            rows = np.concatenate([np.arange(7 * h, 7 * h + 7) for h in chosen])
            values = block_of(check, group[rows], right[rows], label[rows])[0]
            gaps.append((values.own.value() - values.other.value())[:, 0])  # type: ignore[union-attr]
        wanted = np.std(gaps, axis=0) * np.sqrt(60 / 59)
        own, other, r = ours.own, ours.other, ours.correlation
        assert other is not None
        assert r is not None
        one, two = (s.value() * (1 - s.value()) / s.effective for s in (own, other))  # type: ignore[operator]
        found = np.sqrt(one + two - 2 * r * np.sqrt(one * two))[:, 0]
        np.testing.assert_allclose(found, wanted, rtol=0.12)


def test_rows_that_repeat_within_a_household_count_once() -> None:
    house, group, right = households(np.random.default_rng(2), 300, 1, 0.0)
    block, data = block_of(ACCURACY, np.repeat(group, 20), np.repeat(right, 20))
    ours = drawn(block, data, np.repeat(house, 20), 4000)
    np.testing.assert_allclose(ours.own.effective, 100, rtol=0.1)
    z = z_quantile(np.full((3, 1), 0.05))
    single = newcombe(*(np.bincount(group, right)[:1], 100, right.sum() - np.bincount(group, right)[:1], 200))
    assert float(ours.interval(z).low[0, 0]) == pytest.approx(float(single.low[0]), abs=0.012)


def test_intervals_hold_what_they_promise_for_households() -> None:
    generator, z = np.random.default_rng(3), z_quantile(np.full((3, 1), 0.05))
    inside = naive = 0
    sets = 150
    for _ in range(sets):
        house, group, right = households(generator, 90, 10, 0.3)
        block, data = block_of(ACCURACY, group, right)
        gap, plain = drawn(block, data, house, 200).interval(z), block.interval(z)
        inside += int(((gap.low < 0) & (gap.high > 0)).sum())
        naive += int(((plain.low < 0) & (plain.high > 0)).sum())
    assert inside / (3 * sets) > 0.91  # nominal 0.95; the three gaps of a set are dependent
    assert naive / (3 * sets) < 0.8  # rows taken for independent: what the bootstrap is there for


def test_no_events_still_allow_what_so_many_households_allow() -> None:
    house, group, _ = households(np.random.default_rng(0), 90, 50, 0.0)
    check = Check("h", "selection_rate", positive="1", against="threshold", threshold=0.05, op="<=")
    label = np.zeros(len(group), dtype=np.int32)
    block, data = block_of(check, group, np.ones(len(group), dtype=bool), label)
    ours = drawn(block, data, house, 200)
    np.testing.assert_array_equal(ours.own.effective, 30)
    high = ours.interval(z_quantile(np.full((3, 1), 0.05))).high
    assert (high > 0.11).all()  # 0 of 30 households, not 0 of 1,500 rows


def write(path: Path, generator: np.random.Generator, number: int, rows: int = 10) -> pd.DataFrame:
    house, group, right = households(generator, number, rows, 0.3)
    label = generator.integers(0, 2, len(house))
    frame = pd.DataFrame({
        "key": [f"k{i}" for i in range(len(house))], "label": label, "prediction": np.where(right, label, 1 - label),
        "region": np.array(["a", "b", "c"])[group], "home": [f"h{h}" for h in house],
    })  # fmt: skip
    frame.to_csv(path, index=False)
    return frame


PLAIN = '[[check]]\nid = "acc"\nmetric = "accuracy"\ngroups = ["region"]\ntolerance = 0.2\n'
POLICY = PLAIN + '[data]\ncluster = "home"\n'


def report_of(tmp_path: Path, policy: str) -> dict[str, Any]:
    (tmp_path / "audit.toml").write_text(policy)
    return audit_fairness(tmp_path / "p.csv", load_policy(tmp_path / "audit.toml"))


def test_a_policy_that_names_a_household(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", np.random.default_rng(0), 300)
    report = report_of(tmp_path, POLICY)
    check = report["checks"][0]
    assert check["method"] == "bootstrap of whole clusters by 'home', 1000 replicates, seed 0"
    assert {record["clusters"] for record in check["comparisons"]} == {100}
    wide, narrow = check["comparisons"][0], report_of(tmp_path, PLAIN)["checks"][0]["comparisons"][0]
    assert wide["high"] - wide["low"] > 1.3 * (narrow["high"] - narrow["low"])
    rows = report_of(tmp_path, PLAIN + '[stats]\nmethod = "bootstrap"\nreplicates = 200\nseed = 7\n')
    assert rows["checks"][0]["method"] == "bootstrap of rows, 200 replicates, seed 7"
    assert rows["policy"]["stats"]["replicates"] == 200


def test_too_few_households_are_not_judged(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", np.random.default_rng(0), 24)
    report = report_of(tmp_path, POLICY)
    assert report["exit_code"] == 6
    assert {record["reason"] for record in report["not_assessed"]} == {"8 clusters, 10 needed"}
    assert report_of(tmp_path, POLICY + "min_clusters = 8\n")["not_assessed"] == []


def test_rows_without_a_household_are_households_of_their_own(tmp_path: Path) -> None:
    frame = write(tmp_path / "p.csv", np.random.default_rng(0), 60)
    frame.loc[frame.region == "a", "home"] = None
    frame.to_csv(tmp_path / "p.csv", index=False)
    found = {r["group"]["region"]: r["clusters"] for r in report_of(tmp_path, POLICY)["checks"][0]["comparisons"]}
    assert found == {"a": 200, "b": 20, "c": 20}


def test_means_over_classes_and_groups_without_a_value(tmp_path: Path) -> None:
    frame = write(tmp_path / "p.csv", np.random.default_rng(0), 300)
    frame["label"] = frame.label.map({0: "cat", 1: "dog"})
    frame["prediction"] = frame.prediction.map({0: "cat", 1: "dog"})
    frame.loc[::50, "region"] = None
    frame.loc[::70, "label"] = None
    frame.to_csv(tmp_path / "p.csv", index=False)
    clustered, plain = (
        report_of(tmp_path, policy.replace('"accuracy"', '"tpr"\naverage = "macro"')) for policy in (POLICY, PLAIN)
    )
    ours = {r["group"]["region"]: r for r in clustered["checks"][0]["comparisons"]}
    theirs = {r["group"]["region"]: r for r in plain["checks"][0]["comparisons"]}
    assert set(ours) == set(theirs) == {"a", "b", "c"}
    for name, record in ours.items():
        assert record["value"] == pytest.approx(theirs[name]["value"], abs=1e-12)
        assert 1.2 < (record["high"] - record["low"]) / (theirs[name]["high"] - theirs[name]["low"]) < 4


def test_many_cells_go_by_another_way_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    house, group, right = households(np.random.default_rng(5), 90, 4, 0.2)
    block, data = block_of(ACCURACY, group, right)
    few, clustered = make_frame(*data), make_frame(*data, cluster=house)
    monkeypatch.setattr(module, "JOINT_CELLS", 0)
    many, sparse = make_frame(*data), make_frame(*data, cluster=house)
    for one, two in ((few, many), (clustered, sparse), (few, clustered)):
        np.testing.assert_array_equal(one.counts, two.counts)
        np.testing.assert_array_equal(one.label, two.label)
        np.testing.assert_array_equal(one.columns["g"], two.columns["g"])
    assert clustered.clusters is not None
    np.testing.assert_array_equal(np.asarray(clustered.clusters.sum(0)).ravel(), clustered.counts)
    monkeypatch.setattr(module, "_MOST_DRAWS", 10)
    with pytest.raises(UsageError, match="too many"):
        drawn(block, data, None)


@pytest.mark.parametrize("policy", [PLAIN, POLICY, PLAIN + '[stats]\nmethod = "bootstrap"\n'])
def test_columns_without_a_value_and_a_single_group_are_inconclusive(policy: str, tmp_path: Path) -> None:
    frame = write(tmp_path / "p.csv", np.random.default_rng(0), 60)
    frame.assign(region=None).to_csv(tmp_path / "p.csv", index=False)
    assert report_of(tmp_path, policy)["exit_code"] == 6
    frame.assign(region="x").to_csv(tmp_path / "p.csv", index=False)
    assert report_of(tmp_path, policy)["not_assessed"][0]["reason"] == "no other group to compare with"
    frame.assign(home="h").to_csv(tmp_path / "p.csv", index=False)
    one = report_of(tmp_path, policy)
    reasons = {record["reason"] for record in one["not_assessed"]}
    assert reasons == ({"1 clusters, 10 needed"} if policy == POLICY else set())
