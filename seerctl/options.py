"""Options that several commands share, and the command class that gives every command `-v`, `-q` and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from seerctl.console import set_verbosity

F = TypeVar("F", bound=Callable[..., Any])

VERBOSITY = "seerctl.verbosity"  # key in `click.Context.meta`
FLAG_ONLY = "seerctl_flag_only"  # attribute of options that load code: neither environment nor project file sets them


def _count_verbosity(sign: int) -> Callable[[click.Context, click.Parameter, int], int]:
    def callback(context: click.Context, _: click.Parameter, count: int) -> int:
        meta = context.find_root().meta
        meta[VERBOSITY] = meta.get(VERBOSITY, 0) + sign * count
        set_verbosity(meta[VERBOSITY])
        return count

    return callback


def verbosity_options() -> list[click.Option]:
    """`-v` and `-q`, which count on both sides of the subcommand."""
    return [
        click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=_count_verbosity(1), is_eager=True,
                     help="Say more; twice: tracebacks of errors too."),
        click.Option(["-q", "--quiet"], count=True, expose_value=False, callback=_count_verbosity(-1), is_eager=True,
                     help="Say less: warnings and errors only; twice: errors only."),
    ]  # fmt: skip


class SeerCommand(click.Command):
    """A subcommand with `-v`, `-q`, and `examples` shown at the end of its help (and executed by the tests)."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "show_default": True})
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(verbosity_options())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def output_format(function: F) -> F:
    """`--output-format text|json|jsonl`, where a command prints a result."""
    return click.option("--output-format", type=click.Choice(["text", "json", "jsonl"]), default="text",
                        help="How the result is printed on stdout.")(function)  # fmt: skip


def overwrite(function: F) -> F:
    """`--overwrite`: replace output that exists."""
    return click.option("--overwrite", is_flag=True, help="Replace output that exists.")(function)


def jobs(function: F) -> F:
    """`--jobs N`: worker processes; the output does not depend on it."""
    return click.option("-j", "--jobs", type=click.IntRange(min=1), default=None, show_default="all cores",
                        help="Worker processes; the output is the same for any number.")(function)  # fmt: skip


def data(function: F) -> F:
    """`--data SET`: a shard directory, its index.json, or a URL of either."""
    return click.option("--data", type=str, required=True, metavar="SET",
                        help="Shard set: a directory, its index.json, or the URL of either.")(function)  # fmt: skip


def output_path(help_text: str, *, required: bool = True) -> Callable[[F], F]:
    """`-o/--output PATH`."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), required=required, help=help_text)


def loads_code(*names: str, **kwargs: Any) -> Callable[[F], F]:
    """An option that makes the program load a user's code: taken from the command line only."""

    def decorate(function: F) -> F:
        decorated = click.option(*names, allow_from_autoenv=False, **kwargs)(function)
        params: list[click.Parameter] = decorated.__click_params__  # type: ignore[attr-defined]
        setattr(params[-1], FLAG_ONLY, True)
        return decorated

    return decorate
