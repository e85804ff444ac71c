"""`seerctl report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seerctl.console import say
from seerctl.errors import EnvironmentFault, UsageError
from seerctl.options import SeerCommand, output_path, overwrite


@click.command(cls=SeerCommand, examples=[
    "seerctl report run/ -o run.html",
    "seerctl report run/ another-run/ -o compared.html",
    "seerctl report knn.json -o knn.html --data shards/train --data shards/test --figures figures/",
])  # fmt: skip
@click.argument("sources", nargs=-1, required=True, metavar="RUN...|PROBE.json", type=click.Path(path_type=Path))
@output_path("The page to write; it needs nothing else and can be mailed.")
@click.option("--figures", type=click.Path(path_type=Path), metavar="DIR",
              help="Of a probe: write its pictures there too, as SVG and PNG.")  # fmt: skip
@click.option("--map", "kind", type=click.Choice(["tsne", "pca", "none"]), default="tsne",
              help="Of a probe: how its features become a map of 1,500 points.")  # fmt: skip
@click.option("--data", multiple=True, type=click.Path(path_type=Path), metavar="SET",
              help="Of a probe: shard sets with its pictures, to show which are found most alike.")  # fmt: skip
@overwrite
def report(
    sources: tuple[Path, ...], output: Path, figures: Path | None, kind: Any, data: tuple[Path, ...], overwrite: bool
) -> None:
    """Draw training runs, or the report of a probe, as one HTML page.

    RUN is a directory written by 'pretrain', finished or not; the curves of several stand side by side. PROBE.json is
    what 'probe -o' wrote: its page has scores and classes with intervals, the confusion matrix, a map of the features,
    the most alike pictures, and the protocol. Needs pip install 'seerctl[report]'.
    """
    from seerctl.files import atomic_write, claim

    claim(output, overwrite=overwrite)
    if figures is not None:
        claim(figures, overwrite=overwrite)
    try:
        page = _probe(sources, figures, kind, data) if _is_probe(sources) else _runs(sources, figures, data)
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise EnvironmentFault(f"report: {error.name} is not installed", "pip install 'seerctl[report]'") from None
    with atomic_write(output, "w") as file:
        file.write(page)
    what = "1 probe" if _is_probe(sources) else f"{len(sources)} run{'s' * (len(sources) > 1)}"
    say(f"report: {what} in {output}, {len(page.encode()) / 1e3:,.0f} kB")


def _is_probe(sources: tuple[Path, ...]) -> bool:
    reports = [path for path in sources if path.suffix == ".json"]
    if reports and len(sources) > 1:
        raise UsageError(f"{reports[0]}: a page is of one probe", "Several models: seerctl probe compare A.json B.json")
    return bool(reports)


def _probe(sources: tuple[Path, ...], figures: Path | None, kind: Any, data: tuple[Path, ...]) -> str:
    from seerctl.probes.page import html
    from seerctl.probes.pictures import album

    made = album(sources[0], kind=kind, data=data)
    if figures is not None:
        say(f"report: {figures}: " + ", ".join(made.save(figures)))
    return html(made)


def _runs(sources: tuple[Path, ...], figures: Path | None, data: tuple[Path, ...]) -> str:
    from seerctl.train.story import story

    if figures is not None or data:
        raise UsageError("report: --figures and --data are for the report of a probe", "Name its JSON")
    return story(sources)
