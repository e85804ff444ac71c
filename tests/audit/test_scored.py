"""Metrics of scores by group: equal to scikit-learn's, by hand on small tables, their limits by simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
    top_k_accuracy_score,
)

from seerctl.audit.curves import (
    average_precision,
    balanced_accuracy,
    calibration_error,
    mass_edges,
    overconfidence,
    roc_auc,
    width_edges,
)
from seerctl.audit.measured import Sample
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.scored import SCORED, measure
from seerctl.audit.suite import Finding
from seerctl.columns import Column
from seerctl.errors import InputError, UsageError
from seerctl.predictions import Predictions, Truth
from seerctl.scores import open_scores, write_scores
from seerctl.stats import gap_limits


def check(metric: str, against: str = "threshold", **more: Any) -> SuiteCheck:
    bound: dict[str, Any] = {"threshold": 0.5, "op": ">="} if against == "threshold" else {}
    return SuiteCheck("c", "fairness", metric, against=against, **{**bound, "min_n": 1, **more})


def ranked(scores: np.ndarray, label: np.ndarray, ranks: int | None = None, **columns: list[str]) -> Predictions:
    """A table from all scores (N, C) of the classes "0", "1", ..., with the first `ranks` of each row."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :ranks].astype(np.int32)
    best = np.take_along_axis(scores, order, axis=1)
    made = {}
    for name, values in columns.items():
        names = sorted(set(values) - {""})
        codes = [names.index(value) if value else -1 for value in values]
        made[name] = Column(np.array(codes, dtype=np.int32), tuple(names))
    return Predictions(
        keys=np.array([f"k{row}" for row in range(len(label))], dtype=object),
        classes=tuple(str(code) for code in range(scores.shape[1])),
        label=np.asarray(label, dtype=np.int32), prediction=order[:, 0], score=best[:, 0].copy(), top=order,
        top_scores=best, columns=made,
    )  # fmt: skip


