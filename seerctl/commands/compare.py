"""`seerctl probe compare`: several models on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seerctl.console import emit, say, warn
from seerctl.errors import EnvironmentFault, UsageError
from seerctl.files import claim
from seerctl.options import SeerCommand, output_format, output_path, overwrite


@click.command(cls=SeerCommand, examples=[
    "seerctl probe compare knn.json linear.json",
    "seerctl probe compare knn.json linear.json --x params -o compared/",
])  # fmt: skip
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...", type=click.Path(path_type=Path))
@click.option(
    "--x",
    "axis",
    type=click.Choice(["params", "images"]),
    default=None,
    show_default="none",
    help="Draw scores, and gaps of audits, against the models' size or the pictures they have seen.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", show_default="all but those of single k",
              help="Metric to compare; repeat for several.")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
              help="The chance of any false difference, over all comparisons.")  # fmt: skip
@click.option("--max-worse", type=click.FloatRange(min=0), default=None, metavar="X",
              help="End with exit 3 when a model is surely worse than the first by more than X (0.01: a point), with "
                   "exit 6 when it may be.")  # fmt: skip
@output_path("Directory for compare.json, compare.md and the pictures.", required=False)
@overwrite
@output_format
def compare(
    *, reports: tuple[Path, ...], axis: str | None, metrics: tuple[str, ...], alpha: float, max_worse: float | None,
    output: Path | None, overwrite: bool, output_format: str,
) -> None:  # fmt: skip
    """Compare the reports of probes with the first one, row by row, and draw how scores grow.

    Reports whose predictions were written (--predictions) are paired by key: Newcombe's paired interval, McNemar's
    exact test. Others are compared by their intervals, which finds less. Reports of 'audit' on the same predictions may
    be named too, anywhere: their gaps are drawn.

    \b
    How accuracy and gaps grow with size:
      for m in small middle large; do
        seerctl probe linear --train $m-train.h5 --test $m-test.h5 --target label -o $m.json --predictions $m.csv
        seerctl audit --fairness --predictions $m.csv --groups gender -o $m-audit/
      done
      seerctl probe compare {small,middle,large}.json {small,middle,large}-audit/report.json --x params -o scaling/
    """
    from seerctl.probes.compare import check_worse, is_audit, markdown, read_contestant
    from seerctl.probes.compare import compare as run

    if axis is not None and output is None:
        raise UsageError("compare: --x draws pictures and has nowhere to put them", "Name a directory with -o")
    audits = [path for path in reports if is_audit(path)]
    if audits and axis is None:
        raise UsageError(f"{audits[0]}: a report of 'audit', whose gaps are drawn along an axis", "Pass --x params")
    if output is not None:
        claim(output, overwrite=overwrite)
    contestants = [read_contestant(path) for path in reports if path not in audits]
    for one in contestants:
        if one.table is None:
            warn(f"{one.path}: its rows cannot be paired, {one.why}")
    comparison = run(contestants, metrics, alpha=alpha)
    text = markdown(comparison)
    if output is not None:
        _save(comparison, text, contestants, audits, axis, output)
    emit(comparison, output_format, text.rstrip("\n"))
    if max_worse is not None:
        check_worse(comparison, max_worse)


def _save(
    comparison: dict[str, Any], text: str, contestants: list[Any], audits: list[Path], axis: str | None, output: Path
) -> None:  # fmt: skip
    from seerctl.files import atomic_write, write_json

    names = []
    if axis is not None:
        try:
            from seerctl.probes import scaling
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            raise EnvironmentFault("compare: matplotlib is not installed", "pip install 'seerctl[report]'") from None
        where = scaling.places(contestants, axis)  # type: ignore[arg-type]
        gaps = scaling.gap_trends(audits, contestants, where)
        names = scaling.draw(scaling.trends(comparison, where), gaps, axis, output)  # type: ignore[arg-type]
    with atomic_write(output / "compare.md", "w") as file:
        file.write(text)
    write_json(output / "compare.json", comparison)
    say(f"probe compare: {output}: " + ", ".join([*names, "compare.md", "compare.json"]))
