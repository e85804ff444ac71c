"""`seerctl report`."""

from __future__ import annotations

from pathlib import Path

import click

from seerctl.console import say
from seerctl.errors import EnvironmentFault
from seerctl.options import SeerCommand, output_path, overwrite


@click.command(cls=SeerCommand, examples=[
    "seerctl report run/ -o run.html",
    "seerctl report run/ another-run/ -o compared.html",
])  # fmt: skip
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@output_path("The page to write; it needs nothing else and can be mailed.")
@overwrite
def report(runs: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Draw the curves of training runs as one HTML page, side by side where there are several.

    RUN is a directory written by 'pretrain', finished or not. Needs pip install 'seerctl[report]'.
    """
    from seerctl.files import atomic_write, claim

    claim(output, overwrite=overwrite)
    try:
        from seerctl.train.story import story
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise EnvironmentFault(f"report: {error.name} is not installed", "pip install 'seerctl[report]'") from None
    page = story(runs)
    with atomic_write(output, "w") as file:
        file.write(page)
    say(f"report: {len(runs)} run{'s' * (len(runs) > 1)} in {output}, {len(page.encode()) / 1e3:,.0f} kB")
