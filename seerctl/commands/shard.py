"""`seerctl shard`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from click.core import ParameterSource

from seerctl.commands.upkeep import drop_listed, repair_damaged
from seerctl.console import Progress, binary_stdin, say
from seerctl.errors import InputError, RejectLimit, UsageError
from seerctl.options import SeerCommand, jobs, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.shards.setwriter import ShardOptions
    from seerctl.shards.writer import ShardReport

EXAMPLES = (
    "seerctl ingest photos/ | seerctl shard -o shards/",
    "seerctl shard stream.tar -o splits/ --maxcount 5000 --split train=0.9,val=0.1 --dedup near",
    "seerctl shard shards/ -o shuffled/ --maxcount 500 --shuffle --seed 1",
    "seerctl shard --drop opted-out.txt shards/",
    "seerctl shard --repair shards/ --dry-run",
)
NEAR = 4  # `duplicates.DISTANCE`, without the numpy that importing it would take


class ByteSize(click.ParamType[int]):
    """A number of bytes: 5000000, 500M, 1G, 1GiB."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from seerctl.shards.remote.options import byte_size

        size = byte_size(str(value))
        if size is None:
            self.fail(f"{value!r} is no size; write 500000000, 500M or 1GiB", param, ctx)
        return size


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.argument("streams_", nargs=-1, type=str, metavar="[STREAM|SET...]")
@output_path("Directory of the shard set, or of its splits.", required=False)
@click.option("--prefix", default="shard", help="Shards are called PREFIX-000000.tar and so on.")
@click.option("--maxcount", type=click.IntRange(min=1), default=10_000, help="Most samples in a shard.")
@click.option("--maxsize", type=ByteSize(), default="1G", metavar="BYTES", help="Most bytes in a shard (500M, 1GiB).")
@click.option("--split", default=None, metavar="NAME=F,...",
              help="Deal samples by their content into sets DIR/NAME, such as train=0.9,val=0.1.")  # fmt: skip
@click.option("--streams", type=click.IntRange(min=1), default=None,
              help="How many streams have to come: notices one that is missing whole.")  # fmt: skip
@click.option("--shuffle", is_flag=True, help="Order the samples at random: by seed and key, however they come.")
@click.option("--seed", type=int, default=0, help="Of --shuffle: the same seed and samples give the same order.")
@click.option("--shuffle-memory", type=ByteSize(), default="1G", metavar="BYTES",
              help="Of --shuffle: samples held in memory; what is more goes through files in the output.")  # fmt: skip
@click.option("--dedup", type=click.Choice(["near"]), default=None,
              help="Leave out pictures that look like an earlier one (also in another split), and list them in "
                   "duplicates.jsonl.")  # fmt: skip
@jobs
@click.option("--weights", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Sample weights ('audit --balance') to become the column 'weight', for 'pretrain --set "
                   "data.weights=weight'.")  # fmt: skip
@click.option("--energon", is_flag=True,
              help="Also write .nv-meta/, by which Megatron-Energon reads the set; it is kept up to date.")  # fmt: skip
