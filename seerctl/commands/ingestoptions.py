"""The options of `ingest` by what they are about; each group reaches the command as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seerctl.errors import UsageError
from seerctl.options import loads_code

if TYPE_CHECKING:
    from seerctl.sources.check import CheckOptions
    from seerctl.sources.selection import SelectionOptions
    from seerctl.sources.transform import Resize, Treatment
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


def _plan(
    where: tuple[str, ...], exclude_country: str | None, country_column: str | None, unknown_country: str | None,
    filters: tuple[str, ...], part: str | None, skip_known: tuple[str, ...], resize: str | None, enlarge: bool,
    quality: int | None, strip_metadata: bool,
) -> tuple[SelectionOptions, Treatment]:  # fmt: skip
    from seerctl.sources.selection import Part, SelectionOptions
    from seerctl.sources.transform import Treatment
    from seerctl.sources.where import parse_conditions

    _need(
        "--exclude-country", exclude_country, {"--country-column": country_column, "--unknown-country": unknown_country}
    )
    countries = None
    if exclude_country is not None:
        from seerctl.sources.countries import CountryFilter

        keep = unknown_country == "keep"
        countries = CountryFilter.load(exclude_country, country_column or "country", keep_unknown=keep)
    conditions = parse_conditions(where)
    selection = SelectionOptions(
        where=tuple(one for one in conditions if not one.fact),
        countries=countries,
        part=Part.parse(part) if part else None,
        known=skip_known,
    )
    facts = tuple(one for one in conditions if one.fact)
    return selection, Treatment(facts, filters, _resize(resize, enlarge, quality), strip_metadata)


def _resize(resize: str | None, enlarge: bool, quality: int | None) -> Resize | None:
    from seerctl.sources.transform import Resize

    _need("--resize", resize, {"--enlarge": enlarge or None, "--quality": quality})
    return None if resize is None else Resize.parse(resize, enlarge=enlarge, quality=quality or 90)


def _need(option: str, value: object, others: dict[str, object]) -> None:
    """Options that say nothing without another one are a mistake where it is missing."""
    for name, other in others.items():
        if value is None and other is not None:
            raise UsageError(f"ingest: {name} without {option}", f"Pass {option} too, or leave it out")


plan = group(
    "plan",
    _plan,
    click.option(
        "--where",
        multiple=True,
        metavar="'COLUMN OP VALUE'",
        help="Keep pictures for which this holds, of a column or of width, height, format, mode, bytes, orientation, "
        "source. OP: = != < <= > >= in, not in, contains, startswith, endswith, missing, not missing. "
        "Several: all must hold.",
    ),
    click.option(
        "--exclude-country",
        default=None,
        metavar="FILE|@eu|@eea",
        help="Leave out pictures of these countries, by a column (ISO 3166 codes or names).",
    ),
    click.option("--country-column", default=None, show_default="country", metavar="NAME", help="That column."),
    click.option(
        "--unknown-country",
        type=click.Choice(["reject", "keep"]),
        default=None,
        show_default="reject",
        help="What becomes of pictures whose country nobody knows.",
    ),
    loads_code(
        "--filter",
        "filters",
        multiple=True,
        metavar="MODULE:FUNCTION",
        help="Your own function: given a candidate it returns True, or a reason to leave it out. Only as a flag.",
    ),
    click.option("--part", default=None, metavar="I/N", help="Only the Ith of N parts of the sources, for array jobs."),
    click.option(
        "--skip-known",
        multiple=True,
        metavar="DIR|FILE",
        help="Go on: pass over what a shard set holds (also an unfinished one), or a list of rejects names.",
    ),
    click.option(
        "--resize",
        default=None,
        metavar="MODE=PX",
        help="Store smaller pictures: short=256 or long=1024 (that side), square=224 (centre crop).",
    ),
    click.option("--enlarge", is_flag=True, help="With --resize: make small pictures larger, too."),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        default=None,
        show_default="90",
        help="With --resize: of JPEG, WebP and AVIF.",
    ),
    click.option(
        "--strip-metadata",
        is_flag=True,
        help="Take out GPS, EXIF, XMP, IPTC, comments and thumbnails; pixels, orientation and ICC profile stay.",
    ),
)
