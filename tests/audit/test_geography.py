"""Hit rates by household: the golden numbers, the traps of the published scripts, limits, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.audit.geography import REFERENCE, income_bucket, mean_of_households, measure
from seerctl.audit.measured import Sample
from seerctl.audit.policy import SuiteCheck
from seerctl.errors import InputError, UsageError
from seerctl.predictions import Predictions, read_predictions


def check(household: str | None = "home", **more: Any) -> SuiteCheck:
    fields = {"k": 2, "threshold": 0.5, "op": ">=", "min_n": 1, "household": household, **more}
    if fields.get("against") == "rest":
        del fields["threshold"], fields["op"]
    return SuiteCheck("geo", "fairness", "household_hit_rate", **fields)


def table(tmp_path: Path, rows: list[str], header: str = "home,region,income", **options: Any) -> Predictions:
    path = tmp_path / "p.csv"
    path.write_text(f"key,label,prediction,top1,top2,{header}\n" + "\n".join(rows) + "\n")
    return read_predictions(path, ranked=True, lists=True, **options)


def rates(found: list[Any]) -> dict[tuple[str, ...], float]:
    return {tuple(finding.group.values()): finding.value for finding in found}


# h1 has five stoves, all known; h2 one, unknown. h3 is elsewhere.
STOVES = [
    *(f"a{row},stove,bed,bed,stove,h1,Africa,60" for row in range(5)),
    "b,stove,bed,bed,sofa,h2,Africa,95",
    "c,bed,bed,bed,sofa,h3,Asia,2000",
]


def test_households_are_averaged_not_images(tmp_path: Path) -> None:
    """The published script gives .8333 where its household id is an image id; the paper's definition is .5000."""
    found = measure(table(tmp_path, STOVES), check(), ("region",))
    assert rates(found) == {("Africa",): 0.5, ("Asia",): 1.0}
    africa = found[0]
    assert africa.evidence["mean_over_images"] == pytest.approx(0.8333, abs=1e-4)
    assert (africa.n, africa.evidence["images"]) == (2, 6)
    images = [row.replace(",h1,", f",i{number},") for number, row in enumerate(STOVES)]
    assert rates(measure(table(tmp_path, images), check(), ("region",)))["Africa",] == pytest.approx(5 / 6)


def test_an_image_with_several_labels_counts_once(tmp_path: Path) -> None:
    rows = [
        'x,"[""stove"",""bed"",""sofa""]",bed,bed,cup,h1,Asia,60',  # one of three is right: a hit
        "y,cup,bed,bed,sofa,h1,Asia,60",
        # one picture from two places, with a label each: our keys say so
        "00000000000000aa-00000001,cup,bed,bed,sofa,h2,Asia,60",
        "00000000000000aa-00000002,sofa,bed,bed,sofa,h2,Asia,60",
    ]
    (found,) = measure(table(tmp_path, rows), check(), ("region",))
    assert found.value == pytest.approx((1 / 2 + 1) / 2)
    assert found.evidence["images"] == 3


def test_groups_and_differences_by_hand(tmp_path: Path) -> None:
    made = table(tmp_path, STOVES)
    crossed = measure(made, check(columns=("income",)), ("region", "income"))
    assert rates(crossed) == {("Africa", "low"): 1.0, ("Africa", "medium"): 0.0, ("Asia", "high"): 1.0}
    gap = rates(measure(made, check(columns=("income",), against="rest"), ("income",)))
    assert gap == {("low",): 0.5, ("medium",): -1.0, ("high",): 0.5}


def test_income_buckets() -> None:
    incomes = np.array([0.5, 4.4, 27, 90.0, 90.1, 1808.0, 1808.1, 36_316, 40_000, 1e9])
    assert income_bucket(incomes).tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]  # 0.5 and 40,000 end the published script
    assert all(income_bucket(np.array([x]))[0] == round(math.log(x) / 3) for x in (5, 100, 500, 5000, 30_000))


