"""What a shard set holds: counts, shares and associations against plain loops over the samples, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.audit.groups import Bin
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.representation import METRICS, audit_representation
from seerctl.audit.suite import Finding, SuiteResult
from seerctl.errors import UsageError
from seerctl.shards.index import ShardSet
from seerctl.stats import newcombe, wilson
from tests.streams import meta_of, shards_of, stream_of


def _rows(count: int, seed: int, share: float) -> list[dict[str, Any]]:
    """Samples whose role depends on their gender; some lack a tone, and ages are numbers of which many differ."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        gender = "f" if generator.random() < share else "m"
        role = "nurse" if generator.random() < (0.7 if gender == "f" else 0.2) else "smith"
        tone = ("light", "dark", None)[int(generator.integers(0, 3))]
        if gender == "m" and tone == "dark":
            tone = "light"
        rows.append({"gender": gender, "tone": tone, "label": role, "age": 18 + number / 7, "kind": 1 + number % 2})
    return rows


def _set(where: Path, rows: list[dict[str, Any]]) -> Path:
    samples = []
    for number, columns in enumerate(rows):
        data = f"{where.name} {number}".encode()
        samples.append((data, meta_of(data, f"{number}.jpg", columns)))
    shards_of(where, stream_of(samples), maxcount=1000)
    return where


ROWS = _rows(2000, 0, 0.3)
OTHER = _rows(300, 1, 0.5)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sets")
    return _set(root / "one", ROWS), _set(root / "other", OTHER)


def check(metric: str, **fields: Any) -> SuiteCheck:
    """A check whose bounds do not matter here: the gate has tests of its own."""
    return SuiteCheck("c", "representation", metric, **{"op": "<=", "threshold": 1.0, **fields})


def found(data: Path | tuple[Path, ...], one: SuiteCheck, *groups: str, **more: Any) -> dict[tuple[Any, ...], Finding]:
    """The findings of one check by the values of their group (and class)."""
    result = audit_representation([data] if isinstance(data, Path) else list(data), [one], groups=groups, **more)
    by_group = {(*f.group.values(), *([f.cls] if f.cls else [])): f for f in result.findings}
    assert len(by_group) == len(result.findings)
    return by_group


def test_counts_and_shares(sets: tuple[Path, Path]) -> None:
    counts = Counter(row["gender"] for row in ROWS)
    by_count, by_share = (found(sets[0], check(metric), "gender") for metric in ("count", "share"))
    assert {key[0]: finding.value for key, finding in by_count.items()} == counts
    for key, finding in by_share.items():
        assert finding.value == counts[key[0]] / 2000
        assert (finding.n, finding.interval) == (2000, None)  # a census is exact
        assert finding.evidence["samples"] == counts[key[0]]


def test_intersections_name_the_combinations_that_are_empty(sets: tuple[Path, Path]) -> None:
    counts = Counter((row["gender"], row["tone"]) for row in ROWS if row["tone"])
    by_count = found(sets[0], check("count", groups=("gender*tone",)))
    assert {key: finding.value for key, finding in by_count.items()} == {**counts, ("m", "dark"): 0}
    assert by_count["m", "dark"].group == {"gender": "m", "tone": "dark"}
    by_share = found(sets[0], check("share", groups=("gender*tone",)))
    assert by_share["f", "dark"].value == counts["f", "dark"] / sum(counts.values())
    missing = found(sets[0], check("missing", groups=("gender*tone",)))
    assert missing["any", "any"].value == sum(row["tone"] is None for row in ROWS) / 2000


def test_gaps_to_even_and_to_given_shares(sets: tuple[Path, Path]) -> None:
    share = sum(row["gender"] == "f" for row in ROWS) / 2000
    assert found(sets[0], check("share_gap"), "gender")["f",].value == pytest.approx(share - 0.5)
    given = check("share_gap", shares={"f": 0.25, "m": 0.75})
    assert found(sets[0], given, "gender")["f",].value == pytest.approx(share - 0.25)
    largest = found(sets[0], check("representation_bias"), "gender")["any",]
    assert largest.value == pytest.approx(abs(share - 0.5))
    with pytest.raises(UsageError, match=r"no value 'w'\. "):
        found(sets[0], check("share_gap", shares={"w": 0.25, "m": 0.75}), "gender")


