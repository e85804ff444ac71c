"""The leakage suite: test samples that the model may have seen in training, and what they do to its score.

Three kinds, each counted over every test sample: exact (the same bytes), near (the perceptual hashes differ in at most
4 of 64 bits, or the same bytes), and, where feature files are given, similar: the cosine of the features, less the
training set's mean, is at least what the check says with `at`, or by default 0.95 and so much that not one test sample
in a thousand is as near to a training sample of another label: features of a weak model are all alike. Features see
copies that were shifted or cropped, but take what a model cannot tell apart for the same: `leaked` and `score_gain`
count by bytes and look, and by features only where the check says from which cosine (`at`).

A score with leaked samples is compared with the score without them on the same predictions.

Source of the question: B. Barz, J. Denzler, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates", J. Imaging 6
(2020) 41.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.policy import SuiteCheck
from seerctl.audit.samples import Mask, RowsBuilder, SampleRows, describe_set, groupings, members
from seerctl.audit.suite import Bars, Finding, MetricInfo, SuiteResult, Table
from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.files import sha256_file
from seerctl.predictions import Predictions, read_predictions
from seerctl.shards.duplicates import DISTANCE, near_pairs
from seerctl.shards.index import ShardSet
from seerctl.shards.perceptual import FLAT, UNREADABLE, VERSION, ImageHashes, hash_images
from seerctl.stats import newcombe, wilson

COSINE = 0.95
FOREIGN = 0.001  # share of test samples that may be as near to a training sample of another label
LABEL = "label"
SHOWN = 30  # pairs in a finding's evidence
KEPT = 1000  # pairs in report.json
_BLOCK = 1 << 24  # cosines at once

METRICS: dict[str, MetricInfo] = {
    "exact": MetricInfo("Test samples whose bytes are a training sample's", "share", False),
    "near": MetricInfo("Test samples that look like a training sample", "share", False),
    "similar": MetricInfo("Test samples with a training sample's features", "share", False),
    "leaked": MetricInfo("Test samples that leaked from training", "share", False),
    "exact_count": MetricInfo("Number of test samples whose bytes are a training sample's", "count", False),
    "near_count": MetricInfo("Number of test samples that look like a training sample", "count", False),
    "similar_count": MetricInfo("Number of test samples with a training sample's features", "count", False),
    "leaked_count": MetricInfo("Number of test samples that leaked from training", "count", False),
    "score_gain": MetricInfo("Accuracy that leaked test samples add", "gap", False),
    "label_conflicts": MetricInfo("Leaked test samples that training labels otherwise", "count", False),
    "repeats": MetricInfo("Test samples that repeat another test sample", "share", False),
    "train_repeats": MetricInfo("Training samples that repeat another training sample", "share", False),
}

LIMITS = (
    "A picture that was cropped, mirrored, turned or drawn over is found by features at best, not by hashes.",
    "Two different things photographed in the same way can be taken for duplicates: look at the pairs before dropping.",
    "What a model saw besides the named training set, such as the data of its pretraining, is not looked at.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One set: its samples and their perceptual hashes, in the order of the index."""

    shards: ShardSet
    rows: SampleRows
    hashes: ImageHashes


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """For N samples the one each is a copy of. other: (N,) its position or -1. distance: (N,) bits. exact: (N,)."""

    other: NDArray[np.int64]
    distance: NDArray[np.int64]
    exact: Mask

    @property
    def near(self) -> Mask:
        """(N,) which have one."""
        return np.asarray(self.other >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class Cosines:
    """For N test samples the training sample with the nearest features: (N,) its position, (N,) the cosine.

    least: the cosine from which two count as similar.
    """

    other: NDArray[np.int64]
    cosine: NDArray[np.float32]
    least: float
    inputs: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Which test samples were judged and which of them rightly: (N,) masks."""

    judged: Mask
    right: Mask
    inputs: dict[str, Any]


def audit_leakage(
    train: Path,
    test: Path,
    checks: Sequence[SuiteCheck],
    *,
    predictions: Path | None = None,
    features: Sequence[Path] = (),
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SuiteResult:
    """What of the shard set `test` is in the shard set `train`.

    predictions: a table on `test`, for what leaked samples do to its accuracy. features: the feature files of `train`
    and of `test`, of one model and layer. jobs: processes that hash pictures. A check's groups are columns of `test`.

    Raises:
        InputError: a set is damaged or empty, a feature file is another set's, or predictions name other samples.
        UsageError: both sets are one, or one feature file, or a column that the test set does not have.
    """
    if len(features) not in (0, 2):
        raise UsageError(
            f"audit --leakage: {len(features)} feature file", "Name two: of the training and of the test set"
        )
    with ShardSet.open(train) as one, ShardSet.open(test) as two:
        if one.sha256 == two.sha256:
            raise UsageError(f"{test}: the test set is the training set", "Name two sets: first training, then test")
        sides = read_side(one, jobs, progress), read_side(two, jobs, progress)
        across = matches(*sides)
        leak = _Leak(
            *sides,
            across=across,
            within=(matches(sides[0]), matches(sides[1])),
            cosines=read_cosines(features[0], features[1], *sides, across.near) if features else None,
            scores=None if predictions is None else read_scores(predictions, sides[1].rows),
        )
        return _result(leak, checks)


def read_side(shards: ShardSet, jobs: int | None = None, progress: Callable[[int], None] | None = None) -> Side:
    """The samples and hashes of a set, read once.

    Raises:
        InputError: it is damaged or empty.
    """
    if not len(shards):
        raise InputError(f"{shards.location}: the shard set is empty", "Choose another split")
    builder = RowsBuilder()
    hashes = hash_images((sample.image for sample in builder.watch(iter(shards), progress)), jobs)
    return Side(shards, builder.finish(shards.columns), hashes)


def matches(one: Side, two: Side | None = None) -> Matches:
    """The sample of `one` that each sample of `two` is a copy of; with one set, another sample of its own."""
    target = two or one
    count = len(target.rows)
    other, distance = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    nearest = near_pairs(one.hashes, None if two is None else two.hashes).nearest()
    if nearest:
        places = np.fromiter(nearest, np.int64, len(nearest))
        found = np.array(list(nearest.values()), np.int64)
        other[places], distance[places] = found[:, 0], found[:, 1]
    same = _same_bytes(one.rows.contents, None if two is None else two.rows.contents)
    exact = same >= 0
    other[exact], distance[exact] = same[exact], 0
    return Matches(other, distance, exact)


def _same_bytes(one: NDArray[np.bytes_], two: NDArray[np.bytes_] | None) -> NDArray[np.int64]:
    """The first position in `one` with the bytes of each of `two`, -1 for none; with one set, another position."""
    order = np.argsort(one, kind="stable")
    ordered = one[order]
    target = one if two is None else two
    first = np.searchsorted(ordered, target)
    candidate = order[np.minimum(first, len(one) - 1)]
    if two is None:
        following = order[np.minimum(first + 1, len(one) - 1)]
        candidate = np.where(candidate == np.arange(len(one)), following, candidate)
        return np.asarray(np.where((one[candidate] == one) & (candidate != np.arange(len(one))), candidate, -1))
    return np.asarray(np.where(one[candidate] == target, candidate, -1))


# ---------------------------------------------------------------------------------------- features and predictions


def read_cosines(train: Path, test: Path, one: Side, two: Side, known: Mask) -> Cosines:
    """The nearest training sample of each test sample by cosine, the training mean taken off first.

    known: test samples that are duplicates by other signs, whose labels say nothing about chance.

    Raises:
        InputError: a file is another set's, or the two are of different models or layers.
    """
    with FeatureFile.open(train) as first, FeatureFile.open(test) as second:
        for file, side in ((first, one), (second, two)):
            _check_features(file, side)
        for name in ("weights_sha256", "layer", "preprocess"):
            if getattr(first.header, name) != getattr(second.header, name):
                raise InputError(f"{test}: its {name} is not that of {train}", "Extract both with the same command")
        if first.shape[1] != second.shape[1]:
            raise InputError(
                f"{test}: {second.shape[1]} dimensions, {train} has {first.shape[1]}", "Extract both again"
            )
        left, right = first.features(), second.features()
    centre = left.mean(axis=0, dtype=np.float64).astype(np.float32)
    inputs = [{"path": str(path), "sha256": sha256_file(path)} for path in (train, test)]
    labels = _labels(LABEL, one.rows, two.rows)
    other, cosine, foreign = _nearest_cosines(_unit(left - centre), _unit(right - centre), labels)
    return Cosines(other, cosine, _least_cosine(foreign[~known] if len(foreign) else foreign), inputs)


def _least_cosine(foreign: NDArray[np.float32]) -> float:
    """The default threshold, above nearly all of the nearest cosines to other labels (-2 where there is none)."""
    allowed = math.ceil(FOREIGN * len(foreign))
    if len(foreign) <= allowed:
        return COSINE
    return max(COSINE, float(np.nextafter(np.sort(foreign)[-1 - allowed], np.float32(2))))


def _check_features(file: FeatureFile, side: Side) -> None:
    if file.header.index_sha256 != side.shards.sha256 or not np.array_equal(file.keys, side.rows.keys):
        raise InputError(
            f"{file.path}: features of another set than {side.shards.location}",
            "Extract from this set, or name the files in the order training, test",
        )


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(rows).all():
        raise InputError("features hold values that are not finite", "Extract them again")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0), dtype=np.float32)


def _nearest_cosines(
    train: NDArray[np.float32], test: NDArray[np.float32], labels: Sequence[NDArray[np.int64]] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Of each test row the nearest training row, its cosine, and the cosine to the nearest one of another label."""
    step = max(1, _BLOCK // len(train))
    other, cosine = np.empty(len(test), np.int64), np.empty(len(test), np.float32)
    foreign = np.full(0 if labels is None else len(test), -2.0, np.float32)
    for begin in range(0, len(test), step):
        block = test[begin : begin + step] @ train.T
        other[begin : begin + step] = best = block.argmax(axis=1)
        cosine[begin : begin + step] = np.take_along_axis(block, best[:, None], 1)[:, 0]
        if labels is not None:
            ours = labels[1][begin : begin + step, None]
            block[(ours == labels[0]) | (ours < 0) | (labels[0] < 0)] = -2.0
            foreign[begin : begin + step] = block.max(axis=1)
    return other, cosine, foreign


def read_scores(path: Path, rows: SampleRows) -> Scores:
    """Which samples of the set the predictions at `path` judge, and which rightly; rows without a label are left out.

    Raises:
        InputError: a key that the set does not have.
    """
    table = read_predictions(path, ())
    places = _places(path, table, rows)
    known = table.label >= 0
    judged, right = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    judged[places[known]] = True
    right[places[known]] = (table.label == table.prediction)[known]
    return Scores(judged, right, {"path": str(path), "sha256": sha256_file(path), "rows": len(table)})


def _places(path: Path, table: Predictions, rows: SampleRows) -> NDArray[np.int64]:
    order = np.argsort(rows.keys, kind="stable")
    keys = np.array([key.encode("utf-8", "replace")[:64] for key in table.keys])
    places = order[np.minimum(np.searchsorted(rows.keys[order], keys), len(rows) - 1)]
    strange = np.flatnonzero(rows.keys[places] != keys)
    if len(strange):
        raise InputError(
            f"{path}: {len(strange)} of {len(table)} rows are not of the test set, first '{table.keys[strange[0]]}'",
            "Name the predictions on this test set",
        )
    return np.asarray(places)


# ------------------------------------------------------------------------------------------------------ what it means


@dataclass(frozen=True, slots=True, eq=False)
class _Leak:
    """Everything that was found out about the two sets."""

    train: Side
    test: Side
    across: Matches
    within: tuple[Matches, Matches]
    cosines: Cosines | None
    scores: Scores | None

    def mask(self, kind: str, at: float | None = None) -> Mask | None:
        """Which test samples leaked in one way; None where that needs features that were not given.

        leaked: by bytes or look, and, where the check names a cosine, by features too. found: by any sign.
        """
        if kind == "exact":
            return self.across.exact
        if kind == "near" or (kind == "leaked" and at is None):
            return self.across.near
        if self.cosines is None:
            return None if kind == "similar" else self.across.near
        similar = np.asarray(self.cosines.cosine >= (self.cosines.least if at is None else at))
        return similar if kind == "similar" else np.asarray(similar | self.across.near)

    def conflicts(self, at: float | None = None, label: str = LABEL) -> Mask | None:
        """Which leaked test samples have another label than their training sample; None without labels."""
        codes = _labels(label, self.train.rows, self.test.rows)
        if codes is None:
            return None
        leaked = self.mask("leaked", at)
        assert leaked is not None
        other = self.partner(leaked)
        ours, theirs = codes[1], codes[0][np.maximum(other, 0)]
        return np.asarray(leaked & (ours >= 0) & (theirs >= 0) & (ours != theirs))

    def partner(self, leaked: Mask) -> NDArray[np.int64]:
        """(N,) the training sample of each leaked test sample: the duplicate, else the one with its features."""
        other = self.across.other.copy()
        if self.cosines is not None:
            alone = leaked & (other < 0)
            other[alone] = self.cosines.other[alone]
        return other

    def pairs(self, rows: Iterable[int], limit: int) -> list[dict[str, Any]]:
        """Evidence: the two samples of each leak, where they came from and how they are alike."""
        return [self._pair(row) for row, _ in zip(rows, range(limit), strict=False)]

    def _pair(self, row: int) -> dict[str, Any]:
        known = self.across.other[row] >= 0
        other = int(self.across.other[row] if known or self.cosines is None else self.cosines.other[row])
        ours, theirs = self.test.shards.read(row), self.train.shards.read(other)
        pair: dict[str, Any] = {
            "test": ours.key, "train": theirs.key, "kind": "exact" if self.across.exact[row] else "near" if known
            else "similar", "test_source": ours.meta["source"], "train_source": theirs.meta["source"],
        }  # fmt: skip
        if known:
            pair["distance"] = int(self.across.distance[row])
        if self.cosines is not None:
            pair["cosine"] = round(float(self.cosines.cosine[row]), 4)
        for name, sample in (("test_label", ours), ("train_label", theirs)):
            if LABEL in sample.meta["columns"]:
                pair[name] = sample.meta["columns"][LABEL]
        return pair


def _labels(label: str, *sides: SampleRows) -> list[NDArray[np.int64]] | None:
    """Codes of the labels, the same names the same codes in all; -1 where missing; None where a set has no labels."""
    if any(label not in rows.columns for rows in sides):
        return None
    coded = [rows.columns[label].coded() for rows in sides]
    names = {name: code for code, name in enumerate(dict.fromkeys(n for c in coded for n in c.categories or ()))}
    return [
        np.array([*(names[name] for name in column.categories or ()), -1], dtype=np.int64)[column.values]
        for column in coded
    ]


def _findings(leak: _Leak, check: SuiteCheck) -> list[Finding]:
    """The numbers that one check asks for, one a group of test samples."""
    side = leak.train if check.metric == "train_repeats" else leak.test
    found = []
    for grouping in groupings(check.groups):
        for group, rows in members(side.rows, grouping, side.shards.location):
            finding = _measure(leak, check, rows)
            found.append(replace(finding, group=group))
    return found


def _measure(leak: _Leak, check: SuiteCheck, rows: NDArray[np.int64]) -> Finding:
    name = check.metric
    empty = Finding(check.id, name, float("nan"), len(rows))
    if name == "score_gain":
        return _score_gain(leak, check, rows)
    if name in ("repeats", "train_repeats"):
        number = name == "repeats"
        repeated = leak.within[number].near
        evidence = _repeats(leak.test if number else leak.train, leak.within[number], rows)
        return replace(empty, value=float(repeated[rows].mean()), evidence={"pairs": evidence} if evidence else {})
    if name == "label_conflicts":
        label = check.columns[0] if check.columns else LABEL
        mask = leak.conflicts(check.at, label)
        if mask is None:
            return replace(empty, reason=f"not both sets have a column '{label}'")
    else:
        mask = leak.mask(name.removesuffix("_count"), check.at)
        if mask is None:
            return replace(empty, reason="no features were given (--features, once for each set)")
    chosen = rows[mask[rows]]
    value = float(len(chosen)) if name.endswith(("_count", "_conflicts")) else len(chosen) / max(len(rows), 1)
    return replace(empty, value=value, evidence={"pairs": leak.pairs(chosen.tolist(), SHOWN)} if len(chosen) else {})


def _repeats(side: Side, found: Matches, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    pairs = []
    for row in rows[found.near[rows]].tolist():
        other = int(found.other[row])
        if row < other or found.other[other] != row:
            one, two = side.shards.read(row), side.shards.read(other)
            pairs.append({
                "one": one.key, "two": two.key, "one_source": one.meta["source"], "two_source": two.meta["source"],
                "kind": "exact" if found.exact[row] else "near", "distance": int(found.distance[row]),
            })  # fmt: skip
            if len(pairs) >= SHOWN:
                break
    return pairs


def _score_gain(leak: _Leak, check: SuiteCheck, rows: NDArray[np.int64]) -> Finding:
    """Accuracy on all judged rows less that on those that did not leak.

    On the same rows: all = (L leaked + C clean) / n, so the gain is L / n times the difference of two independent
    rates, and its interval is L / n times Newcombe's.
    """
    empty = Finding(check.id, check.metric, float("nan"), len(rows))
    if leak.scores is None:
        return replace(empty, reason="no predictions on the test set were given (--predictions)")
    leaked = leak.mask("leaked", check.at)
    assert leaked is not None
    rows = rows[leak.scores.judged[rows]]
    dirty, clean = rows[leaked[rows]], rows[~leaked[rows]]
    empty = replace(empty, n=len(rows))
    if not len(clean):
        return replace(empty, reason="no row is left without the leaked ones" if len(dirty) else "no row was judged")
    right = leak.scores.right
    counts = int(right[dirty].sum()), len(dirty), int(right[clean].sum()), len(clean)
    evidence = {
        "rows": len(rows), "leaked": len(dirty), "accuracy": float(right[rows].mean()),
        "accuracy_without": counts[2] / counts[3], "accuracy_of_leaked": counts[0] / counts[1] if len(dirty) else None,
    }  # fmt: skip
    if not len(dirty):
        return replace(empty, value=0.0, evidence=evidence)
    share = len(dirty) / len(rows)

    def interval(alpha: float) -> tuple[float, float]:
        limits = newcombe(*counts, alpha)
        return share * float(limits.low), share * float(limits.high)

    value = share * (counts[0] / counts[1] - counts[2] / counts[3])
    return replace(empty, value=value, interval=interval, evidence=evidence)


# ----------------------------------------------------------------------------------------------------------- the report


def _result(leak: _Leak, checks: Sequence[SuiteCheck]) -> SuiteResult:
    leaked = leak.mask("found")
    assert leaked is not None
    rows = np.flatnonzero(leaked)
    rows = rows[np.argsort(leak.across.distance[rows] + 1000 * (leak.across.other[rows] < 0), kind="stable")]
    pairs = leak.pairs(rows.tolist(), KEPT)
    tables = [_counts_table(leak), _pairs_table(pairs, len(rows))]
    score = _score_rows(leak)
    if score:
        tables.insert(1, Table("Accuracy with and without leaked test samples",
                               ("test samples", "rows", "accuracy", "low", "high"), tuple(score),
                               "Wilson intervals at 95 %, each for itself."))  # fmt: skip
    return SuiteResult(
        suite="leakage",
        findings=tuple(finding for check in checks for finding in _findings(leak, check)),
        tables=tuple(tables),
        charts=_charts(score),
        inputs={
            "train": describe_set(leak.train.shards), "test": describe_set(leak.test.shards),
            "features": None if leak.cosines is None else leak.cosines.inputs,
            "predictions": None if leak.scores is None else leak.scores.inputs,
        },
        limits=LIMITS,
        data={"hash": VERSION, "distance": DISTANCE,
              "cosine": None if leak.cosines is None else leak.cosines.least, "counts": _counts(leak), "pairs": pairs,
              "omitted": len(rows) - len(pairs)},
    )  # fmt: skip


def _counts(leak: _Leak) -> dict[str, Any]:
    masks = {kind: leak.mask(kind) for kind in ("exact", "near", "similar")}
    conflicts = leak.conflicts()
    found: dict[str, Any] = {kind: None if mask is None else int(mask.sum()) for kind, mask in masks.items()}
    found["label_conflicts"] = None if conflicts is None else int(conflicts.sum())
    for name, side, within in zip(("train", "test"), (leak.train, leak.test), leak.within, strict=True):
        codes = _labels(LABEL, side.rows)
        disagree = None
        if codes is not None:
            twin = codes[0][np.maximum(within.other, 0)]
            disagree = int((within.near & (codes[0] >= 0) & (twin >= 0) & (codes[0] != twin)).sum())
        found[name] = {
            "samples": len(side.rows), "repeats": int(within.near.sum()), "exact_repeats": int(within.exact.sum()),
            "repeats_labelled_otherwise": disagree, "flat": int((side.hashes.status == FLAT).sum()),
            "unreadable": int((side.hashes.status == UNREADABLE).sum()),
        }  # fmt: skip
    if leak.cosines is not None and (leak.across.near).any():
        near = leak.cosines.cosine[leak.across.near]
        found["cosine_of_duplicates"] = {"least": float(near.min()), "median": float(np.median(near))}
    return found


def _counts_table(leak: _Leak) -> Table:
    total = len(leak.test.rows)
    counts = _counts(leak)
    rows: list[tuple[str | int | float | None, ...]] = []
    for name in ("exact", "near", "similar"):
        if counts[name] is not None:
            rows.append((METRICS[name].title, counts[name], counts[name] / total))
    if counts["label_conflicts"] is not None:
        rows.append((METRICS["label_conflicts"].title, counts["label_conflicts"], counts["label_conflicts"] / total))
    for name, title in (("test", "Test"), ("train", "Training")):
        side = counts[name]
        size = side["samples"]
        rows.append((f"{title} samples that repeat another of their set", side["repeats"], side["repeats"] / size))
        if side["repeats_labelled_otherwise"] is not None:
            number = side["repeats_labelled_otherwise"]
            rows.append((f"{title} samples that repeat one with another label", number, number / size))
        rows.append((f"{title} samples without a hash: flat", side["flat"], side["flat"] / size))
        rows.append((f"{title} samples without a hash: unreadable", side["unreadable"], side["unreadable"] / size))
    note = f"{len(leak.train.rows):,} training and {total:,} test samples, hash {VERSION}, distance {DISTANCE}"
    note += "." if leak.cosines is None else f", cosine {leak.cosines.least:.4f}."
    return Table("Duplicates", ("what", "samples", "share"), tuple(rows), note)


def _pairs_table(pairs: Sequence[dict[str, Any]], total: int) -> Table:
    columns = (
        "test_source",
        "train_source",
        "kind",
        "distance",
        "cosine",
        "test_label",
        "train_label",
        "test",
        "train",
    )
    rows = tuple(tuple(pair.get(name) for name in columns) for pair in pairs[:SHOWN])
    note = f"{total:,} in all; report.json holds the first {len(pairs):,}." if total > len(rows) else ""
    return Table("Leaked test samples and their training samples", columns, rows, note)


def _score_rows(leak: _Leak) -> list[tuple[str | int | float | None, ...]]:
    if leak.scores is None:
        return []
    judged, right = leak.scores.judged, leak.scores.right
    rows: list[tuple[str | int | float | None, ...]] = []
    kinds: list[tuple[str, Mask]] = [("all", judged)]
    for kind, title in (("exact", "without the same bytes"), ("near", "without the same look"),
                        ("found", "without the same features too")):  # fmt: skip
        mask = leak.mask(kind)
        if mask is not None and (kind != "found" or leak.cosines is not None):
            kinds.append((title, judged & ~mask))
    leaked = leak.mask("leaked")
    assert leaked is not None
    kinds.append(("leaked alone", judged & leaked))
    for title, mask in kinds:
        number = int(mask.sum())
        if number:
            limits = wilson(int(right[mask].sum()), number)
            rows.append((title, number, float(limits.value), float(limits.low), float(limits.high)))
    return rows


def _charts(score: Sequence[tuple[Any, ...]]) -> tuple[Bars, ...]:
    if not score:
        return ()
    labels, _, values, low, high = zip(*score, strict=True)
    return (Bars("Accuracy with and without leaked test samples", labels, values, low, high, axis="accuracy"),)
