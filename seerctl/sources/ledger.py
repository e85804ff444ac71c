"""The list of rejects that `--rejects` writes: one JSON line each, there as soon as it is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.shards.leftovers import REJECTS
from seerctl.sources.reasons import Reason, passing
from seerctl.sources.web.options import WebOptions

_MAX_LINE = 1 << 20


def is_known(path: Path, places: Iterable[str]) -> bool:
    """Whether the list at `path` is one that `--skip-known PLACE` reads, so that it is added to."""
    wanted = path.resolve()
    return any(wanted in (place.resolve(), (place / REJECTS).resolve()) for place in map(Path, places))


def open_ledger(path: Path, *, go_on: bool) -> TextIO:
    """The file to list rejects in; `go_on` adds to what it lists, of which a killed run may have left half a line."""
    with blame(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if go_on and path.is_file():
            with path.open("rb+") as file:
                size = sum(len(line) for line in iter(lambda: file.readline(_MAX_LINE), b"") if line.endswith(b"\n"))
                file.truncate(size)
        return path.open("a" if go_on else "w", encoding="utf-8", buffering=1)


def read_ledger(path: Path) -> Iterator[tuple[str, str]]:
    """(source, reason) of every line; half a line at the end, of a run that was killed, does not count.

    Raises:
        InputError: not a list of rejects.
    """
    with blame(path), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=1):
            if not line.endswith(b"\n") and len(line) < _MAX_LINE:
                return
            try:
                row = json.loads(line)
                yield str(row["source"]), str(row["reason"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InputError(
                    f"{path}:{number}: not a line of a ledger", "Name the FILE of an earlier --rejects"
                ) from None


def unfetched(path: Path, options: WebOptions) -> frozenset[str]:
    """The sources in the ledger at `path` that may be fetched now.

    Those are what the network was to blame for; what `options` now allow, if that was why; never what was looked at.

    Raises:
        InputError: not a ledger.
    """
    allowed = {
        Reason.PRIVATE_ADDRESS: options.allow_private,
        Reason.OPT_OUT: not options.opt_outs,
        Reason.ROBOTS_TXT: not options.robots_txt,
    }
    wanted = {str(reason) for reason, now in allowed.items() if now}
    return frozenset(
        source for source, reason in read_ledger(path) if reason in wanted or passing(reason, network=True)
    )
