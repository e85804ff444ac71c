"""A ledger of rejects read again: what an earlier run could not fetch."""

from __future__ import annotations

from pathlib import Path

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.sources.reasons import Reason
from seerctl.sources.table import MAX_FIELD, parse_row
from seerctl.sources.web.options import WebOptions

_PASSING = frozenset((Reason.DNS, Reason.CONNECTION, Reason.NET_TIMEOUT, Reason.REDIRECTS, Reason.HTTP_PROTOCOL))


def unfetched(path: Path, options: WebOptions) -> frozenset[str]:
    """The sources in the ledger at `path` that may be fetched now.

    Those are what the network was to blame for; what `options` now allow, if that was why; never what was looked at.

    Raises:
        InputError: not a ledger.
    """
    reasons = set(_PASSING)
    if options.allow_private:
        reasons.add(Reason.PRIVATE_ADDRESS)
    if not options.opt_outs:
        reasons.add(Reason.OPT_OUT)
    if not options.robots_txt:
        reasons.add(Reason.ROBOTS_TXT)
    found = set()
    with blame(path), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_FIELD), b""), start=1):
            row = parse_row(line)
            source, reason = (row.get("source"), row.get("reason")) if row else (None, None)
            if not isinstance(source, str) or not isinstance(reason, str):
                raise InputError(f"{path}:{number}: not a line of a ledger", "Name the FILE of an earlier --rejects")
            if reason in reasons or reason.startswith("http-"):
                found.add(source)
    return frozenset(found)
