"""Where the stream, the rejects and the last line of `ingest` go."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from seerctl.console import binary_stdout, say

if TYPE_CHECKING:
    from seerctl.sources.ingest import IngestReport


@contextlib.contextmanager
def output_file(output: str, overwrite: bool) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears when it is whole."""
    from seerctl.files import atomic_write, claim

    if output == "-":
        with binary_stdout("seerctl ingest") as stream:
            yield stream
        return
    with atomic_write(claim(Path(output), overwrite=overwrite)) as file:
        yield cast(BinaryIO, file)


@contextlib.contextmanager
def ledger_file(rejects: str | None, known: tuple[str, ...]) -> Iterator[TextIO | None]:
    """Where rejects are listed; each line is there as soon as it is known, also when the run dies."""
    from seerctl.sources.ledger import is_known, open_ledger

    if rejects is None:
        yield None
    elif rejects == "-":
        yield sys.stderr
    else:
        with open_ledger(Path(rejects), go_on=is_known(Path(rejects), known)) as file:
            yield file


def summarise(report: IngestReport, rate: float) -> None:
    """One line on stderr: what came in, what went out, and why the rest did not."""
    from seerctl.stream.records import EXCLUSIONS

    faults = {reason: count for reason, count in report.rejects.items() if reason not in EXCLUSIONS}
    asked = {reason: count for reason, count in report.rejects.items() if reason in EXCLUSIONS}
    others = asked.pop("ignored", 0)
    rejected = f", {report.rejected:,} rejected ({_listed(faults)})" if faults else ", none rejected"
    excluded = f", {sum(asked.values()):,} left out ({_listed(asked)})" if asked else ""
    ignored = f", {others:,} other files ignored" if others else ""
    skipped = f", {report.skipped:,} known" if report.skipped else ""
    counts = f"{report.candidates:,} in, {report.samples:,} out{rejected}{excluded}{ignored}{skipped}"
    say(f"ingest: {counts}; {report.stored / 1e6:,.1f} MB, {rate:,.0f}/s")


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
