"""Several suites in one report: each measures with its own inputs, and the gate judges them all as one family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seerctl.audit.baseline import Baseline, with_reported
from seerctl.audit.gate import FindingBlock
from seerctl.audit.policy import LoadedPolicy, SuiteCheck
from seerctl.audit.suite import SuiteName, SuiteResult
from seerctl.audit.summary import Part, assemble, section_of
from seerctl.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What an audit reads: paths, or nothing where a suite that needs them is not asked for.

    predictions: a table. scores: full scores of its rows. features: of the rows, and of a second set. data: shard sets.
    groups: columns for checks that name none. baseline: an earlier report. weights: where the balance is written, none
    where it is not asked for. shifted: tables of the same rows under shifts. other: tables of other data sets. models:
    accuracies of other models under the shifts. artefacts: reports, features, weights, runs and sets, to be traced.
    jobs: processes that look at pictures. progress: told how many.
    """

    predictions: Path | None = None
    scores: Path | None = None
    features: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    groups: tuple[str, ...] = ()
    baseline: Baseline | None = None
    weights: Path | None = None
    shifted: tuple[Path, ...] = ()
    other: tuple[Path, ...] = ()
    models: Path | None = None
    artefacts: tuple[Path, ...] = ()
    jobs: int | None = None
    progress: Callable[[int], None] | None = None


Runner = Callable[[Inputs, LoadedPolicy, Sequence[SuiteCheck]], Part]


def audit(suites: Sequence[SuiteName], inputs: Inputs, loaded: LoadedPolicy) -> dict[str, Any]:
    """The report over `suites`, as plain JSON values, by the checks of the policy that belong to them.

    Without suites the weights of a balance are all there is, and nothing is judged.

    Raises:
        UsageError: the policy has no check of a suite, or an input that a suite needs is not there.
        InputError: what a suite refuses to read.
    """
    for suite in suites:
        if not any(check.suite == suite for check in loaded.policy.check):
            raise UsageError(
                f"policy {loaded.source} has no check of the {suite} suite", f'Add [[check]] suite = "{suite}" to it'
            )
    parts = []
    for suite in suites:
        checks = [c for c in loaded.policy.check if c.suite == suite and isinstance(c, SuiteCheck)]
        parts.append(RUNNERS[suite](inputs, loaded, checks))
    more: dict[str, Any] = {} if inputs.baseline is None else {"baseline": inputs.baseline.as_json()}
    if inputs.weights is not None:
        balance, line = write_balance(inputs, loaded)
        parts = _with_balance(parts, balance)
        more["balance"] = {"weights": str(inputs.weights), "summary": line}
    if not suites:  # nothing is judged
        return assemble(parts, loaded, {**more, "headline": more["balance"]["summary"], "not_run": []}, suites=())
    return assemble(parts, loaded, more)


def _with_balance(parts: list[Part], balance: Part) -> list[Part]:
    """The balance joins the section of the representation suite, where there is one."""
    place = next((index for index, part in enumerate(parts) if part.suite == balance.suite), None)
    if place is None:
        return [*parts, balance]
    old, new = parts[place].section, balance.section
    joined = {key: [*old[key], *new[key]] for key in ("tables", "charts", "limits")}
    section = {**old, **joined, "data": {**old["data"], **new["data"]}}
    return [*parts[:place], replace(parts[place], section=section), *parts[place + 1 :]]


def part_of(result: SuiteResult, checks: Sequence[SuiteCheck], baseline: Baseline | None = None) -> Part:
    """What a suite's result brings to the report: its findings by check, and its section."""
    blocks = []
    for check in checks:
        findings = tuple(finding for finding in result.findings if finding.check == check.id)
        if check.against == "baseline" and baseline is None:
            raise UsageError(f"check '{check.id}' compares with a baseline", "Pass --baseline report.json")
        blocks.append(with_reported(FindingBlock(check, findings), baseline))
    return Part(result.suite, blocks, section_of(result))


def _groups(inputs: Inputs, loaded: LoadedPolicy) -> tuple[str, ...]:
    return inputs.groups or loaded.policy.groups


