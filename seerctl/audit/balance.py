"""Balancing a shard set: sample weights under which groups come as often as wanted and say little about labels.

The method is Multi-Modal Moment Matching (M4, arXiv 2403.04547; see `moments`): weights as near as possible to a
constant, such that no group's share is off its target by more than one limit, and no product of a group with a label by
more than another. Weights for the first alone leave most of the association in place, which is why both are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.contingency import MAX_LEVELS, cross, differences, joint_codes, name_of, table_of, totals
from seerctl.audit.counts import Grouping
from seerctl.audit.groups import Recipe, derive, sources
from seerctl.audit.moments import Programme, Solution, solve
from seerctl.audit.policy import parse_grouping
from seerctl.audit.suite import Bars, SuiteResult, Table
from seerctl.columns import Column
from seerctl.errors import UsageError, did_you_mean
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_metadata
from seerctl.weighting import SampleWeights

Target = Mapping[str, float] | Literal["uniform", "observed"]
Floats = NDArray[np.float64]

_SHOWN = 30  # associations in a table
_NAMED = 3  # broken limits in a message
LIMITS = (
    "Weights change how often samples are seen, not what they show: a group that is rare is seen again and again, and "
    "what it lacks it still lacks.",
    "Only the named attributes and labels are balanced, one value at a time and each with each label; intersections of "
    "attributes only where they were named.",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What weights were asked for. eta: the weight they stay near. bound: the largest. eps_*: None for no limit.

    keep_mean: whether the mean weight has to be eta; without it the mean may sink, to 0 in the end.
    """

    attributes: tuple[str, ...]
    labels: tuple[str, ...]
    eta: float = 1.0
    bound: float = 5.0
    eps_representation: float | None = 0.01
    eps_association: float | None = 0.01
    keep_mean: bool = True

    def __post_init__(self) -> None:
        if not self.attributes:
            raise UsageError("balance: no groups to balance", "Name columns of the shard set")
        if self.eps_association is not None and not self.labels:
            raise UsageError("balance: no labels to free the groups from", "Name a column, or ask for shares alone")
        if self.eps_association is None and self.eps_representation is None:
            raise UsageError("balance: neither shares nor associations are limited", "Set one of the two limits")
        if not (0 < self.eta <= self.bound and math.isfinite(self.bound)):
            raise UsageError(f"balance: the weights' mean {self.eta:g} and bound {self.bound:g} do not fit",
                             "0 < mean <= bound")  # fmt: skip
        for name, value in (("shares", self.eps_representation), ("associations", self.eps_association)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"balance: the limit on {name} is {value:g}", "It is between 0 and 1")


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """First- and second-order bias under some weights.

    shares: by attribute, (K,) shares of its values. associations: by (attribute, label column), (K, R) differences of
    P(label | value) to all other values (NaN where one of them has no weight).
    """

    shares: Mapping[str, Floats]
    associations: Mapping[tuple[str, str], Floats]

    def representation(self, targets: Mapping[str, Floats]) -> float:
        """M4's RB: the largest distance of a share from its target."""
        return max((float(np.abs(self.shares[name] - targets[name]).max()) for name in self.shares), default=0.0)

    def association(self) -> float:
        """M4's AB: the largest difference between two conditional rates."""
        found = [np.abs(table[np.isfinite(table)]).max(initial=0.0) for table in self.associations.values()]
        return float(max(found, default=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    """Weights, and what they do.

    weights: for each sample of the set. values, label_values: names by column. targets: (K,) by attribute. effective:
    the effective sample size, (sum q)^2 / sum q^2. mean: E[q]. at_bound, at_zero: shares of the samples. patterns: how
    many different combinations of attributes and labels there are.
    """

    settings: Settings
    weights: SampleWeights
    values: Mapping[str, tuple[str, ...]]
    label_values: Mapping[str, tuple[str, ...]]
    targets: Mapping[str, Floats]
    before: Bias
    after: Bias
    objective: float
    effective: float
    mean: float
    at_bound: float
    at_zero: float
    patterns: int


class Infeasible(UsageError):
    """No weights meet the limits. broken: (what, how near it can come, what was demanded), the worst first."""

    def __init__(self, where: str, settings: Settings, broken: Sequence[tuple[str, float, str]]) -> None:
        named = "; ".join(f"{what} comes to {round(value, 9) + 0.0:.4g}, demanded {wanted}" for what, value, wanted in
                          broken[:_NAMED])  # fmt: skip
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        mean = f" and mean {settings.eta:g}" if settings.keep_mean else ""
        super().__init__(
            f"{where}: no weights between 0 and {settings.bound:g}{mean} meet all limits: {named}{more}",
            "Raise the bound, widen the limits, change the targets, or add samples of these",
        )
        self.broken = tuple(broken)


def balance_set(
    data: str | Path,
    attributes: Sequence[str],
    labels: Sequence[str],
    *,
    eta: float = 1.0,
    bound: float = 5.0,
    eps_representation: float | None = 0.01,
    eps_association: float | None = 0.01,
    targets: Mapping[str, Target] | None = None,
    keep_mean: bool = True,
    recipes: Mapping[str, Recipe] | None = None,
) -> Balance:
    """Weights for the samples of the shard set `data`.

    attributes: columns, "a*b" for an intersection. targets: shares by attribute and value, "uniform" (the default) or
    "observed" (shares stay as they are). recipes: columns made of others, by name.

    Raises:
        UsageError: settings that make no sense, no such column or value, or (`Infeasible`) limits that cannot be met.
        InputError: a damaged set.
    """
    settings = Settings(tuple(attributes), tuple(labels), eta, bound, eps_representation, eps_association, keep_mean)
    groupings = [parse_grouping(name) for name in dict.fromkeys(attributes)]
    made = recipes or {}
    with ShardSet.open(data) as shards:
        names = list(dict.fromkeys([*(name for grouping in groupings for name in grouping), *labels]))
        metadata = read_metadata(shards, sources(names, made))
        where = shards.location
        columns = derive(metadata.columns, names, made, where)
        lineage = {
            "made_by": "audit --balance",
            "index_sha256": shards.sha256,
            "sources": {"data": where},
            "settings": _as_json(settings, targets),
        }
        blank = SampleWeights(metadata.keys, np.ones(len(metadata)), shards.sha256, lineage)
    return balance(columns, groupings, settings, targets or {}, blank, where)


def balance(
    columns: Mapping[str, Column], groupings: Sequence[Grouping], settings: Settings, targets: Mapping[str, Target],
    blank: SampleWeights, where: str,
) -> Balance:  # fmt: skip
    """`balance_set` on columns in memory; `blank` holds the samples' keys and where they come from."""
    attributes = {name_of(grouping): cross(columns, grouping, where) for grouping in groupings}
    labels = {name: cross(columns, (name,), where) for name in dict.fromkeys(settings.labels)}
    for name, column in (attributes | labels).items():
        if not (column.values >= 0).any():
            raise UsageError(f"{where}: no sample has a value of '{name}'", "Balance by another column")
    shares = _targets(attributes, targets, where)
    programme, inverse = make_programme(attributes, labels, shares, settings)
    solution = solve(programme)
    if not solution.feasible:
        raise Infeasible(where, settings, _broken(solution, attributes, labels, shares, settings))
    weight = solution.q[inverse]
    weight[weight < 1e-12 * settings.bound] = 0.0
    mean = float(weight.mean())
    if mean <= 0:
        raise UsageError(f"{where}: only weights of 0 meet the limits", "Keep the mean, or widen the limits")
    return Balance(
        settings=settings,
        weights=SampleWeights(blank.keys, weight, blank.index_sha256, blank.lineage),
        values={name: column.categories or () for name, column in attributes.items()},
        label_values={name: column.categories or () for name, column in labels.items()},
        targets=shares,
        before=measure_bias(attributes, labels, None),
        after=measure_bias(attributes, labels, weight),
        objective=solution.objective,
        effective=float(weight.sum() ** 2 / (weight @ weight)),
        mean=mean,
        at_bound=float((weight >= settings.bound * (1 - 1e-9)).mean()),
        at_zero=float((weight == 0).mean()),
        patterns=len(programme.mass),
    )


def measure_bias(attributes: Mapping[str, Column], labels: Mapping[str, Column], weight: Floats | None) -> Bias:
    """Shares and associations under `weight` (N,), or of the rows as they are."""
    shares, associations = {}, {}
    for name, column in attributes.items():
        counted = totals(column, weight)
        with np.errstate(invalid="ignore"):
            shares[name] = counted / counted.sum()
        for label, labelled in labels.items():
            own, rest = differences(table_of(column, labelled, weight))
            associations[name, label] = own - rest
    return Bias(shares, associations)


def make_programme(
    attributes: Mapping[str, Column], labels: Mapping[str, Column], targets: Mapping[str, Floats], settings: Settings
) -> tuple[Programme, NDArray[np.int64]]:
    """M4's programme over the patterns of equal rows, and the pattern of each row (N,).

    Of an attribute with two values only the first is constrained: the other's constraint is the same one. Rows without
    a value of an attribute are in none of its constraints, whose limits shrink by the share of the rows that have one:
    so they hold for shares among these.
    """
    both = [*labels.values(), *attributes.values()]
    codes = joint_codes([column.values for column in both], [len(column.categories or ()) for column in both])
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    label_codes = [column.values[first] for column in labels.values()]
    rows = (
        joint_codes(label_codes, [len(c.categories or ()) for c in labels.values()]) if labels else np.zeros_like(first)
    )
    _, starts = np.unique(rows, return_index=True)  # labels are the leading digits: equal ones are neighbours
    y = [_one_hot(codes[starts], len(column.categories or ())) for codes, column in
         zip(label_codes, labels.values(), strict=True)]  # fmt: skip
    centred = [
        _one_hot(column.values[first], _constrained(column), targets[name]) for name, column in attributes.items()
    ]
    label_rows = np.concatenate(y, axis=1) if y else np.zeros((len(starts), 0))
    whole = np.concatenate(centred, axis=1)
    eps = np.full((1 + label_rows.shape[1], whole.shape[1]), np.inf)
    if settings.eps_representation is not None:
        eps[0] = settings.eps_representation
    if settings.eps_association is not None:
        eps[1:] = settings.eps_association
    known = [(column.values >= 0).mean() for column in attributes.values() for _ in range(_constrained(column))]
    eps *= np.array(known)
    programme = Programme(
        whole, counts / counts.sum(), np.append(starts, len(first)), label_rows, eps, settings.eta, settings.bound,
        settings.keep_mean,
    )  # fmt: skip
    return programme, inverse


def _constrained(column: Column) -> int:
    count = len(column.categories or ())
    return 1 if count == 2 else count


def _one_hot(codes: NDArray[np.int32], count: int, centre: Floats | None = None) -> Floats:
    """(P, count) 1 where the code is the column's place; minus `centre` where there is one, and 0 where missing."""
    table = (codes[:, None] == np.arange(count)).astype(np.float64)
    if centre is not None:
        table -= centre[:count]
        table[codes < 0] = 0.0
    return np.asarray(table)


def _targets(attributes: Mapping[str, Column], targets: Mapping[str, Target], where: str) -> dict[str, Floats]:
    for name in targets:
        if name not in attributes:
            raise UsageError(f"target for '{name}', which is not balanced", did_you_mean(name, attributes))
    return {name: target_shares(name, column, targets.get(name, "uniform"), where)
            for name, column in attributes.items()}  # fmt: skip


def target_shares(name: str, column: Column, target: Target, where: str) -> Floats:
    """(K,) the share that each value of a column should have.

    Raises:
        UsageError: shares of values that do not exist, not of all, negative ones, or a sum that is not 1.
    """
    values = column.categories or ()
    if target == "uniform":
        return np.full(len(values), 1.0 / max(len(values), 1))
    if target == "observed":
        counted = totals(column)
        return np.asarray(counted / counted.sum())
    if isinstance(target, str):
        raise UsageError(f"target of '{name}' is '{target}'", did_you_mean(target, ("uniform", "observed")))
    for value in target:
        if value not in values:
            raise UsageError(f"{where}: '{name}' has no value '{value}'", did_you_mean(value, values))
    absent = [value for value in values if value not in target]
    if absent:
        raise UsageError(f"{where}: no target share for {name}={absent[0]}", "Give each value one, 0 for none")
    found = np.array([float(target[value]) for value in values])
    if not (np.isfinite(found).all() and found.min(initial=0.0) >= 0 and abs(found.sum() - 1) <= 1e-6):
        raise UsageError(
            f"the target shares of '{name}' add up to {found.sum():g}", "They are not negative and sum to 1"
        )
    return np.asarray(found / found.sum())


def _broken(
    solution: Solution, attributes: Mapping[str, Column], labels: Mapping[str, Column], targets: Mapping[str, Floats],
    settings: Settings,
) -> list[tuple[str, float, str]]:  # fmt: skip
    """The limits that the nearest weights break, in words, the worst first; the mean is kept, or all could be met."""
    columns = [(name, value, float(targets[name][place]), float((column.values >= 0).mean()))
               for name, column in attributes.items()
               for place, value in enumerate((column.categories or ())[: _constrained(column)])]  # fmt: skip
    rows = [None, *((name, value) for name, column in labels.items() for value in column.categories or ())]
    found = []
    for place in np.argsort(-solution.excess, axis=None)[: np.count_nonzero(solution.excess)]:
        row, column = np.unravel_index(place, solution.excess.shape)
        (name, value, target, known), label = columns[column], rows[row]
        moment = float(solution.moments[row, column]) / known
        if label is None:
            wanted = f"{target:.4g} +- {(settings.eps_representation or 0.0) / settings.eta:.4g}"
            found.append((f"the share of {name}={value}", target + moment / settings.eta, wanted))
        else:
            what = f"the association of {name}={value} with {label[0]}={label[1]}, E[q (s - pi) y],"
            found.append((what, moment, f"0 +- {settings.eps_association or 0.0:.4g}"))
    return found


def describe_balance(result: Balance) -> SuiteResult:
    """The weights for the report: biases before and after, and what the balance costs."""
    settings = result.settings
    rows = len(result.weights.weight)
    biases = {
        "representation": (result.before.representation(result.targets), result.after.representation(result.targets)),
        "association": (result.before.association(), result.after.association()),
    }
    summary = Table(
        "Balance: before and after",
        ("", "before", "after"),
        (
            ("largest distance of a share from its target", *biases["representation"]),
            ("largest difference of a label's rate between a group and the rest", *biases["association"]),
            ("effective sample size", float(rows), result.effective),
            ("effective share of the samples", 1.0, result.effective / rows),
            ("samples at the largest weight, share", 0.0, result.at_bound),
            ("samples never seen, share", 0.0, result.at_zero),
        ),
        f"Weights between 0 and {settings.bound:g}, mean {result.mean:.4g}. Effective: (sum q)^2 / sum q^2.",
    )
    return SuiteResult(
        suite="representation",
        findings=(),
        tables=(summary, _share_table(result), *_association_tables(result)),
        charts=(_share_chart(result),),
        inputs={"index_sha256": result.weights.index_sha256},
        limits=LIMITS,
        data={"balance": {
            "settings": dict(result.weights.lineage.get("settings", {})),
            "bias": {name: {"before": a, "after": b} for name, (a, b) in biases.items()},
            "samples": rows, "effective": result.effective, "mean": result.mean, "at_bound": result.at_bound,
            "at_zero": result.at_zero, "patterns": result.patterns, "objective": result.objective,
        }},
    )  # fmt: skip


def _share_table(result: Balance) -> Table:
    rows = [
        (name, value, float(result.targets[name][place]), float(result.before.shares[name][place]),
         float(result.after.shares[name][place]))
        for name, values in result.values.items() for place, value in enumerate(values)
    ]  # fmt: skip
    return Table("Balance: shares", ("attribute", "value", "target", "before", "after"), tuple(rows[:MAX_LEVELS]))


def _share_chart(result: Balance) -> Bars:
    rows = [(f"{name}={value}, {when}", float(bias.shares[name][place])) for name, values in result.values.items()
            for place, value in enumerate(values) for when, bias in
            (("before", result.before), ("after", result.after))][: 2 * _SHOWN]  # fmt: skip
    return Bars("Shares before and after", tuple(name for name, _ in rows), tuple(value for _, value in rows),
                axis="share of the samples")  # fmt: skip


def _association_tables(result: Balance) -> list[Table]:
    rows = []
    for (name, label), before in result.before.associations.items():
        after = result.after.associations[name, label]
        for k, r in np.ndindex(*before.shape):
            if np.isfinite(before[k, r]):
                now = float(after[k, r]) if np.isfinite(after[k, r]) else None
                rows.append(
                    (result.values[name][k], name, label, result.label_values[label][r], float(before[k, r]), now)
                )
    if not rows:
        return []
    rows.sort(key=lambda row: -abs(row[4]))
    shown = tuple((f"{name}={value}", f"{label}={named}", before, now) for value, name, label, named, before, now in
                  rows[:_SHOWN])  # fmt: skip
    note = "P(label | group) - P(label | rest), the largest before balancing first"
    return [Table("Balance: associations", ("group", "label", "before", "after"), shown,
                  note + (f"; {len(rows) - _SHOWN} more are not shown." if len(rows) > _SHOWN else "."))]  # fmt: skip


def _as_json(settings: Settings, targets: Mapping[str, Target] | None) -> dict[str, Any]:
    return {
        "attributes": list(settings.attributes), "labels": list(settings.labels), "eta": settings.eta,
        "bound": settings.bound, "eps_representation": settings.eps_representation,
        "eps_association": settings.eps_association, "keep_mean": settings.keep_mean,
        "targets": {name: target if isinstance(target, str) else dict(target) for name, target in
                    (targets or {}).items()},
    }  # fmt: skip
