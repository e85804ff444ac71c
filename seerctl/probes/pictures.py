"""The pictures of a probe: scores, classes, confusions, a map of its features, its nearest pictures.

Each is made of what the report names and only if that is unchanged (by hash); what is not there is left out, and said.
Needs the `report` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seerctl import figures
from seerctl.errors import InputError, SeerctlError
from seerctl.features.store import FeatureFile
from seerctl.figures import FORMS, Form, Point
from seerctl.files import atomic_write, sha256_file
from seerctl.probes.compare import Contestant, read_contestant
from seerctl.probes.report import inputs_of
from seerctl.probes.sheet import nearest, sheet

MapKind = Literal["tsne", "pca", "none"]
MOST_CLASSES = 40  # in a chart of classes
MOST_CONFUSED = 60  # classes in a confusion matrix
MAPPED = 1500  # rows in a map
_REDUCED = 50  # dimensions that t-SNE starts from


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: its file's name, what it shows, and how to draw it in each form it comes in."""

    name: str
    caption: str
    draw: Mapping[Form, Callable[[], bytes]]


@dataclass(slots=True)
class Album:
    """All pictures of one probe, and why others are not there."""

    report: Mapping[str, Any]
    pictures: list[Picture] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def save(self, directory: Path) -> list[str]:
        """Write every picture in all of its forms; returns the files' names."""
        written = []
        for picture in self.pictures:
            for form, draw in picture.draw.items():
                with atomic_write(directory / f"{picture.name}.{form}") as file:
                    file.write(draw())
                written.append(f"{picture.name}.{form}")
        return written


def album(path: Path, *, kind: MapKind = "tsne", data: Sequence[Path] = ()) -> Album:
    """The pictures of the report at `path`.

    kind: of the map of features. data: shard sets for the nearest pictures; none without.

    Raises:
        InputError: no report of `seerctl probe`, or `data` without any of its pictures.
    """
    one = read_contestant(path)
    found = Album(one.report)
    found.pictures += [*_scores(one.report), *_classes(one.report)]
    _add(found, "confusion matrix", lambda: _confusion(one))
    if kind != "none":
        _add(found, "map of features", lambda: [_map(one, kind)])
    if data:
        found.pictures.append(_sheet(one, data))
    return found


def _add(found: Album, what: str, make: Callable[[], list[Picture]]) -> None:
    try:
        found.pictures += make()
    except SeerctlError as error:
        found.left_out.append(f"{what}: {error}")


def _plot(draw: Callable[..., bytes], *arguments: Any, **more: Any) -> dict[Form, Callable[[], bytes]]:
    return {form: partial(draw, *arguments, **more, form=form) for form in FORMS}


def _scores(report: Mapping[str, Any]) -> Iterator[Picture]:
    shares = {name: m for name, m in report["metrics"].items() if "unit" not in m and m["value"] is not None}
    if shares:
        points = [Point(name, *_percent(m, "value")) for name, m in shares.items()]
        draw = _plot(figures.intervals, points, axis="%")
        yield Picture("scores", "Scores with their 95 % intervals.", draw)


def _classes(report: Mapping[str, Any]) -> Iterator[Picture]:
    rows = report.get("per_class") or []
    name = "accuracy" if any("accuracy" in row for row in rows) else "value"
    rated = [row for row in rows if row.get("n") and row.get(name) is not None]
    if not rated:
        return
    rated.sort(key=lambda row: (row[name], str(row["class"])))
    points = [Point(f"{row['class']}", *_percent(row, name)) for row in rated[:MOST_CLASSES]]
    word = "accuracy" if name == "accuracy" else "score"
    whole = "Every class" if len(rated) <= MOST_CLASSES else f"The weakest {MOST_CLASSES} of {len(rated)} classes"
    mean = 100 * sum(row[name] for row in rated) / len(rated)
    draw = _plot(figures.bars, points, axis=f"{word}, %", line=mean)
    yield Picture("classes", f"{whole}, weakest first, with 95 % intervals; the line is the mean of the classes.", draw)


