"""Instance retrieval: how early the pictures of a query's object come in the ranking of an index by cosine.

With a ground truth file the rule is that of the revisited Oxford and Paris sets (see `truth` and `ranking`): map_easy,
map_medium, map_hard, and mp1_, mp5_, mp10_ of each. With a column, all index rows of the query's value are relevant:
map, mp1, mp5, mp10 and r1, r5, r10 (a relevant row among the first k). Queries that have nothing to find are left out
and counted.

SEER's setting: features `res4:rmac3` or `res4:gem4` at 1024 pixels, whitening of 512 components learnt on the other
city's pictures. Cutting queries to their boxes is up to who makes the query pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.files import atomic_write, json_text, sha256_file
from seerctl.probes.names import Names, sources_of
from seerctl.probes.ranking import Floats, Wanted, average_precision, precision_at, ranks, recall_at, similarities
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.task import column_of, key_texts, say_all
from seerctl.probes.truth import ALL, read_truth, same_value, setups
from seerctl.probes.vectors import (
    Learnt,
    Vectors,
    learn_whitening,
    load_vectors,
    own_rows,
    whitening_settings,
    whitening_warnings,
)
from seerctl.stats import bootstrap_mean

COMPONENTS = 512
KS = (1, 5, 10)
SHOWN = 10  # rows of a ranking that are written
METRICS = ("map", "map_medium", "map_easy", "map_hard", "mp*", "r[1-9]*")
BOOTSTRAP = {"method": "bootstrap over queries", "replicates": 2000, "seed": 0, "level": 1 - ALPHA}


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalTask:
    """Queries, the index that is searched (distractors behind its own rows), and what each query should find.

    wanted: by setup ("easy", ..., or "" for the only one), a list as long as the queries; None: nothing is known of it.
    recall: whether hits among the first k are of interest. inputs: by role, for the report.
    """

    queries: Vectors
    index: Vectors
    distractors: Sequence[Vectors]
    wanted: Mapping[str, Sequence[Wanted | None]]
    recall: bool
    inputs: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    target: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalResult(ProbeResult):
    """A finished retrieval. rankings: of each query its key, its marks by setup, and its first rows."""

    rankings: list[dict[str, Any]] = field(default_factory=list)

    def save_rankings(self, path: Path) -> None:
        """Write the rankings as JSON lines, whole or not at all."""
        with atomic_write(path, "w") as file:
            file.writelines(json_text(ranking) + "\n" for ranking in self.rankings)


def load_retrieval(
    test: Path, train: Path | None = None, *, target: str | None = None, truth: Path | str | None = None,
    whiten: Path | None = None, components: int = COMPONENTS, distractors: Sequence[Path] = (),
    names: str | None = None, data: Sequence[Path | str] = (),
) -> RetrievalTask:  # fmt: skip
    """Queries `test` against the index `train` (without one: against themselves), matched by `truth` or `target`.

    whiten: features to learn whitening on. names: a column with the names that `truth` uses; data: shard sets that
    know the file names.

    Raises:
        UsageError: neither or both of truth and target; features of different models; no such column; a pickle.
        InputError: damaged files, non-finite features, a name that no row has, or no query with anything to find.
    """
    if (truth is None) == (target is None):
        raise UsageError("retrieval: what is relevant?", "Name either --truth FILE or --target COLUMN")
    index_path = train or test
    learnt = None if whiten is None else learn_whitening(whiten, index_path, components)
    index = load_vectors(index_path, learnt=learnt)
    queries = load_vectors(test, index_path, learnt) if train is not None else index
    others = [load_vectors(path, index_path, learnt) for path in distractors]
    warnings = whitening_warnings(learnt, components, index, *([queries] if train else []))
    inputs = _inputs(queries, index, others, learnt, same=train is None)
    settings: dict[str, Any] = {"similarity": "cosine", **whitening_settings(learnt, components)}
    if target is not None:
        wanted: Mapping[str, Sequence[Wanted | None]] = {ALL: by_column(queries, index, target)}
    else:
        judged = Path(str(truth))
        queries, wanted = _by_truth(queries, index, judged, names, sources_of(data))
        settings["truth"] = {"path": str(judged), "sha256": sha256_file(judged)}
    say_all(warnings)
    return RetrievalTask(
        queries, index, others, wanted, target is not None, inputs, settings, target, tuple(warnings)
    )  # fmt: skip


def _inputs(
    queries: Vectors, index: Vectors, distractors: Sequence[Vectors], learnt: Learnt | None, *, same: bool
) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {"test": queries.origin}
    if not same:
        found["train"] = index.origin
    found |= {f"distractors{place or ''}": one.origin for place, one in enumerate(distractors)}
    return found if learnt is None else {**found, "whiten": learnt.origin}


def by_column(queries: Vectors, index: Vectors, target: str) -> list[Wanted | None]:
    """What is relevant where equal values of the column `target` are; a query never finds its own key.

    Raises:
        UsageError: no such column. InputError: no query has a value that another index row has.
    """
    with FeatureFile.open(queries.path) as one, FeatureFile.open(index.path) as two:
        asked, bank = column_of(one, target), column_of(two, target)
    wanted = same_value(asked, bank, own_rows(queries, index))
    if not any(one is not None and len(one.relevant) for one in wanted):
        raise InputError(f"{queries.path}: no query has a '{target}' that another row of {index.path} has")
    return wanted


def _by_truth(
    queries: Vectors, index: Vectors, truth: Path, names: str | None, sources: dict[str, str]
) -> tuple[Vectors, dict[str, list[Wanted]]]:
    """The queries of a ground truth, in its order, and what each wants."""
    judged = read_truth(truth)
    with FeatureFile.open(queries.path) as one, FeatureFile.open(index.path) as two:
        asked, bank = Names(one, names, sources), Names(two, names, sources)
    rows = np.array([asked.row(query.query) for query in judged], dtype=np.intp)
    taken = Vectors(
        queries.path, queries.vectors[rows], queries.keys[rows],
        {name: column.take(rows) for name, column in queries.columns.items()}, queries.origin,
    )  # fmt: skip
    wanted = setups(judged, bank.row, own_rows(taken, index).tolist())
    if not any(len(one.relevant) for many in wanted.values() for one in many):
        raise InputError(f"{truth}: no query has any relevant picture")
    return taken, wanted


def retrieval(
    task: RetrievalTask, ks: Sequence[int] = KS, *, full: bool = False, progress: Callable[[int], None] | None = None
) -> RetrievalResult:
    """Rank the index for every query and mark the rankings; `full`: the first ten rows of each as well.

    Raises:
        UsageError: a k that is not positive.
    """
    if not ks or min(ks) < 1:
        raise UsageError("retrieval: k has to be 1 or more", "Write --k 10")
    marks, rankings = search(task, ks, full=full, progress=progress)
    metrics: dict[str, Any] = {}
    for setup, scores in marks.items():
        metrics |= mean_marks(scores, ks, f"_{setup}" if setup else "", recall=task.recall)
    counts = {setup or "all": int(np.isfinite(scores[:, 0]).sum()) for setup, scores in marks.items()}
    more = {"queries": {"rows": len(task.queries), "with_positives": counts},
            "index_rows": len(task.index) + sum(map(len, task.distractors))}  # fmt: skip
    report = make_report(
        "retrieval", {**task.settings, "k": list(ks)}, metrics, task.inputs, interval=BOOTSTRAP, target=task.target,
        more=more, warnings=task.warnings,
    )  # fmt: skip
    return RetrievalResult(report, rankings=rankings)


def search(
    task: RetrievalTask, ks: Sequence[int], *, full: bool = False, progress: Callable[[int], None] | None = None
) -> tuple[dict[str, Floats], list[dict[str, Any]]]:
    """By setup the marks (Q, 1 + 2 K) of each query (average precision, precisions, recalls), and kept rankings."""
    parts = [task.index, *task.distractors]
    bank = parts[0].vectors if len(parts) == 1 else np.concatenate([part.vectors for part in parts])
    keys = key_texts(np.concatenate([part.keys for part in parts])) if full else None
    marks = {name: np.full((len(task.queries), 1 + 2 * len(ks)), np.nan) for name in task.wanted}
    rankings: list[dict[str, Any]] = []
    for query, similarity in similarities(task.queries.vectors, bank, progress):
        for name, wanted in task.wanted.items():
            one = wanted[query]
            if one is None:
                continue
            places = ranks(similarity, one)
            marks[name][query] = [average_precision(places), *precision_at(places, ks), *recall_at(places, ks)]
        if keys is not None:
            asked = {name: wanted[query] for name, wanted in task.wanted.items()}
            found = {name or "all": float(marks[name][query, 0]) for name in asked}
            rankings.append(_ranking(bytes(task.queries.keys[query]), found, similarity, asked, keys))
    return marks, rankings


def _ranking(
    key: bytes, marks: Mapping[str, float], similarity: Any, wanted: Mapping[str, Wanted | None], keys: Any
) -> dict[str, Any]:
    """One query for the file of rankings: its key, average precisions and first rows with what they are."""
    junk = set().union(*(one.junk.tolist() for one in wanted.values() if one is not None))
    right = set().union(*(one.relevant.tolist() for one in wanted.values() if one is not None))
    order = np.argsort(-similarity, kind="stable").tolist()
    rows = list(itertools.islice((row for row in order if row in right or row not in junk), SHOWN))
    return {
        "query": key.decode("ascii", "replace"),
        "average_precision": {name: mark if np.isfinite(mark) else None for name, mark in marks.items()},
        "found": [{"key": keys[r], "similarity": float(similarity[r]), "relevant": r in right} for r in rows],
    }


def mean_marks(scores: Floats, ks: Sequence[int], suffix: str = "", *, recall: bool = False) -> dict[str, Any]:
    """Metrics from marks (Q, 1 + 2 K): means over the queries that have something to find, with their intervals."""
    there = scores[np.isfinite(scores[:, 0])]
    names = ["map", *(f"mp{k}" for k in ks), *(f"r{k}" for k in ks if recall)]
    return {f"{name}{suffix}": metric(bootstrap_mean(there[:, place], ALPHA), len(there))
            for place, name in enumerate(names)}  # fmt: skip
