"""What commands that run as several processes share: who starts them, how often, and how their end is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from seerctl.commands.slurmoptions import slurm_options
from seerctl.console import say
from seerctl.errors import Diverged, Saved, SeerctlError

if TYPE_CHECKING:
    from seerctl.train.launch import Layout
    from seerctl.train.slurm import SlurmOptions

F = TypeVar("F", bound=Callable[..., Any])
_OURS = ("nodes", "gpus_per_node", "launcher", "account", "partition", "time", "container", "slurm", "wait")


def launch_options(function: F) -> F:
    """`--nodes`, `--gpus-per-node`, `--launcher` and what SLURM is told."""
    function = slurm_options(function)
    for option in (
        click.option("--launcher", type=click.Choice(["auto", "local", "torchrun", "slurm", "print"]), default="auto",
                     help="Who starts the processes: whoever can, nobody, torchrun, SLURM, or you."),
        click.option("--gpus-per-node", type=click.IntRange(min=1), default=None,
                     show_default="this machine's GPUs; without any 1, or 8 with --nodes",
                     help="Processes on each machine; without GPUs they compute on the CPU."),
        click.option("--nodes", type=click.IntRange(min=1), default=1, help="Machines that share the work."),
    ):  # fmt: skip
        function = option(function)
    return function


def gpus_here(device: str) -> int:
    """The GPUs of this machine that processes on `device` would share out; 0 where it names the CPU or one of them."""
    if device not in ("auto", "cuda"):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def typed_again(context: click.Context) -> list[str]:
    """The command line of `context` for each of its processes: all that was given, but for how they are started."""
    arguments = [context.command.name or ""]
    for option in context.command.params:
        name = option.name or ""
        if not isinstance(option, click.Option) or not option.expose_value or name in _OURS:
            continue
        if context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        flag, value = max(option.opts, key=len), context.params[name]
        if option.is_flag:
            arguments += [flag] if value else []
        else:
            for one in value if option.multiple else [value]:
                arguments += [flag, str(one)]
    return arguments


def start(place: Layout, arguments: list[str], output: Path, slurm: SlurmOptions, *, gpus: bool) -> int:
    """Have the processes of `place` run `seerctl ARGUMENTS`, and wait; SLURM's files go to `output`/slurm.

    Raises:
        SeerctlError: what one of them reported, or that it was lost.
    """
    from seerctl.train.launch import commands, run_torchrun
    from seerctl.train.slurm import follow, run_srun, submit

    if place.start == "print":
        for line in commands(place, arguments):
            click.echo(line)
    elif place.start == "torchrun":
        run_torchrun(place, arguments)
    elif place.start == "srun":
        run_srun(place, arguments, output, slurm, gpus=gpus)
    else:
        inside = ["--launcher", "slurm", "--nodes", str(place.nodes), "--gpus-per-node", str(place.per_node)]
        inside += ["--container", slurm.container] if slurm.container else []
        job = submit(place, [*arguments, *inside], output, slurm, gpus=gpus)
        say(f"SLURM job {job} is submitted; it logs to {output / 'slurm' / f'{job}.log'}, 'scancel {job}' ends it")
        if slurm.wait:
            follow(job, output, lambda line: click.echo(line, err=True))
    return 0


def as_rank(work: Callable[[], int]) -> int:
    """The exit code of `work`, which is all of the run or one of its processes: then it reports what went wrong."""
    from seerctl.train.launch import quiet_rank, report_outcome

    quiet_rank()
    try:
        return work()
    except SeerctlError as error:
        if not report_outcome(error):
            raise
        # All ranks end with these together; torchrun must not take the first to leave for a failure.
        return 0 if isinstance(error, (Saved, Diverged)) else error.exit_code
    except Exception as error:
        report_outcome(SeerctlError(f"{type(error).__name__}: {error}", "Its traceback stands above: a bug of seerctl"))
        raise
