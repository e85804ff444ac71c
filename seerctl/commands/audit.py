"""`seerctl audit`: judge what a model did, group by group, and say so by the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.console import Progress, emit, say, warn
from seerctl.errors import UsageError
from seerctl.options import F, SeerCommand, jobs, output_format, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.audit.examples import Example
    from seerctl.audit.policy import LoadedPolicy

# The flags, in the order of the report.
SUITES = ("fairness", "representation", "robustness", "leakage", "privacy", "lineage")
# What not every suite reads: a mistake on the command line without one that does.
ONLY = {
    "predictions": ("fairness", "robustness", "leakage"), "scores": ("fairness",),
    "features": ("fairness", "robustness", "leakage"),
    "data": ("representation", "leakage", "privacy", "lineage", "balance", "examples"),
    "weights": ("balance",), "shifted": ("robustness",), "other": ("robustness",), "models": ("robustness",),
    "artefacts": ("privacy", "lineage"), "jobs": ("leakage",), "examples": ("fairness",),
}  # fmt: skip


def _names(_: click.Context, __: click.Parameter, value: Any) -> tuple[str, ...]:
    """`a,b` of the command line, or a list of the project file, as names."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in names):
        raise click.BadParameter(f"{value!r} is not a list of names")
    return tuple(name.strip() for name in names)


def _path(*names: str, metavar: str = "FILE", **kwargs: Any) -> Callable[[F], F]:
    return click.option(*names, type=click.Path(path_type=Path), metavar=metavar, **kwargs)


@click.command(cls=SeerCommand, examples=[
    "seerctl audit --fairness --predictions predictions.csv --groups gender,age -o audit/",
    "seerctl audit --fairness --predictions predictions.csv --policy audit.toml --output-format json",
    "seerctl audit --representation --leakage --data shards/train --data shards/test --groups gender -o audit/",
])  # fmt: skip
@click.option(
    "--fairness", is_flag=True, help="Compare rates between groups: accuracy, TPR, FPR, precision, selection, AUC, ..."
)
@click.option("--representation", is_flag=True, help="What a shard set holds: shares, gaps, associations with labels.")
@click.option("--robustness", is_flag=True, help="What accuracy is lost on shifted pictures, and by which groups.")
@click.option(
    "--leakage", is_flag=True, help="Test samples that are in the training set, and what they add to the score."
)
@click.option("--privacy", is_flag=True, help="Places, names and other personal metadata in a set's pictures.")
@click.option("--lineage", is_flag=True, help="Whether every hash holds from a report back to the sources.")
@click.option("--balance", is_flag=True, help="Write sample weights that balance the shard set (M4).")
@_path("--predictions", help="Table with key, label, prediction and metadata columns (csv, jsonl, parquet).")
@_path("--scores", help="HDF5 with the scores of all classes for the rows of --predictions.")
@_path("--features", multiple=True, default=(),
       help="HDF5 of 'extract'. Fairness: of the queries, and again of the database they are searched in. Leakage: of "
            "the training and of the test set.")  # fmt: skip
@_path("--data", metavar="SET", multiple=True, default=(),
       help="Shard set; again for one to compare it with. Leakage: the training set, then the test set.")  # fmt: skip
@_path("--shifted", metavar="TABLE", multiple=True, default=(),
       help="Predictions on the same rows, corrupted or restyled; once for each shift.")  # fmt: skip
@_path("--other", metavar="TABLE", multiple=True, default=(),
       help="Predictions on another data set of the same task.")  # fmt: skip
@_path("--models", metavar="TABLE",
       help="Accuracies of other models (clean,shifted,shift), for effective_robustness.")  # fmt: skip
@_path("--artefact", "artefacts", metavar="PATH", multiple=True, default=(),
       help="Report, predictions, features, weights, run or set to be traced.")  # fmt: skip
@_path("--weights", show_default="weights.h5 in --output", help="Where --balance writes, .h5 or .csv.")
@click.option(
    "--groups",
    type=click.UNPROCESSED,
    callback=_names,
    default=(),
    metavar="A,B",
    show_default=False,
    help="Columns to group by; 'a*b' for an intersection. Pairs are crossed too, unless the policy says no.",
)
@click.option("--policy", type=str, default=None, metavar="FILE", show_default="the shipped ones of the suites",
              help="Policy in TOML, or the name of a shipped one: checks, tolerances, group sizes.")  # fmt: skip
@_path("--baseline", metavar="REPORT", help='report.json of an earlier audit, for checks against = "baseline".')
@_path("--baseline-predictions", show_default="the table it names, if unchanged",
       help="The table that --baseline judged: its rows are compared one by one.")  # fmt: skip
