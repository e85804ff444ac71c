"""`seerctl inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.console import Progress, emit, say
from seerctl.errors import InputError, UsageError
from seerctl.options import SeerCommand, output_format

if TYPE_CHECKING:
    from seerctl.shards.index import ShardSet

EXAMPLES = ("seerctl inspect shards/", "seerctl inspect shards/ --verify --output-format json")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SHOWN = 12  # values of a column, damages of a set


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Re-read every byte of a shard set and name each damaged shard (exit 4).")
@output_format
def inspect(path: Path, verify: bool, output_format: str) -> None:
    """Show what a shard set, a feature file or sample weights hold: counts, sizes, formats, columns and their values.

    PATH is a directory written by 'shard' (also one with splits), its index.json, or an HDF5 file written by 'extract'
    or 'audit --balance'.
    """
    if path.is_file() and _begins_with(path, _HDF5):
        from seerctl.features.store import describe as describe_features
        from seerctl.weighting import describe as describe_weights
        from seerctl.weighting import is_weights

        if verify:
            raise UsageError(f"{path}: --verify is for shard sets")
        result = describe_weights(path) if is_weights(path) else describe_features(path)
        emit(result, output_format, _lines(result))
        return
    from seerctl.shards.index import ShardSet, split_paths

    damaged: list[str] = []
    results = {}
    for name, place in (split_paths(path) or {"": path}).items():
        with ShardSet.open(place) as shards:
            results[name] = _describe(shards, verify, damaged)
    result = results[""] if "" in results else {"kind": "splits", "location": str(path), "splits": results}
    emit(result, output_format, "\n\n".join(_lines(entry) for entry in results.values()))
    if damaged:
        more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise InputError(f"{path}: damaged: {'; '.join(damaged[:_SHOWN])}{more}", "Write the set again from its source")


def _begins_with(path: Path, magic: bytes) -> bool:
    from seerctl.files import blame

    with blame(path), path.open("rb") as file:
        return file.read(len(magic)) == magic


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
        result["damage"] = [{"file": fault.file, "sample": fault.sample, "fault": fault.fault} for fault in found]
        damaged += [f"{shards.location}/{fault}" for fault in found]
    return result


def _lines(result: Mapping[str, Any]) -> str:
    """One line a fact, for people."""
    rows: list[tuple[str, str]] = []
    for name, value in result.items():
        if name == "columns":
            rows += [(f"column {column}", _column(entry)) for column, entry in value.items()]
        elif name == "sides":
            rows += [(f"{side} side", "least {:,}, median {:,.0f}, greatest {:,} px".format(*of))
                     for side, of in value.items()]  # fmt: skip
        elif name == "damage":
            rows += [("damage", f"{fault['file']}: {fault['fault']}") for fault in value[:_SHOWN]]
        elif name == "lineage":
            rows += [("made from", _made_from(value))]
        else:
            rows.append((name.replace("_", " "), _plain(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _column(entry: Mapping[str, Any]) -> str:
    values = entry.get("values") or {}
    common = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:_SHOWN]
    shown = ", ".join(f"{value} {count:,}" for value, count in common) + (", ..." if len(values) > _SHOWN else "")
    span = f", {entry['min']:g} to {entry['max']:g}" if "min" in entry and not values else ""
    distinct = f", {len(values):,} values: {shown}" if values else span
    counted = f", {entry['count']:,} of them set" if "count" in entry else ""
    missing = f", {entry['missing']:,} missing" if "missing" in entry else ""
    return f"{entry['type']}{counted}{missing}{distinct}"


def _made_from(lineage: Mapping[str, Any]) -> str:
    streams = lineage.get("streams")
    if streams is None:
        return _plain(lineage)
    return ", ".join(f"stream {stream['sha256'][:12]} ({stream['samples']:,} samples)" for stream in streams)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