def _percent(entry: Mapping[str, Any], name: str) -> tuple[float, float | None, float | None]:
    low, high = (None if entry.get(key) is None else 100 * entry[key] for key in ("low", "high"))
    return 100 * entry[name], low, high


def _confusion(one: Contestant) -> list[Picture]:
    table = one.table
    if "per_class" not in one.report or (table is not None and table.truth is not None):
        return []  # not a classification
    if table is None:
        raise InputError(one.why)
    names = table.classes
    if len(names) > MOST_CONFUSED:
        raise InputError(f"{len(names)} classes are more than {MOST_CONFUSED}")
    known = table.label >= 0
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (table.label[known], table.prediction[known]), 1)
    draw = _plot(figures.confusion, counts.tolist(), names)
    return [Picture("confusion", "Of each class (row) the percentage predicted as each (column).", draw)]


def _open(one: Contestant, role: str) -> FeatureFile:
    """The feature file that a report names.

    Raises:
        InputError: it is not there or has changed.
    """
    entry = inputs_of(one.report).get(role)
    if entry is None:
        raise InputError(f"the report names no features as '{role}'")
    path = next((p for p in (Path(entry["path"]), one.path.parent / Path(entry["path"]).name) if p.is_file()), None)
    if path is None:
        raise InputError(f"{entry['path']} is not there")
    if sha256_file(path) != entry["sha256"]:
        raise InputError(f"{path} has changed since")
    return FeatureFile.open(path)


def _map(one: Contestant, kind: MapKind) -> Picture:
    with _open(one, "test") as file:
        rows = np.sort(np.argsort(file.keys, kind="stable")[:MAPPED])  # keys are hashes: a sample that does not move
        features, target = file.features()[rows], one.report.get("target")
        groups = ["" for _ in rows]
        if target in file.columns:
            groups = [text or "no label" for text in file.columns[target].take(rows).coded().texts()]
        many = len(file)
    points, names = flat(features, kind)
    shown = f"{len(rows):,} of {many:,} rows" if len(rows) < many else f"all {many:,} rows"
    how = "t-SNE (distances between groups mean little)" if kind == "tsne" else "their first two principal components"
    draw = _plot(figures.cloud, [(float(x), float(y)) for x, y in points], groups, axes_names=names)
    return Picture("map", f"Features of {shown} by {how}, coloured by {target or 'nothing'}.", draw)


def flat(features: Any, kind: MapKind) -> tuple[Any, tuple[str, str]]:
    """Features (n, D) as points (n, 2), standardised first, and the names of the axes."""
    from sklearn.decomposition import PCA  # noqa: PLC0415  # half a second
    from sklearn.manifold import TSNE  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    scaled = StandardScaler().fit_transform(features)
    many = min(_REDUCED if kind == "tsne" else 2, *scaled.shape)
    pca = PCA(many, svd_solver="full", random_state=0)
    reduced = pca.fit_transform(scaled)
    if kind == "pca" or len(scaled) < 5:
        if reduced.shape[1] < 2:
            reduced = np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1])))
        shares = [*pca.explained_variance_ratio_, 0.0][:2]
        return reduced[:, :2], (f"{100 * shares[0]:.0f} % of the variance", f"{100 * shares[1]:.0f} % of the variance")
    perplexity = min(30.0, (len(scaled) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced), ("", "")


def _sheet(one: Contestant, data: Sequence[Path]) -> Picture:
    roles = inputs_of(one.report)
    with _open(one, "test") as queries, _open(one, "train" if "train" in roles else "test") as index:
        rows = nearest(queries, index, one.report.get("target"))
    image = sheet(rows, data)
    said = "At the left pictures of the test side, then the most alike ones by cosine, nearest first. " \
        "Blue: the same label. Red, with a cut corner: another one."  # fmt: skip
    return Picture("nearest", said, {"png": lambda: image})
