"""`seerctl probe suite`: many data sets and protocols in one go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.console import Progress, emit, say, warn
from seerctl.options import SeerCommand, loads_code, output_format, output_path

if TYPE_CHECKING:
    from seerctl.suite.needs import Missing
    from seerctl.suite.runner import Outcome


@click.command(cls=SeerCommand, examples=[
    "seerctl probe suite suite.toml --model run/ -o bench/",
    "seerctl probe suite seer --data-root datasets/ -o bench/ --dry-run",
])  # fmt: skip
@click.argument("suite", metavar="SUITE")
@output_path("Directory for features, reports, predictions and the table; a suite that was stopped goes on there.")
@click.option("--model", "models", multiple=True, metavar="RUN|FILE|LIBRARY:NAME",
              help="Model for entries that name pictures, as 'extract' takes it; repeat for several.")  # fmt: skip
@click.option("--data-root", type=click.Path(path_type=Path), default=Path(), show_default="the working directory",
              help="Where the paths in the suite begin.")  # fmt: skip
@click.option("--only", multiple=True, metavar="NAME", help="Run this entry; repeat for several.")
@click.option("--skip-missing", is_flag=True, help="Run what can be run, leave out entries that lack something.")
@click.option("--dry-run", is_flag=True, help="Say what every entry lacks, and run nothing.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
              help="What the convolutions compute in.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=None, show_default="64; on a GPU 256",
              help="Images at a time.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), default=None, show_default="by cores",
              help="As in 'extract'.")  # fmt: skip
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda.")
@loads_code("--trust-code", is_flag=True, help="Let --model module:function run that code of yours.")
@output_format
def suite(
    *, suite: str, output: Path, models: tuple[str, ...], data_root: Path, only: tuple[str, ...], skip_missing: bool,
    dry_run: bool, device: str, output_format: str, **settings: Any,
) -> None:  # fmt: skip
    """Run every benchmark of SUITE, a TOML file or the name of a shipped suite (seer: the benchmarks of the SEER
    papers).

    What each entry needs is checked before anything starts. Pictures may be shard sets or lie as the entry declares
    (one folder a class, or a table); they become shards, then features of each model, then reports. All of it is kept:
    the same command goes on after an interruption, and repeats only what has changed.

    \b
    A suite file:
      [[entry]]
      name = "pets"
      task = "breeds of cats and dogs"
      protocol = "linear"
      target = "label"
      metric = "mean_per_class"
      data = { train = { path = "pets/train" }, test = { path = "pets/test" } }

    Writes suite.json, suite.md, suite.csv and suite.html, where published values stand beside ours if their protocol is
    the entry's.
    """
    from seerctl.device import pick_device
    from seerctl.suite.needs import demand_space, find_model, missing, without
    from seerctl.suite.runner import Plan, run_suite
    from seerctl.suite.spec import load_suite, select
    from seerctl.suite.table import markdown, save, summary

    loaded = load_suite(suite)
    where = pick_device(device)
    entries = select(loaded, only)
    layers = [layer for entry in entries for layer in entry.layers if entry.data]
    plan = Plan(
        entries, [find_model(spec, layers, trust_code=settings["trust_code"]) for spec in dict.fromkeys(models)],
        data_root, output, device=str(where), settings={**settings, "device": device}, suite=Path(suite).stem,
    )  # fmt: skip
    lacking = missing(plan)
    if dry_run:
        table = summary(plan, loaded.description, [], lacking)
        emit(table, output_format, _needs(lacking, [entry.name for entry in entries if entry.protocol]))
        return
    if lacking:
        _refuse(lacking, skip_missing)
        plan = without(plan, lacking)
    demand_space(plan)
    outcomes = run_suite(plan, lambda what, total: Progress(f"extract {what}", total or None), _tell)
    table = summary(plan, loaded.description, outcomes, lacking, entries)
    files = save(table, output)
    emit(table, output_format, markdown(table))
    say(f"probe suite: {len(outcomes)} runs, {sum(one.kept for one in outcomes)} of them from before, {output}: "
        + ", ".join(files))  # fmt: skip
    failed = next((one.error for one in outcomes if one.error is not None), None)
    if failed is not None:
        raise failed


def _needs(lacking: list[Missing], names: list[str]) -> str:
    width = max((len(one.entry) for one in lacking), default=0)
    lines = [f"{one.entry:<{width}}  {one.what}" for one in lacking]
    ready = len(set(names) - {one.entry for one in lacking})
    return "\n".join([*lines, f"{ready} of {len(names)} entries lack nothing"])


def _refuse(lacking: list[Missing], skip: bool) -> None:
    """One line for each thing that is missing; the end of it, unless those entries are to be skipped."""
    from seerctl.errors import InputError

    for one in lacking:
        warn(f"{one.entry}: {one.what}")
    names = list(dict.fromkeys(one.entry for one in lacking))
    if not skip:
        raise InputError(
            f"suite: {len(names)} entries lack something: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
            "Nothing was started; pass --skip-missing to run the others",
        )


def _tell(outcome: Outcome) -> None:
    model = f" of {outcome.model.spec}" if outcome.model else ""
    if outcome.report is not None:
        metric = outcome.entry.metric
        from seerctl.suite.table import score

        found = outcome.report["metrics"].get(metric)
        say(f"{outcome.entry.name}{model}: {metric} {score(found) if found else 'not measured'}"
            + (", from before" if outcome.kept else ""))  # fmt: skip