def test_concepts_with_sets_of_class_names(tmp_path: Path) -> None:
    sets = tmp_path / "concepts.toml"
    sets.write_text(
        '[sets."kitchen stoves"]\nlabels = ["stove", "gas_oven"]\n[sets.beds]\nlabels = ["bed"]\n'
        '[sets.toys]\nlabels = ["teddy bear"]\n'
    )
    rows = [
        'a,kitchen stoves,sofa,sofa,"Gas oven, cooker",h1,Asia,60',
        'b,"[""kitchen stoves"",""beds""]",bed,bed,sofa,h1,Asia,60',
        "c,toys,sofa,sofa,cup,h2,Asia,60",
    ]
    made = table(tmp_path, rows, labels=False)
    (found,) = measure(made, check(labels=str(sets)), ("region",))
    assert found.value == 0.5
    assert found.evidence["unnamed"] == ["toys"]
    alone = table(tmp_path, rows[2:], labels=False)
    with pytest.raises(UsageError, match="no class of the table is in the label set 'toys'"):
        measure(alone, check(labels=str(sets)), ("region",))
    sets.write_text('[sets.stoves]\nlabels = ["stove"]\n')
    with pytest.raises(UsageError, match="no set for the label 'beds'"):
        measure(made, check(labels=str(sets)), ("region",))


def test_limits_count_households() -> None:
    """70 households of 1 to 20 images, their rates spread widely: 95 % of the limits hold the mean of households."""
    generator = np.random.default_rng(6)
    homes = np.repeat(np.arange(70), generator.integers(1, 21, 70))
    held, sets = 0, 800
    for _ in range(sets):
        hit = generator.random(len(homes)) < generator.beta(1.2, 0.6, 70)[homes]
        made = mean_of_households(hit, np.arange(len(homes)), homes)
        assert isinstance(made, Sample)
        low, high = made.estimate(None).limits(0.05)
        held += low <= 2 / 3 <= high
    assert held / sets == pytest.approx(0.95, abs=0.025)
    every = mean_of_households(np.ones(900, bool), np.arange(900), np.repeat(np.arange(3), 300))
    assert isinstance(every, Sample)
    assert every.estimate(None).limits(0.05)[0] < 0.2  # three households, however many images, prove little


def test_groups_of_few_households_are_not_assessed(tmp_path: Path) -> None:
    rows = [f"k{row},bed,bed,bed,cup,h{row % 3},Africa,60" for row in range(90)]
    rows += [f"m{row},bed,bed,bed,cup,g{row % 40},Asia,60" for row in range(90)]
    found = {f.group["region"]: f for f in measure(table(tmp_path, rows), check(min_n=30), ("region",))}
    assert found["Africa"].reason == "3 households, 30 needed"
    assert found["Asia"].reason is None
    gaps = {f.group["region"]: f for f in measure(table(tmp_path, rows), check(min_n=30, against="rest"), ("region",))}
    assert gaps["Asia"].reason == "3 households in the rest, 30 needed"


def test_what_is_refused(tmp_path: Path) -> None:
    made = table(tmp_path, STOVES)
    for wrong, error, message in (
        (check(None), UsageError, "needs 'household', the column of households"),
        (check("hom"), UsageError, "no column 'hom'. Did you mean 'home'"),
        (check(columns=("incme",)), UsageError, "no column 'incme'. Did you mean 'income'"),
        (check(columns=("region",)), InputError, "'region' has the value 'Africa', not an income"),
        (check(at=0.1), UsageError, "has no use for 'at'"),
        (check(k=3), UsageError, "with k = 3 needs top1 to top3 in the table, it has top1 to top2"),
    ):
        with pytest.raises(error, match=message):
            measure(made, wrong, ("region",))
    with pytest.raises(UsageError, match="no column 'regin'"):
        measure(made, check(), ("regin",))
    homeless = [*STOVES, "d,bed,bed,bed,cup,,Asia,60"]
    with pytest.raises(InputError, match="1 of 8 rows have no 'home'"):
        measure(table(tmp_path, homeless), check(), ("region",))
    broke = [*STOVES, "d,bed,bed,bed,cup,h9,Asia,-3"]
    with pytest.raises(InputError, match="'income' has the value '-3'"):
        measure(table(tmp_path, broke), check(columns=("income",)), ("income",))


def test_published_rows_are_whole() -> None:
    assert REFERENCE[0].rows[0][1:4] == (59.7, 78.5, 86.6)
    assert all(len(row) == len(REFERENCE[0].columns) for row in REFERENCE[0].rows)
