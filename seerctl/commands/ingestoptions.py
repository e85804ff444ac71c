"""The options of `ingest` by what they are about; each group reaches the command as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from seerctl.sources.check import CheckOptions
    from seerctl.sources.worker import Limits

F = TypeVar("F", bound=Callable[..., Any])


def group(name: str, build: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """`options` as one decorator: the command gets `build(**their values)` as its argument `name`."""
    taken = build.__code__.co_varnames[: build.__code__.co_argcount]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            built = build(**{option: values.pop(option) for option in taken})
            return function(**values, **{name: built})

        for option in reversed(options):
            command = option(command)
        return command  # type: ignore[return-value]

    return decorate


def _check(
    check: str, formats: str, min_side: int, max_aspect: float | None, max_pixels: int | None, max_bytes: int
) -> CheckOptions:
    from seerctl.sources.check import MAX_PIXELS, CheckOptions, allowed_formats

    return CheckOptions(check, allowed_formats(formats), max_bytes, max_pixels or MAX_PIXELS, min_side, max_aspect)


checks = group(
    "check",
    _check,
    click.option(
        "--check",
        type=click.Choice(["header", "decode", "strict"]),
        default="decode",
        help="How closely to look: the header, every pixel, or every pixel by two decoders.",
    ),
    click.option("--formats", default="", metavar="NAME,...", help="More formats to let in, such as PSD,ICO,QOI."),
    click.option(
        "--min-side",
        type=click.IntRange(min=0),
        default=0,
        metavar="PX",
        help="Leave out pictures with a shorter side.",
    ),
    click.option(
        "--max-aspect",
        type=click.FloatRange(min=1),
        default=None,
        metavar="RATIO",
        help="Leave out pictures whose long side is more than RATIO times the short one.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=None,
        show_default="178956970",
        help="Larger pictures are rejected before they are decoded.",
    ),
    click.option(
        "--max-bytes",
        type=click.IntRange(1, 1 << 30),
        default=1 << 28,
        show_default="256 MiB",
        help="Larger files are rejected before they are read.",
    ),
)


def _limits(timeout: float, max_memory: int) -> Limits:
    from seerctl.sources.worker import Limits

    return Limits(timeout, max_memory)


limits = group(
    "limits",
    _limits,
    click.option(
        "--timeout", type=click.FloatRange(min=0.1), default=20.0, help="Seconds of CPU time that one image may take."
    ),
    click.option(
        "--max-memory",
        type=click.IntRange(min=1 << 26),
        default=1 << 31,
        show_default="2 GiB",
        help="Bytes that one image may take while it is decoded.",
    ),
)
