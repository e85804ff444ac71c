"""The fairness suite: a table of predictions and a policy become comparisons to judge, and a report of them alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.baseline import Baseline, align, paired, reported, rows_sha256, with_reported
from seerctl.audit.clusters import Frame, make_frame, with_spread
from seerctl.audit.counts import GroupCounts, Grouping, count
from seerctl.audit.gate import Block, Comparisons, FindingBlock, make_block, select
from seerctl.audit.groups import derive, sources
from seerctl.audit.policy import METRIC_TABLES, AnyCheck, Check, LoadedPolicy, Policy, SuiteCheck
from seerctl.audit.suite import Finding, SuiteResult, Table
from seerctl.audit.summary import Part, assemble, section_of
from seerctl.columns import Column
from seerctl.errors import UsageError
from seerctl.files import sha256_file
from seerctl.predictions import Predictions, read_predictions
from seerctl.stats import wilson

MAX_LEVELS = 1000
RETRIEVAL = "seerctl.audit.retrieval"  # reads features, all others a table
ASSOCIATIONS = "seerctl.audit.associations"  # needs no labels
Plan = dict[str, list[Grouping]]

LIMITS = (
    "Selection rates differ between groups also when the labels themselves do; whether they should is not a question "
    "that numbers answer.",
)


def audit_fairness(
    path: Path, loaded: LoadedPolicy, groups: Sequence[str] = (), *, scores: Path | None = None,
    baseline: Baseline | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report, as plain JSON values, on the table at `path` alone.

    groups: `column` or `a*b`, for checks that name no groups of their own. scores: the file of full scores.

    Raises:
        UsageError: no groups, a column or a positive class that the table does not have, or one of too many values.
        InputError: what `read_predictions` refuses, or a baseline of other rows.
    """
    part = measure_fairness(path, loaded.policy, groups, scores=scores, baseline=baseline)
    return assemble([part], loaded, {} if baseline is None else {"baseline": baseline.as_json()})


def judge_table(table: Predictions, loaded: LoadedPolicy, plan: Plan, inputs: dict[str, Any]) -> dict[str, Any]:
    """The report on a table in memory; `plan` holds the groupings of each check by its id."""
    return assemble([measure_table(table, loaded.policy, plan, inputs)], loaded)


def measure_fairness(
    path: Path | None, policy: Policy, groups: Sequence[str] = (), *, scores: Path | None = None,
    features: Sequence[Path] = (), baseline: Baseline | None = None,
) -> Part:  # fmt: skip
    """What the fairness suite brings to a report on the table at `path`; arguments and errors as `audit_fairness`.

    features: queries, and the database they are searched in if it is another, for checks of same-attribute retrieval.
    """
    checks = [check for check in policy.check if check.suite == "fairness"]
    plan = {check.id: policy.groupings(check, groups) for check in checks}
    searched = {c.id for c in checks if isinstance(c, SuiteCheck) and _module_of(c) == RETRIEVAL}
    rows = {name: groupings for name, groupings in plan.items() if name not in searched}
    parts = []
    if rows:
        if path is None:
            raise UsageError("audit --fairness: nothing to judge", "Pass --predictions FILE")
        parts.append(_measure_rows(path, policy, rows, scores, baseline))
    if searched:
        parts.append(_measure_retrieval([c for c in checks if c.id in searched], plan, policy, features, baseline))
    return parts[0] if len(parts) == 1 else _both(*parts)


def _both(one: Part, two: Part) -> Part:
    inputs = {**one.inputs, **two.inputs}
    return replace(one, blocks=[*one.blocks, *two.blocks], inputs=inputs, section=one.section or two.section)


def _measure_rows(path: Path, policy: Policy, plan: Plan, scores: Path | None, baseline: Baseline | None) -> Part:
    scored = [check for check in policy.check if check.id in plan and isinstance(check, SuiteCheck)]
    wanted = list(dict.fromkeys(name for found in plan.values() for grouping in found for name in grouping))
    wanted += [policy.data.cluster] if policy.data.cluster else []
    for check in scored:
        wanted += [*check.columns, *([check.household] if check.household else [])]
    columns = sources(wanted, policy.recipes)
    if scored:
        from seerctl.audit.inputs import read_table  # noqa: PLC0415  # h5py, for those who need it

        table = read_table(path, [check for check in policy.check if check.id in plan], columns, scores=scores)
    elif scores is not None:
        raise UsageError(f"{scores}: no check of the policy reads full scores", "Leave --scores out or add one")
    else:
        table = read_predictions(path, columns)
    table = replace(table, columns=derive(table.columns, wanted, policy.recipes, str(path)))
    inputs = {"predictions": str(path), "sha256": sha256_file(path), "rows_sha256": rows_sha256(table)}
    if scores is not None:
        inputs |= {"scores": str(scores), "scores_sha256": sha256_file(scores)}
    return measure_table(table, policy, plan, inputs, baseline)


