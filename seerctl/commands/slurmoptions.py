"""What `pretrain` is told of SLURM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from seerctl.train.slurm import SlurmOptions

F = TypeVar("F", bound=Callable[..., Any])
_NAMED = ("account", "partition", "time")


def slurm_options(function: F) -> F:
    """The options of SLURM jobs; `take_slurm` makes one value of them."""
    for option in reversed([
        click.option("--account", default=None, help="SLURM: whom the job is charged to."),
        click.option("--partition", default=None, help="SLURM: which machines."),
        click.option("--time", default=None, metavar="LIMIT",
                     help="SLURM: time limit, such as 24:00:00; 3 minutes before it ranks save and the job requeues."),
        click.option("--container", default=None, metavar="IMAGE", help="SLURM: run the ranks in it (Pyxis)."),
        click.option("--slurm", multiple=True, metavar="KEY=VALUE",
                     help="SLURM: any other long option of sbatch, as in qos=high; may be repeated."),
        click.option("--wait/--no-wait", default=True, help="SLURM: follow the job and end with its exit code."),
    ]):  # fmt: skip
        function = option(function)
    return function


def take_slurm(settings: dict[str, Any]) -> SlurmOptions:
    """Take the options of SLURM out of a command's `settings`."""
    from seerctl.train.slurm import SlurmOptions, parse_options

    named = {name: value for name in _NAMED if (value := settings.pop(name)) is not None}
    options = parse_options(settings.pop("slurm"))
    return SlurmOptions({**options, **named}, settings.pop("container"), settings.pop("wait"))
