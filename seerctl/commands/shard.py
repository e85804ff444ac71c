"""`seerctl shard`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from seerctl.console import Progress, binary_stdin, say, warn
from seerctl.errors import InputError, RejectLimit, UsageError
from seerctl.options import SeerCommand, jobs, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.shards.writer import ShardReport

EXAMPLES = (
    "seerctl ingest photos/ | seerctl shard -o shards/",
    "seerctl shard stream.tar -o splits/ --maxcount 5000 --split train=0.9,val=0.1 --dedup near",
    "seerctl shard --drop opted-out.txt -o shards/",
)
NEAR = 4  # `duplicates.DISTANCE`, without the numpy that importing it would take
_SHOWN = 20  # entries of a list that name nothing
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class ByteSize(click.ParamType[int]):
    """A number of bytes: 5000000, 500M, 1G, 1GiB."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", str(value).strip().upper())
        if match is None or not (size := int(float(match[1]) * _UNITS[match[2] or ""])):
            self.fail(f"{value!r} is no size; write 500000000, 500M or 1GiB", param, ctx)
        return size


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.argument("streams_", nargs=-1, type=str, metavar="[STREAM...]")
@output_path("Directory of the shard set, or of its splits.")
@click.option("--prefix", default="shard", help="Shards are called PREFIX-000000.tar and so on.")
@click.option("--maxcount", type=click.IntRange(min=1), default=10_000, help="Most samples in a shard.")
@click.option("--maxsize", type=ByteSize(), default="1G", metavar="BYTES", help="Most bytes in a shard (500M, 1GiB).")
@click.option(
    "--split",
    default=None,
    metavar="NAME=F,...",
    help="Deal samples by their content into sets DIR/NAME, such as train=0.9,val=0.1.",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    default=None,
    help="How many streams have to come: notices one that is missing whole.",
)
@click.option(
    "--dedup",
    type=click.Choice(["near"]),
    default=None,
    help="Leave out pictures that look like an earlier one (also in another split), and list them in duplicates.jsonl.",
)
@jobs
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Sample weights ('audit --balance') to become the column 'weight', for 'pretrain --set data.weights=weight'.",
)
@click.option(
    "--drop",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Remove from the set in DIR the samples that FILE names, one sha256, key or source a line.",
)
@click.option("--append", is_flag=True, help="Go on with the set that is there.")
@overwrite
def shard(
    streams_: tuple[str, ...], output: Path, prefix: str, maxcount: int, maxsize: int, split: str | None,
    streams: int | None, dedup: str | None, jobs: int | None, weights: Path | None, drop: Path | None, append: bool,
    overwrite: bool,
) -> None:  # fmt: skip
    """Write streams of 'seerctl ingest' into verified WebDataset shards with an index.

    STREAM is a file written by 'ingest -o', or '-'; without one standard input is read. Streams may be concatenated.

    Nothing appears under its final name before every stream has shown its end marker: an incomplete one leaves
    *.partial files, no index, and exit code 4. A sample that comes twice is kept once.

    With --drop nothing is read from standard input: the shards concerned are written again, the set being whole at any
    moment. The index keeps the hashes of what went: 'audit --lineage' names models that saw it, --append leaves it out.
    """
    if drop is not None:
        others = {"STREAM": streams_, "--split": split, "--streams": streams, "--dedup": dedup, "--jobs": jobs,
                  "--weights": weights, "--append": append, "--overwrite": overwrite}  # fmt: skip
        clash = next((name for name, value in others.items() if value), None)
        if clash is not None:
            raise UsageError(f"shard: --drop takes no {clash}", "Only -o DIR goes with it")
        _drop(drop, output)
        return
    if jobs is not None and dedup is None:
        raise UsageError("shard: --jobs is for looking at pictures", "Pass --dedup near too, or leave it out")
    from seerctl.shards.setwriter import ShardOptions
    from seerctl.shards.split import Split
    from seerctl.shards.writer import write_shards

    options = ShardOptions(
        prefix, maxcount, maxsize, Split.parse(split) if split else None, streams, append, overwrite,
        near=NEAR if dedup else None, jobs=jobs, weights=weights,
    )  # fmt: skip
    with Progress("shard", unit="samples") as progress:
        report = write_shards(_open(streams_ or ("-",)), output, options, progress)
        _summarise(report, progress.rate)
    if report.over_limit:
        raise RejectLimit(
            f"shard: the set is whole, but ingest rejected {report.rejected:,} images, more than its limit",
            "See the file that ingest --rejects wrote, or raise its --max-reject-rate",
        )


def _open(names: tuple[str, ...]) -> Iterator[tuple[str, BinaryIO]]:
    """Each stream when its turn comes."""
    from seerctl.files import blame

    for name in names:
        if name == "-":
            yield "stdin", binary_stdin("seerctl shard")
            continue
        with contextlib.ExitStack() as stack:
            stack.enter_context(blame(name))
            try:
                file = stack.enter_context(Path(name).open("rb"))
            except (FileNotFoundError, IsADirectoryError):
                raise InputError(f"{name}: no such file", "Write one: seerctl ingest SOURCE -o FILE") from None
            yield name, file


def _summarise(report: ShardReport, rate: float) -> None:
    sets = ", ".join(f"{name} {count:,}" for name, count in report.sets.items() if name)
    left_out = {"came twice": report.duplicates, "look like another": report.near, "dropped before": report.refused}
    twice = "".join(f", {count:,} {what}" for what, count in left_out.items() if count)
    if report.recovered:
        twice += f", {report.recovered:,} unfinished shards taken up"
    into = f"{report.shards:,} shard{'s' * (report.shards != 1)} in {report.output}{f' ({sets})' if sets else ''}"
    say(f"shard: {report.samples:,} in{twice}; {into}, {report.stored / 1e6:,.1f} MB, {rate:,.0f}/s")


def _drop(listed: Path, output: Path) -> None:
    from seerctl.shards.drop import drop_samples, read_entries

    entries = read_entries(listed)
    with Progress("shard --drop", unit="samples") as progress:
        report = drop_samples(output, entries, progress)
    sets = ", ".join(f"{name} {count:,}" for name, count in report.sets.items() if name and count)
    if report.unknown:
        more = f" and {len(report.unknown) - _SHOWN:,} more" if len(report.unknown) > _SHOWN else ""
        warn(f"shard: {len(report.unknown):,} not in {output}: {', '.join(report.unknown[:_SHOWN])}{more}")
    if report.twins:
        warn(f"shard: {report.twins:,} samples of the same bytes from other sources stay: name the sha256 to drop them")
    before = f", {report.before:,} entries were dropped before" if report.before else ""
    say(
        f"shard: {report.samples:,} samples dropped from {output}{f' ({sets})' if sets else ''}; {report.rewritten:,} "
        f"shards rewritten, {report.removed:,} removed{before}"
    )
