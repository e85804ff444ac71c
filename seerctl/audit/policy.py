"""The policy: which rates are compared between which groups, how close they must be, and what counts as judged."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from seerctl.audit.counts import Grouping
from seerctl.audit.groups import Bin, Map, Recipe, recipes_of
from seerctl.audit.indicators import METRICS, Metric, MetricName
from seerctl.audit.suite import MetricInfo, SuiteName
from seerctl.errors import UsageError, did_you_mean
from seerctl.stats import Correction
from seerctl.typed import build, plain, read_toml

SHIPPED = Path(__file__).with_name("policies")
TOLERANCE = 0.05
MIN_POSITIVES = 30
OnInconclusive = Literal["hold", "pass"]

# Where the metrics of a suite are described, beside the counted rates of `indicators`: read when a policy names them.
METRIC_TABLES: dict[SuiteName, tuple[tuple[str, str], ...]] = {
    "fairness": (
        ("seerctl.audit.scored", "SCORED"),
        ("seerctl.audit.associations", "METRICS"),
        ("seerctl.audit.geography", "METRICS"),
        ("seerctl.audit.retrieval", "METRICS"),
    ),
    "representation": (("seerctl.audit.representation", "METRICS"),),
    "robustness": (("seerctl.audit.robustness", "METRICS"),),
    "leakage": (("seerctl.audit.leakage", "METRICS"),),
    "privacy": (("seerctl.audit.privacy", "METRICS"),),
    "lineage": (("seerctl.audit.lineage", "METRICS"),),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One demand on one metric.

    metric: see `indicators`. groups: columns, "a*b" for an intersection; none: those of the policy or of `--groups`.
    positive: the class that counts as positive; none: each class in turn, or, of two, the one with a usual name.
    average: "macro" compares the mean over the classes instead.
    against: "rest" compares a group with all other groups, and the gap has to be within `tolerance`: op "within" (the
    default) on both sides, ">=" the group may not be lower, "<=" not higher. "threshold" compares the group's own rate
    with `threshold` (op ">=" or "<="). "baseline" compares it with the same group's rate in an earlier report, paired
    by key where both tables are there; without `op`, only getting worse by more than `tolerance` counts.
    min_n: rows a group and its rest need (default 30); min_positives: the trials that tpr, fpr and precision need on
    both sides (default 30). tolerance: default 0.05.
    severity: a "warn" check is reported and never decides. on_inconclusive: none takes the policy's.
    """

    id: str
    metric: MetricName
    groups: tuple[str, ...] = ()
    positive: str | None = None
    average: Literal["none", "macro"] = "none"
    against: Literal["rest", "threshold", "baseline"] = "rest"
    op: Literal["within", ">=", "<="] | None = None
    tolerance: float | None = None
    threshold: float | None = None
    min_n: int = 30
    min_positives: int | None = None
    severity: Literal["fail", "warn"] = "fail"
    on_inconclusive: OnInconclusive | None = None

    def __post_init__(self) -> None:
        metric = METRICS[self.metric]
        if not self.id.strip():
            raise ValueError("'id' is empty")
        if self.min_n < 1 or (self.min_positives is not None and self.min_positives < 1):
            raise ValueError("'min_n' and 'min_positives' have to be 1 or more")
        if self.min_positives is not None and not metric.conditional:
            raise ValueError(
                f"the trials of {self.metric} are all rows of a group: it takes 'min_n', not 'min_positives'"
            )
        if self.average == "macro" and (not metric.averages or self.positive is not None):
            why = "one 'positive' class" if metric.averages else self.metric
            raise ValueError(f'average = "macro" has no meaning for {why}')
        if self.positive is not None and not metric.by_class:
            raise ValueError(f"{self.metric} is over all classes, it takes no 'positive'")
        self._check_limits()

    def _check_limits(self) -> None:
        for name, value in (("tolerance", self.tolerance), ("threshold", self.threshold)):
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"'{name}' is {value}, not a fraction between 0 and 1")
        absolute = self.against == "threshold"
        if absolute != (self.threshold is not None) or (absolute and self.tolerance is not None):
            raise ValueError('\'threshold\' goes with against = "threshold", \'tolerance\' with "rest" and "baseline"')
        if absolute and self.op not in (">=", "<="):
            raise ValueError('against = "threshold" needs op = ">=" or "<="')

    @property
    def suite(self) -> SuiteName:
        """Counted rates are the core of the fairness suite."""
        return "fairness"

    @property
    def needed_trials(self) -> int:
        """The trials that both sides of a comparison need: `min_positives` where a group's rows are not all trials."""
        if not METRICS[self.metric].conditional:
            return self.min_n
        return MIN_POSITIVES if self.min_positives is None else self.min_positives

    @property
    def bounds(self) -> tuple[float, float]:
        """What the compared number has to lie between: the gap to the rest, or the rate itself."""
        if self.threshold is not None:
            return (self.threshold, math.inf) if self.op == ">=" else (-math.inf, self.threshold)
        allowed = TOLERANCE if self.tolerance is None else self.tolerance
        op = self.op
        if op is None and self.against == "baseline":
            op = worse_only(METRICS[self.metric])
        return (-math.inf if op == "<=" else -allowed, math.inf if op == ">=" else allowed)


