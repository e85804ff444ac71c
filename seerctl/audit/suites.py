"""Several suites in one report: each measures with its own inputs, and the gate judges them all as one family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    predictions: a table. scores: full scores of its rows. groups: columns for checks that name none. baseline: an
    earlier report.
    """

    predictions: Path | None = None
    scores: Path | None = None
    groups: tuple[str, ...] = ()
    baseline: Baseline | None = None


Runner = Callable[[Inputs, LoadedPolicy, Sequence[SuiteCheck]], Part]


def audit(suites: Sequence[SuiteName], inputs: Inputs, loaded: LoadedPolicy) -> dict[str, Any]:
    """The report over `suites`, as plain JSON values, by the checks of the policy that belong to them.

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
    more = {} if inputs.baseline is None else {"baseline": inputs.baseline.as_json()}
    return assemble(parts, loaded, more)


def part_of(result: SuiteResult, checks: Sequence[SuiteCheck], baseline: Baseline | None = None) -> Part:
    """What a suite's result brings to the report: its findings by check, and its section."""
    blocks = []
    for check in checks:
        findings = tuple(finding for finding in result.findings if finding.check == check.id)
        if check.against == "baseline" and baseline is None:
            raise UsageError(f"check '{check.id}' compares with a baseline", "Pass --baseline report.json")
        blocks.append(with_reported(FindingBlock(check, findings), baseline))
    return Part(result.suite, blocks, section_of(result))


def needed(path: Path | None, suite: str, flag: str) -> Path:
    """`path`, which the suite cannot do without.

    Raises:
        UsageError: it is not there.
    """
    if path is None:
        raise UsageError(f"audit --{suite}: nothing to judge", f"Pass {flag}")
    return path


def _fairness(inputs: Inputs, loaded: LoadedPolicy, _: Sequence[SuiteCheck]) -> Part:
    from seerctl.audit.fairness import measure_fairness  # noqa: PLC0415

    table = needed(inputs.predictions, "fairness", "--predictions FILE")
    return measure_fairness(
        table, loaded.policy, inputs.groups, scores=inputs.scores, baseline=inputs.baseline
    )  # fmt: skip


RUNNERS: Mapping[SuiteName, Runner] = {"fairness": _fairness}
