"""What a run that was killed may leave in a set's directory, and how the next one clears it away."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from seerctl.errors import InputError
from seerctl.files import fsync_path, write_json
from seerctl.shards.index import INDEX, load_index

DUPLICATES = "duplicates.jsonl"  # beside an index: what was left out as near-duplicates, and of what
REJECTS = "rejects.jsonl"  # beside an index, if ingest --rejects was told so: `ingest --skip-known DIR` reads it
REPLACED = "index.json.replaced"  # an index while the set it names is being overwritten
JOURNAL = ".seerctl.drop.json"  # the files that a drop makes and those that it makes superfluous
LEFTOVER = re.compile(
    r".*\.tar(\.idx)?\.(tmp|partial)|(index\.json|duplicates\.jsonl|\.seerctl\.drop\.json)\.tmp"
    r"|\.seerctl\.pending\.partial(\.tmp|\.partial)?"
)


def sweep(directory: Path, spared: Collection[str] = ()) -> None:
    """Remove what an earlier run that did not end well left behind; what the index lists, or `spared` names, stays."""
    for path in [path for path in directory.iterdir() if LEFTOVER.fullmatch(path.name) and path.name not in spared]:
        path.unlink()
    settle(directory)


def begin(directory: Path, files: Iterable[str], *, fresh: bool = False) -> None:
    """Note, durably, the shards that are about to come or to go: whichever the index does not list will be removed.

    fresh: they are a new set's, which has no index yet; until it has one they are nothing.
    """
    write_json(directory / JOURNAL, {"files": sorted(files), "fresh": fresh})


def unborn(directory: Path) -> bool:
    """Whether a new set was broken off between its first shard and its index."""
    try:
        note = json.loads((directory / JOURNAL).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(note, dict) and note.get("fresh") is True and not (directory / INDEX).exists()


def forget_unborn(directory: Path) -> None:
    """Remove the shards of such a set: what they were made from is still there."""
    if unborn(directory):
        _remove(directory, _noted(directory / JOURNAL), listed=set())


def settle(directory: Path) -> None:
    """Remove the noted shards that the index does not list, then the note: the end of a drop, or of a broken one."""
    journal = directory / JOURNAL
    if not journal.is_file():
        return
    try:
        noted = _noted(journal)
        index, _ = load_index(directory / INDEX)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise InputError(
            f"{journal}: cannot be read ({error})", "Look at the directory, then remove this file"
        ) from None
    _remove(directory, noted, {shard["url"] for shard in index["shardlist"]})


def _noted(journal: Path) -> list[str]:
    return [str(name) for name in json.loads(journal.read_bytes())["files"]]


def _remove(directory: Path, noted: Iterable[str], listed: Collection[str]) -> None:
    for name in noted:
        if name not in listed and Path(name).name == name and name.endswith(".tar"):
            (directory / name).unlink(missing_ok=True)
            (directory / f"{name}.idx").unlink(missing_ok=True)
    fsync_path(directory)
    (directory / JOURNAL).unlink()
