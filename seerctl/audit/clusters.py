"""How much rates spread when whole clusters (households, people), or single rows, are drawn again.

Rows of one household resemble each other, so their number says too much. The bootstrap draws as many clusters as there
are, with replacement, and counts again: weights times per-cluster tables of counts, all replicates at once. From the
replicates come the variance of each rate and the correlation of two compared rates, which include everything that rows
of a cluster share. They enter the limits of `gate` as effective numbers of trials, p (1 - p) / variance, never more
than the rows there are. Percentiles of the replicates are not used: at levels corrected for many comparisons a thousand
of them hold no tail, and a rate of 0 has none at all; for the difference max - min over groups they are always wrong.

Source of effective sizes: L. Kish, Survey Sampling (1965); of drawing clusters: A. C. Davison, D. V. Hinkley, Bootstrap
Methods and their Application (1997), chapter 3.8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from seerctl.audit.counts import JOINT_CELLS, Counts, GroupCounts, Grouping, tabulate
from seerctl.audit.gate import Block, Side, select
from seerctl.audit.indicators import METRICS
from seerctl.columns import Column
from seerctl.errors import UsageError
from seerctl.stats import Floats

_AT_ONCE = 1 << 22  # numbers in an array of replicates
_MOST_DRAWS = 4_000_000_000  # cells times replicates; about a minute a billion


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The U distinct rows of a table: what they say, and how often each comes.

    columns: (U,) codes by name. label, prediction, before: (U,) codes; `before` is a baseline's prediction. counts:
    (U,) rows. clusters: (clusters, U) rows as a sparse matrix, where rows come in clusters. classes: how many.
    """

    columns: Mapping[str, NDArray[np.int32]]
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    before: NDArray[np.int32] | None
    counts: Counts
    clusters: sparse.csr_matrix | None
    classes: int

    def groups(self, counts: GroupCounts, levels: Mapping[str, Column]) -> NDArray[np.intp]:
        """(U,) the place of each row's group among those of `counts`, -1 where a column has no value."""
        place = {group: index for index, group in enumerate(counts.groups)}
        names = [(*(levels[name].categories or ()), None) for name in counts.grouping]
        rows = zip(*(self.columns[name].tolist() for name in counts.grouping), strict=True)
        found = [place.get(tuple(n[c] for n, c in zip(names, row, strict=True)), -1) for row in rows]
        return np.array(found, dtype=np.intp)

    def draws(self, replicates: int, seed: int, width: int) -> Iterator[Floats]:
        """Replicates of the counts, (R, U) at a time with R times `width` within bounds.

        Raises:
            UsageError: more distinct rows than can be drawn.
        """
        distinct = self.counts.size
        if distinct * replicates > _MOST_DRAWS:
            raise UsageError(
                f"{replicates} replicates of {distinct:,} distinct rows are too many", 'Lower "replicates" of [stats]'
            )
        generator = np.random.default_rng(seed)
        step = max(1, _AT_ONCE // max(distinct, width, 1))
        total = int(self.counts.sum())
        for start in range(0, replicates, step):
            count = min(step, replicates - start)
            if self.clusters is None:
                yield generator.multinomial(total, self.counts / total, size=count).astype(np.float64)
            else:
                size = self.clusters.shape[0]
                weights = generator.multinomial(size, np.full(size, 1.0 / size), size=count)
                yield np.asarray((self.clusters.T @ weights.T.astype(np.float64)).T)


def make_frame(
    label: NDArray[np.int32], prediction: NDArray[np.int32], classes: int, columns: Mapping[str, Column],
    *, before: NDArray[np.int32] | None = None, cluster: NDArray[np.int32] | None = None,
) -> Frame:  # fmt: skip
    """The distinct rows of (N,) codes; `cluster` (N,) holds codes, -1 for a row that is a cluster by itself."""
    codes = [*(column.values for column in columns.values()), label, prediction, *([] if before is None else [before])]
    sizes = [len(column.categories or ()) + 1 for column in columns.values()] + [classes] * (len(codes) - len(columns))
    clusters = None
    if cluster is None and math.prod(sizes) <= JOINT_CELLS:
        table = tabulate(codes, sizes)
        there = np.flatnonzero(table)
        counts = table.reshape(-1)[there]
    else:
        if math.prod(sizes) >= 2**62:
            raise UsageError("too many groups times classes to draw replicates of", "Use fewer columns for groups")
        cell = np.zeros(len(label), dtype=np.int64)
        for values, size in zip(codes, sizes, strict=True):
            cell = cell * size + np.where(values < 0, size - 1, values)
        there, place, counts = _distinct(cell, math.prod(sizes))
        if cluster is not None:
            clusters = _per_cluster(cluster, place, len(there))
    axes = [axis.astype(np.int32) for axis in np.unravel_index(there, tuple(sizes))]
    known = [np.where(axis == size - 1, -1, axis) for axis, size in zip(axes, sizes[: len(columns)], strict=False)]
    named = dict(zip(columns, known, strict=True))
    said = axes[len(columns) :]
    return Frame(named, said[0], said[1], None if before is None else said[2], counts, clusters, classes)


def _distinct(cell: NDArray[np.int64], space: int) -> tuple[NDArray[np.int64], NDArray[np.intp], Counts]:
    """The values of `cell` (N,) below `space`, the place of each row's among them, and their counts."""
    if space > JOINT_CELLS:
        return np.unique(cell, return_inverse=True, return_counts=True)
    table = np.bincount(cell, minlength=space)
    there = np.flatnonzero(table)
    place = np.zeros(space, dtype=np.intp)
    place[there] = np.arange(len(there))
    return there.astype(np.int64), place[cell], table[there].astype(np.int64)


def _per_cluster(cluster: NDArray[np.int32], place: NDArray[np.intp], distinct: int) -> sparse.csr_matrix:
    alone = cluster < 0
    codes = cluster.astype(np.int64)
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    _, rows = np.unique(codes, return_inverse=True)
    table = sparse.coo_matrix((np.ones(len(rows)), (rows, place)), shape=(int(rows.max()) + 1, distinct))
    return table.tocsr()


class _Fold:
    """Replicates of rows as counts of groups: sparse sums over the cells of a frame."""

    def __init__(self, frame: Frame, counts: GroupCounts, levels: Mapping[str, Column]) -> None:
        self.frame, self.counts = frame, counts
        self.group = frame.groups(counts, levels)
        right = frame.label == frame.prediction
        self.labelled = self._cells(frame.label)
        self.sides = [(self._cells(frame.prediction), self._cells(frame.prediction, right))]
        if frame.before is not None:
            right = frame.label == frame.before
            self.sides.append((self._cells(frame.before), self._cells(frame.before, right)))

    def _cells(self, code: NDArray[np.int32], among: NDArray[np.bool_] | None = None) -> sparse.csr_matrix:
        """(U, G * C): the group and class of each distinct row."""
        kept = np.flatnonzero((self.group >= 0) if among is None else (self.group >= 0) & among)
        columns = self.group[kept] * self.frame.classes + code[kept]
        shape = (len(self.group), len(self.counts.groups) * self.frame.classes)
        return sparse.csr_matrix((np.ones(len(kept)), (kept, columns)), shape=shape)

    def __call__(self, draws: Floats, side: int = 0) -> GroupCounts:
        """Counts of R * G groups of the replicates `draws` (R, U)."""
        classes = self.frame.classes
        labelled, predicted, correct = (
            np.asarray((table.T @ draws.T).T).reshape(-1, classes) for table in (self.labelled, *self.sides[side])
        )
        groups = self.counts.groups
        return GroupCounts(
            self.counts.grouping, groups, labelled.sum(1), labelled, predicted, correct, self.counts.missing
        )

    def clusters(self) -> tuple[Counts, Counts]:
        """(G,) clusters that have rows of each group, and of its rest."""
        assert self.frame.clusters is not None
        kept = np.flatnonzero(self.group >= 0)
        shape = (len(self.group), len(self.counts.groups))
        table = self.frame.clusters @ sparse.csr_matrix((np.ones(len(kept)), (kept, self.group[kept])), shape=shape)
        total = np.asarray(table.sum(1)).reshape(-1, 1)
        return table.getnnz(axis=0).astype(np.int64), _other_clusters(table, total)


def _other_clusters(table: sparse.csr_matrix, total: Floats) -> Counts:
    """(G,) clusters with rows outside each group: all that have rows, without those that lie wholly inside."""
    coo = table.tocoo()
    wholly = coo.data == total[coo.row, 0]
    inside = np.bincount(coo.col[wholly], minlength=table.shape[1])
    return np.asarray(int((total > 0).sum()) - inside, dtype=np.int64)


def _rest(counts: GroupCounts, groups: int) -> GroupCounts:
    """The other groups of each replicate, from counts of R * G groups."""

    def other(table: NDArray[Any]) -> NDArray[Any]:
        shaped = table.reshape(-1, groups, *table.shape[1:])
        return np.asarray((shaped.sum(1, keepdims=True) - shaped).reshape(table.shape))

    return GroupCounts(
        counts.grouping, counts.groups, other(counts.n), other(counts.labelled), other(counts.predicted),
        other(counts.correct), counts.missing,
    )  # fmt: skip


class _Moments:
    """Sums over replicates of two rates (G, K), where both are there."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.sums = np.zeros((6, *shape))

    def add(self, one: Floats, two: Floats, centre: tuple[Floats, Floats]) -> None:
        """Rates (R, G, K) of replicates, around `centre` so that nothing cancels."""
        there = np.isfinite(one) & np.isfinite(two)
        a, b = np.where(there, one - centre[0], 0.0), np.where(there, two - centre[1], 0.0)
        self.sums += np.stack([there.sum(0), a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)])

    def spread(self) -> tuple[Floats, Floats, Floats]:
        """Variances of both rates, and their correlation (0 where one does not vary)."""
        count, a, b, aa, bb, ab = self.sums
        with np.errstate(divide="ignore", invalid="ignore"):
            free = np.maximum(count - 1.0, 1.0)
            one, two, both = (aa - a * a / count) / free, (bb - b * b / count) / free, (ab - a * b / count) / free
            correlation = np.clip(both / np.sqrt(one * two), -1.0, 1.0)
        return np.nan_to_num(one), np.nan_to_num(two), np.nan_to_num(correlation)


def with_spread(
    blocks: Sequence[Block], frame: Frame, levels: Mapping[str, Column], classes: Sequence[str], *,
    replicates: int, seed: int, min_clusters: int, what: str,
) -> list[Block]:  # fmt: skip
    """`blocks` with the spread of their rates over replicates of the rows, or of the clusters, of `frame`.

    levels: coded columns, for the names of their values. what: is drawn, for the report.
    """
    folds: dict[Grouping, _Fold] = {}
    for block in blocks:
        if block.counts.grouping not in folds:
            folds[block.counts.grouping] = _Fold(frame, block.counts, levels)
    moments = [_Moments(block.own.size().shape) for block in blocks]
    width = max((len(block.counts.groups) * frame.classes for block in blocks), default=1)
    centres = [_centres(block) for block in blocks]
    for draws in frame.draws(replicates, seed, width):
        own = {grouping: fold(draws) for grouping, fold in folds.items()}
        rest = {grouping: _rest(counts, len(counts.groups)) for grouping, counts in own.items()}
        before = {} if frame.before is None else {grouping: fold(draws, 1) for grouping, fold in folds.items()}
        for block, sums, centre in zip(blocks, moments, centres, strict=True):
            grouping = block.counts.grouping
            others = {"rest": rest, "baseline": before}.get(block.check.against, own)
            one, two = _rates(block, classes, own[grouping], others[grouping])
            sums.add(one, two, centre)
    clusters = {g: fold.clusters() if frame.clusters is not None else None for g, fold in folds.items()}
    method = f"bootstrap of {what}, {replicates} replicates, seed {seed}"
    return [
        _spread(block, sums, frame, clusters[block.counts.grouping], min_clusters, method)
        for block, sums in zip(blocks, moments, strict=True)
    ]


def _centres(block: Block) -> tuple[Floats, Floats]:
    own = np.nan_to_num(block.own.value())
    return own, own if block.other is None else np.nan_to_num(block.other.value())


def _rates(block: Block, classes: Sequence[str], own: GroupCounts, other: GroupCounts) -> tuple[Floats, Floats]:
    """Rates (R, G, K) of both sides in replicates; means over the classes that the block itself compares."""
    chosen, rates = select(block.check, classes), METRICS[block.check.metric].rates
    groups, found = len(block.counts.groups), []
    for counts in (own, other):
        side = chosen.pick(rates(counts))
        if chosen.is_mean:
            compared = np.tile(block.own.trials > 0, (len(counts.n) // max(groups, 1), 1, 1))
            side = Side(side.events * compared, side.trials * compared)
        found.append(side.value().reshape(-1, *block.own.size().shape))
    return found[0], found[1]


def _spread(
    block: Block, sums: _Moments, frame: Frame, clusters: tuple[Counts, Counts] | None, min_clusters: int, method: str
) -> Block:
    one, two, correlation = sums.spread()
    units: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None] = (None, None)
    if frame.clusters is not None and clusters is not None:
        drawn = frame.clusters.shape[0]
        one, two = one * drawn / (drawn - 1.0) if drawn > 1 else one, two * drawn / (drawn - 1.0) if drawn > 1 else two
        if block.check.against != "rest":
            clusters = (clusters[0], clusters[0])
        units = (clusters[0][:, None], clusters[1][:, None])
    elif block.check.against != "baseline":
        correlation = np.zeros_like(correlation)  # other rows are independent
    own = replace(block.own, effective=_effective(block.own, one, units[0]))
    other = block.other and replace(block.other, effective=_effective(block.other, two, units[1]))
    paired = None if other is None else correlation
    return replace(
        block, own=own, other=other, correlation=paired, clusters=clusters, min_clusters=min_clusters, method=method
    )


def _effective(side: Side, variance: Floats, units: NDArray[np.int64] | None) -> Floats:
    """The trials that would make rates spread as much; where nothing spreads, as many as there are units."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.nan_to_num(side.value())
        same = value * (1.0 - value) / variance
    size = side.size().astype(np.float64)
    nothing = size if units is None else np.minimum(units, size)
    effective = np.where(np.isfinite(same) & (same > 0), same, nothing)
    return np.asarray(effective if side.is_mean else np.minimum(effective, size))
