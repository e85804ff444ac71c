"""Out of distribution: a linear classifier learnt on A, scored on A' and on sets B, C, ... of other pictures.

For each set: top1 and top5, with the logits of classes that the set does not have masked out (ImageNet-A, -R and
ObjectNet are scored so). Labels may be renamed by a class map, one to several; a label column may hold JSON lists
(ImageNet-ReaL): then any of a row's labels counts, and rows with an empty list are left out.

drop_B: the accuracy on A' less that on B, with A' cut down to the classes of B and masked alike; row by row where B has
the keys of A'. effective_B: the accuracy on B above what the line of other models expects of this one (see `lines`).

Sources: D. Hendrycks et al., arXiv 1907.07174 (ImageNet-A); L. Beyer et al., arXiv 2006.07159 (ReaL);
R. Taori et al., arXiv 2007.00644 (effective robustness).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.lines import Line, above_line, read_lines
from seerctl.predictions import Predictions, write_predictions
from seerctl.probes.classification import RANKS, class_predictions, rank
from seerctl.probes.classifier import PENALTIES, VALIDATION, Fitted, fit_classifier, load_fitted
from seerctl.probes.copies import metric_name
from seerctl.probes.labels import ClassMap, Labels, read_class_map, read_labels
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.task import MUST_AGREE, Side, open_pair, pair_warnings, say_all, side_of
from seerctl.stats import Estimate, Interval, mean_difference, newcombe, wilson

METRICS = ("top1", "top5", "top1_*", "top5_*", "drop_*", "effective_*")
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TestSet:
    """One set to be scored: its rows, their labels, how many rows were left out for want of a label."""

    __test__ = False  # a class of this name is not for pytest

    name: str
    side: Side
    labels: Labels
    left_out: int


@dataclass(frozen=True, slots=True, eq=False)
class OodTask:
    """What is learnt from (a side, or a classifier that is fitted already), A', and the other sets."""

    target: str
    classes: tuple[str, ...]
    train: Side | None
    fitted: Fitted | None
    features: Mapping[str, str]
    test: TestSet
    shifts: tuple[TestSet, ...]
    lines: Mapping[str | None, Line]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 1 + len(self.shifts)


@dataclass(frozen=True, slots=True, eq=False)
class OodResult(ProbeResult):
    """A finished probe. tables: the predictions on each other set, by its name. fitted: the classifier."""

    tables: Mapping[str, Predictions] = field(default_factory=dict)
    fitted: Fitted | None = None

    def save_predictions(self, path: Path) -> None:
        """Write the predictions on A' to `path`, those on B to `<stem>-B.<suffix>` beside it, and so on."""
        ProbeResult.save_predictions(self, path)
        for name, table in self.tables.items():
            write_predictions(table_path(path, name), table)


def table_path(path: Path, name: str) -> Path:
    """Where the predictions on the set `name` go, beside those on A'."""
    return path.with_name(f"{path.stem}-{metric_name(name)}{path.suffix}")


def named(text: str | Path) -> tuple[str, Path]:
    """`NAME=FILE`, or FILE by its stem."""
    name, equals, file = str(text).partition("=")
    if equals and name and not Path(text).exists():
        return name, Path(file)
    return Path(text).stem, Path(text)


def load_ood(
    test: Path, shift: Sequence[Path | str], target: str, train: Path | None = None, *,
    probe: Path | str | None = None, maps: Sequence[str] = (), models: Path | str | None = None,
) -> OodTask:  # fmt: skip
    """A' `test` and the sets `shift` (FILE or NAME=FILE), for a classifier of `train` or the fitted one in `probe`.

    maps: class maps, `NAME=FILE` for one set or FILE for all but A'. models: accuracies of other models as csv or JSON
    list of `clean, shifted[, shift]`.

    Raises:
        UsageError: neither or both of train and probe, two sets of one name, features of different models, fewer than
            five other models.
        InputError: damaged files, or a set whose labels are none of the classes.
    """
    if (train is None) == (probe is None):
        raise UsageError("ood: learn from what?", "Name either --train FILE or --probe FILE")
    sets = _names([named(text) for text in shift])
    lines = {} if models is None else read_lines(Path(models))
    fitted = None if probe is None else load_fitted(Path(probe))
    warnings: list[str] = []
    like = train or test
    learnt, classes = (None, fitted.classes) if fitted else _learn_side(like, target, warnings)
    with FeatureFile.open(like) as file:
        features = {name: str(getattr(file.header, field)) for field, name in MUST_AGREE.items()}
        if fitted is not None:
            _check_fitted(fitted, features, file, Path(str(probe)))
    renamed = _maps(maps, sets)
    clean = _test_set("A'", test, like, target, classes, None, warnings)
    if learnt is not None:
        with open_pair(like, test) as pair:
            warnings += pair_warnings(*pair, learnt, clean.side)
    shifts = tuple(
        _test_set(name, path, like, target, classes, renamed.get(name, renamed.get("")), warnings)
        for name, path in sets.items()
    )
    warnings += [f"{name}: no other models for it in {models}" for name in sets
                 if models is not None and name not in lines and None not in lines]  # fmt: skip
    say_all(warnings)
    return OodTask(target, classes, learnt, fitted, features, clean, shifts, lines, tuple(warnings))