def test_shifts_between_two_sets(sets: tuple[Path, Path]) -> None:
    one, two = (sum(row["gender"] == "f" for row in rows) / len(rows) for rows in (ROWS, OTHER))
    shifts = found(sets, check("share_shift", sample=True), "gender")
    assert shifts["f",].value == pytest.approx(one - two)
    assert shifts["f",].interval is not None
    expected = newcombe(one * 2000, 2000, two * 300, 300, 0.01)
    assert shifts["f",].interval(0.01) == pytest.approx((float(expected.low), float(expected.high)))
    with pytest.raises(UsageError, match="compares two shard sets"):
        found(sets[0], check("share_shift"), "gender")


def test_associations_against_a_plain_loop(sets: tuple[Path, Path]) -> None:
    pairs = found(sets[0], check("association", sample=True), "gender")
    assert set(pairs) == {(gender, role) for gender in "fm" for role in ("nurse", "smith")}
    f = [row for row in ROWS if row["gender"] == "f"]
    m = [row for row in ROWS if row["gender"] == "m"]
    nurses = [sum(row["label"] == "nurse" for row in rows) for rows in (f, m)]
    finding = pairs["f", "nurse"]
    assert finding.value == pytest.approx(nurses[0] / len(f) - nurses[1] / len(m))
    assert finding.n == len(f)
    expected = newcombe(nurses[0], len(f), nurses[1], len(m), 0.05)
    assert finding.interval is not None
    assert finding.interval(0.05) == pytest.approx((float(expected.low), float(expected.high)))
    largest = found(sets[0], check("association_bias"), "gender")["any", "label"]
    assert largest.value == pytest.approx(abs(finding.value))
    rates = [nurses[0] / len(f), nurses[1] / len(m)]
    assert largest.evidence["rate"] in [pytest.approx(rate) for rate in (*rates, *(1 - rate for rate in rates))]
    v = found(sets[0], check("cramers_v"), "gender")["any", "label"]
    table = np.array([[nurses[0], len(f) - nurses[0]], [nurses[1], len(m) - nurses[1]]], dtype=float)
    phi = (table[0, 0] * table[1, 1] - table[0, 1] * table[1, 0]) / np.sqrt(np.prod([*table.sum(0), *table.sum(1)]))
    assert v.value == pytest.approx(abs(phi))  # of two by two, V is |phi|
    bits = found(sets[0], check("mutual_information"), "gender")["any", "label"].value
    p = table / table.sum()
    assert bits == pytest.approx(float((p * np.log2(p / np.outer(p.sum(1), p.sum(0)))).sum()))


def test_groups_too_small_are_not_assessed(sets: tuple[Path, Path]) -> None:
    pairs = found(sets[0], check("association", min_n=1500, cls="nurse"), "gender")
    assert set(pairs) == {("f", "nurse"), ("m", "nurse")}
    assert all("1500 needed" in (finding.reason or "") for finding in pairs.values())
    nothing = found(sets[0], check("association_bias", min_n=1500), "gender")
    assert nothing["any", "label"].reason


def test_samples_of_a_larger_population_get_intervals(sets: tuple[Path, Path]) -> None:
    count = sum(row["gender"] == "f" for row in ROWS)
    finding = found(sets[0], check("share_gap", sample=True, shares={"f": 0.3, "m": 0.7}), "gender")["f",]
    assert finding.interval is not None
    expected = wilson(count, 2000, 0.05)
    assert finding.interval(0.05) == pytest.approx((float(expected.low) - 0.3, float(expected.high) - 0.3))
    low, high = finding.interval(0.001)
    assert low < finding.interval(0.05)[0] < finding.value < finding.interval(0.05)[1] < high


