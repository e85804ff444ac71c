"""The `seerctl` group: a static table of commands loaded when named, the project file, exit codes and broken pipes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

import click

from seerctl import __version__
from seerctl.console import debugging, error, set_verbosity, silence_stdout
from seerctl.errors import ExitCode, SeerctlError, Terminated, UsageError, did_you_mean
from seerctl.files import environment_fault
from seerctl.options import FLAG_ONLY, verbosity_options

PROJECT_FILE = "seerctl.toml"
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "auto_envvar_prefix": "SEERCTL"}

# name -> (module:attribute, what the listing says). Nothing here is imported until the command is named.
COMMANDS = {
    "ingest": ("seerctl.commands.ingest:ingest", "Check images from folders, lists, tars or tables into one stream."),
    "shard": ("seerctl.commands.shard:shard", "Write streams or sets into verified WebDataset shards; repair them."),
    "pretrain": ("seerctl.commands.pretrain:pretrain", "Train a RegNetY with SwAV, sharded over any number of ranks."),
    "extract": ("seerctl.commands.extract:extract", "Write frozen features of a shard set to HDF5."),
    "probe": ("seerctl.commands.probe:probe", "Score frozen features, one protocol a subcommand."),
    "audit": ("seerctl.commands.audit:audit", "Judge predictions by group against a policy; a gate for CI."),
    "inspect": ("seerctl.commands.inspect:inspect", "Show what a set holds; verify it, draw a sheet, list duplicates."),
    "convert": ("seerctl.commands.convert:convert", "Rewrite a model under another library's names: VISSL, timm, HF."),
    "report": ("seerctl.commands.report:report", "Draw training runs, or a probe, as one HTML page."),
    "recipes": ("seerctl.commands.recipes:recipes", "List, show and validate training recipes."),
    "completion": ("seerctl.commands.completion:completion", "Print the shell's completion script."),
}
PROBES = {
    "knn": ("seerctl.commands.probes.knn:knn", "Weighted cosine k-nearest neighbours."),
    "linear": (
        "seerctl.commands.probes.linear:linear",
        "L2-regularised logistic regression, chosen on a validation split.",
    ),
    "sgd": ("seerctl.commands.probes.sgd:sgd", "SEER's linear probe: heads trained by SGD, rates swept in one pass."),
    "lowshot": ("seerctl.commands.probes.lowshot:lowshot", "A few rows of each class, several draws."),
    "svm": ("seerctl.commands.probes.labels:svm", "VOC07 protocol: SVMs, costs chosen by folds, mAP; low-shot."),
    "multilabel": ("seerctl.commands.probes.labels:multilabel", "Several labels a row: mean average precision."),
    "regression": ("seerctl.commands.probes.regression:regression", "Numbers, by ridge regression or as classes."),
    "suite": ("seerctl.commands.suite:suite", "Many data sets and protocols in one go, resumable, one table."),
    "compare": ("seerctl.commands.compare:compare", "Models on the same rows: differences, scaling pictures."),
    "retrieval": (
        "seerctl.commands.probes.retrieval:retrieval",
        "Mean average precision: ROxford, RParis, or a column.",
    ),
    "copies": ("seerctl.commands.probes.copies:copies", "Originals of altered pictures: Copydays."),
    "ood": ("seerctl.commands.probes.ood:ood", "Other distributions: class masks, drops, effective robustness."),
    "geo": ("seerctl.commands.probes.geo:geo", "Where on earth: accuracy at 1, 25, 200, 750 and 2500 km."),
    "clusters": (
        "seerctl.commands.probes.clusters:clusters",
        "Clusters or prototypes against labels: NMI, purity.",
    ),
    "words": ("seerctl.commands.probes.words:words", "Tags by sight: nearest words across languages, groups, a map."),
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
        command = cast(click.Command, getattr(importlib.import_module(module), attribute))
        for parameter in command.params:
            # click derives variables for options only; arguments get theirs here: SEERCTL_INGEST_SOURCES.
            if isinstance(parameter, click.Argument) and parameter.envvar is None and ctx.auto_envvar_prefix:
                parameter.envvar = f"{ctx.auto_envvar_prefix}_{cmd_name}_{parameter.name}".upper().replace("-", "_")
        return command

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


class RootGroup(LazyGroup):
    """The top group: runs a command line by `run`, since click itself turns a closed pipe into exit 1.

    https://github.com/pallets/click/issues/712
    """

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        self._main_shell_completion(extra, prog_name or "seerctl", "_SEERCTL_COMPLETE")
        sys.exit(run(sys.argv[1:] if args is None else args))


@click.group(cls=RootGroup, table=COMMANDS, context_settings=CONTEXT)
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
    from seerctl.typed import read_toml

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
        if many and isinstance(value, dict):  # slurm = { partition = "gpu" } is --slurm partition=gpu
            values[key] = [f"{part}={choice}" for part, choice in value.items()]
    return values


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; only our own bugs come out as exceptions."""
    set_verbosity(0)
    try:
        with cli.make_context("seerctl", list(arguments), default_map=load_project(cli, arguments)) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.DONE
    except BrokenPipeError:
        silence_stdout()
        return ExitCode.PIPE
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", ExitCode.INTERRUPTED)
    except click.ClickException as problem:
        return _report(_usage_line(problem), ExitCode.USAGE)
    except SeerctlError as problem:
        return _report(str(problem), problem.exit_code, problem)
    except OSError as problem:
        fault = environment_fault(problem)
        if fault is None:
            raise
        return _report(str(fault), fault.exit_code, problem)


def _usage_line(problem: click.ClickException) -> str:
    """click's complaint on one line, with the command to ask for help; a bare group shows its help instead."""
    if isinstance(problem, click.exceptions.NoArgsIsHelpError):
        return f"no command given. Try 'seerctl --help'.\n\n{problem.format_message()}"
    where = problem.ctx.command_path if isinstance(problem, click.UsageError) and problem.ctx else "seerctl"
    message = " ".join(problem.format_message().split()).rstrip(".")
    return f"{where.removeprefix('seerctl ')}: {message}. Try '{where} --help'"


def _report(message: str, code: ExitCode, problem: BaseException | None = None) -> int:
    error(message)
    if problem is not None and debugging():
        import traceback

        traceback.print_exception(problem, file=sys.stderr)
    return code


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    raise Terminated("terminated")


def main() -> NoReturn:
    """The `seerctl` entry point."""
    signal.signal(signal.SIGTERM, _terminate)
    # GNU OpenMP's idle threads spin for milliseconds: beside loader workers or other programs on the same cores that
    # made training 2.5 to 10 times slower. https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        cli.main(prog_name="seerctl")
    finally:
        # A handler that raises has no place in the interpreter's own shutdown.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