@dataclass(frozen=True, slots=True)
class SuiteCheck:
    """One demand on a number that is more than a rate of counts, or of another suite than fairness.

    metric: a name of the suite's metric table. groups: columns, "a*b" for an intersection. cls: the class it is about
    (in a policy: `positive`). against: "threshold" judges the number itself by `threshold` (op ">=" or "<=", or
    "within" `tolerance` of it); "rest" its difference to the rest, "baseline" its change since a baseline report, both
    by `tolerance` (default 0.05). min_n: rows that a number needs. k: of top-k or precision@k. at: a score threshold.
    labels: the name or file of a label set. household: the column of households. columns: what else the metric reads.
    shares: the share each value should have. sample: whether the rows are a sample of more, to be judged by intervals.
    """

    id: str
    suite: SuiteName
    metric: str
    groups: tuple[str, ...] = ()
    cls: str | None = None
    against: Literal["threshold", "rest", "baseline"] = "threshold"
    op: Literal["<=", ">=", "within"] | None = None
    threshold: float | None = None
    tolerance: float | None = None
    min_n: int = 30
    severity: Literal["fail", "warn"] = "fail"
    on_inconclusive: OnInconclusive | None = None
    k: int | None = None
    at: float | None = None
    labels: str | None = None
    household: str | None = None
    columns: tuple[str, ...] = ()
    shares: Mapping[str, float] | None = None
    sample: bool = False

    def __post_init__(self) -> None:
        if not self.id.strip():
            raise ValueError("'id' is empty")
        if self.min_n < 1 or (self.k is not None and self.k < 1):
            raise ValueError("'min_n' and 'k' have to be 1 or more")
        for name, value in (("tolerance", self.tolerance), ("threshold", self.threshold), ("at", self.at)):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"'{name}' is {value}, not a finite number")
        if self.tolerance is not None and self.tolerance < 0:
            raise ValueError(f"'tolerance' is {self.tolerance}, below 0")
        absolute, within = self.against == "threshold", self.op == "within"
        if absolute != (self.threshold is not None) or (absolute and within != (self.tolerance is not None)):
            raise ValueError(
                "against = \"threshold\" needs 'threshold' (and 'tolerance' with op = \"within\" alone); "
                "other comparisons take 'tolerance'"
            )
        if absolute and self.op is None:
            raise ValueError('against = "threshold" needs op = ">=", "<=" or "within"')

    @property
    def bounds(self) -> tuple[float, float]:
        """What the judged number has to lie between: the finding's value, or its change since the baseline."""
        if self.threshold is not None and self.op != "within":
            return (self.threshold, math.inf) if self.op == ">=" else (-math.inf, self.threshold)
        centre = 0.0 if self.threshold is None else self.threshold
        allowed = TOLERANCE if self.tolerance is None else self.tolerance
        return (
            -math.inf if self.op == "<=" else centre - allowed,
            math.inf if self.op == ">=" else centre + allowed,
        )  # fmt: skip


AnyCheck = Check | SuiteCheck