def _measure_retrieval(
    checks: Sequence[AnyCheck], plan: Plan, policy: Policy, features: Sequence[Path], baseline: Baseline | None
) -> Part:
    from seerctl.audit.retrieval import open_retrieval  # noqa: PLC0415

    if not 1 <= len(features) <= 2:
        raise UsageError(
            f"check '{checks[0].id}': {checks[0].metric} needs features",
            "Pass --features QUERIES.h5, and --features DATABASE.h5 if they are searched in another file",
        )
    found = open_retrieval(features[0], features[1] if len(features) > 1 else None)
    attributes = [name for check in checks if isinstance(check, SuiteCheck) for name in check.columns]
    wanted = [*attributes, *(name for check in checks for grouping in plan[check.id] for name in grouping)]
    asked, bank = found.queries, found.database
    found = replace(
        found,
        queries=replace(asked, columns=derive(asked.columns, wanted, policy.recipes, str(asked.path))),
        database=replace(bank, columns=derive(bank.columns, attributes, policy.recipes, str(bank.path))),
    )
    blocks = [
        with_reported(_scored(check, plan[check.id], found, policy), baseline)
        for check in checks
        if isinstance(check, SuiteCheck)
    ]
    names = ("features", "database")[: len(features)]
    read = {name: {"path": str(p), "sha256": sha256_file(p)} for name, p in zip(names, features, strict=True)}
    return Part("fairness", blocks, inputs=read)


def measure_table(
    table: Predictions, policy: Policy, plan: Plan, inputs: dict[str, Any], baseline: Baseline | None = None
) -> Part:
    """The comparisons of a table in memory; `plan` holds the groupings of each check by its id."""
    checks = [check for check in policy.check if check.id in plan]
    counted = [check for check in checks if isinstance(check, Check)]
    scored = [check for check in checks if isinstance(check, SuiteCheck)]
    table, before, limits = _baseline_of(table, checks, baseline, inputs.get("rows_sha256"))
    if counted and table.truth is not None:
        raise UsageError(
            f"check '{counted[0].id}': {counted[0].metric} needs one label a row, and the table has lists",
            "mean_average_precision and hit_at_k judge such tables",
        )
    groupings = list(dict.fromkeys(grouping for found in plan.values() for grouping in found))
    columns = {name: table.columns[name].coded() for name in dict.fromkeys(n for g in groupings for n in g)}
    _check_levels(columns)
    rows = _labelled(table, columns, before, policy.data.cluster)
    counts: dict[Grouping, GroupCounts] = {}
    if len(rows.label):  # not of a table without labels, or with lists of them
        counts = count(rows.label, rows.prediction, len(table.classes), rows.columns, groupings)
    blocks: list[Comparisons] = [*_counted(counted, plan, policy, rows, counts, baseline)] if counted else []
    blocks += [with_reported(_scored(check, plan[check.id], table, policy), baseline) for check in scored]
    needs_labels = bool(counted) or any(_module_of(check) != ASSOCIATIONS for check in scored)
    left_out = int((~table.labelled).sum()) if needs_labels else 0
    return Part(
        "fairness",
        blocks,
        _published(scored),
        groups=[_description(counts[grouping]) for grouping in groupings if grouping in counts],
        inputs={**inputs, "rows": len(table), "unlabelled": left_out, "classes": len(table.classes)},
        limits=[*LIMITS, *limits],
    )


def _baseline_of(
    table: Predictions, checks: Sequence[AnyCheck], baseline: Baseline | None, digest: str | None
) -> tuple[Predictions, NDArray[np.int32] | None, list[str]]:
    """The table with the baseline's classes too, the baseline's predictions on its rows, and what that cannot show."""
    comparing = [check for check in checks if check.against == "baseline"]
    if not comparing:
        return table, None, []
    if baseline is None:
        raise UsageError(f"check '{comparing[0].id}' compares with a baseline", "Pass --baseline report.json")
    before = None
    if baseline.predictions is not None and any(isinstance(check, Check) for check in comparing):
        table, before = align(table, baseline)
    baseline.check_rows(digest)
    return table, before, baseline.limits


def _published(checks: Sequence[SuiteCheck]) -> dict[str, Any]:
    """The section with what is published of the metrics of `checks`; empty where nothing is."""
    modules = [importlib.import_module(_module_of(check)) for check in checks]
    tables: list[Table] = [table for module in dict.fromkeys(modules) for table in getattr(module, "REFERENCE", ())]
    return section_of(SuiteResult("fairness", (), tuple(tables))) if tables else {}


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of a table that have a label, as codes; `before` is a baseline's prediction."""

    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    before: NDArray[np.int32] | None
    cluster: NDArray[np.int32] | None
    columns: dict[str, Column]
    classes: tuple[str, ...]

    def frame(self, columns: Sequence[str]) -> Frame:
        """The distinct rows by `columns`."""
        kept = {name: self.columns[name] for name in columns}
        return make_frame(
            self.label, self.prediction, len(self.classes), kept, before=self.before, cluster=self.cluster
        )