def _fairness(inputs: Inputs, loaded: LoadedPolicy, _: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.fairness import measure_fairness  # noqa: PLC0415

    return measure_fairness(
        inputs.predictions, loaded.policy, inputs.groups, scores=inputs.scores, features=inputs.features,
        baseline=inputs.baseline,
    )  # fmt: skip


def _representation(inputs: Inputs, loaded: LoadedPolicy, checks: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.representation import audit_representation  # noqa: PLC0415

    if not inputs.data:
        raise UsageError("audit --representation: nothing to judge", "Pass --data SET")
    groups = _groups(inputs, loaded)
    result = audit_representation(inputs.data, checks, groups=groups, recipes=loaded.policy.recipes)
    return part_of(result, checks, inputs.baseline)


def _robustness(inputs: Inputs, loaded: LoadedPolicy, checks: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.robustness import audit_robustness  # noqa: PLC0415

    alone = {"clean_accuracy", "prediction_invariance", "neighbour_invariance"}
    compares = any(check.metric not in alone for check in checks)
    if inputs.predictions is None or (compares and not (inputs.shifted or inputs.other)):
        raise UsageError("audit --robustness: nothing to compare", "Pass --predictions CLEAN and --shifted TABLE")
    result = audit_robustness(
        inputs.predictions, inputs.shifted, checks, groups=_groups(inputs, loaded), other=inputs.other,
        features=next(iter(inputs.features), None), baselines=inputs.models, recipes=loaded.policy.recipes,
    )  # fmt: skip
    return part_of(result, checks, inputs.baseline)


def _leakage(inputs: Inputs, _: LoadedPolicy, checks: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.leakage import audit_leakage  # noqa: PLC0415

    if len(inputs.data) != 2:
        raise UsageError("audit --leakage: it takes two shard sets", "Pass --data TRAIN --data TEST")
    result = audit_leakage(
        *inputs.data, checks, predictions=inputs.predictions, features=inputs.features, jobs=inputs.jobs,
        progress=inputs.progress,
    )  # fmt: skip
    return part_of(result, checks, inputs.baseline)


def _privacy(inputs: Inputs, _: LoadedPolicy, checks: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.privacy import audit_privacy  # noqa: PLC0415

    result = audit_privacy(inputs.data, checks, artefacts=inputs.artefacts, progress=inputs.progress)
    return part_of(result, checks, inputs.baseline)


def _lineage(inputs: Inputs, _: LoadedPolicy, checks: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.lineage import audit_lineage  # noqa: PLC0415

    if not inputs.artefacts and not inputs.data:
        raise UsageError("audit --lineage: nothing to trace", "Pass --artefact FILE and --data SET")
    result = audit_lineage(inputs.artefacts, checks, data=inputs.data, progress=inputs.progress)
    return part_of(result, checks, inputs.baseline)


def write_balance(inputs: Inputs, loaded: LoadedPolicy) -> tuple[Part, str]:
    """Write the weights that balance the first shard set, and return their section and what they do in one line.

    Raises:
        UsageError: no set, no groups, or limits that no weights meet.
        InputError: a damaged set.
    """
    from seerctl.audit.balance import balance_set, describe_balance  # noqa: PLC0415
    from seerctl.weighting import write_weights  # noqa: PLC0415

    wanted = loaded.policy.balance
    if not inputs.data or inputs.weights is None:
        raise UsageError("audit --balance: nothing to balance", "Pass --data SET")
    found = balance_set(
        str(inputs.data[0]), wanted.attributes or _groups(inputs, loaded), wanted.labels, eta=wanted.eta,
        bound=wanted.bound, eps_representation=None if wanted.representation is False else wanted.representation,
        eps_association=None if wanted.association is False else wanted.association, targets=wanted.targets,
        keep_mean=wanted.keep_mean, recipes=loaded.policy.recipes,
    )  # fmt: skip
    write_weights(inputs.weights, found.weights)
    biases = ((b.representation(found.targets), b.association()) for b in (found.before, found.after))
    (shares, rates), (new_shares, new_rates) = biases
    line = (
        f"weights of {len(found.weights.weight):,} samples in {inputs.weights}: shares are off by {100 * shares:.1f} "
        f"points, weighted by {100 * new_shares:.1f}; rates of labels by {100 * rates:.1f}, weighted by "
        f"{100 * new_rates:.1f}; effective samples {found.effective:,.0f}"
    )
    return part_of(describe_balance(found), ()), line


RUNNERS: Mapping[SuiteName, Runner] = {
    "fairness": _fairness, "representation": _representation, "robustness": _robustness, "leakage": _leakage,
    "privacy": _privacy, "lineage": _lineage,
}  # fmt: skip