@dataclass(frozen=True, slots=True)
class Stats:
    """How sure a verdict has to be.

    alpha: the chance that the report of a fair model fails anywhere. correction: for the number of comparisons, over
    the whole `family`: all checks of one severity ("report") or each check alone ("check").
    method: where the spread of a counted rate comes from: the binomial distribution ("newcombe"), or `replicates` draws
    of the rows with seed `seed` ("bootstrap"; always so, and of whole clusters, where [data] names a cluster column).
    """

    alpha: float = 0.05
    correction: Correction = "holm"
    family: Literal["report", "check"] = "report"
    method: Literal["newcombe", "bootstrap"] = "newcombe"
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 0.5:
            raise ValueError(f"'alpha' is {self.alpha}, not between 0 and 0.5")
        if not 100 <= self.replicates <= 100_000:
            raise ValueError(f"'replicates' is {self.replicates}, not between 100 and 100,000")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"'seed' is {self.seed}, not between 0 and 2^63")


@dataclass(frozen=True, slots=True)
class Data:
    """What is known about the rows.

    cluster: the column of what rows belong to (a household, a person): such rows are not independent, so that spreads
    come from draws of whole clusters. min_clusters: how many of them a group and its rest need.
    """

    cluster: str | None = None
    min_clusters: int = 10

    def __post_init__(self) -> None:
        if self.cluster == "" or self.min_clusters < 2:
            raise ValueError("'cluster' has to be a column and 'min_clusters' 2 or more")


@dataclass(frozen=True, slots=True)
class Balancing:
    """How `--balance` weighs samples (see `balance`).

    attributes: columns to balance, "a*b" for an intersection; none: the policy's groups or those of `--groups`. labels:
    columns to free from them. eta: the weight that all stay near. bound: the largest. representation, association: how
    far shares may be off, and how much a group may say of a label (false: no limit). keep_mean: whether the mean weight
    has to be eta. targets: the shares by attribute, or "uniform" (without targets) or "observed".
    """

    attributes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ("label",)
    eta: float = 1.0
    bound: float = 5.0
    representation: float | Literal[False] = 0.01
    association: float | Literal[False] = 0.01
    keep_mean: bool = True
    targets: Mapping[str, Mapping[str, float] | Literal["uniform", "observed"]] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file.

    groups: columns for checks that name none. intersections: how many of those are also crossed at once (1: none, 2:
    all pairs). on_inconclusive: "hold" ends with exit 6 when a check that counts could not be judged, "pass" with 0.
    bin, map: columns made of others before anything is counted (see `groups`).
    """

    check: tuple[AnyCheck, ...]
    title: str = ""
    groups: tuple[str, ...] = ()
    intersections: int = 2
    on_inconclusive: OnInconclusive = "hold"
    stats: Stats = Stats()
    data: Data = Data()
    bin: tuple[Bin, ...] = ()
    map: tuple[Map, ...] = ()
    balance: Balancing = Balancing()

    def __post_init__(self) -> None:
        if not self.check:
            raise ValueError("no [[check]]")
        ids = [check.id for check in self.check]
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two checks have the id '{twice}'")
        if not 1 <= self.intersections <= 3:
            raise ValueError(f"'intersections' is {self.intersections}, not 1, 2 or 3")
        recipes_of((*self.bin, *self.map))

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The columns that [[bin]] and [[map]] make, by name."""
        return recipes_of((*self.bin, *self.map))

    def groupings(self, check: AnyCheck, groups: Sequence[str] = ()) -> list[Grouping]:
        """The groupings that `check` compares; `groups` (of the command line) replace the policy's own default ones.

        Raises:
            UsageError: nobody names a group.
        """
        if check.groups:
            return [parse_grouping(text) for text in dict.fromkeys(check.groups)]
        single = [parse_grouping(text) for text in dict.fromkeys(groups or self.groups)]
        if not single:
            raise UsageError(f"check '{check.id}' has no groups", "Pass --groups COLUMN,... or name them in the policy")
        crossed = []
        columns = [grouping[0] for grouping in single if len(grouping) == 1]
        for depth in range(2, self.intersections + 1):
            crossed += list(combinations(columns, depth))
        return list(dict.fromkeys([*single, *crossed]))


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy, where it came from, and the hash of its bytes."""

    policy: Policy
    source: str
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """What the report repeats."""
        return {"source": self.source, "sha256": self.sha256, **plain(self.policy)}


def suite_metrics(suite: SuiteName) -> dict[str, MetricInfo]:
    """What the checks of a suite may name, beside the counted rates of fairness."""
    metrics: dict[str, MetricInfo] = {}
    for module, name in METRIC_TABLES[suite]:
        try:
            metrics |= getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    return metrics


def _checks(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`table` with each [[check]] as what it is: a `Check` of a counted rate, else a `SuiteCheck`."""
    listed = table.get("check")
    if not isinstance(listed, (list, tuple)) or not all(isinstance(check, Mapping) for check in listed):
        return dict(table)  # a message about its type follows
    return {**table, "check": [_check(check, where, f"check[{index}].") for index, check in enumerate(listed)]}


