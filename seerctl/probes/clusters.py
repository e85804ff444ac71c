"""Clusters of features against labels, and whether prototypes are used.

Three ways to assign pictures: kmeans on features of length 1; prototypes, by the largest dot product of features of the
layer `head` with the run's prototypes; scores, by the largest of the features themselves. Labels are only looked at to
measure: nmi, ami (less what chance gives: of many small clusters nmi is high whatever they hold), ari, purity, and with
as many clusters as classes `matched`, the accuracy under the best one-to-one naming. With use of prototypes: `use`, the
entropy of their use over its maximum (1: all alike, 0: collapse onto one), and `dead`, the share never used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from numpy.typing import NDArray

from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.files import blame, sha256_file
from seerctl.probes.agreement import REPLICATES, Table, agreement, matched
from seerctl.probes.labels import read_labels
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.sheet import Row
from seerctl.probes.task import Side, key_texts, say_all, side_of
from seerctl.probes.whitening import Features, unit
from seerctl.stats import Interval, wilson, z_quantile

PROTOTYPES = "head.prototypes.weight"
METRICS = ("nmi", "ami", "ari", "purity", "matched", "use", "dead")
SHOWN = 12  # pictures of a cluster that are named in the report
Method = Literal["auto", "kmeans", "prototypes", "scores"]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ClustersTask:
    """Labelled features, and prototypes (K, D) of length 1 where there are any."""

    target: str
    classes: tuple[str, ...]
    test: Side
    prototypes: Features | None
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ClustersResult(ProbeResult):
    """A finished probe. members: of each used cluster, most used first: its code and its rows, nearest first."""

    members: Sequence[tuple[int, Codes]] = ()


def load_clusters(test: Path, target: str, prototypes: Path | str | None = None) -> ClustersTask:
    """Features with the labels `target`; prototypes from a run directory or its weights.

    Raises:
        UsageError: no such column, labels in lists, or prototypes of another width than the features.
        InputError: damaged files, non-finite features, one class, or weights without prototypes.
    """
    warnings: list[str] = []
    with FeatureFile.open(test) as file:
        labels = read_labels(file, target)
        if labels.several:
            raise UsageError(f"{test}: '{target}' holds lists of labels", "Name a column with one label a row")
        if len(labels.classes) < 2:
            raise InputError(f"{test}: a single class in '{target}'", "Agreement needs two or more")
        side = side_of(file, labels.first(), labels.known, warnings)
        found, settings = None, {}
        if prototypes is not None:
            path = weights_path(Path(prototypes))
            found = read_prototypes(path)
            settings = {"prototypes_from": {"path": str(path), "sha256": sha256_file(path)}}
            if found.shape[1] != file.shape[1]:
                raise UsageError(
                    f"{path}: prototypes of {found.shape[1]} values, the features of {test} have {file.shape[1]}",
                    "Extract with --layer head",
                )
            if file.header.weights_sha256 != settings["prototypes_from"]["sha256"]:
                warnings.append(f"{path}: not the weights that {test} was extracted with")
    say_all(warnings)
    return ClustersTask(target, labels.classes, side, found, settings, tuple(warnings))


def weights_path(path: Path) -> Path:
    """The weights of a run directory, or the file itself."""
    return path / "weights.safetensors" if path.is_dir() else path


def read_prototypes(path: Path) -> Features:
    """The prototypes (K, D) in weights of a run, each to length 1.

    Raises:
        InputError: no such file, no safetensors, or no prototypes in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "Name a run directory or its weights.safetensors")
    try:
        with blame(path), safetensors.safe_open(path, "pt") as file:  # torch, for weights in bfloat16
            if PROTOTYPES not in file.keys():  # noqa: SIM118  # not a mapping
                raise InputError(f"{path}: no prototypes in it", "Name the weights of a run trained with SwAV")
            found = file.get_tensor(PROTOTYPES).float().numpy()
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
    if found.ndim != 2 or not np.isfinite(found).all():
        raise InputError(f"{path}: its prototypes are not a table of finite numbers")
    return unit(found)