def _labelled(
    table: Predictions, columns: dict[str, Column], before: NDArray[np.int32] | None, cluster: str | None
) -> _Rows:
    codes = None if cluster is None else table.columns[cluster].coded().values
    known = table.label >= 0
    if known.all():
        return _Rows(table.label, table.prediction, before, codes, columns, table.classes)
    return _Rows(
        table.label[known], table.prediction[known], None if before is None else before[known],
        None if codes is None else codes[known], {name: column.take(known) for name, column in columns.items()},
        table.classes,
    )  # fmt: skip


def _counted(
    checks: Sequence[Check], plan: Plan, policy: Policy, rows: _Rows, counts: Mapping[Grouping, GroupCounts],
    baseline: Baseline | None,
) -> list[Block]:  # fmt: skip
    """Blocks of counted rates, with the spread that the policy asks for."""
    owners = [(check, grouping) for check in checks for grouping in plan[check.id]]
    before: dict[Grouping, GroupCounts] = {}
    if rows.before is not None:
        needed = [grouping for check, grouping in owners if check.against == "baseline"]
        before = count(rows.label, rows.before, len(rows.classes), rows.columns, needed)
    blocks = []
    for check, grouping in owners:
        other: GroupCounts | None = before.get(grouping)
        if check.against == "baseline" and rows.before is None and baseline is not None:
            side = reported(baseline, check, counts[grouping], select(check, rows.classes).names)
            blocks.append(make_block(check, counts[grouping], rows.classes, side))
        else:
            blocks.append(make_block(check, counts[grouping], rows.classes, other))
    drawn = policy.stats.method == "bootstrap" or policy.data.cluster is not None
    chosen = [  # whose rows are there: those of a baseline may not be, and a column may have no value at all
        index
        for index, block in enumerate(blocks)
        if block.counts.groups and (before if block.check.against == "baseline" else drawn)
    ]
    if not chosen:
        return blocks
    frame = rows.frame(list(dict.fromkeys(name for index in chosen for name in blocks[index].counts.grouping)))
    if drawn:
        made = with_spread(
            [blocks[index] for index in chosen], frame, rows.columns, rows.classes,
            replicates=policy.stats.replicates, seed=policy.stats.seed, min_clusters=policy.data.min_clusters,
            what="rows" if policy.data.cluster is None else f"whole clusters by '{policy.data.cluster}'",
        )  # fmt: skip
    else:
        made = [paired(blocks[index], frame, rows.columns, rows.classes) for index in chosen]
    for index, block in zip(chosen, made, strict=True):
        blocks[index] = block
    return blocks


def _scored(check: SuiteCheck, groupings: Sequence[Grouping], rows: Any, policy: Policy) -> FindingBlock:
    """The findings of a check whose metric is more than a rate of counts, by the module that measures it.

    rows: a table, or features for retrieval.
    """
    if check.household is None and policy.data.cluster is not None:
        check = replace(check, household=policy.data.cluster)
    measure = importlib.import_module(_module_of(check)).measure
    findings: list[Finding] = [finding for grouping in groupings for finding in measure(rows, check, grouping)]
    return FindingBlock(check, tuple(findings))


def _module_of(check: SuiteCheck) -> str:
    """The module that measures a check's metric."""
    for module, name in METRIC_TABLES["fairness"]:
        if check.metric in getattr(importlib.import_module(module), name):
            return module
    raise UsageError(f"check '{check.id}': no metric '{check.metric}'")


def _check_levels(columns: dict[str, Any]) -> None:
    for name, column in columns.items():
        levels = len(column.categories)
        if levels > MAX_LEVELS:
            raise UsageError(
                f"column '{name}' has {levels:,} different values, too many for groups",
                "Bin its numbers with [[bin]], or write its groups into a column of their own",
            )


def _description(counts: GroupCounts) -> dict[str, Any]:
    """Sizes and accuracies of a grouping, with plain 95 % Wilson intervals: for reading, not for judging."""
    accuracy = wilson(counts.correct.sum(1), counts.n)
    return {
        "columns": list(counts.grouping),
        "missing": counts.missing,
        "groups": [
            {
                "group": dict(zip(counts.grouping, group, strict=True)), "n": int(counts.n[row]),
                "accuracy": {
                    "value": float(accuracy.value[row]), "low": float(accuracy.low[row]),
                    "high": float(accuracy.high[row]),
                },
            }
            for row, group in enumerate(counts.groups)
        ],
    }  # fmt: skip
