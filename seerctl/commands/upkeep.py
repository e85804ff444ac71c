"""`seerctl shard --drop` and `--repair`: changes to a set that stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from seerctl.console import Progress, say, warn
from seerctl.errors import InputError

if TYPE_CHECKING:
    from seerctl.shards.repair import SetRepair

_SHOWN = 20  # entries of a list that name nothing


def drop_listed(listed: Path, output: Path) -> None:
    """Remove what the file `listed` names from the set in `output`, and say what that was."""
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


def repair_damaged(where: Path, *, dry_run: bool) -> None:
    """Repair the set in `where`; what was done, a line each, goes to stdout.

    Raises:
        InputError: a shard stays damaged.
    """
    from seerctl.shards.repair import repair_sets

    with Progress("shard --repair", unit="samples") as progress:
        repairs = repair_sets(where, dry_run=dry_run, progress=progress)
    for repair in repairs:
        for line in _lines(repair):
            click.echo(f"{repair.directory}: {line}")
    lost = sum(len(repair.lost) + sum(repair.missing.values()) for repair in repairs)
    done = "nothing to repair" if not any(one.changes for one in repairs) else f"{lost:,} samples left out"
    if dry_run and any(one.changes for one in repairs):
        done = f"{lost:,} samples would be left out; nothing was changed"
    say(f"shard: {where}: {done}, {sum(repair.left for repair in repairs):,} stay")
    hopeless = [f"{one.directory / name}: {why}" for one in repairs for name, why in one.hopeless.items()]
    if hopeless:
        raise InputError(f"not repaired: {'; '.join(hopeless)}", "Bring them back from a copy, or write them anew")


def _lines(repair: SetRepair) -> list[str]:
    return [
        *(f"{name}: rebuilt" for name in repair.rebuilt),
        *(f"{name}: removed, a newer revision is there" for name in repair.superseded),
        *(f"{name}: missing, its {count:,} samples are lost" for name, count in repair.missing.items()),
        *(f"left out {fault}" for fault in repair.lost),
    ]
