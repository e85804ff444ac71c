"""Same-attribute retrieval: against brute force, by hand, its limits, and files that do not fit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seerctl.audit import retrieval as module
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.retrieval import Retrieval, measure, open_retrieval, top_k
from seerctl.audit.suite import Finding
from seerctl.errors import InputError, UsageError
from tests.feature_files import write_features


def check(**more: Any) -> SuiteCheck:
    fields = {"k": 3, "threshold": 0.5, "op": ">=", "min_n": 1, "columns": ("gender",), **more}
    if fields.get("against") == "rest":
        del fields["threshold"], fields["op"]
    return SuiteCheck("same", "fairness", "precision_at_k", **fields)


def by_group(found: list[Finding]) -> dict[tuple[str, ...], Finding]:
    return {tuple(finding.group.values()): finding for finding in found}


def people(rows: int, seed: int) -> tuple[np.ndarray, dict[str, list[Any]]]:
    generator = np.random.default_rng(seed)
    gender = [("f", "m", None)[code] for code in generator.choice(3, rows, p=[0.4, 0.5, 0.1])]
    skin = [("light", "dark", None)[code] for code in generator.choice(3, rows, p=[0.5, 0.4, 0.1])]
    points = generator.normal(size=(rows, 12)).astype(np.float32) * generator.uniform(0.1, 9, (rows, 1))
    points[[name == "f" for name in gender], 0] += 8
    return points.astype(np.float32), {
        "gender": gender,
        "skin": skin,
        "person": [f"p{row % 30}" for row in range(rows)],
    }


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_features(tmp_path / "q.h5", *people(120, 1)),
        write_features(tmp_path / "d.h5", *people(300, 2), start=60),  # half of the queries' keys are in it
    )


def brute(pair: Retrieval, k: int, exclude: bool) -> np.ndarray:
    """Precision at k of every query, NaN without the attribute, one query at a time."""
    asked, bank = pair.queries.columns["gender"].texts(), pair.database.columns["gender"].texts()
    found = np.full(len(asked), np.nan)
    for row, name in enumerate(asked):
        near = pair.database.features.astype(np.float64) @ pair.queries.features[row].astype(np.float64)
        order = [r for r in np.argsort(-near, kind="stable") if bank[r]]
        order = [r for r in order if not exclude or pair.database.keys[r] != pair.queries.keys[row]]
        if name:
            found[row] = np.mean([bank[r] == name for r in order[:k]])
    return found


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_equal_to_brute_force(files: tuple[Path, Path], k: int, exclude: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_ROWS", 17)
    monkeypatch.setattr(module, "BANK_ROWS", 40)  # below k too: the best so far are carried on
    pair = open_retrieval(*files, exclude_same=exclude)
    wanted = brute(pair, k, exclude)
    known, share, _ = pair.precision("gender", k)
    np.testing.assert_array_equal(known, ~np.isnan(wanted))
    np.testing.assert_allclose(share, wanted)
    skins = np.array(pair.queries.columns["skin"].texts())
    found = by_group(measure(pair, check(k=k), ("skin",)))
    for (skin,), finding in found.items():
        rows = (skins == skin) & known
        assert finding.value == pytest.approx(wanted[rows].mean())
        assert finding.n == rows.sum()
    gap = by_group(measure(pair, check(k=k, against="rest"), ("skin",)))["dark",]
    assert gap.value == pytest.approx(found["dark",].value - found["light",].value)


def test_among_themselves_no_row_is_its_own_neighbour(files: tuple[Path, Path]) -> None:
    pair = open_retrieval(files[0])
    np.testing.assert_allclose(pair.precision("gender", 4)[1], brute(pair, 4, exclude=True))


def test_by_hand(tmp_path: Path) -> None:
    directions = np.deg2rad([0, 10, 20, 90, 100])
    bank = np.stack([np.cos(directions), np.sin(directions)], 1).astype(np.float32)
    bank[1] *= 50  # length does not count
    database = write_features(tmp_path / "d.h5", bank, {"gender": ["f", "m", "f", None, "m"]}, start=50)
    asked = np.array([[1, 0], [0, 2], [3, 0], [1, 1]], np.float32)
    columns = {"gender": ["f", "m", "x", None], "age": ["young", "old", "young", "old"]}
    queries = write_features(tmp_path / "q.h5", asked, columns)
    found = by_group(measure(open_retrieval(queries, database), check(k=2), ("age",)))
    # [1, 0]: f at 0 and m at 10 degrees: a half; [0, 2]: m at 100 and f at 20 (90 has no gender): a half; x: none
    assert found["young",].value == pytest.approx((0.5 + 0) / 2)
    assert found["old",].value == 0.5
    assert (found["young",].n, found["old",].n) == (2, 1)
    assert found["old",].evidence["by_chance"] == 0.5
    assert found["young",].evidence["by_chance"] == pytest.approx((2 / 4 + 0) / 2)
    young = found["young",].interval
    assert young is not None
    assert young(0.05)[0] <= 0.25 <= young(0.05)[1]


def test_limits_count_queries_not_neighbours(tmp_path: Path) -> None:
    """400 sets of 60 queries whose ten neighbours agree: the limits hold the mean 95 times of 100."""
    generator = np.random.default_rng(8)
    truth, held, sets = 0.8, 0, 400
    pair = open_retrieval(write_features(tmp_path / "q.h5", *people(66, 1)))
    known = np.ones(66, bool)
    for _ in range(sets):
        share = generator.binomial(10, generator.beta(1.6, 0.4, 66)) / 10
        pair._found["gender", 10] = (known, share, share)
        (found,) = measure(pair, check(k=10), ())
        assert found.interval is not None
        low, high = found.interval(0.05)
        held += low <= truth <= high
    assert held / sets == pytest.approx(0.95, abs=0.03)
    pair._found["gender", 10] = (known, np.where(np.arange(66) < 3, 0.9, 1.0), known / 2)
    (found,) = measure(pair, check(k=10), ())
    assert found.interval is not None
    assert found.interval(0.05)[0] < 0.95  # nearly all right in 66 queries is not certainty, in 660 neighbours either


def test_persons_widen_the_limits(files: tuple[Path, Path]) -> None:
    pair = open_retrieval(*files)
    share = np.arange(120) % 30 / 29  # the pictures of a person fare alike
    pair._found["gender", 3] = (np.ones(120, bool), share, share)
    alone, clustered = (measure(pair, check(household=name), ())[0].interval for name in (None, "person"))
    assert alone is not None
    assert clustered is not None
    ratio = np.diff(clustered(0.05))[0] / np.diff(alone(0.05))[0]
    assert 1.8 < ratio < 2.3  # sqrt(4)


def test_top_k_leaves_out_its_own() -> None:
    bank = np.eye(6, dtype=np.float32)
    found = top_k(bank[:3] + 0.1, bank, 1, np.array([0, -1, 2]))
    assert found[1, 0] == 1
    assert found[0, 0] != 0
    assert found[2, 0] != 2


def test_what_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    pair = open_retrieval(*files)
    for wrong, error, message in (
        (check(columns=()), UsageError, "matches one attribute, 'columns' names 0"),
        (check(columns=("gender", "skin")), UsageError, "'columns' names 2"),
        (check(columns=("gendr",)), UsageError, "no column 'gendr'. Did you mean 'gender'"),
        (check(at=0.5), UsageError, "has no use for 'at'"),
        (check(k=400), InputError, "rows have a 'gender', precision at 400 needs 401"),
        (check(household="home"), UsageError, "no column 'home'"),
    ):
        with pytest.raises(error, match=message):
            measure(pair, wrong, ("skin",))
    with pytest.raises(UsageError, match="no column 'tone'"):
        measure(pair, check(), ("tone",))
    points, columns = people(30, 3)
    other = write_features(tmp_path / "o.h5", points, columns, weights_sha256="c" * 64)
    with pytest.raises(UsageError, match=r"its weights_sha256 is 'cccc.*Extract both with the same model"):
        open_retrieval(files[0], other)
    with pytest.raises(UsageError, match="features of 5 dimensions, those of"):
        open_retrieval(files[0], write_features(tmp_path / "s.h5", points[:, :5], columns))
    bare = write_features(tmp_path / "b.h5", points, {"skin": columns["skin"]})
    with pytest.raises(UsageError, match=r"b\.h5: no column 'gender'"):
        measure(open_retrieval(files[0], bare), check(), ("skin",))
    points[4, 2] = np.nan
    with pytest.raises(InputError, match="1 rows have non-finite features"):
        open_retrieval(write_features(tmp_path / "n.h5", points, columns))
    with pytest.raises(InputError, match="no such file"):
        open_retrieval(files[0], tmp_path / "none.h5")


def test_drawings_of_one_thing_find_each_other_in_any_tone(shared_data: Path, tmp_path: Path) -> None:
    """Real pictures without a model: raw pixels of emoji, 40 bases in five skin tones each."""
    with (shared_data / "emoji" / "metadata.csv").open(encoding="utf-8") as file:
        listed = [row for row in csv.DictReader(file) if row["skin_tone"] not in ("none", "mixed")]
    bases = sorted({row["base_name"] for row in listed})[::7][:40]
    rows = [row for row in listed if row["base_name"] in bases]
    pixels = []
    for row in rows:
        picture = Image.open(shared_data / "emoji" / row["path"]).convert("RGBA").resize((16, 16))
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        pixels.append(np.asarray(white, np.float32).ravel() / 255 - 0.8)
    columns = {name: [row[name] for row in rows] for name in ("skin_tone", "gender", "base_name")}
    pair = open_retrieval(write_features(tmp_path / "e.h5", np.array(pixels), columns))
    for against in ("threshold", "rest"):
        found = by_group(measure(pair, check(columns=("base_name",), k=4, against=against), ("skin_tone",)))
        assert set(found) == {(tone,) for tone in ("light", "medium-light", "medium", "medium-dark", "dark")}
        for finding in found.values():
            assert finding.n == len(bases)
            if against == "threshold":
                assert finding.value > 5 * finding.evidence["by_chance"]
            else:
                assert finding.interval is not None
                assert finding.interval(0.05)[1] - finding.interval(0.05)[0] < 0.4
