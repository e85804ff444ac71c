"""What a run that was killed may leave in a set's directory, and how the next one clears it away."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from seerctl.errors import InputError
from seerctl.files import fsync_directory, write_json
from seerctl.shards.index import INDEX, load_index

DUPLICATES = "duplicates.jsonl"  # beside an index: what was left out as near-duplicates, and of what
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


def begin(directory: Path, files: Iterable[str]) -> None:
    """Note, durably, the shards that are about to come or to go: whichever the index does not list will be removed."""
    write_json(directory / JOURNAL, {"files": sorted(files)})


def settle(directory: Path) -> None:
    """Remove the noted shards that the index does not list, then the note: the end of a drop, or of a broken one."""
    journal = directory / JOURNAL
    if not journal.is_file():
        return
    try:
        noted = [str(name) for name in json.loads(journal.read_bytes())["files"]]
        index, _ = load_index(directory / INDEX)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise InputError(
            f"{journal}: cannot be read ({error})", "Look at the directory, then remove this file"
        ) from None
    listed = {shard["url"] for shard in index["shardlist"]}
    for name in noted:
        if name not in listed and Path(name).name == name and name.endswith(".tar"):
            (directory / name).unlink(missing_ok=True)
            (directory / f"{name}.idx").unlink(missing_ok=True)
    fsync_directory(directory)
    journal.unlink()
