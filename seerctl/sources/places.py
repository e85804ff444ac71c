"""What arguments stand for: braces and wildcards that the shell left, and whether all of it is there."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from seerctl.errors import InputError, UsageError
from seerctl.files import blame

STDIN = "-"
_MAX_PLACES = 100_000
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BRACES = re.compile(r"\{[^{}]*(\.\.|,)[^{}]*\}")


def is_url(text: str) -> bool:
    """Whether `text` names something by its URL (`https://`, `s3://`)."""
    return _SCHEME.match(text) is not None


def places(arguments: Sequence[str]) -> list[str]:
    """Every argument that exists, in order; `shards-{000..009}.tar` and `'*.tar'` (if no file is called so) spread out.

    Raises:
        InputError: one does not exist: nothing is written before that is known.
        UsageError: braces that stand for too many.
    """
    return [place for argument in arguments for place in _spread(argument)]


def _spread(argument: str) -> list[str]:
    if argument == STDIN or (not is_url(argument) and _exists(argument)):
        return [argument]
    found = spread_braces(argument)
    if is_url(argument):
        return found
    found = [place for name in found for place in ([name] if _exists(name) else sorted(glob.glob(name)) or [name])]  # noqa: PTH207
    for place in found:
        if not _exists(place):
            raise InputError(f"{place}: no such file or directory", "Check the path")
    return found


def _exists(argument: str) -> bool:
    with blame(argument):
        return Path(argument).exists()


def spread_braces(argument: str) -> list[str]:
    """Every name that an argument with braces stands for; without any, itself.

    Raises:
        UsageError: too many.
    """
    if not _BRACES.search(argument):
        return [argument]
    from braceexpand import braceexpand  # noqa: PLC0415  (few arguments have braces)

    try:
        found = list(islice(braceexpand(argument), _MAX_PLACES + 1))
    except ValueError:  # braces that do not match
        return [argument]
    if len(found) > _MAX_PLACES:
        raise UsageError(f"{argument}: stands for more than {_MAX_PLACES:,} names", "Name fewer at a time")
    return found