def _check(table: Mapping[str, Any], where: str, prefix: str) -> AnyCheck:
    suite, metric = table.get("suite", "fairness"), table.get("metric")
    if not isinstance(suite, str) or suite not in METRIC_TABLES:
        raise UsageError(f"{where}: '{prefix}suite' is {suite!r}", did_you_mean(str(suite), METRIC_TABLES))
    counted = suite == "fairness" and (metric in METRICS if isinstance(metric, str) else True)
    if counted:
        return build(Check, {key: value for key, value in table.items() if key != "suite"}, where, prefix)
    metrics = suite_metrics(suite)
    known = [*metrics, *(METRICS if suite == "fairness" else ())]
    if metric is not None and metric not in metrics:
        raise UsageError(f"{where}: '{prefix}metric' is {metric!r}", did_you_mean(str(metric), known))
    if "cls" in table or not isinstance(table.get("positive", ""), str):
        raise UsageError(f"{where}: '{prefix}positive' has to be the name of a class")
    renamed = {"cls" if key == "positive" else key: value for key, value in table.items()}
    check = build(SuiteCheck, {**renamed, "suite": suite}, where, prefix)
    if check.op is None and check.against == "baseline":
        return replace(check, op=worse_only(metrics[check.metric]))
    return check


def worse_only(metric: MetricInfo | Metric) -> Literal["<=", ">=", "within"]:
    """How a change since the baseline is judged when the policy does not say: only getting worse counts."""
    return "within" if metric.higher_is_better is None else ">=" if metric.higher_is_better else "<="


def parse_grouping(text: str) -> Grouping:
    """`a` or `a*b` as a tuple of columns.

    Raises:
        UsageError: an empty name, or one that comes twice.
    """
    names = tuple(name.strip() for name in text.split("*"))
    if not all(names) or len(set(names)) != len(names):
        raise UsageError(f"groups: '{text}' is not a column or an intersection", 'Write "gender" or "gender*age"')
    return names


def shipped() -> list[str]:
    """The names of the ready policies."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_policy(where: str | Path | None = None, suites: Sequence[SuiteName] = ("fairness",)) -> LoadedPolicy:
    """The policy in a file, a shipped one by its name, or, without `where`, the shipped ones of `suites` as one.

    Raises:
        UsageError: no such file, not TOML, or a key or value that is not allowed.
    """
    if where is None:
        return _ready(suites)
    path = Path(where)
    if not path.is_file() and path.name == str(where) and path.name in shipped():
        path = SHIPPED / f"{path.name}.toml"
    elif not path.exists():
        raise UsageError(f"{path}: no such file", f"Ready policies: {', '.join(shipped())}")
    policy = build(Policy, _checks(read_toml(path), str(path)), str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoadedPolicy(policy, f"shipped:{path.stem}" if path.parent == SHIPPED else str(where), digest)


def _ready(suites: Sequence[SuiteName]) -> LoadedPolicy:
    """The shipped policies of several suites as one: their checks together, the rest as in the first of them."""
    names = ["default" if suite == "fairness" else suite for suite in suites or ("representation",)]
    found = [load_policy(name) for name in names]
    if len(found) == 1:
        return found[0]
    first = found[0]
    policy = replace(first.policy, check=tuple(check for loaded in found for check in loaded.policy.check))
    digest = hashlib.sha256("".join(loaded.sha256 for loaded in found).encode()).hexdigest()
    return LoadedPolicy(policy, "+".join(loaded.source for loaded in found), digest)
