"""Same-attribute retrieval: are the nearest neighbours of a group's pictures of the same gender, tone, ...?

The metric `precision_at_k`: of the k (10) nearest database rows of a query by cosine, the share that has the query's
value of an attribute, averaged over the queries of a group. `columns = ["gender"]` names the attribute, which both
feature files must have; rows without it are left out on both sides. Groups are columns of the queries. A row is never
its own neighbour. `by_chance` is what a database in random order would give: a group that is rare in the database
scores lower for that alone. Limits count queries (or `household`s of queries): the database is what it is.

Source: P. Goyal et al., Fairness Indicators for Systematic Assessments of Visual Feature Extractors, FAccT 2022
(arXiv 2202.07603), section 3.3: L2-normalised features, dot product, precision at 1, 5, 10 and 50, by gender.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.counts import Grouping, group_rows
from seerctl.audit.measured import Rows, Sample, clusters_of, column, findings, refuse_unused
from seerctl.audit.suite import Finding, MetricInfo
from seerctl.columns import Column
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.features.store import FeatureFile

if TYPE_CHECKING:
    from seerctl.audit.policy import SuiteCheck

METRICS: dict[str, MetricInfo] = {
    "precision_at_k": MetricInfo("same-attribute retrieval, precision at k", "share", True)
}
K = 10
QUERY_ROWS, BANK_ROWS = 512, 8192  # similarities held at once: 16 MiB
_VARIED = 10  # queries that must differ from all-right or all-wrong before their spread is believed
_MUST_AGREE = ("weights_sha256", "layer", "preprocess")

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One feature file: features (N, D) of length 1, keys (N,), metadata."""

    path: Path
    features: Features
    keys: NDArray[np.bytes_]
    columns: Mapping[str, Column]


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """Queries and a database. own: (Q,) the database row with the query's key, which is never its neighbour; or -1."""

    queries: Side
    database: Side
    own: NDArray[np.intp]
    _found: dict[tuple[str, int], tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]] = field(
        default_factory=dict
    )

    def precision(self, attribute: str, k: int) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """For each query whether it has the attribute, its precision at k, and what chance would give; all (Q,).

        Raises:
            InputError: the database has too few rows with the attribute.
        """
        if (attribute, k) not in self._found:
            self._found[attribute, k] = _precision(self, attribute, k)
        return self._found[attribute, k]


def open_retrieval(queries: Path, database: Path | None = None, *, exclude_same: bool = True) -> Retrieval:
    """The features in `queries` and `database`; without one, the queries are searched among themselves.

    exclude_same: no row with a query's key is its neighbour; among themselves that is always so.

    Raises:
        UsageError: features of different models, layers or preprocessing.
        InputError: no feature file, or non-finite features.
    """
    with FeatureFile.open(queries) as one:
        asked = _side(one)
        if database is None:
            return Retrieval(asked, asked, np.arange(len(asked.keys)))
        with FeatureFile.open(database) as two:
            _check_pair(one, two)
            bank = _side(two)
    own = np.full(len(asked.keys), -1, dtype=np.intp)
    if exclude_same:
        place = {bytes(key): row for row, key in enumerate(bank.keys)}
        own = np.array([place.get(bytes(key), -1) for key in asked.keys], dtype=np.intp)
    return Retrieval(asked, bank, own)


def measure(features: Retrieval, check: SuiteCheck, grouping: Grouping) -> list[Finding]:
    """A finding for each group of queries by `grouping`.

    Raises:
        UsageError: not one attribute named, a column that the queries or the database lack, or a key that the metric
            has no use for.
        InputError: the database has too few rows with the attribute.
    """
    check_options(check)
    attribute = check.columns[0]
    for name in (attribute, *grouping):
        column(check, features.queries.columns, name)
    if attribute not in features.database.columns:
        raise UsageError(
            f"{features.database.path}: no column '{attribute}'", did_you_mean(attribute, features.database.columns)
        )
    known, share, chance = features.precision(attribute, K if check.k is None else check.k)
    rows = group_rows(features.queries.columns, grouping, len(known)).only(known)
    clusters = clusters_of(check, features.queries.columns)
    size = K if check.k is None else check.k

    def statistic(inside: Rows, _: Rows | None) -> Sample | str:
        if not len(inside):
            return "no queries with the attribute"
        value, n = float(share[inside].mean()), len(inside)
        varied = int((np.abs(share[inside] - round(value)) > 0).sum())
        worth = float(n * size if varied >= _VARIED else n)
        detail = {"by_chance": float(chance[inside].mean())}
        return Sample(value, share[inside] - value, n, worth, detail=detail)

    return findings(check, rows, statistic, clusters=clusters, unit="queries")