@click.option("--examples", type=click.IntRange(1, 100), default=None, metavar="N", show_default="none",
              help="Show the N worst-off rows' pictures in report.html, by key from --data.")  # fmt: skip
@output_path("Directory for report.json, report.md, card.md, junit.xml and report.html.", required=False)
@overwrite
@jobs
@output_format
@click.pass_context
def audit(
    context: click.Context, /, *, balance: bool, weights: Path | None, policy: str | None, baseline: Path | None,
    baseline_predictions: Path | None, examples: int | None, output: Path | None, overwrite: bool, output_format: str,
    **given: Any,
) -> int:  # fmt: skip
    """Judge a model and its data against a policy: a gate for CI.

    Name one suite or several: they give one report, judged as one. Exit 0: every check that counts passed. 3: one
    failed. 6: none failed, but one could not be judged (the policy's on_inconclusive = "pass" ends such a run with 0).

    Without --policy the ready ones of the suites decide. For fairness that is: accuracy, true positive rate and
    selection rate of each group against the rest, within 5 points, groups of 30 rows and more. Others are found by name
    too: seer-people (skin tone, gender, age), seer-geography (income, region), seer-labels, seer-retrieval.
    """
    suites = [name for name in SUITES if given.pop(name)]
    examples = examples if "fairness" in suites else None
    _check_flags(context, [*suites, *(["balance"] if balance else []), *(["examples"] if examples else [])])
    from seerctl.audit import report as reports
    from seerctl.audit.baseline import load_baseline
    from seerctl.audit.policy import load_policy
    from seerctl.audit.suites import Inputs
    from seerctl.audit.suites import audit as judge

    if examples and (output is None or not given["data"] or not reports.can_draw()):
        raise UsageError("audit --examples: they are shown in report.html, with pictures of a shard set",
                         "Pass -o DIR and --data SET, and have pip install 'seerctl[report]'")  # fmt: skip
    if output is not None:
        reports.claim_directory(output, overwrite=overwrite)
    target = _weights_file(weights, output, overwrite=overwrite) if balance else None
    before = None if baseline is None else load_baseline(baseline, baseline_predictions)
    loaded = load_policy(policy, suites)  # type: ignore[arg-type]  # names of SUITES
    with Progress("audit: looking at pictures") as progress:
        inputs = Inputs(baseline=before, weights=target, progress=progress, **given)
        report = judge(suites, inputs, loaded)  # type: ignore[arg-type]
    if before is not None and before.predictions is None:
        warn(f"audit: the rows behind {baseline} are not there ({before.why}), so changes are not judged row by row")
    if report["not_run"]:
        left = dict.fromkeys(entry["suite"] for entry in report["not_run"])
        warn(f"audit: {len(report['not_run'])} checks of the policy are not run; they need --{' --'.join(left)}")
    if output is not None:
        pictures = _pictures(report, given, loaded, examples) if examples else []
        if reports.PAGE not in reports.save(report, output, pictures):
            say(f"audit: {reports.NO_PAGE}")
    else:
        reports.append_step_summary(reports.markdown(report))
    emit(report, output_format, reports.text(report))
    say(f"audit: {report['headline']}" + (f" (reports in {output})" if output else ""))
    return int(report["exit_code"])


def _weights_file(weights: Path | None, output: Path | None, *, overwrite: bool) -> Path:
    """Where `--balance` may write.

    Raises:
        UsageError: nobody says where, or something is there.
    """
    from seerctl.files import claim

    target = weights or (output / "weights.h5" if output else None)
    if target is None:
        raise UsageError("audit --balance: nowhere to write", "Pass -o DIR or --weights FILE")
    return claim(target, overwrite=overwrite)


def _pictures(report: dict[str, Any], given: dict[str, Any], loaded: LoadedPolicy, number: int) -> list[Example]:
    from seerctl.audit.examples import worst_examples

    return worst_examples(report, given["predictions"], loaded.policy, given["data"], number)


def _check_flags(context: click.Context, suites: list[str]) -> None:
    """Refuse a run without a suite, and flags that none of its suites reads.

    Raises:
        UsageError: so it is.
    """
    if not suites:
        names = [f"--{name}" for name in (*SUITES, "balance")]
        raise UsageError("audit: no suite named", f"Pass {', '.join(names[:-1])} or {names[-1]}")
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name, owners in ONLY.items():
        typed = context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if typed and not set(owners) & set(suites):
            raise UsageError(
                f"audit: {flags[name]} is not read by --{' --'.join(suites)}",
                f"Leave it out, or add --{' or --'.join(owners)}",
            )
    if context.params["baseline"] is None and context.params["baseline_predictions"] is not None:
        raise UsageError("audit: --baseline-predictions without --baseline", "Pass --baseline report.json")