def random_table(rows: int = 400, classes: int = 4, seed: int = 0, ties: bool = True) -> tuple[Predictions, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + 1.2 * np.eye(classes)[label]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if ties:  # in eighths, which floats hold exactly: rows tie, and still add up to one
        whole = np.round(scores[:, 1:] * 4) / 8
        scores = np.column_stack([1 - whole.sum(1), whole])
    groups = [("a", "b", "c")[int(code)] for code in generator.integers(0, 3, rows)]
    towns = [("x", "y", "")[int(code)] for code in generator.integers(0, 3, rows)]
    return ranked(scores, label, g=groups, town=towns), scores


def by_group(found: list[Finding]) -> dict[tuple[Any, ...], Finding]:
    return {(*finding.group.values(), *([finding.cls] if finding.cls else [])): finding for finding in found}


def pick(table: Predictions, **group: str) -> np.ndarray:
    return np.logical_and.reduce([np.array(table.columns[name].texts()) == value for name, value in group.items()])


# ------------------------------------------------------------------------------------------------ equal to others


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_of_one_class_equal_scikit_learns(seed: int, ties: bool) -> None:
    table, scores = random_table(seed=seed, ties=ties)
    for metric, reference in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        for grouping in (("g",), ("g", "town")):
            found = measure(table, check(metric), grouping)
            assert len(found) == 4 * (3 if grouping == ("g",) else 6)
            for finding in found:
                rows, code = pick(table, **finding.group), int(finding.cls or "")
                assert finding.value == pytest.approx(
                    reference(table.label[rows] == code, scores[rows, code]), abs=1e-12
                )
                assert finding.n == rows.sum()
    found = measure(table, check("brier", cls="2"), ("g",))
    for finding in found:
        rows = pick(table, **finding.group)
        assert finding.value == pytest.approx(brier_score_loss(table.label[rows] == 2, scores[rows, 2]), abs=1e-12)


def test_metrics_over_classes_equal_scikit_learns() -> None:
    table, scores = random_table(ties=False)
    hot = np.eye(4)
    references: dict[str, Callable[[np.ndarray], float]] = {
        "mean_auc": lambda rows: roc_auc_score(table.label[rows], scores[rows], multi_class="ovr"),
        "mean_average_precision": lambda rows: average_precision_score(hot[table.label[rows]], scores[rows]),
        "hit_at_k": lambda rows: top_k_accuracy_score(table.label[rows], scores[rows], k=2, labels=range(4)),
        "balanced_accuracy": lambda rows: balanced_accuracy_score(table.label[rows], table.prediction[rows]),
        "brier": lambda rows: ((scores[rows] - hot[table.label[rows]]) ** 2).sum(1).mean(),
        "overconfidence": lambda rows: (
            scores[rows].max(1).mean() - (table.label[rows] == table.prediction[rows]).mean()
        ),
    }
    for metric, reference in references.items():
        more = {"k": 2} if metric == "hit_at_k" else {}
        alone = by_group(measure(table, check(metric, **more), ("g", "town")))
        gaps = by_group(measure(table, check(metric, "rest", **more), ("g", "town")))
        assert len(alone) == len(gaps) == 6
        somewhere = pick(table, town="x") | pick(table, town="y")
        for (g, town), finding in alone.items():
            rows = pick(table, g=g, town=town)
            assert finding.value == pytest.approx(reference(rows), abs=1e-12), metric
            assert gaps[g, town].value == pytest.approx(reference(rows) - reference(somewhere & ~rows), abs=1e-12)
    assert set(references) | {"auc", "average_precision", "calibration_error", "adaptive_calibration_error"} == set(
        SCORED
    )


def guo(confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> float:
    """Expected calibration error as its paper writes it."""
    total = 0.0
    for low, high in itertools.pairwise([-1.0, *edges, 2.0]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_calibration_errors_equal_their_definition() -> None:
    for ties in (True, False):
        table, scores = random_table(ties=ties)
        right = table.prediction == table.label
        for metric, cls, bins in itertools.product(
            ("calibration_error", "adaptive_calibration_error"), (None, "1"), (15, 4)
        ):
            for finding in measure(table, check(metric, cls=cls, k=bins if bins != 15 else None), ("g",)):
                rows = pick(table, **finding.group)
                confidence = (scores.max(1) if cls is None else scores[:, 1])[rows]
                hit = (right if cls is None else table.label == 1)[rows]
                edges = (
                    np.arange(1, bins) / bins
                    if metric == "calibration_error"
                    else np.quantile(confidence, np.arange(1, bins) / bins)
                )
                assert finding.value == pytest.approx(guo(confidence, hit, edges), abs=1e-12)


def delong(scores: np.ndarray, positive: np.ndarray) -> float:
    """The variance of the area, from the m x n table of comparisons."""
    ups, downs = scores[positive][:, None], scores[~positive][None, :]
    psi = (ups > downs) + 0.5 * (ups == downs)
    return psi.mean(1).var(ddof=1) / len(ups) + psi.mean(0).var(ddof=1) / downs.size


def jackknife(function: Callable[..., Any], scores: np.ndarray, positive: np.ndarray) -> float:
    n = len(scores)
    left_out = [function(np.delete(scores, i), np.delete(positive, i)).value for i in range(n)]
    return (n - 1) * float(np.var(left_out))


def test_variances_are_delongs_and_the_jackknifes() -> None:
    generator = np.random.default_rng(5)
    for _ in range(5):
        positive = generator.random(60) < 0.4
        scores = np.round(generator.normal(size=60) + positive, 1)
        sample = roc_auc(scores, positive)
        assert isinstance(sample, Sample)
        assert sample.estimate(None).variance == pytest.approx(delong(scores, positive), rel=1e-10)
        precision = average_precision(scores, positive)
        assert isinstance(precision, Sample)
        assert precision.influence.mean() == pytest.approx(0, abs=1e-12)
        wanted = jackknife(average_precision, scores, positive)
        assert precision.estimate(None).variance == pytest.approx(wanted, rel=0.25)


# --------------------------------------------------------------------------------------------------------- by hand


def test_by_hand() -> None:
    scores, positive = np.array([0.9, 0.8, 0.8, 0.3, 0.1]), np.array([True, True, False, False, True])
    area, precision = roc_auc(scores, positive), average_precision(scores, positive)
    assert isinstance(area, Sample)
    assert isinstance(precision, Sample)
    assert area.value == (2 + 1.5 + 0) / 6
    # thresholds .9: 1/1; .8: 2/3; .1: 3/5, each a third of the recall
    assert precision.value == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    error = calibration_error(np.array([0.9, 0.9, 0.6, 0.2]), np.array([True, False, True, False]), width_edges(2))
    # bins (0, .5]: .2 against 0 of one; (.5, 1]: .8 against 2/3 of three
    assert isinstance(error, Sample)
    assert error.value == pytest.approx(0.25 * 0.2 + 0.75 * (0.8 - 2 / 3))
    assert mass_edges(np.array([0.1, 0.2, 0.2, 0.7]), 2).tolist() == [0.2]
    sure = overconfidence(np.array([0.9, 0.9, 0.6, 0.2]), np.array([True, False, True, False]))
    assert isinstance(sure, Sample)
    assert sure.value == pytest.approx(0.65 - 0.5)
    balanced = balanced_accuracy(np.array([0, 0, 0, 1], np.int32), np.array([1, 1, 0, 0], bool), np.ones(3, bool))
    assert isinstance(balanced, Sample)
    assert (balanced.value, balanced.detail["classes"]) == (pytest.approx(1 / 3), 2)


def test_groups_of_one_class_are_not_measured_and_say_why() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    table = ranked(scores, np.array([0, 0, 1, 1, 1, 1, 0]), g=["a", "a", "a", "a", "b", "b", "c"])
    found = by_group(measure(table, check("auc"), ("g",)))
    assert found["a", "1"].value == 1.0
    assert found["b", "1"].reason == "all 2 rows are of the class"
    assert math.isnan(found["b", "1"].value)
    assert found["c", "1"].reason == "none of 1 rows is of the class"
    found = by_group(measure(table, check("average_precision", "rest"), ("g",)))
    assert found["a", "1"].reason == "the rest: a single row of 3 is not of the class"
    alone = measure(ranked(scores, np.array([0, 0, 1, 1, 1, 1, 0]), g=["a"] * 7), check("auc", "rest"), ("g",))
    assert alone[0].reason == "no other group to compare with"
    found = by_group(measure(table, check("mean_auc", "rest"), ("g",)))
    assert found["b",].reason == "no class has two of the 2 rows, and two of the others"


def test_small_groups_are_not_assessed() -> None:
    table, _ = random_table(60)
    found = by_group(measure(table, check("hit_at_k", "rest", k=2, min_n=25), ("g",)))
    reasons = {name[0]: finding.reason for name, finding in found.items()}
    sizes = {name: int(pick(table, g=name).sum()) for name in "abc"}
    assert (
        {name for name, reason in reasons.items() if reason} == {name for name, n in sizes.items() if n < 25} != set()
    )
    small = min(sizes, key=sizes.__getitem__)
    assert reasons[small] == f"{sizes[small]} rows, 25 needed"
    assert found[small,].interval is None
    assert not math.isnan(found[small,].value)


def test_means_over_classes_compare_like_with_like() -> None:
    scores = np.eye(3)[[0, 0, 1, 1, 0, 0, 1, 2]] * 0.7 + 0.1
    label = np.array([0, 0, 1, 1, 0, 1, 1, 2])  # the rest has a class that group a lacks
    table = ranked(scores, label, g=list("aaaabbbb"))
    gap = by_group(measure(table, check("balanced_accuracy", "rest"), ("g",)))["a",]
    assert gap.value == pytest.approx(1.0 - (1.0 + 0.5) / 2)
    assert gap.evidence["rest"]["classes"] == 2
    own = by_group(measure(table, check("balanced_accuracy"), ("g",)))["b",]
    assert own.value == pytest.approx((1.0 + 0.5 + 1.0) / 3)


# ----------------------------------------------------------------------------------------- where the scores come from


def test_scores_of_two_classes_from_the_predictions_own() -> None:
    table, _ = random_table(300, 2, ties=False)
    short = Predictions(table.keys, table.classes, table.label, table.prediction, table.score,
                        table.top[:, :0], table.top_scores[:, :0], table.columns)  # fmt: skip
    for metric in ("auc", "brier", "average_precision", "mean_auc"):
        one, other = measure(table, check(metric), ("g",)), measure(short, check(metric), ("g",))
        assert [f.value for f in one] == pytest.approx([f.value for f in other], abs=1e-12)
    one = measure(short, check("auc"), ("g",))
    assert {finding.cls for finding in one} == {"1"}  # of two classes the one with a usual name
    short.score[7] = 0.2
    with pytest.raises(UsageError, match=r"the score of row 8 is 0.2, but of two classes .* half or more"):
        measure(short, check("auc"), ("g",))


def test_full_scores_stand_in_for_ranks(tmp_path: Path) -> None:
    table, scores = random_table(200, 9, ties=False)
    order = np.random.default_rng(1).permutation(200)
    write_scores(tmp_path / "s.h5", table.keys[order], table.classes, scores[order])
    five = ranked(scores, table.label, 5, g=table.columns["g"].texts())
    for metric in ("auc", "mean_average_precision", "brier"):
        with pytest.raises(UsageError, match="needs the scores of all 9 classes, the table ranks 5"):
            measure(five, check(metric), ("g",))
    with pytest.raises(UsageError, match="with k = 7 needs top1 to top7 in the table, it has top1 to top5"):
        measure(five, check("hit_at_k", k=7), ("g",))
    full = Predictions(five.keys, five.classes, five.label, five.prediction, five.score, five.top, five.top_scores,
                       five.columns, full=open_scores(tmp_path / "s.h5", five.keys))  # fmt: skip
    for metric, k in (("auc", None), ("mean_average_precision", None), ("brier", None), ("hit_at_k", 7)):
        one, other = measure(table, check(metric, k=k), ("g",)), measure(full, check(metric, k=k), ("g",))
        assert [f.value for f in one] == pytest.approx([f.value for f in other], abs=1e-6)  # float32 on disk
        assert [f.group for f in one] == [f.group for f in other]


def test_label_lists(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    truth = generator.random((300, 5)) < 0.25
    scores = generator.random((300, 5)) + 0.3 * truth
    table = ranked(scores, np.full(300, -1), g=[("a", "b")[row % 2] for row in range(300)])
    starts = np.concatenate([[0], np.cumsum(truth.sum(1))])
    known = np.arange(300) != 4
    multi = Predictions(table.keys, table.classes, table.label, table.prediction, table.score, table.top,
                        table.top_scores, table.columns,
                        Truth(starts, np.nonzero(truth)[1].astype(np.int32), known))  # fmt: skip
    for finding in measure(multi, check("mean_average_precision"), ("g",)):
        rows = pick(table, **finding.group) & known
        assert finding.value == pytest.approx(average_precision_score(truth[rows], scores[rows]), abs=1e-12)
    for finding in measure(multi, check("auc"), ("g",)):
        rows, code = pick(table, **finding.group) & known, int(finding.cls or "")
        assert finding.value == pytest.approx(roc_auc_score(truth[rows, code], scores[rows, code]), abs=1e-12)
    for finding in measure(multi, check("hit_at_k", k=2), ("g",)):
        rows = np.flatnonzero(pick(table, **finding.group) & known)
        hits = [bool(truth[row][table.top[row, :2]].any()) for row in rows]
        assert finding.value == pytest.approx(np.mean(hits))
    probable = Predictions(multi.keys, multi.classes, multi.label, multi.prediction, np.clip(multi.score, 0, 1),
                           multi.top, multi.top_scores, multi.columns, multi.truth)  # fmt: skip
    for finding in measure(probable, check("overconfidence"), ("g",)):
        rows = np.flatnonzero(pick(table, **finding.group) & known)
        wanted = probable.score[rows].mean() - truth[rows, table.prediction[rows]].mean()
        assert finding.value == pytest.approx(wanted)
    for metric in ("balanced_accuracy", "brier"):
        with pytest.raises(UsageError, match="needs one label a row, the table has lists"):
            measure(multi, check(metric), ("g",))


def test_rows_without_a_label_count_nowhere() -> None:
    table, _ = random_table(200)
    table.label[:50] = -1
    later = Predictions(table.keys[50:], table.classes, table.label[50:], table.prediction[50:], table.score[50:],
                        table.top[50:], table.top_scores[50:],
                        {name: column.take(np.arange(50, 200)) for name, column in table.columns.items()})  # fmt: skip
    for metric in SCORED:
        one, other = (measure(t, check(metric, "rest"), ("g",)) for t in (table, later))
        assert [(f.value, f.n) for f in one] == [(f.value, f.n) for f in other]


# ------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("metric", SCORED)
@pytest.mark.parametrize("against", ["threshold", "rest"])
def test_limits_are_monotone_and_hold_the_value(metric: str, against: str) -> None:
    table, _ = random_table(300)
    home = [f"h{row % 40}" for row in range(300)]
    table.columns["home"] = Column(
        np.array([int(name[1:]) for name in home], np.int32), tuple(f"h{i}" for i in range(40))
    )
    levels = [0.9, 0.3, 0.05, 1e-3, 1e-9, 1e-30]
    for household in (None, "home"):
        for finding in measure(table, check(metric, against, household=household), ("g",)):
            assert finding.reason is None
            assert finding.interval is not None
            pairs = [finding.interval(level) for level in levels]
            assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(pairs))
            assert pairs[2][0] <= finding.value <= pairs[2][1]
            assert pairs[2][0] < pairs[2][1]


def covered(make: Callable[[], Sample], truth: float, sets: int = 600) -> float:
    limits = [make().estimate(None).limits(0.05) for _ in range(sets)]
    return sum(low <= truth <= high for low, high in limits) / sets


def sample(found: Sample | str) -> Sample:
    assert isinstance(found, Sample)
    return found


@pytest.mark.parametrize(
    ("rows", "share", "area"), [(60, 0.5, 0.7), (200, 0.1, 0.85), (100, 0.3, 0.99), (30, 0.5, 0.5)]
)
def test_coverage_of_areas(rows: int, share: float, area: float) -> None:
    generator = np.random.default_rng(11)
    shift = float(norm.ppf(area)) * math.sqrt(2)
    positive = generator.random(400_000) < share
    precision = sample(average_precision(generator.normal(size=400_000) + shift * positive, positive)).value

    def draw() -> tuple[np.ndarray, np.ndarray]:
        up = np.zeros(rows, bool)
        while not 2 <= up.sum() <= rows - 2:
            up = generator.random(rows) < share
        return generator.normal(size=rows) + shift * up, up

    assert covered(lambda: sample(roc_auc(*draw())), area) >= 0.93
    assert covered(lambda: sample(average_precision(*draw())), precision) >= 0.91


def test_a_perfect_area_is_no_certainty() -> None:
    positive = np.arange(40) % 2 == 0
    low, high = sample(roc_auc(positive.astype(float), positive)).estimate(None).limits(0.05)
    assert high == 1.0
    assert 0.8 < low < 0.95


def test_small_groups_do_not_look_miscalibrated() -> None:
    """A perfect model: the plain error of 40 rows is many times that of 5,000, and no gap is claimed."""
    generator = np.random.default_rng(4)

    def draw(rows: int, shift: float = 0.0) -> Sample:
        confidence = generator.beta(6, 2, rows)
        right = generator.random(rows) < np.clip(confidence - shift, 0, 1)
        return sample(calibration_error(confidence, right, width_edges(15)))

    small, large = [draw(40) for _ in range(300)], draw(5000)
    assert np.mean([one.value for one in small]) > 5 * large.value
    gaps = [gap_limits(one.estimate(None), large.estimate(None), 0.05) for one in small]
    assert np.mean([low > 0 for low, _ in gaps]) < 0.02
    assert np.mean([one.estimate(None).limits(0.05)[0] > 0 for one in small]) < 0.02
    truly = [gap_limits(draw(400, 0.25).estimate(None), large.estimate(None), 0.05)[0] for _ in range(100)]
    assert np.mean(np.array(truly) > 0.05) > 0.95  # a real fault of 25 points is found
    for rows in (100, 2000):
        assert covered(lambda rows=rows: draw(rows, 0.1), 0.1, 200) >= 0.94


def test_households_widen_the_limits() -> None:
    generator = np.random.default_rng(9)
    homes = np.repeat(np.arange(50), 8)
    table = ranked(np.eye(2)[generator.integers(0, 2, 50)[homes]] * 0.8 + 0.1, np.ones(400, int), g=["a"] * 400)
    table.columns["home"] = Column(homes.astype(np.int32), tuple(map(str, range(50))))
    alone, clustered = (measure(table, check("hit_at_k", k=1, household=home), ("g",))[0] for home in (None, "home"))
    assert alone.interval is not None
    assert clustered.interval is not None
    width = [high - low for low, high in (alone.interval(0.05), clustered.interval(0.05))]
    assert 2.5 < width[1] / width[0] < 3.3  # sqrt(8) = 2.8: eight rows of a home say the same
    table.columns["home"] = Column(np.full(400, -1, np.int32), ())  # nobody says: each row stands for itself
    nobody = measure(table, check("hit_at_k", k=1, household="home"), ("g",))[0].interval
    assert nobody is not None
    assert np.diff(nobody(0.05))[0] == pytest.approx(width[0], rel=0.01)
    table.columns["home"] = Column(np.zeros(400, np.int32), ("one",))
    assert measure(table, check("hit_at_k", k=1, household="home"), ("g",))[0].reason == "a single cluster of rows"


# ------------------------------------------------------------------------------------------------------------- faults


def test_what_a_check_may_not_say() -> None:
    table, _ = random_table(50)
    for wrong, message in (
        (check("auc", k=5), "auc has no use for 'k'"),
        (check("hit_at_k", cls="1"), "hit_at_k has no use for 'positive'"),
        (check("brier", at=0.5), "brier has no use for 'at'"),
        (check("mean_auc", columns=("g",)), "no use for 'columns'"),
        (check("auc", cls="11"), "no class '11' in the table"),
        (check("auc", household="hom"), "no column 'hom'"),
    ):
        with pytest.raises(UsageError, match=message):
            measure(table, wrong, ("g",))
    with pytest.raises(UsageError, match="no column 'twn'"):
        measure(table, check("auc"), ("twn",))


def test_scores_that_are_no_probabilities() -> None:
    table, _ = random_table(50)
    table.score[3] = 2.5
    for metric in ("calibration_error", "overconfidence"):
        with pytest.raises(UsageError, match=r"needs probabilities, but row 4 has the score 2\.5"):
            measure(table, check(metric), ("g",))
    table.score[3] = np.nan
    with pytest.raises(InputError, match="needs the score of every row, 1 rows have none"):
        measure(table, check("calibration_error"), ("g",))
    table.top_scores[5, 2] = np.nan
    with pytest.raises(InputError, match="row 6 has no score for some of its 4 classes"):
        measure(table, check("auc"), ("g",))
    table, _ = random_table(50)
    table.top_scores[:] *= 4
    with pytest.raises(UsageError, match="brier needs probabilities"):
        measure(table, check("brier"), ("g",))
