"""`seerctl completion`: tab completion for bash, zsh and fish."""

from __future__ import annotations

import click

from seerctl.options import SeerCommand


@click.command(cls=SeerCommand, examples=["seerctl completion bash", "seerctl completion zsh"])
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    Load it once with `eval "$(seerctl completion bash)"`, or write it to where your shell keeps completions.
    """
    from click.shell_completion import get_completion_class

    from seerctl.cli import cli

    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(cli, {}, "seerctl", "_SEERCTL_COMPLETE").source())
