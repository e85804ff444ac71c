"""Any images in, one checked stream out: the whole of `seerctl ingest` as one function."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TextIO

from seerctl.errors import InputError
from seerctl.sources.check import CheckOptions
from seerctl.sources.expand import expand
from seerctl.sources.item import Item
from seerctl.sources.options import SourceOptions
from seerctl.sources.places import places
from seerctl.sources.pool import Pool
from seerctl.sources.web.client import Web
from seerctl.sources.web.options import WebOptions
from seerctl.sources.worker import Limits
from seerctl.stream.records import rejected_of
from seerctl.stream.writer import StreamWriter


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Everything that decides what `ingest` lets through; `jobs` alone changes nothing but the time."""

    jobs: int = 1
    sources: SourceOptions = field(default_factory=SourceOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    limits: Limits = field(default_factory=Limits)
    web: WebOptions = field(default_factory=WebOptions)
    max_reject_rate: float = 0.10

    def recorded(self) -> dict[str, Any]:
        """The options that change the bytes of a stream, for its start marker."""
        return {**self.check.recorded(), "labels": self.sources.labels, "opt_outs": self.web.opt_outs}


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts of one run; `rejected` and `candidates` do without the `EXCLUSIONS` that `rejects` also counts."""

    samples: int
    stored: int
    rejects: dict[str, int]
    rejected: int
    over_limit: bool

    @property
    def candidates(self) -> int:
        """What was looked at as an image."""
        return self.samples + self.rejected


def ingest(
    arguments: Sequence[str],
    output: BinaryIO,
    options: IngestOptions,
    *,
    stdin: BinaryIO | None = None,
    rejects: TextIO | None = None,
    progress: Callable[[int], None] | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> IngestReport:
    """Write one stream of all images in `arguments` to `output`, one JSON line per reject to `rejects`.

    `arguments` are directories, images, archives, tables and lists; `-` reads a list or an archive from `stdin`.

    Sources that are not `wanted` are passed over before they are fetched or read.

    Raises:
        InputError: an argument is missing, an archive is damaged, or no image came through. The stream is then without
            its end marker, so nothing that reads it takes it for whole.
    """
    found = places(arguments)
    counts: Counter[str] = Counter()
    with Pool(options.jobs, options.check, options.limits) as pool, Web(options.web) as web:
        writer = StreamWriter(output, options.recorded())
        items = expand(found, stdin, options.sources, options.check, web.open)
        if wanted is not None:
            items = (item for item in items if wanted(item.source))
        for outcome in pool.run(web.fetched(items)):
            writer.write(outcome.raw, outcome.digests)
            _note(outcome.rejects, counts, rejects)
            if progress is not None:
                progress(outcome.items)
    rejected = rejected_of(counts)
    if not writer.samples:
        where = ", ".join(arguments)
        if not counts:
            raise InputError(f"{where}: there is no file in it", "Name a place that holds images")
        raise InputError(f"{where}: no image came through ({_reasons(counts)})", "See why: --rejects -")
    over = rejected > options.max_reject_rate * (writer.samples + rejected)
    end = writer.finish(+counts, over_limit=over)
    return IngestReport(end.samples, end.stored, end.rejects, end.rejected, over)


def _note(refused: Sequence[tuple[Item, str, str]], counts: Counter[str], ledger: TextIO | None) -> None:
    for item, reason, detail in refused:
        counts[reason] += 1
        if ledger is not None:
            ledger.write(json.dumps({"source": item.source, "reason": reason, "detail": detail}) + "\n")


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted((+counts).items()))
