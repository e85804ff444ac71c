"""Copy detection: whether the original of an altered picture comes first among originals and distractors.

The rule of Copydays: every query (an original, a strong attack, a JPEG of low quality, a crop) is searched among the
originals, followed by distractors; pictures whose file numbers agree but for the last two digits (number // 100) are of
one original. Marks are those of `ranking`, by split and over all queries: map, mp1, mp5, mp10, map_strong, mp1_strong,
... An original that is searched for finds itself, as in the published numbers.

SEER's setting: features `res4:regions3` at 224 pixels, each region to length 1, whitened (1,024 components learnt on
other pictures), to length 1 again, summed, to length 1.

Source: M. Douze et al., CIVR 2009 (Copydays).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from seerctl.columns import Column, relabel
from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.probes.names import sources_of
from seerctl.probes.report import make_report
from seerctl.probes.retrieval import BOOTSTRAP, KS, RetrievalResult, RetrievalTask, mean_marks, search
from seerctl.probes.task import column_of, key_texts, say_all
from seerctl.probes.truth import ALL, same_value
from seerctl.probes.vectors import (
    Vectors,
    learn_whitening,
    load_vectors,
    whitening_settings,
    whitening_warnings,
)
from seerctl.stats import Floats

COMPONENTS = 1024
PER_ORIGINAL = 100  # file numbers that are of one original
METRICS = ("map", "map_*", "mp*")
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, eq=False)
class CopiesTask:
    """A retrieval of originals, and the split (Q,) of each query, codes into names."""

    retrieval: RetrievalTask
    splits: Column


def load_copies(
    test: Sequence[Path], train: Path, *, target: str | None = None, split: str | None = None,
    names: str | None = None, data: Sequence[Path | str] = (), per_original: int = PER_ORIGINAL,
    whiten: Path | None = None, components: int = COMPONENTS, distractors: Sequence[Path] = (),
) -> CopiesTask:  # fmt: skip
    """Altered pictures `test` against the originals `train` and `distractors`.

    target: column whose equal values are of one original. Without one the rule of file numbers, with file names from
    the column `names` or the shard sets `data`; without these equal keys, as views made by `extract --corrupt` have.
    split: column with the kind of alteration; without one the directory in the file name, else the feature file's name.

    Raises:
        UsageError: no such column, or features of different models.
        InputError: damaged files, non-finite features, a file name without a number, or no query with an original.
    """
    by_key = target is None and names is None and not data
    learnt = None if whiten is None else learn_whitening(whiten, train, components)
    originals = load_vectors(train, learnt=learnt)
    sides = [load_vectors(path, train, learnt) for path in test]
    others = [load_vectors(path, train, learnt) for path in distractors]
    sources = sources_of(data) if target is None or split is None else {}
    queries = _joined(sides)
    splits = _joined_columns([_split_of(side, split, names, sources) for side in sides])
    wanted = same_value(
        _joined_columns([_groups(side, target, names, sources, per_original) for side in sides]),
        _groups(originals, target, names, sources, per_original),
        np.full(len(queries), -1, dtype=np.intp),
    )
    if not any(one is not None and len(one.relevant) for one in wanted):
        hint = "Name a column (--target), or where file names are (--names COLUMN, or --data SET of each set)"
        raise InputError(f"{test[0]}: no query is of an original in {train}", hint if by_key else "")
    warnings = [*whitening_warnings(learnt, components, originals, *sides), *_orphans(wanted)]
    say_all(warnings)
    inputs: dict[str, Mapping[str, Any]] = {f"test{place or ''}": side.origin for place, side in enumerate(sides)}
    inputs |= {"train": originals.origin, **{f"distractors{p or ''}": one.origin for p, one in enumerate(others)}}
    inputs |= {} if learnt is None else {"whiten": learnt.origin}
    rule = {"matched_by": target or ("key" if by_key else f"file number // {per_original}")}
    task = RetrievalTask(
        queries, originals, others, {ALL: wanted}, False, inputs,
        {"similarity": "cosine", **rule, **whitening_settings(learnt, components)}, target, tuple(warnings),
    )  # fmt: skip
    return CopiesTask(task, splits)


def _groups(side: Vectors, target: str | None, names: str | None, sources: Mapping[str, str], size: int) -> Column:
    """The original that each picture of a side is of."""
    if target is not None:
        with FeatureFile.open(side.path) as file:
            return column_of(file, target).coded()
    if names is None and not sources:
        return _coded(key_texts(side.keys).tolist())
    return Column(np.array([_number(side, name) // size for name in _file_names(side, names, sources)]))


def _file_names(side: Vectors, names: str | None, sources: Mapping[str, str]) -> list[str]:
    if names is not None:
        with FeatureFile.open(side.path) as file:
            return column_of(file, names).texts()
    return [sources.get(key, "") for key in key_texts(side.keys)]


def _number(side: Vectors, name: str) -> int:
    digits = _DIGITS.findall(PurePosixPath(name).stem)
    if not digits:
        what = f"the name '{name}' has no number" if name else "a row's file name is not known"
        raise InputError(f"{side.path}: {what}", "Match by a column (--target), or name its shard set (--data)")
    return int(digits[-1][:18])


def _split_of(side: Vectors, split: str | None, names: str | None, sources: Mapping[str, str]) -> Column:
    if split is not None:
        with FeatureFile.open(side.path) as file:
            return column_of(file, split).coded()
    texts = ["_".join(PurePosixPath(name).parts[:-1]) for name in _file_names(side, names, sources)]
    return _coded([text or side.path.stem for text in texts])


def _coded(texts: Sequence[str]) -> Column:
    known = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    return relabel(np.array([known[text] for text in texts], dtype=np.int32), list(known))


def _joined_columns(columns: Sequence[Column]) -> Column:
    texts = [text for column in columns for text in column.texts()]
    found = _coded(texts)
    empty = np.array([not text for text in texts], dtype=np.bool_)
    return Column(np.where(empty, -1, found.values).astype(np.int32), found.categories)


def _joined(sides: Sequence[Vectors]) -> Vectors:
    if len(sides) == 1:
        return sides[0]
    return replace(
        sides[0], vectors=np.concatenate([side.vectors for side in sides]),
        keys=np.concatenate([side.keys for side in sides]), columns={},
    )  # fmt: skip


def _orphans(wanted: Sequence[Any]) -> list[str]:
    lost = sum(one is None or not len(one.relevant) for one in wanted)
    return [f"{lost} of {len(wanted)} queries are of no original in the index and left out"] if lost else []


def copies(
    task: CopiesTask, ks: Sequence[int] = KS, *, full: bool = False, progress: Callable[[int], None] | None = None
) -> RetrievalResult:
    """Search every query and mark it, over all and by split.

    Raises:
        UsageError: a k that is not positive.
    """
    if not ks or min(ks) < 1:
        raise UsageError("copies: k has to be 1 or more", "Write --k 10")
    of, splits = task.retrieval, task.splits
    marks, rankings = search(of, ks, full=full, progress=progress)
    scores: Floats = marks[ALL]
    metrics, table = mean_marks(scores, ks), []
    names = splits.categories or ()
    for code, name in enumerate(names):
        mine = mean_marks(scores[splits.values == code], ks, f"_{metric_name(name)}")
        table.append({"split": name, "queries": int((splits.values == code).sum()), **_values(mine)})
        metrics |= mine if len(names) > 1 else {}
    report = make_report(
        "copies", {**of.settings, "k": list(ks)}, metrics, of.inputs, interval=BOOTSTRAP, target=of.target,
        more={"splits": table, "index_rows": len(of.index) + sum(map(len, of.distractors))}, warnings=of.warnings,
    )  # fmt: skip
    return RetrievalResult(report, rankings=rankings)


def _values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name.partition("_")[0]: entry["value"] for name, entry in metrics.items()}


def metric_name(text: str) -> str:
    """`text` as part of a metric's name: letters, digits, "-" and "_"."""
    return re.sub(r"[^\w-]+", "_", text).strip("_")
