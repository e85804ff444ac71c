"""`seerctl ingest`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seerctl.commands.fetchoptions import retry, url_column, web
from seerctl.commands.ingestoptions import checks, limits, plan
from seerctl.commands.ingestoutput import ledger_file, output_file, summarise
from seerctl.console import Progress, binary_stdin
from seerctl.errors import RejectLimit, UsageError
from seerctl.options import SeerCommand, jobs, overwrite

if TYPE_CHECKING:
    from seerctl.sources.check import CheckOptions
    from seerctl.sources.selection import SelectionOptions
    from seerctl.sources.transform import Treatment
    from seerctl.sources.web.options import WebOptions
    from seerctl.sources.worker import Limits

EXAMPLES = (
    "seerctl ingest photos/ | seerctl shard -o shards/",
    "find photos -name '*.jpg' | seerctl ingest - --rejects rejects.jsonl -o checked.tar",
    "seerctl ingest photos.csv --where 'age = young' --resize short=256 --strip-metadata -o small.tar",
    "seerctl ingest photos/ --skip-known set/ | seerctl shard --append -o set/",
)


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.argument("sources", nargs=-1, type=str, metavar="SOURCE...")
@click.option("-o", "--output", default="-", help="Where the stream goes; '-' is standard output.")
@jobs
@click.option(
    "--rejects",
    type=str,
    default=None,
    metavar="FILE",
    help="One JSON line for each file that is left out: source, reason, detail ('-' is stderr).",
)
@click.option(
    "--max-reject-rate",
    type=click.FloatRange(0, 1),
    default=0.10,
    help="Exit 5, after everything good was written, when a larger share was rejected.",
)
@click.option(
    "--labels/--no-labels",
    default=True,
    help="Whether the directory of an image is its label (tables name their own columns).",
)
@click.option("--path-column", default=None, metavar="NAME", help="The column of a table that names the files.")
@click.option("-0", "--null", is_flag=True, help="Lists end each name with NUL, as 'find -print0' does.")
@url_column
@checks
@limits
@plan
@click.option(
    "--dedup",
    type=click.Choice(["exact"]),
    default=None,
    help="Leave out pictures whose bytes came before, and list them.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Where pictures are looked at: processes here, or a Ray cluster ($RAY_ADDRESS; --jobs is then of all nodes).",
)
@web
@retry
@overwrite
def ingest(
    sources: tuple[str, ...], output: str, jobs: int | None, check: CheckOptions, limits: Limits, rejects: str | None,
    max_reject_rate: float, labels: bool, path_column: str | None, url_column: str | None, null: bool,
    plan: tuple[SelectionOptions, Treatment], dedup: str | None, engine: str, web: WebOptions, retry: Path | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Check images from any source and write them as one tar stream.

    SOURCE is a directory (archives in it are opened), an image, a tar (also compressed, also a WebDataset shard), a
    zip, a shard set, a table (.csv, .tsv, .jsonl, .parquet whose other columns are kept), a list (.txt, .lst), or '-':
    a list of files, or an archive, on standard input, told apart by its first bytes. 'shards-{000..009}.tar' is ten of
    them. Lists and tables name files or URLs; SOURCE may be the URL of a picture, an archive, a table or a list too,
    or of a place in an object store (s3://bucket/prefix/, by fsspec).

    Pictures on the web are fetched many at a time and come in the order of the list. Their owners' opt-outs are
    respected, private networks are not reached, and '--retry LEDGER' fetches what failed before.

    The stream keeps the original bytes, unless --resize or --strip-metadata changes them. What is no sound image, or
    not wanted, is left out and counted by reason; the same input gives the same bytes with any --jobs and --engine.

    A run that was killed goes on: give the same command with '--skip-known DIR', and 'shard --append -o DIR' after it.
    """
    from dataclasses import replace

    from seerctl.sources.ingest import IngestOptions
    from seerctl.sources.ingest import ingest as run
    from seerctl.sources.options import SourceOptions
    from seerctl.sources.places import STDIN

    if not sources:
        raise UsageError("ingest: no SOURCE", "Name images, folders, tars, tables or '-' ('seerctl ingest --help')")
    if sources.count(STDIN) > 1:
        raise UsageError("ingest: '-' is named twice", "Standard input can be read once")
    options = IngestOptions(
        jobs=jobs or (len(os.sched_getaffinity(0)) if engine == "local" else 0),
        sources=SourceOptions(labels, path_column, null, url_column),
        check=check,
        limits=limits,
        web=replace(web, max_bytes=check.max_bytes),
        selection=plan[0],
        treatment=plan[1],
        dedup=dedup is not None,
        engine=engine,
        max_reject_rate=max_reject_rate,
    )
    wanted = _wanted(retry, rejects, options.web)
    stdin = binary_stdin("seerctl ingest -") if STDIN in sources else None
    with (
        output_file(output, overwrite) as file,
        ledger_file(rejects, plan[0].known) as ledger,
        Progress("ingest") as progress,
    ):
        report = run(sources, file, options, stdin=stdin, rejects=ledger, progress=progress, wanted=wanted)
        summarise(report, progress.rate)
    if report.over_limit:
        share = report.rejected / report.candidates
        raise RejectLimit(
            f"ingest: {share:.1%} of the images were rejected, more than {max_reject_rate:.1%}",
            "The stream is whole; see --rejects FILE, or raise --max-reject-rate",
        )


def _wanted(retry: Path | None, rejects: str | None, web: WebOptions) -> Callable[[str], bool] | None:
    """With --retry: which sources to go on with."""
    from seerctl.sources.ledger import unfetched

    if retry is None:
        return None
    if rejects is not None and Path(rejects).exists() and retry.samefile(rejects):
        raise UsageError(f"--retry: {retry} is also --rejects, which begins it anew", "Name another --rejects FILE")
    found = unfetched(retry, web)
    if not found:
        raise UsageError(f"--retry: {retry} lists nothing that may be fetched now", "It is done")
    return found.__contains__