def _names(pairs: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in pairs:
        if metric_name(name) in map(metric_name, found):
            raise UsageError(f"ood: two sets are called '{name}'", f"Name them: --shift other={path}")
        found[name] = path
    if not found:
        raise UsageError("ood: no shifted set", "Name one with --shift NAME=FILE")
    return found


def _maps(texts: Sequence[str], sets: Mapping[str, Path]) -> dict[str, ClassMap]:
    found: dict[str, ClassMap] = {}
    for text in texts:
        name, path = named(text)
        of = name if str(text) != str(path) else ""
        if of and of not in sets:
            raise UsageError(f"--map {text}: no set '{of}'", f"The sets are {', '.join(sets)}")
        found[of] = read_class_map(path)
    return found


def _learn_side(path: Path, target: str, warnings: list[str]) -> tuple[Side, tuple[str, ...]]:
    with FeatureFile.open(path) as file:
        labels = read_labels(file, target)
        if len(labels.classes) < 2:
            raise InputError(f"{path}: fewer than two classes in '{target}'", "A probe needs two classes or more")
        if labels.several:
            raise UsageError(f"{path}: '{target}' holds lists of labels", "Learn from a column with one label a row")
        return side_of(file, labels.first(), labels.known, warnings), labels.classes


def _check_fitted(fitted: Fitted, features: Mapping[str, str], file: FeatureFile, probe: Path) -> None:
    if fitted.classifier.weight.shape[1] != file.shape[1]:
        raise UsageError(
            f"{probe}: for features of {fitted.classifier.weight.shape[1]} dimensions, {file.path} has {file.shape[1]}"
        )
    for name, value in features.items():
        if fitted.features.get(name) != value:
            raise UsageError(
                f"{probe}: its {name} is '{str(fitted.features.get(name))[:60]}', that of {file.path} '{value[:60]}'",
                "Fit and score with the same model, layer and size",
            )


def _test_set(
    name: str, path: Path, like: Path, target: str, classes: tuple[str, ...], renamed: ClassMap | None,
    warnings: list[str],
) -> TestSet:  # fmt: skip
    with open_pair(like, path) as (_, file):
        labels = read_labels(file, target, classes, renamed)
        mine: list[str] = []
        side = side_of(file, labels.first(), labels.known, mine)
        warnings += mine
        return TestSet(name, side, labels.take(labels.known), int((~labels.known).sum()))


def ood(
    task: OodTask, penalties: Sequence[float] = PENALTIES, *, validation: float = VALIDATION, seed: int = 0,
    mask: bool = True, device: str = "cpu", progress: Callable[[int], None] | None = None,
) -> OodResult:  # fmt: skip
    """Fit on A where that is still to do, then score A' and every other set.

    mask: leave out the logits of classes that a set does not have.

    Raises:
        UsageError, InputError: as `fit_classifier`.
    """
    fitted = task.fitted
    if fitted is None:
        assert task.train is not None
        classifier = fit_classifier(
            task.train.features, task.train.labels, len(task.classes), penalties,
            validation=validation, seed=seed, device=device, progress=progress,
        )  # fmt: skip
        fitted = Fitted(classifier, task.classes, task.target, task.features)
    score = fitted.classifier.logits
    clean = score(task.test.side.features)
    metrics = _accuracies(_hits(clean, task.test.labels, task.test.labels, mask), "", len(task.classes))
    tables, shifts = {}, []
    for one in task.shifts:
        logits = score(one.side.features)
        found, row = _shift(task, one, logits, clean, mask)
        metrics |= found
        shifts.append(row)
        tables[one.name] = _table(task, one, logits, mask)
    inputs = {} if task.train is None else {"train": task.train.origin}
    inputs |= {"test": task.test.side.origin, **{f"shift_{metric_name(s.name)}": s.side.origin for s in task.shifts}}
    report = make_report(
        "ood", {**fitted.classifier.settings, "mask": mask, "fitted_before": task.fitted is not None}, metrics, inputs,
        target=task.target, more={"shifts": shifts, "classes": len(task.classes)}, warnings=task.warnings,
    )  # fmt: skip
    return OodResult(report, _table(task, task.test, clean, mask), tables=tables, fitted=fitted)


def _masked(logits: NDArray[np.float64], labels: Labels, mask: bool) -> NDArray[np.float64]:
    """Logits with those of classes that `labels` does not have at minus infinity."""
    if not mask:
        return logits
    return np.where(labels.present(), logits, -np.inf)


def _hits(logits: NDArray[np.float64], labels: Labels, like: Labels, mask: bool) -> Mask:
    """(N, 5) whether each of the best classes is one of the row's labels; masked to the classes of `like`."""
    return labels.among(rank(_masked(logits, like, mask))[0])


def _accuracies(hits: Mask, suffix: str, classes: int) -> dict[str, Any]:
    n = len(hits)
    found = {f"top1{suffix}": metric(wilson(hits[:, 0].sum(), n, ALPHA), n)}
    if classes > RANKS:
        found[f"top5{suffix}"] = metric(wilson(hits.any(1).sum(), n, ALPHA), n)
    return found


def _shift(
    task: OodTask, one: TestSet, logits: NDArray[np.float64], clean: NDArray[np.float64], mask: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of one shifted set, and its row of the report."""
    suffix = f"_{metric_name(one.name)}"
    hits = _hits(logits, one.labels, one.labels, mask)
    right = hits[:, 0]
    metrics = _accuracies(hits, suffix, int(one.labels.present().sum()) if mask else len(task.classes))
    row: dict[str, Any] = {
        "shift": one.name, "rows": len(right), "left_out": one.left_out, "classes": int(one.labels.present().sum()),
        "top1": float(right.mean()), "reference": None, "reference_rows": 0, "paired": False,
    }  # fmt: skip
    reference = _reference(task.test, one, clean, mask)
    if reference is None:
        return metrics, row
    before, paired = reference
    row |= {"reference": float(before.mean()), "reference_rows": len(before), "paired": paired}
    metrics[f"drop{suffix}"] = metric(_drop(before, right, paired), len(right), better="lower")
    line = task.lines.get(one.name, task.lines.get(None))
    if line is not None:
        found = _effective(line, before, right)
        metrics[f"effective{suffix}"] = metric(found, len(right))
        row |= {"expected": line.at(float(before.mean())), "models": line.models, "slope": line.slope,
                "intercept": line.intercept}  # fmt: skip
    return metrics, row


def _reference(test: TestSet, one: TestSet, clean: NDArray[np.float64], mask: bool) -> tuple[Mask, bool] | None:
    """Whether the rows of A' that the set `one` is compared with are right, and whether they are its own rows.

    They are the rows with its keys, in its order; or, where it has other pictures, the rows of its classes.
    """
    place = {bytes(key): row for row, key in enumerate(test.side.keys)}
    rows = np.array([place.get(bytes(key), -1) for key in one.side.keys], dtype=np.intp)
    paired = bool((rows >= 0).all())
    if not paired:
        rows = np.flatnonzero(test.labels.among(np.flatnonzero(one.labels.present())[None]).any(1))
    if not len(rows):
        return None
    return _hits(clean[rows], test.labels.take(rows), one.labels, mask)[:, 0], paired


def _drop(before: Mask, after: Mask, paired: bool) -> Interval:
    if not paired:
        return newcombe(before.sum(), len(before), after.sum(), len(after), ALPHA)
    change = mean_difference(after, before)
    low, high = change.limits(ALPHA)
    return Interval(np.asarray(change.value), np.asarray(low), np.asarray(high))


def _effective(line: Line, before: Mask, after: Mask) -> Interval:
    sides = [Estimate(float(side.mean()), float(side.var()) / len(side), float(len(side))) for side in (before, after)]
    low, high = above_line(line, *sides)(ALPHA)
    return Interval(*(np.asarray(v) for v in (sides[1].value - line.at(sides[0].value), low, high)))


def _table(task: OodTask, one: TestSet, logits: NDArray[np.float64], mask: bool) -> Predictions:
    """The predictions on one set; of several labels the one that was predicted stands for all."""
    masked = _masked(logits, one.labels, mask)
    shares = np.exp(masked - masked.max(1, keepdims=True))
    top, scores = rank(shares / shares.sum(1, keepdims=True))
    right = one.labels.among(top[:, :1])[:, 0]
    labels = np.where(right, top[:, 0], one.side.labels)
    side = Side(one.side.features, labels, one.side.keys, one.side.columns, one.side.origin)
    return class_predictions(task.target, task.classes, side, top, scores)


def new_tables(path: Path, shift: Sequence[str]) -> Iterator[Path]:
    """The files that `OodResult.save_predictions` writes beside `path`."""
    return (table_path(path, named(text)[0]) for text in shift)
