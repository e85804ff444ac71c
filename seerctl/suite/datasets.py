"""The pictures of a suite: shard sets as they are, sources in their declared layout through `ingest | shard`.

What was made from a source is kept and made again when the source has changed, by the names, sizes and times of its
files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from seerctl.errors import InputError, SeerctlError
from seerctl.files import blame, read_json, write_json
from seerctl.shards.index import INDEX, load_index
from seerctl.suite.spec import DataSet
from seerctl.tables import open_table

PATH_COLUMN = "path"
TABLES = (".csv", ".jsonl")
MADE = "made-from.json"


def slug(text: str) -> str:
    """A file name for any text, different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[-48:]
    return f"{plain or 'x'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def is_shard_set(place: Path) -> bool:
    """Whether a shard set lies at `place`."""
    return (place / INDEX).is_file() or (place.name == INDEX and place.is_file())


def problem(data: DataSet, root: Path) -> str:
    """What is wrong with the data set below `root`, in words ("": nothing); reads indexes and headers alone."""
    place = root / data.path
    if not place.exists():
        return f"{place}: not there"
    try:
        if is_shard_set(place):
            return _lacking(place, tuple(load_index(place / INDEX if place.is_dir() else place)[0]["columns"]), data)
        if data.layout == "table":
            return _table_problem(place, data)
    except SeerctlError as error:
        return str(error)
    if not place.is_dir():
        return f"{place}: a directory is wanted" + (", one folder a class" if data.layout == "folders" else "")
    if data.layout == "files":
        return "" if any(_files(place)) else f"{place}: holds no file"
    classes = sum(child.is_dir() for child in place.iterdir())
    return "" if classes else f"{place}: holds no folder, one a class is wanted"


def _table_problem(place: Path, data: DataSet) -> str:
    if not place.is_file() or place.suffix not in TABLES:
        return f"{place}: a table ({' or '.join(TABLES)}) is wanted"
    names, _ = open_table(place)
    missing = "" if PATH_COLUMN in names else f"{place}: no column '{PATH_COLUMN}'"
    return missing or _lacking(place, tuple(names), data)


def _lacking(place: Path, there: tuple[str, ...], data: DataSet) -> str:
    absent = [name for name in data.names if name not in there]
    return f"{place}: no column '{absent[0]}', it has {', '.join(there) or 'none'}" if absent else ""


def source_bytes(data: DataSet, root: Path, work: Path) -> int:
    """Bytes of the files that have yet to become shards below `work`; 0 for a shard set."""
    place = root / data.path
    if is_shard_set(place) or is_shard_set(_made(place, work)):
        return 0
    return sum(size for _, size, _ in _files(place if place.is_dir() else place.parent))


def samples(data: DataSet, root: Path) -> int:
    """How many pictures there are, about: those of the index, or the files of the source."""
    place = root / data.path
    if is_shard_set(place):
        return int(load_index(place / INDEX if place.is_dir() else place)[0]["total"])
    if place.is_dir():
        return sum(1 for _ in _files(place))
    names, blocks = open_table(place)
    return sum(len(block[names[0]]) for block in blocks(names[:1]))


def shards(data: DataSet, root: Path, work: Path) -> Path:
    """The shard set of `data`: itself, or made from its source below `work`, where it stays for the next time.

    Raises:
        InputError: `ingest` or `shard` failed; what they said stands on stderr.
    """
    place = (root / data.path).absolute()
    if is_shard_set(place):
        return place
    target = _made(place, work)
    made_from = {"source": str(place), "files": fingerprint(place)}
    if is_shard_set(target) and (target / MADE).is_file() and read_json(target / MADE) == made_from:
        return target
    with blame(target):
        shutil.rmtree(target, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
    _pipe(place, target)
    write_json(target / MADE, made_from)
    return target


def _made(place: Path, work: Path) -> Path:
    return (work / slug(str(place.absolute()))).absolute()


def _pipe(source: Path, target: Path) -> None:
    """`seerctl ingest SOURCE | seerctl shard -o TARGET`, away from any project file and from settings for others."""
    program = [sys.executable, "-m", "seerctl"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SEERCTL_")}
    ingest = subprocess.Popen(  # noqa: S603  # ourselves
        [*program, "ingest", str(source)], stdout=subprocess.PIPE, cwd=target.parent, env=environment
    )
    try:
        with ingest:
            shard = subprocess.run(  # noqa: S603
                [*program, "shard", "-o", str(target)], stdin=ingest.stdout, cwd=target.parent, env=environment,
                check=False,
            )  # fmt: skip
    finally:
        ingest.kill()
    if ingest.returncode or shard.returncode:
        shutil.rmtree(target, ignore_errors=True)
        raise InputError(
            f"{source}: could not become a shard set (ingest ended with {ingest.returncode}, shard with "
            f"{shard.returncode})",
            f"Try: seerctl ingest {source} | seerctl shard -o DIR, and name DIR in the suite",
        )


def fingerprint(place: Path) -> str:
    """A hash of the names, sizes and times of all files below `place`; of a table, of those below its directory."""
    digest = hashlib.sha256()
    for name, size, time in sorted(_files(place if place.is_dir() else place.parent)):
        digest.update(json.dumps([name, size, time]).encode())
    return digest.hexdigest()


def _files(place: Path) -> Iterator[tuple[str, int, int]]:
    """(path below `place`, bytes, modification time in ns) of every file there."""
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder, name)
            try:
                facts = path.stat()
            except OSError:  # a dangling link: ingest will say so
                continue
            yield str(path.relative_to(place)), facts.st_size, facts.st_mtime_ns
