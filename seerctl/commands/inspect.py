"""`seerctl inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.inspection import in_words, pairs_in_words
from seerctl.console import Progress, emit, say, warn
from seerctl.errors import InputError, UsageError
from seerctl.options import SeerCommand, jobs, output_format, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.shards.index import ShardSet

EXAMPLES = (
    "seerctl inspect shards/",
    "seerctl inspect shards/ --verify --output-format json",
    "seerctl inspect shards/ --sheet sheet.png --sheet-by label",
    "seerctl inspect shards/train --duplicates shards/test -o pairs.jsonl",
    "seerctl inspect stream.tar",
)
_NAMED = 12  # damages in the one line of an error
_LISTED = 1000  # pairs in the result; all of them go to -o


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True,
              help="Re-read every byte of a shard set or row of a feature file; name all damage (exit 4).")  # fmt: skip
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), default=None, metavar="FILE.png",
              help="Draw a contact sheet of pictures chosen at random.")  # fmt: skip
@click.option("--sheet-by", default=None, metavar="COLUMN", help="One row of the sheet for each value of a column.")
@click.option("--sheet-count", type=click.IntRange(min=1), default=None, show_default="48, or 10 in each row",
              help="Pictures on the sheet, or in each of its rows.")  # fmt: skip
@click.option("--seed", type=int, default=0, help="Which pictures the sheet shows: the same for the same seed.")
@click.option("--duplicates", type=click.Path(path_type=Path), default=None, metavar="SET",
              help="List the pairs that look the same between PATH and SET, or within PATH if SET is it.")  # fmt: skip
@click.option("--distance", type=click.IntRange(0, 14), default=4,
              help="Of --duplicates: most bits in which the 64 of two pictures' hashes differ.")  # fmt: skip
@output_path("File for all pairs of --duplicates, one JSON line each.", required=False)
@jobs
@overwrite
@output_format
def inspect(
    path: Path, verify: bool, sheet: Path | None, sheet_by: str | None, sheet_count: int | None, seed: int,
    duplicates: Path | None, distance: int, output: Path | None, jobs: int | None, overwrite: bool, output_format: str,
) -> None:  # fmt: skip
    """Show what a shard set, a stream or a feature file holds: counts, sizes, formats, columns and their values.

    PATH is a directory written by 'shard' (also one with splits), its index.json, the URL of either, a stream
    written by 'ingest -o' (which is read whole and checked), or an HDF5 file written by 'extract' or 'audit --balance'.

    Damage ends with exit code 4; 'seerctl shard --repair' makes a set whole without what is lost.
    """
    if duplicates is None and output is not None:
        raise UsageError("inspect: -o is for --duplicates", "Results go to stdout, a contact sheet to --sheet FILE")
    if sheet is None and (sheet_by is not None or sheet_count is not None):
        raise UsageError("inspect: --sheet-by and --sheet-count are for a contact sheet", "Pass --sheet FILE.png")
    if duplicates is not None:
        if verify or sheet is not None:
            raise UsageError("inspect: --duplicates goes with neither --verify nor --sheet", "Run inspect twice")
        _pairs(path, duplicates, distance, jobs, output, overwrite, output_format)
        return
    if path.is_file() and path.name != "index.json":
        if sheet is not None:
            raise UsageError(f"{path}: --sheet is for shard sets", "Shard a stream first")
        _file(path, verify, output_format)
        return
    _sets(path, verify, output_format)
    if sheet is not None:
        _sheet(path, sheet, sheet_by, sheet_count, seed, overwrite)


def _file(path: Path, verify: bool, output_format: str) -> None:
    """A stream or an HDF5 file; a stream and sample weights are checked whole without `verify` too."""
    from seerctl.files import is_hdf5
    from seerctl.shards.streamfile import describe_stream, is_stream

    if is_hdf5(path):
        from seerctl.features.store import describe as describe_features
        from seerctl.weighting import describe as describe_weights
        from seerctl.weighting import is_weights

        if is_weights(path):
            result = describe_weights(path)
        else:
            with Progress("inspect", unit="rows") as progress:
                result = describe_features(path, progress, verify=verify)
    elif is_stream(path):
        with Progress("inspect", unit="samples") as progress:
            result = describe_stream(path, progress)
    elif (path.with_name("index.json")).is_file() and path.suffix == ".tar":
        raise InputError(f"{path}: one shard of a set", f"Look at all of it: seerctl inspect {path.parent}")
    else:
        raise InputError(
            f"{path}: neither a stream of 'seerctl ingest' nor features", "Other tars go through ingest first"
        )
    emit(result, output_format, in_words(result))
    if "fault" in result:
        raise InputError(result["fault"], "Make it again from its source")
    if result.get("damage"):
        raise InputError(f"{path}: damaged: {'; '.join(result['damage'])}", "Extract it again")


def _sets(path: Path, verify: bool, output_format: str) -> None:
    from seerctl.shards.index import ShardSet, split_paths
    from seerctl.shards.verify import lost_indexes

    damaged = lost_indexes(path) if verify else []
    results = {}
    for name, place in (split_paths(path) or {"": path}).items():
        with ShardSet.open(place) as shards:
            if shards.partial:
                raise UsageError(f"{place}: some shards of a set, whose index tells of all", "Name its directory")
            results[name] = _describe(shards, verify, damaged)
    result = results[""] if "" in results else {"kind": "splits", "location": str(path), "splits": results}
    emit(result, output_format, "\n\n".join(in_words(entry) for entry in results.values()))
    if damaged:
        more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        raise InputError(
            f"{path}: damaged: {'; '.join(damaged[:_NAMED])}{more}",
            f"Repair it ('seerctl shard --repair {path}') or write it again from its source",
        )


def _describe(shards: ShardSet, verify: bool, damaged: list[str]) -> dict[str, Any]:
    """The description of one set; with `verify` the damage found goes into it and onto the list."""
    from seerctl.shards.verify import describe
    from seerctl.shards.verify import verify as find_damage

    result = describe(shards)
    if verify:
        with Progress("inspect", total=len(shards), unit="samples") as progress:
            found = find_damage(shards, progress)
            rate = f"{progress.done:,} samples read, {progress.rate:,.0f}/s"
        say(f"inspect: {shards.location}: {rate}, {f'{len(found)} faults' if found else 'no fault'}")
        result["verified"] = not found
        result["damage"] = [fault.to_json() for fault in found]
        damaged += [f"{shards.location}/{fault}" for fault in found]
    return result


def _sheet(path: Path, sheet: Path, by: str | None, count: int | None, seed: int, overwrite: bool) -> None:
    from seerctl.files import claim
    from seerctl.shards.index import ShardSet
    from seerctl.shards.sheet import draw_sheet

    with ShardSet.open(path) as shards, Progress("inspect --sheet", total=len(shards), unit="samples") as progress:
        done = draw_sheet(shards, claim(sheet, overwrite=overwrite), by=by, count=count, seed=seed, progress=progress)
    more = f"; {done.more:,} rarer values have no row" if done.more else ""
    say(f"inspect: {sheet}: {done.pictures:,} pictures{f' in {done.rows:,} rows' if by else ''}{more}")
    if done.undecodable:
        warn(f"inspect: {done.undecodable:,} of them cannot be decoded")


def _pairs(
    path: Path, other: Path, distance: int, jobs: int | None, output: Path | None, overwrite: bool, output_format: str
) -> None:
    from seerctl.files import atomic_write, claim, json_text
    from seerctl.shards.index import ShardSet
    from seerctl.shards.pairs import find_pairs

    if output is not None:
        claim(output, overwrite=overwrite)
    with ShardSet.open(path) as one, ShardSet.open(other) as opened:
        same = one.where == opened.where or one.path.resolve() == opened.path.resolve()
        two = one if same else opened
        with Progress("inspect --duplicates", total=len(one) + (0 if same else len(two))) as progress:
            found = find_pairs(one, two, distance, jobs, progress)
        result: dict[str, Any] = {
            "kind": "duplicates", "set": str(path), "other": str(other), "distance": distance, "pairs": found.count,
            "pictures": len(one), "other_pictures": len(two), "other_pictures_in_pairs": found.concerned,
            "listed": [row for row, _ in zip(found.rows(), range(_LISTED), strict=False)],
        }  # fmt: skip
        if output is not None:
            with atomic_write(output, "w") as file:
                file.writelines(json_text(row) + "\n" for row in found.rows())
    emit(result, output_format, pairs_in_words(result))
