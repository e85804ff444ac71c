"""`seerctl audit`: judge what a model did, group by group, and say so by the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seerctl.console import emit, say
from seerctl.errors import UsageError
from seerctl.options import SeerCommand, output_format, output_path, overwrite


def _names(_: click.Context, __: click.Parameter, value: Any) -> tuple[str, ...]:
    """`a,b` of the command line, or a list of the project file, as names."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in names):
        raise click.BadParameter(f"{value!r} is not a list of names")
    return tuple(name.strip() for name in names)


@click.command(cls=SeerCommand, examples=[
    "seerctl audit --fairness --predictions predictions.csv --groups gender,age -o audit/",
    "seerctl audit --fairness --predictions predictions.csv --policy audit.toml --output-format json",
])  # fmt: skip
@click.option(
    "--fairness", is_flag=True, help="Compare rates between groups: accuracy, TPR, FPR, precision, selection."
)
@click.option("--predictions", type=click.Path(path_type=Path), metavar="FILE",
              help="Table with key, label, prediction and metadata columns (csv, jsonl, parquet).")  # fmt: skip
@click.option(
    "--groups",
    type=click.UNPROCESSED,
    callback=_names,
    default=(),
    metavar="A,B",
    show_default=False,
    help="Columns to group by; 'a*b' for an intersection. Pairs are crossed too, unless the policy says no.",
)
@click.option("--policy", type=str, default=None, metavar="FILE", show_default="the shipped default",
              help="Policy in TOML: checks, tolerances, group sizes.")  # fmt: skip
@output_path("Directory for report.json, report.md and junit.xml.", required=False)
@overwrite
@output_format
def audit(
    *, fairness: bool, predictions: Path | None, groups: tuple[str, ...], policy: str | None, output: Path | None,
    overwrite: bool, output_format: str,
) -> int:  # fmt: skip
    """Judge predictions by group against a policy: a gate for CI.

    Exit 0: every check that counts passed. 3: one failed. 6: none failed, but one could not be judged (the policy's
    on_inconclusive = "pass" ends such a run with 0). Without --policy: accuracy, true positive rate and selection rate
    of each group against the rest, within 5 points, groups of 30 rows and more.
    """
    if not fairness:
        raise UsageError("audit: no suite named", "Pass --fairness")
    if predictions is None:
        raise UsageError("audit --fairness: no table to judge", "Pass --predictions FILE")
    from seerctl.audit import report as reports
    from seerctl.audit.fairness import audit_fairness
    from seerctl.audit.policy import load_policy

    if output is not None:
        reports.claim_directory(output, overwrite=overwrite)
    report = audit_fairness(predictions, load_policy(policy), groups)
    if output is not None:
        reports.save(report, output)
    else:
        reports.append_step_summary(reports.markdown(report))
    emit(report, output_format, reports.text(report))
    say(f"audit: {report['headline']}" + (f" (reports in {output})" if output else ""))
    return int(report["exit_code"])