def test_columns_can_be_made_of_others(sets: tuple[Path, Path]) -> None:
    recipes = {"old": Bin("age", edges=(100.0,), labels=("no", "yes"), name="old")}
    counts = found(sets[0], check("count"), "old", recipes=recipes)
    assert counts["yes",].value == sum(row["age"] >= 100 for row in ROWS)


def test_the_description(sets: tuple[Path, Path]) -> None:
    result = audit_representation(sets, [], groups=["gender", "tone"])
    assert isinstance(result, SuiteResult)
    assert result.findings == ()
    with ShardSet.open(sets[0]) as shards:
        assert result.inputs["data"][0]["index_sha256"] == shards.sha256
    columns = {row["column"]: row for row in result.data["columns"]}
    assert columns["age"]["values"] is None  # more values than the index counts: from the samples themselves
    assert columns["age"]["mean"] == pytest.approx(np.mean([row["age"] for row in ROWS]))
    assert columns["age"]["median"] == pytest.approx(np.median([row["age"] for row in ROWS]))
    assert columns["kind"]["mean"] == pytest.approx(1.5)  # from the index alone
    assert columns["tone"]["missing"] == pytest.approx(sum(row["tone"] is None for row in ROWS) / 2000)
    assert [entry["columns"] for entry in result.data["groupings"]] == [["gender"], ["tone"], ["gender", "tone"]]
    titles = [table.title for table in result.tables]
    assert titles == [
        "Columns", "Shares: gender", "Shares: tone", "Shares: gender x tone", "Association of groups and labels",
        "Groups and labels that go together or avoid each other",
    ]  # fmt: skip
    assert "1 of the 4 combinations have no sample" in result.tables[3].note
    json.dumps(result.data, allow_nan=False)
    for table in result.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    for chart in result.charts:
        assert len(chart.labels) == len(chart.values) == len(chart.low or ()) == len(chart.high or ())


def test_a_set_without_labels_is_not_assessed_for_associations(tmp_path: Path) -> None:
    data = _set(tmp_path / "bare", [{"gender": "fm"[number % 2]} for number in range(20)])
    finding = found(data, check("association"), "gender")["any",]
    assert finding.reason == "no label column: the set has no 'label'"


def test_a_column_in_which_no_sample_has_a_value(tmp_path: Path) -> None:
    data = _set(tmp_path / "empty", [{"gender": "f", "tone": "", "label": "x"} for _ in range(5)])
    assert found(data, check("share"), "tone")["any",].reason == "no sample has a value"
    assert found(data, check("missing"), "tone")["any",].value == 1.0
    assert found(data, check("cramers_v"), "gender")["any", "label"].reason


@pytest.mark.parametrize(
    ("one", "groups", "message"),
    [
        (check("share"), [], "check 'c' has no groups"),
        (check("share"), ["gendre"], "no column 'gendre'. Did you mean 'gender'"),
        (check("association", columns=("rolle",)), ["gender"], "no column 'rolle'"),
        (check("association", cls="pilot"), ["gender"], "'label' has no value 'pilot'"),
        (check("association"), ["label"], "'label' is a group and the label"),
        (check("share", k=3), ["gender"], "share has no use for 'k'"),
        (check("count", sample=True), ["gender"], "count has no use for 'sample'"),
        (check("share", shares={"f": 1.0}), ["gender"], "share has no use for 'shares'"),
        (check("share", cls="f"), ["gender"], "share has no use for 'positive'"),
        (check("share", against="rest", threshold=None, op=None), ["gender"], "differences already"),
        (check("share"), ["age"], "column 'age' has 2,000 values, too many to group by"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sets: tuple[Path, Path], one: SuiteCheck, groups: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        audit_representation([sets[0]], [one], groups=groups)


def test_every_metric_has_findings(sets: tuple[Path, Path]) -> None:
    for metric in METRICS:
        assert all(np.isfinite(f.value) for f in found(sets, check(metric), "gender").values()), metric