def clusters(
    task: ClustersTask, method: Method = "auto", *, k: int | None = None, replicates: int = REPLICATES, seed: int = 0
) -> ClustersResult:
    """Assign every picture and compare with the labels. k: clusters of k-means, as many as classes by default.

    auto: prototypes where the task has them, else kmeans.

    Raises:
        UsageError: prototypes that are not there, a k that cannot be.
    """
    chosen = _method(task, method)
    features = unit(task.test.features)
    if chosen == "kmeans":
        codes, closeness, count = _kmeans(features, len(task.classes) if k is None else k, seed)
    else:
        if k is not None:
            raise UsageError(f"clusters: {chosen} are as many as they are", "Leave out --k")
        scores = task.test.features if task.prototypes is None else features @ task.prototypes.T
        codes, closeness, count = scores.argmax(1).astype(np.int64), scores.max(1), scores.shape[1]
    labels, n = task.test.labels, len(task.test)
    metrics = {name: metric(value, n) for name, value in agreement(
        Table.of(codes, labels), ALPHA, replicates=replicates, seed=seed).items()}  # fmt: skip
    if count == len(task.classes):
        metrics["matched"] = metric(wilson(matched(codes, labels), n, ALPHA), n)
    used = np.bincount(codes, minlength=count)
    if chosen != "kmeans":
        metrics |= _use(used)
    members = _members(codes, closeness, used)
    settings = {"method": chosen, "clusters": count, "replicates": replicates, "seed": seed, **task.settings}
    how = {"method": "normal, variance by bootstrap over pictures", "replicates": replicates, "seed": seed,
           "level": 1 - ALPHA}  # fmt: skip
    report = make_report(
        "clusters", settings, metrics, {"test": task.test.origin}, interval=how, target=task.target,
        more={"classes": len(task.classes), "clusters": _rows(task, members)}, warnings=task.warnings,
    )  # fmt: skip
    return ClustersResult(report, members=members)


def _method(task: ClustersTask, method: Method) -> Literal["kmeans", "prototypes", "scores"]:
    if method == "auto":
        return "kmeans" if task.prototypes is None else "prototypes"
    if method == "prototypes" and task.prototypes is None:
        raise UsageError("clusters: no prototypes", "Name the run with --prototypes RUN, or take --method kmeans")
    if method != "prototypes" and task.prototypes is not None:
        raise UsageError(f"clusters: {method} has no use for prototypes", "Leave out --prototypes")
    return method


def _kmeans(features: Features, k: int, seed: int) -> tuple[Codes, Features, int]:
    from sklearn.cluster import KMeans  # noqa: PLC0415  # half a second

    if not 2 <= k <= len(features):
        raise UsageError(f"clusters: k-means of {len(features)} rows into {k} clusters", "Write --k 10")
    fitted = KMeans(k, n_init=10, random_state=seed).fit(features)
    return fitted.labels_.astype(np.int64), -fitted.transform(features).min(1), k


def _use(used: NDArray[np.int64]) -> dict[str, Any]:
    """How evenly clusters are used, with limits from the variance of an entropy, and how many are not."""
    n, count = int(used.sum()), len(used)
    share = used[used > 0] / n
    entropy = float(-(share * np.log(share)).sum())
    variance = max(0.0, float((share * np.log(share) ** 2).sum()) - entropy**2) / n  # delta method
    scale = np.log(count) if count > 1 else 1.0
    half = float(z_quantile(ALPHA)) * np.sqrt(variance)
    limits = [np.asarray(min(1.0, max(0.0, v / scale))) for v in (entropy, entropy - half, entropy + half)]
    dead = int((used == 0).sum())
    return {
        "use": metric(Interval(*limits), n),
        "dead": metric(Interval(*(np.asarray(dead / count),) * 3), count, better="lower"),
    }


def _members(codes: Codes, closeness: Features, used: NDArray[np.int64]) -> list[tuple[int, Codes]]:
    order = np.lexsort((-closeness, codes))
    ends = np.cumsum(used)
    by_use = np.argsort(-used, kind="stable")
    return [(int(code), order[ends[code] - used[code] : ends[code]]) for code in by_use if used[code]]


def _rows(task: ClustersTask, members: Sequence[tuple[int, Codes]]) -> list[dict[str, Any]]:
    """One entry a used cluster: its size, its most frequent label and that label's share, its nearest pictures."""
    found = []
    for code, rows in members:
        counts = np.bincount(task.test.labels[rows], minlength=len(task.classes))
        best = int(counts.argmax())
        found.append({
            "cluster": code, "n": len(rows), "label": task.classes[best], "purity": float(counts[best] / len(rows)),
            "nearest": key_texts(task.test.keys[rows[:SHOWN]]).tolist(),
        })  # fmt: skip
    return found


def sheet_rows(task: ClustersTask, result: ClustersResult, rows: int = 20, columns: int = 9) -> list[Row]:
    """The most used clusters for a sheet, nearest pictures first; right: those of the cluster's most frequent label."""
    found = []
    for code, places in result.members[:rows]:
        labels = task.test.labels[places]
        best = int(np.bincount(labels).argmax())
        shown = key_texts(task.test.keys[places[: 1 + columns]]).tolist()
        right = tuple(bool(label == best) for label in labels[1 : 1 + columns])
        found.append(Row(shown[0], f"{code}: {task.classes[best]}", tuple(shown[1:]), right))
    return found
