"""The `seerctl` group: a static table of commands loaded when named, the project file, exit codes and broken pipes."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

import click

from seerctl import __version__
from seerctl.console import set_verbosity, silence_stdout
from seerctl.errors import ExitCode, PipeClosed, SeerctlError, Terminated, UsageError, did_you_mean
from seerctl.files import environment_fault
from seerctl.options import FLAG_ONLY, VERBOSITY, verbosity_options
from seerctl.typed import read_toml

PROJECT_FILE = "seerctl.toml"
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "auto_envvar_prefix": "SEERCTL"}

# name -> (module:attribute, what the listing says). Nothing here is imported until the command is named.
COMMANDS = {
    "ingest": ("seerctl.commands.ingest:ingest", "Check images from folders, lists, tars or tables into one stream."),
    "shard": ("seerctl.commands.shard:shard", "Write a stream into verified WebDataset shards."),
    "pretrain": ("seerctl.commands.pretrain:pretrain", "Train a RegNetY with SwAV, sharded over any number of ranks."),
    "extract": ("seerctl.commands.extract:extract", "Write frozen features of a shard set to HDF5."),
    "probe": ("seerctl.commands.probe:probe", "Score features: knn, linear."),
    "audit": ("seerctl.commands.audit:audit", "Judge predictions by group against a policy; a gate for CI."),
    "inspect": ("seerctl.commands.inspect:inspect", "Show what a shard set holds; --verify re-reads every byte."),
    "recipes": ("seerctl.commands.recipes:recipes", "List, show and validate training recipes."),
    "completion": ("seerctl.commands.completion:completion", "Print the shell's completion script."),
}
PROBES = {
    "knn": ("seerctl.commands.probe:knn", "Weighted cosine k-nearest neighbours."),
    "linear": ("seerctl.commands.probe:linear", "L2-regularised logistic regression, chosen on a validation split."),
}


class LazyGroup(click.Group):
    """A group whose commands are named in a static table and imported only when used (30 ms instead of 3 s)."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table
        self.params.extend(verbosity_options())

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, attribute = self.table[cmd_name][0].split(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.table:
            raise UsageError(f"{ctx.command_path}: no command '{args[0]}'", did_you_mean(args[0], self.table))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        items = [
            click.shell_completion.CompletionItem(name, help=text)
            for name, (_, text) in self.table.items()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        # click turns EPIPE into exit 1, also with standalone_mode=False: catch it before click does.
        # https://github.com/pallets/click/issues/712
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise PipeClosed("the reader of standard output went away") from None


@click.group(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="seerctl")
def cli() -> None:
    """From raw pictures to a self-supervised vision model whose quality and fairness are measured.

    \b
      seerctl ingest photos/ | seerctl shard -o shards/
      seerctl pretrain --recipe nano --data shards/ -o run/
      seerctl extract --model run/ --data shards/ -o features.h5
      seerctl probe knn --train train.h5 --test test.h5 --target label
      seerctl audit --fairness --predictions predictions.csv --groups group -o audit/

    A file seerctl.toml in the working directory gives every command its defaults; so do SEERCTL_<COMMAND>_<OPTION>
    variables. Flags win over the environment, the environment over the file.
    """


def load_project(group: click.Group, arguments: Sequence[str]) -> dict[str, Any]:
    """The project file as click defaults; sections of the commands named in `arguments` are checked key by key.

    Raises:
        UsageError: a section that is no command, or a key that is no option of it, or one that only a flag may set.
    """
    path = Path(PROJECT_FILE)
    if not path.is_file():
        return {}
    table = read_toml(path)
    for name in table:
        if name not in COMMANDS:
            raise UsageError(f"{path}: no command '{name}'", did_you_mean(name, COMMANDS))
    return {
        name: _section(group, name, section, path) if name in arguments else section for name, section in table.items()
    }


def _section(group: click.Group, name: str, section: Any, path: Path) -> dict[str, Any]:
    if not isinstance(section, dict):
        raise UsageError(f"{path}: '{name}' is {section!r}", "It must be a table: [" + name + "]")
    command = group.get_command(click.Context(group), name)
    assert command is not None
    if isinstance(command, LazyGroup):
        return {key: _section(command, key, value, path) for key, value in section.items() if key in command.table}
    parameters = {parameter.name: parameter for parameter in command.params if parameter.name}
    # A section names options as the command line does: `max-reject-rate` and `max_reject_rate` are the same key.
    values = {key.replace("-", "_"): value for key, value in section.items()}
    for key, value in values.items():
        if key not in parameters:
            raise UsageError(f"{path}: unknown key '{name}.{key}'", did_you_mean(key, parameters))
        if getattr(parameters[key], FLAG_ONLY, False):
            raise UsageError(
                f"{path}: '{name}.{key}' loads code", f"Pass --{key.replace('_', '-')} on the command line"
            )
        many = parameters[key].multiple if isinstance(parameters[key], click.Option) else parameters[key].nargs != 1
        if many and not isinstance(value, (list, dict)):
            raise UsageError(f"{path}: '{name}.{key}' is {value!r}", "It must be a list")
    return values


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; never raises but for what is a bug of ours."""
    set_verbosity(0)
    context: click.Context | None = None
    try:
        defaults = load_project(cli, arguments)
        with cli.make_context("seerctl", list(arguments), default_map=defaults) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else ExitCode.DONE
    except BrokenPipeError:
        silence_stdout()
        return ExitCode.PIPE
    except click.exceptions.Exit as finished:
        return _flush(finished.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", ExitCode.INTERRUPTED)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "seerctl"
        hint = f" Try '{where} --help'." if isinstance(error, click.UsageError) else ""
        return _report(
            f"{where}: {error.format_message().rstrip('.')}.{hint}".removeprefix("seerctl: "), ExitCode.USAGE
        )
    except SeerctlError as error:
        if error.exit_code == ExitCode.PIPE:
            silence_stdout()
            return ExitCode.PIPE
        return _report(str(error), error.exit_code, error)
    except OSError as error:
        fault = environment_fault(error)
        if fault is None:
            raise
        return _report(str(fault), fault.exit_code, error)


def _flush(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        return ExitCode.PIPE
    return code


def _report(message: str, code: ExitCode, error: BaseException | None = None) -> int:
    logging.getLogger("seerctl").error(message)
    verbosity = 2 if os.environ.get("SEERCTL_DEBUG", "") not in ("", "0") else _verbosity()
    if error is not None and verbosity >= 2:
        traceback.print_exception(error, file=sys.stderr)
    return code


def _verbosity() -> int:
    context = click.get_current_context(silent=True)
    count = context.find_root().meta.get(VERBOSITY, 0) if context else 0
    # The context is gone when an error surfaces: count the flags as they stand.
    return count or sum(arg.count("v") for arg in sys.argv[1:] if arg.startswith("-v") and set(arg[1:]) == {"v"})


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    raise Terminated("terminated")


def main() -> NoReturn:
    """The `seerctl` entry point."""
    signal.signal(signal.SIGTERM, _terminate)
    complete: Callable[[], None] | None = None
    if "_SEERCTL_COMPLETE" in os.environ:
        complete = cast(Callable[[], None], lambda: cli.main(prog_name="seerctl"))
        complete()
    sys.exit(run(sys.argv[1:]))
