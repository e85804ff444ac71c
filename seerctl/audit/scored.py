"""Fairness metrics that are more than rates of counts: areas under curves, calibration, hits among the first k.

| metric                     | of a group                                                        | reads               |
|----------------------------|-------------------------------------------------------------------|---------------------|
| auc                        | area under the ROC curve, one class against the rest              | that class's scores |
| mean_auc                   | its mean over the classes                                         | all scores          |
| average_precision          | of one class                                                      | that class's scores |
| mean_average_precision     | its mean over the classes (mAP)                                   | all scores          |
| hit_at_k                   | share of rows with a label among the k (5) best classes           | top1..topk          |
| balanced_accuracy          | mean over the classes of the share that is right                  | prediction          |
| calibration_error          | expected calibration error, k (15) bins of equal width            | score               |
| adaptive_calibration_error | the same with k (15) bins of equal numbers of rows                | score               |
| overconfidence             | mean confidence less accuracy                                     | score               |
| brier                      | mean squared error of the probabilities, summed over the classes  | all scores          |

`positive` names the one class that auc, average_precision and brier are about; without it each class comes in turn
(brier: all at once), or, of two, the one with a usual name. The calibration metrics are about the predicted class, with
`positive` about that class's probability. Means over classes take the classes that have rows on both sides of a
comparison. Labels may be JSON lists, but for the ones that need a single one (balanced_accuracy and brier over all
classes). All scores are those of the file of full scores, or top1..topK where they name every class, or, of two
classes, `score` and its complement. `household` names a column of households or people, whose rows are not independent
(a row without one stands for itself).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.counts import Grouping, group_rows
from seerctl.audit.curves import (
    BINS,
    average_precision,
    balanced_accuracy,
    calibration_error,
    mass_edges,
    mean,
    mean_of,
    overconfidence,
    roc_auc,
    width_edges,
)
from seerctl.audit.indicators import default_positive
from seerctl.audit.measured import Rows, Sample, Statistic, clusters_of, column, findings, refuse_unused
from seerctl.audit.suite import Finding, MetricInfo
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.predictions import Predictions
from seerctl.stats import Floats

if TYPE_CHECKING:
    from seerctl.audit.policy import SuiteCheck

HIT_K = 5
SCORE_BYTES = 1 << 28  # of scores held at once where classes come in turn
MAX_SCORES = 1 << 29  # of scores that a mean over all classes may hold, 2 GiB of float32

SCORED: dict[str, MetricInfo] = {
    "auc": MetricInfo("area under the ROC curve", "share", True),
    "mean_auc": MetricInfo("mean area under the ROC curve", "share", True),
    "average_precision": MetricInfo("average precision", "share", True),
    "mean_average_precision": MetricInfo("mean average precision", "share", True),
    "hit_at_k": MetricInfo("label among the k best classes", "share", True),
    "balanced_accuracy": MetricInfo("balanced accuracy", "share", True),
    "calibration_error": MetricInfo("expected calibration error", "share", False),
    "adaptive_calibration_error": MetricInfo("adaptive calibration error", "share", False),
    "overconfidence": MetricInfo("mean confidence less accuracy", "gap"),
    "brier": MetricInfo("Brier score", "number", False),
}
BY_CLASS = ("auc", "average_precision")
OVER_CLASSES = ("mean_auc", "mean_average_precision")
CALIBRATION = ("calibration_error", "adaptive_calibration_error", "overconfidence")
_CURVES: dict[str, Callable[[Floats, NDArray[np.bool_]], Sample | str]] = {
    "auc": roc_auc, "mean_auc": roc_auc,
    "average_precision": average_precision, "mean_average_precision": average_precision,
}  # fmt: skip


def measure(table: Predictions, check: SuiteCheck, grouping: Grouping) -> list[Finding]:
    """A finding for each group of `grouping` (and each class, for metrics of one class).

    Rows without a label are left out, rows without a value of the grouping are in no group and in no rest. The value is
    the group's own, or, against "rest", its difference to that of all other groups.

    Raises:
        UsageError: a key that the metric has no use for, a column or class that the table does not have, scores that
            are not there or are no probabilities.
        InputError: rows without a score.
    """
    check_options(check)
    for name in grouping:
        column(check, table.columns, name)
    rows = group_rows(table.columns, grouping, len(table)).only(table.labelled)
    clusters = clusters_of(check, table.columns)
    found: list[Finding] = []
    for cls, statistic in _statistics(table, check, clusters):
        found += findings(check, rows, statistic, cls=cls, clusters=clusters)
    return found


def check_options(check: SuiteCheck) -> None:
    """Refuse keys that the check's metric has no use for.

    Raises:
        UsageError: there is one.
    """
    used = ["household"]
    if check.metric in (*BY_CLASS, *CALIBRATION, "brier"):
        used.append("cls")
    if check.metric in ("hit_at_k", "calibration_error", "adaptive_calibration_error"):
        used.append("k")
    refuse_unused(check, used)


def _statistics(
    table: Predictions, check: SuiteCheck, clusters: NDArray[np.intp] | None
) -> Iterator[tuple[str | None, Statistic]]:
    """What is measured, by class where it is of one."""
    metric = check.metric
    if metric in BY_CLASS:
        for name, scores in _scores_in_turn(table, check, _classes(table, check)):
            yield name, _curve(_CURVES[metric], scores, table.is_a(table.classes.index(name)))
    elif metric in OVER_CLASSES:
        yield None, _mean_curve(_CURVES[metric], table, check)
    elif metric == "hit_at_k":
        found = hits(table, check).astype(np.float64)
        yield None, lambda rows, _: mean(found[rows], len(rows))
    elif metric == "balanced_accuracy":
        yield None, _balanced(table, check)
    elif metric == "brier":
        yield _brier(table, check)
    else:
        yield check.cls, _calibration(table, check, clusters)


# ------------------------------------------------------------------------------------------------------------ classes


def _classes(table: Predictions, check: SuiteCheck) -> list[str]:
    """The classes that a metric of one class is about."""
    named = _positive(table, check)
    return [named] if named is not None else _present(table)


def _positive(table: Predictions, check: SuiteCheck) -> str | None:
    if check.cls is None:
        return default_positive(table.classes) if table.truth is None else None
    if check.cls not in table.classes:
        raise UsageError(
            f"check '{check.id}': no class '{check.cls}' in the table", did_you_mean(check.cls, table.classes)
        )
    return check.cls


def _present(table: Predictions) -> list[str]:
    """The classes that are the label of some row."""
    codes = table.label[table.label >= 0] if table.truth is None else table.truth.codes
    return [table.classes[code] for code in np.unique(codes)]


def _one_label(table: Predictions, check: SuiteCheck) -> NDArray[np.int32]:
    if table.truth is not None:
        raise UsageError(f"check '{check.id}': {check.metric} needs one label a row, the table has lists")
    return table.label


# ------------------------------------------------------------------------------------------------------------- scores


def _scores_in_turn(table: Predictions, check: SuiteCheck, names: Sequence[str]) -> Iterator[tuple[str, Floats]]:
    step = max(1, SCORE_BYTES // (4 * len(table)))
    for start in range(0, len(names), step):
        block = class_scores(table, check, names[start : start + step])
        for place, name in enumerate(names[start : start + step]):
            yield name, block[:, place].astype(np.float64)


def class_scores(table: Predictions, check: SuiteCheck, names: Sequence[str]) -> NDArray[np.floating]:
    """(N, len(names)) the scores of classes for every row.

    Raises:
        UsageError: the table has them for some classes only, and there is no file of full scores.
        InputError: a row without scores.
    """
    if table.full is not None:
        return table.full.of(names)
    codes = [table.classes.index(name) for name in names]
    if len(table.classes) > 1 and table.top.shape[1] >= len(table.classes):
        return _ranked_scores(table, check)[:, codes]
    if len(table.classes) == 2 and table.truth is None:
        score = _confidence(table, check)
        low = table.labelled & (score < 0.5 - 1e-6)
        if low.any():
            row = int(np.argmax(low))
            raise UsageError(
                f"check '{check.id}': the score of row {row + 1} is {score[row]:g}, but of two classes the predicted "
                "one has half or more",
                "Write the score of the prediction, or give the scores of both classes (top1,top2,score1,score2)",
            )
        return np.stack([np.where(table.prediction == code, score, 1.0 - score) for code in codes], axis=1)
    raise UsageError(
        f"check '{check.id}': {check.metric} needs the scores of all {len(table.classes)} classes, the table ranks "
        f"{table.top.shape[1]}",
        "Pass the file of full scores (--scores; 'probe --scores' writes it)",
    )


def _ranked_scores(table: Predictions, check: SuiteCheck) -> Floats:
    """(N, C) scores from ranks that name every class."""
    scores = np.full((len(table), len(table.classes)), np.nan)
    there = table.top >= 0
    scores[np.nonzero(there)[0], table.top[there]] = table.top_scores[there]
    short = np.isnan(scores).any(axis=1) & table.labelled
    if short.any():
        raise InputError(
            f"check '{check.id}': row {int(np.argmax(short)) + 1} has no score for some of its "
            f"{len(table.classes)} classes"
        )
    return scores


def _confidence(table: Predictions, check: SuiteCheck) -> Floats:
    """(N,) the score of the prediction, a probability."""
    return _probabilities(table, check, table.score)


def _probabilities(table: Predictions, check: SuiteCheck, scores: Floats) -> Floats:
    absent = np.isnan(scores) & table.labelled
    if absent.any():
        what = "the table has no scores" if absent.sum() == table.labelled.sum() else f"{absent.sum()} rows have none"
        raise InputError(f"check '{check.id}': {check.metric} needs the score of every row, {what}")
    with np.errstate(invalid="ignore"):
        off = ((scores < -1e-6) | (scores > 1.0 + 1e-6)) & table.labelled
    if off.any():
        row = int(np.argmax(off))
        raise UsageError(
            f"check '{check.id}': {check.metric} needs probabilities, but row {row + 1} has the score {scores[row]:g}",
            "Write softmax or sigmoid outputs, not logits",
        )
    return np.clip(scores, 0.0, 1.0)


# --------------------------------------------------------------------------------------------------------- statistics


def _curve(
    function: Callable[[Floats, NDArray[np.bool_]], Sample | str], scores: Floats, positive: NDArray[np.bool_]
) -> Statistic:
    if np.isnan(scores).any():
        scores = np.where(np.isnan(scores), -np.inf, scores)  # only rows without a label can lack one
    return lambda rows, _: function(scores[rows], positive[rows])


def _mean_curve(
    function: Callable[[Floats, NDArray[np.bool_]], Sample | str], table: Predictions, check: SuiteCheck
) -> Statistic:
    """The mean over the classes; a class counts where both sides have at least two rows of it and two not of it."""
    names = _present(table)
    if len(names) * len(table) > MAX_SCORES:
        raise UsageError(
            f"check '{check.id}': {check.metric} over {len(names)} classes of {len(table)} rows needs too much memory",
            "Name one class with 'positive' and a metric of one class",
        )
    scores = class_scores(table, check, names)
    positive = np.stack([table.is_a(table.classes.index(name)) for name in names], axis=1)

    def usable(rows: Rows) -> NDArray[np.bool_]:
        count = positive[rows].sum(0)
        return np.asarray((count >= 2) & (len(rows) - count >= 2))

    def statistic(rows: Rows, other: Rows | None) -> Sample | str:
        used = usable(rows) if other is None else usable(rows) & usable(other)
        if not used.any():
            return f"no class has two of the {len(rows)} rows" + ("" if other is None else ", and two of the others")
        made = (
            function(scores[rows, place].astype(np.float64), positive[rows, place]) for place in np.flatnonzero(used)
        )
        return mean_of((sample for sample in made if not isinstance(sample, str)), "classes")

    return statistic


def hits(table: Predictions, check: SuiteCheck) -> NDArray[np.bool_]:
    """(N,) whether one of a row's labels is among its k best classes (by default 5).

    Raises:
        UsageError: as `best_classes`.
    """
    top, names = best_classes(table, check, HIT_K if check.k is None else check.k)
    if names is not table.classes:
        place = {name: code for code, name in enumerate(table.classes)}
        top = np.array([place.get(name, -1) for name in names], dtype=np.int32)[top]
    if table.truth is None:
        return np.asarray((top == table.label[:, None]).any(axis=1) & (table.label >= 0))
    width = len(table.classes)
    labels = table.truth.rows() * width + table.truth.codes
    found = np.isin(np.arange(len(table))[:, None] * width + top, labels) & (top >= 0)
    return np.asarray(found.any(axis=1))


def best_classes(table: Predictions, check: SuiteCheck, k: int) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """(N, k or fewer) the best classes of each row, best first, -1 for none, and the names that these codes stand for.

    Raises:
        UsageError: the table ranks fewer than k of its classes, and there is no file of full scores.
    """
    if table.top.shape[1] >= k:
        return table.top[:, :k], table.classes
    if table.full is not None:
        return table.full.top(k)[0], table.full.classes
    if k == 1:
        return table.prediction[:, None], table.classes
    if table.top.shape[1] >= len(table.classes):
        return table.top, table.classes
    has = f"it has top1 to top{table.top.shape[1]}" if table.top.shape[1] else "it has no top1, top2, ..."
    raise UsageError(f"check '{check.id}': {check.metric} with k = {k} needs top1 to top{k} in the table, {has}")


def _balanced(table: Predictions, check: SuiteCheck) -> Statistic:
    label = _one_label(table, check)
    right, count = label == table.prediction, len(table.classes)

    def statistic(rows: Rows, other: Rows | None) -> Sample | str:
        classes = np.ones(count, dtype=np.bool_)
        if other is not None:
            classes = np.bincount(label[other], minlength=count) > 0
        kept = rows if classes.all() else rows[classes[label[rows]]]
        made = balanced_accuracy(label[kept], right[kept], classes)
        if isinstance(made, str) or len(kept) == len(rows):
            return made
        influence = np.zeros(len(rows))
        influence[classes[label[rows]]] = made.influence * (len(rows) / len(kept))
        return replace(made, influence=influence, n=len(rows))

    return statistic


def _calibration(table: Predictions, check: SuiteCheck, clusters: NDArray[np.intp] | None) -> Statistic:
    named = _positive(table, check) if check.cls is not None else None
    if named is None:
        confidence, right = _confidence(table, check), table.prediction == table.label
        if table.truth is not None:
            width = len(table.classes)
            labels = table.truth.rows() * width + table.truth.codes
            right = np.isin(np.arange(len(table)) * width + table.prediction, labels) & (table.prediction >= 0)
    else:
        confidence = _probabilities(table, check, class_scores(table, check, [named])[:, 0].astype(np.float64))
        right = table.is_a(table.classes.index(named))
    if check.metric == "overconfidence":
        return lambda rows, _: overconfidence(confidence[rows], right[rows])
    bins, adaptive = BINS if check.k is None else check.k, check.metric == "adaptive_calibration_error"

    def statistic(rows: Rows, _: Rows | None) -> Sample | str:
        if not len(rows):
            return "no rows"
        edges = mass_edges(confidence[rows], bins) if adaptive else width_edges(bins)
        return calibration_error(confidence[rows], right[rows], edges, None if clusters is None else clusters[rows])

    return statistic


def _brier(table: Predictions, check: SuiteCheck) -> tuple[str | None, Statistic]:
    named = _positive(table, check)
    if named is not None:
        p = _probabilities(table, check, class_scores(table, check, [named])[:, 0].astype(np.float64))
        errors = (p - table.is_a(table.classes.index(named))) ** 2
        return named, lambda rows, _: mean(errors[rows])
    label = _one_label(table, check)
    if table.full is None:
        scores = class_scores(table, check, table.classes)
        summed = ((np.nan_to_num(scores) - np.eye(len(table.classes))[label]) ** 2).sum(1)
    else:
        place = {name: code for code, name in enumerate(table.full.classes)}
        absent = next((name for name in _present(table) if name not in place), None)
        if absent is not None:
            raise UsageError(f"{table.full.path}: no scores of class '{absent}'", did_you_mean(absent, place))
        codes = np.array([*(place.get(name, 0) for name in table.classes), 0], dtype=np.int64)
        summed = table.full.squared_errors(codes[label])
    if summed[table.labelled].max(initial=0.0) > 2.0 + 1e-6:  # more than any two distributions can differ
        raise UsageError(f"check '{check.id}': brier needs probabilities", "Write softmax outputs, not logits")
    return None, lambda rows, _: mean(summed[rows], ceiling=2.0)
