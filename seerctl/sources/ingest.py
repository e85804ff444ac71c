"""Any images in, one checked stream out: the whole of `seerctl ingest` as one function."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from seerctl.errors import InputError
from seerctl.sources.check import CheckOptions
from seerctl.sources.expand import expand
from seerctl.sources.item import Item
from seerctl.sources.options import SourceOptions
from seerctl.sources.places import places
from seerctl.sources.pool import Pool
from seerctl.sources.selection import Selection, SelectionOptions
from seerctl.sources.transform import Treatment
from seerctl.sources.web.client import Web
from seerctl.sources.web.options import WebOptions
from seerctl.sources.worker import Limits
from seerctl.stream.records import rejected_of
from seerctl.stream.writer import StreamWriter

if TYPE_CHECKING:
    from seerctl.sources.exact import ExactFilter
    from seerctl.sources.known import KnownSources
    from seerctl.sources.rayengine import RayPool


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Everything that decides what `ingest` lets through; `jobs` and `engine` change nothing but the time.

    engine: local processes, or actors on a Ray cluster (then jobs may be 0: as many as it has CPUs).
    """

    jobs: int = 1
    sources: SourceOptions = field(default_factory=SourceOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    limits: Limits = field(default_factory=Limits)
    web: WebOptions = field(default_factory=WebOptions)
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    treatment: Treatment = field(default_factory=Treatment)
    dedup: bool = False
    engine: str = "local"
    max_reject_rate: float = 0.10

    def recorded(self) -> dict[str, Any]:
        """The options that change the bytes of a stream, for its start marker."""
        where = [condition.text for condition in (*self.selection.where, *self.treatment.where)]
        return {
            **self.check.recorded(),
            "labels": self.sources.labels,
            "opt_outs": self.web.opt_outs,
            **self.selection.recorded(),
            **self.treatment.recorded(),
            **({"where": where} if where else {}),
            **({"dedup": "exact"} if self.dedup else {}),
        }


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts of one run; `rejected` and `candidates` do without the `EXCLUSIONS` that `rejects` also counts."""

    samples: int
    stored: int
    rejects: dict[str, int]
    rejected: int
    over_limit: bool
    skipped: int = 0  # sources that were known (`--skip-known`)

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
    _require_filters(options.treatment.filters)
    found = places(arguments)
    recorded = options.recorded()
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(_engine(options))
        web = stack.enter_context(Web(options.web))
        exact = _exact(stack) if options.dedup else None
        known = _known(options, recorded, exact, stack)
        selection = Selection(options.selection, known, wanted)
        writer = StreamWriter(output, recorded, known.tokens if known is not None else ())
        items = selection.apply(expand(found, stdin, options.sources, options.check, web))
        for outcome in pool.run(web.fetched(items)):
            one = outcome if exact is None else exact.apply(outcome)
            writer.write(one.raw, one.digests)
            _note(one.rejects, counts, rejects)
            if progress is not None:
                progress(one.items)
    if not writer.samples and not selection.passed_over:
        raise _nothing(arguments, counts, selection)
    rejected = rejected_of(counts)
    over = rejected > options.max_reject_rate * (writer.samples + rejected)
    end = writer.finish(+counts, over_limit=over)
    return IngestReport(end.samples, end.stored, end.rejects, end.rejected, over, selection.skipped)


def _engine(options: IngestOptions) -> contextlib.AbstractContextManager[Pool | RayPool]:
    if options.engine == "local":
        return Pool(options.jobs, options.check, options.limits, options.treatment)
    from seerctl.sources.rayengine import RayPool  # noqa: PLC0415  (it needs an extra)

    return RayPool(options.jobs, options.check, options.limits, options.treatment)


# The functions from here on import what only some runs need.


def _require_filters(names: Sequence[str]) -> None:
    if names:
        from seerctl.sources.userfilter import require_filter  # noqa: PLC0415

        for name in names:
            require_filter(name)


def _exact(stack: contextlib.ExitStack) -> ExactFilter:
    from seerctl.sources.exact import ExactFilter  # noqa: PLC0415

    return stack.enter_context(contextlib.closing(ExactFilter()))


def _known(
    options: IngestOptions, recorded: Mapping[str, Any], exact: ExactFilter | None, stack: contextlib.ExitStack
) -> KnownSources | None:
    """What was ingested before, if anybody asked; its pictures count as the first of their bytes."""
    if not options.selection.known:
        return None
    from seerctl.sources.known import KnownSources  # noqa: PLC0415

    known = KnownSources(options.selection.known, recorded, exact.tell if exact is not None else None)
    return stack.enter_context(contextlib.closing(known))


def _nothing(arguments: Sequence[str], counts: Counter[str], selection: Selection) -> InputError:
    where = ", ".join(arguments)
    if not counts:
        return InputError(f"{where}: there is no file in it", "Name a place that holds images")
    hint = f"No source has a column '{selection.unseen}'" if selection.unseen else "See why: --rejects -"
    return InputError(f"{where}: no image came through ({_reasons(counts)})", hint)


def _note(refused: Sequence[tuple[Item, str, str]], counts: Counter[str], ledger: TextIO | None) -> None:
    for item, reason, detail in refused:
        counts[reason] += 1
        if ledger is not None:
            ledger.write(json.dumps({"source": item.source, "reason": reason, "detail": detail}) + "\n")


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted((+counts).items()))