def check_options(check: SuiteCheck) -> None:
    """Refuse keys without a use, and a check that does not name one attribute.

    Raises:
        UsageError: so it is.
    """
    refuse_unused(check, ("k", "columns", "household"))
    if len(check.columns) != 1:
        raise UsageError(
            f"check '{check.id}': {check.metric} matches one attribute, 'columns' names {len(check.columns)}",
            'Write columns = ["gender"]',
        )


def _check_pair(queries: FeatureFile, database: FeatureFile) -> None:
    if queries.shape[1] != database.shape[1]:
        raise UsageError(
            f"{database.path}: features of {database.shape[1]} dimensions, those of {queries.path} have "
            f"{queries.shape[1]}",
            "Extract both with the same model and layer",
        )
    for name in _MUST_AGREE:
        one, two = getattr(queries.header, name), getattr(database.header, name)
        if one != two:
            raise UsageError(
                f"{database.path}: its {name} is '{two[:60]}', that of {queries.path} '{one[:60]}'",
                "Extract both with the same model, layer and size",
            )


def _side(file: FeatureFile) -> Side:
    features = file.features()
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        key = file.keys[int(np.argmin(finite))].decode("ascii", "replace")
        raise InputError(
            f"{file.path}: {int((~finite).sum())} rows have non-finite features, first of key {key}", "Extract it again"
        )
    length = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.maximum(length, np.finfo(np.float32).tiny)
    return Side(file.path, features, file.keys, dict(file.columns))


def _precision(
    pair: Retrieval, attribute: str, k: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    asked, bank = pair.queries.columns[attribute].coded(), pair.database.columns[attribute].coded()
    there = np.flatnonzero(bank.values >= 0)
    if len(there) < k + 1:
        raise InputError(
            f"{pair.database.path}: {len(there)} rows have a '{attribute}', precision at {k} needs {k + 1}", "Lower 'k'"
        )
    names = {name: code for code, name in enumerate(bank.categories or ())}
    table = np.array([*(names.get(name, -2) for name in asked.categories or ()), -1], dtype=np.int64)
    wanted, known = table[asked.values], asked.values >= 0
    place = np.full(len(bank.values) + 1, -1, dtype=np.intp)
    place[there] = np.arange(len(there))
    values = bank.values[there]
    own = place[pair.own[known]]
    nearest = top_k(pair.queries.features[known], pair.database.features[there], k, own)
    share = np.full(len(known), np.nan)
    share[known] = (values[nearest] == wanted[known][:, None]).mean(axis=1)
    counts = np.bincount(values, minlength=len(names))
    same = np.where(wanted >= 0, counts[np.maximum(wanted, 0)], 0).astype(np.float64)
    chance = np.full(len(known), np.nan)
    itself = own >= 0
    chance[known] = (same[known] - itself) / (len(there) - itself)
    return known, share, chance


def top_k(queries: Features, bank: Features, k: int, own: NDArray[np.intp]) -> NDArray[np.intp]:
    """(Q, k) the rows of `bank` (M, D) with the largest dot products with each of `queries` (Q, D), in no order.

    own: (Q,) a row of the bank that is left out for that query, or -1. Exact; the Q x M products are never held at
    once. Which of several equal neighbours is the k-th is not defined.
    """
    found = np.empty((len(queries), k), dtype=np.intp)
    for start in range(0, len(queries), QUERY_ROWS):
        block = queries[start : start + QUERY_ROWS]
        lines = np.arange(len(block))
        best, rows = np.empty((len(block), 0), np.float32), np.empty((len(block), 0), np.intp)
        for first in range(0, len(bank), BANK_ROWS):
            near = block @ bank[first : first + BANK_ROWS].T
            mine = own[start : start + len(block)] - first
            inside = (mine >= 0) & (mine < near.shape[1])
            near[lines[inside], mine[inside]] = -np.inf
            kept = _largest(near, k)
            best = np.concatenate([best, np.take_along_axis(near, kept, axis=1)], axis=1)
            rows = np.concatenate([rows, kept + first], axis=1)
            if best.shape[1] > k:
                kept = _largest(best, k)
                best, rows = np.take_along_axis(best, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
        found[start : start + len(block)] = rows
    return found


def _largest(values: Features, k: int) -> NDArray[np.intp]:
    """(Q, min(k, M)) where the largest values of each row are."""
    if values.shape[1] <= k:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