@click.option("--drop", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Remove from SET the samples that FILE names, one sha256, key or source a line.")  # fmt: skip
@click.option("--repair", is_flag=True,
              help="Make SET whole: rebuild index and offsets, leave out damaged samples, saying which.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Of --repair: say what would be done, and do nothing.")
@click.option("--append", is_flag=True, help="Go on with the set that is there.")
@overwrite
@click.pass_context
def shard(ctx: click.Context, /, streams_: tuple[str, ...], output: Path | None, **given: Any) -> None:
    """Write streams of 'seerctl ingest', or shard sets anew, into verified WebDataset shards with an index.

    STREAM is a file written by 'ingest -o', or '-'; without one standard input is read. Streams may be concatenated.
    SET is a directory written before: several are merged, splits stay as they are unless --split deals anew, and every
    byte is checked on the way.

    Nothing appears under its final name before every stream has shown its end marker: an incomplete one leaves
    *.partial files, no index, and exit code 4. A sample that comes twice is kept once.

    With --append what comes is added in new shards; with --shuffle too it is shuffled by itself, and what stands stays
    as it is. To shuffle all of it, name the set as SET and another -o.

    --drop and --repair read no stream and change the set SET (or -o): only the shards concerned are written again, the
    set being whole at any moment. The index keeps the hashes of what was dropped: 'audit --lineage' names models that
    saw it, --append leaves it out. What was damaged beyond recovery is listed in the index too.
    """
    upkeep = "--drop" if given["drop"] else "--repair" if given["repair"] else None
    if given["dry_run"] and upkeep != "--repair":
        raise UsageError("shard: --dry-run is for --repair", "Leave it out")
    if upkeep is not None:
        place = _only_place(ctx, streams_, output, upkeep)
        if upkeep == "--drop":
            drop_listed(given["drop"], place)
        else:
            repair_damaged(place, dry_run=given["dry_run"])
        return
    if output is None:
        raise UsageError("shard: where to?", "Name the directory of the set: -o DIR")
    if given["jobs"] is not None and given["dedup"] is None:
        raise UsageError("shard: --jobs is for looking at pictures", "Pass --dedup near too, or leave it out")
    for name in ("seed", "shuffle_memory"):
        if _typed(ctx, name) and not given["shuffle"]:
            raise UsageError(f"shard: --{name.replace('_', '-')} is for --shuffle", "Pass --shuffle too")
    from seerctl.shards.reshard import is_set
    from seerctl.shards.writer import write_shards

    sets = [Path(name) for name in streams_ if is_set(name)]
    streams = [name for name in streams_ if not is_set(name)]
    inputs = _open(streams or ["-"]) if streams or not sets else ()
    with Progress("shard", unit="samples") as progress:
        report = write_shards(inputs, output, _options(given), progress, sets)
        _summarise(report, progress.rate)
    if report.over_limit:
        raise RejectLimit(
            f"shard: the set is whole, but ingest rejected {report.rejected:,} images, more than its limit",
            "See the file that ingest --rejects wrote, or raise its --max-reject-rate",
        )


def _typed(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _only_place(ctx: click.Context, names: tuple[str, ...], output: Path | None, upkeep: str) -> Path:
    """The one set that --drop or --repair is to change, which nothing else goes with."""
    alone = {"drop", "repair", "dry_run", "output", "streams_"}
    clash = next((one for one in ctx.command.params if one.name not in alone and one.expose_value
                  and _typed(ctx, str(one.name))), None)  # fmt: skip
    if clash is not None:
        raise UsageError(f"shard: {upkeep} takes no {clash.opts[-1]}", "Only the set goes with it")
    if _typed(ctx, "drop") and _typed(ctx, "repair"):
        raise UsageError("shard: --drop and --repair exclude each other", "Repair first, then drop")
    places = [Path(name) for name in names] + ([output] if output and (not names or _typed(ctx, "output")) else [])
    if len(places) != 1:
        raise UsageError(f"shard: {upkeep} changes one set, not {len(places)}", f"seerctl shard {upkeep} ... DIR")
    return places[0]


def _options(given: dict[str, Any]) -> ShardOptions:
    from seerctl.shards.setwriter import ShardOptions
    from seerctl.shards.shuffle import Shuffle
    from seerctl.shards.split import Split

    same = {name: given[name] for name in ("prefix", "maxcount", "maxsize", "streams", "append", "overwrite", "jobs",
                                           "weights", "energon")}  # fmt: skip
    return ShardOptions(
        **same,
        split=Split.parse(given["split"]) if given["split"] else None,
        near=NEAR if given["dedup"] else None,
        shuffle=Shuffle(given["seed"], given["shuffle_memory"]) if given["shuffle"] else None,
    )


def _open(names: list[str]) -> Iterator[tuple[str, BinaryIO]]:
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
