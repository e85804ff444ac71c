"""Reading a shard set: `index.json`, and any sample in O(1) through the `.tar.idx` beside each shard.

`index.json` is a superset of webdataset's `wids-shard-index-v1`; `.tar.idx` holds the start of every sample and the end
of the last as little-endian uint64, the form Megatron-Energon reads.
"""

from __future__ import annotations

import array
import bisect
import hashlib
import itertools
import json
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seerctl.errors import InputError
from seerctl.files import blame, write_json
from seerctl.shards.shardfile import decode_offsets
from seerctl.stream.records import SAMPLE_NAME, compact, decode_meta
from seerctl.stream.ustar import BLOCK, CHUNK, TarError, padded, parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX = "index.json"
KIND = "wids-shard-index-v1"
SCHEMA = "seer-shards-1"
SELECTED = "selected_of"  # in the index of some shards: the SHA-256 of the whole one's
_REBUILD = "Try 'seerctl shard --repair DIR', or write the set again"
_OPEN_SHARDS = 64  # file pairs held open at once, far below the usual limit of 1024 descriptors
_BOUNDS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Sample:
    """One stored sample: `image` is the file's bytes, `meta` its parsed `<key>.json`."""

    key: str
    ext: str
    image: bytes
    meta: dict[str, Any]


def index_path(where: str | Path) -> Path:
    """The index of a shard set named by its directory or by the index itself.

    Raises:
        InputError: neither is there; where DIR holds splits, the message names them.
    """
    path = Path(where)
    if path.name == INDEX and path.is_file():
        return path
    if (path / INDEX).is_file():
        return path / INDEX
    if not path.exists():
        raise InputError(f"{path}: no such shard set", "Make one: seerctl ingest SOURCE | seerctl shard -o DIR")
    splits = split_paths(path)
    if splits:
        raise InputError(f"{path}: holds the splits {', '.join(splits)}", f"Name one of them: {min(splits.values())}")
    if path.is_dir() and any(path.glob("*.partial")):
        raise InputError(
            f"{path}: no shard set, the stream into it broke off",
            f"Run ingest and shard again; ingest --skip-known {path} | shard --append -o {path} goes on",
        )
    if any(path.glob("*.tar.idx")):
        raise InputError(f"{path}: a shard set without its {INDEX}", f"Rebuild it: seerctl shard --repair {path}")
    raise InputError(f"{path}: not a shard set, it has no {INDEX}", "Make one: seerctl shard -o DIR")


def split_paths(path: Path) -> dict[str, Path]:
    """The sets below a directory that is none itself, by the name of the split."""
    if not path.is_dir() or (path / INDEX).is_file():
        return {}
    return {index.parent.name: index.parent for index in sorted(path.glob(f"*/{INDEX}"))}


def load_index(path: Path) -> tuple[dict[str, Any], str]:
    """The parsed index and the SHA-256 of its bytes.

    Raises:
        InputError: not JSON, another kind of file, or counts that contradict each other.
    """
    with blame(path):
        return parse_index(path.read_bytes(), str(path))


def parse_index(text: bytes, path: str) -> tuple[dict[str, Any], str]:
    """The index in the bytes of the file `path`, and their SHA-256.

    Raises:
        InputError: as `load_index`.
    """
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})", _REBUILD) from None
    if not isinstance(index, dict) or index.get("__kind__") != KIND or index.get("schema") != SCHEMA:
        raise InputError(f"{path}: not the index of a seerctl shard set", "Write the set with 'seerctl shard'")
    try:
        shards = index["shardlist"]
        sound = sum(shard["nsamples"] for shard in shards) == index["total"] and all(
            isinstance(shard["nsamples"], int) and shard["nsamples"] > 0 and isinstance(shard["filesize"], int)
            and Path(shard["url"]).name == shard["url"] and len(shard["sha256"]) == 64
            for shard in shards
        ) and isinstance(index["columns"], dict)  # fmt: skip
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise InputError(f"{path}: its entries contradict each other", _REBUILD)
    return index, hashlib.sha256(text).hexdigest()


def selected(index: dict[str, Any], sha256: str, names: Sequence[str], where: str) -> tuple[dict[str, Any], str]:
    """An index and its hash for the shards `names` alone, in its order; all of it where there are none.

    What the index says of all samples together is left out, but for the names and types of columns.

    Raises:
        InputError: one of them is not in the index.
    """
    if not names:
        return index, sha256
    wanted = set(names)
    entries = [entry for entry in index["shardlist"] if entry["url"] in wanted]
    missing = sorted(wanted - {entry["url"] for entry in entries})
    if missing:
        raise InputError(f"{where}: no shard '{missing[0]}' in its {INDEX}", "Name shards of this set")
    part: dict[str, Any] = {name: index[name] for name in ("__kind__", "schema", "seerctl", "lineage") if name in index}
    columns = {name: {"type": entry["type"]} for name, entry in index["columns"].items()}
    total = sum(entry["nsamples"] for entry in entries)
    digest = hashlib.sha256("\n".join([sha256, *(entry["url"] for entry in entries)]).encode()).hexdigest()
    return {**part, SELECTED: sha256, "shardlist": entries, "total": total, "columns": columns}, digest


def write_index(path: Path, index: Mapping[str, Any]) -> None:
    """Write an index, closed by its `seal`: whatever changes in it afterwards is noticed by `verify`."""
    said = {name: value for name, value in index.items() if name != "seal"}
    write_json(path, {**said, "seal": _seal(said)})


def is_sealed(index: Mapping[str, Any]) -> bool:
    """Whether an index is as it was written; one from before there were seals counts as such, or a selection of one."""
    if SELECTED in index:
        return True
    said = {name: value for name, value in index.items() if name != "seal"}
    # The name of the seal may be what is damaged: nothing else at this level is text of that length.
    if "seal" not in index and not any(isinstance(value, str) and len(value) == 64 for value in said.values()):
        return True
    return bool(index.get("seal") == _seal(said))


def _seal(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(compact(said)).hexdigest()


class OpenShard:
    """Descriptors of one shard and of its offsets."""

    def __init__(self, path: Path, entry: dict[str, Any]) -> None:
        self.path = path
        self._size = int(entry["filesize"])
        self._tar = self._idx = -1
        self._tar = self._open(path, self._size)
        try:
            self._idx = self._open(path.with_name(path.name + ".idx"), 8 * (int(entry["nsamples"]) + 1))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _open(path: Path, size: int) -> int:
        with blame(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise InputError(f"{path}: the shard is missing", "Run 'seerctl inspect DIR --verify'") from None
            found = os.fstat(descriptor).st_size
        if found != size:
            os.close(descriptor)
            raise InputError(f"{path}: {found} bytes, not {size}", "Run 'seerctl inspect DIR --verify'")
        return descriptor

    def read(self, number: int) -> tuple[bytes, int]:
        """The raw records of sample `number`, and their offset."""
        with blame(self.path):
            start, end = _BOUNDS.unpack(os.pread(self._idx, 16, 8 * number))
            if not (start < end <= self._size and start % BLOCK == 0 and end % BLOCK == 0):
                raise InputError(f"{self.path}.idx: damaged at sample {number}", "Run 'seerctl inspect DIR --verify'")
            raw = os.pread(self._tar, end - start, start)
        if len(raw) != end - start:
            raise InputError(f"{self.path}: ends inside sample {number}", "Run 'seerctl inspect DIR --verify'")
        return raw, start

    def read_all(self) -> Iterator[tuple[bytes, int]]:
        """The raw records of every sample, and their offsets; the descriptors may be given back meanwhile.

        Raises:
            InputError: as `read`.
        """
        tar, idx = os.dup(self._tar), self._idx
        try:
            with blame(self.path):
                bounds = self._bounds(os.pread(idx, os.fstat(idx).st_size, 0))
                first = 0
                while first < len(bounds) - 1:
                    last = min(len(bounds) - 1, max(first + 1, bisect.bisect_right(bounds, bounds[first] + CHUNK) - 1))
                    yield from self._cut(tar, bounds, first, last)
                    first = last
        finally:
            os.close(tar)

    def _bounds(self, data: bytes) -> array.array[int]:
        """The offsets of all samples and the end, each checked."""
        bounds = decode_offsets(data)
        for number, (start, end) in enumerate(itertools.pairwise(bounds)):
            if not (start < end <= self._size and start % BLOCK == 0 and end % BLOCK == 0):
                raise InputError(f"{self.path}.idx: damaged at sample {number}", "Run 'seerctl inspect DIR --verify'")
        return bounds

    def _cut(self, tar: int, bounds: array.array[int], first: int, last: int) -> Iterator[tuple[bytes, int]]:
        """The samples [first, last), read at once."""
        begin = bounds[first]
        piece = os.pread(tar, bounds[last] - begin, begin)
        for number in range(first, last):
            start, end = bounds[number], bounds[number + 1]
            raw = piece[start - begin : end - begin]
            if len(raw) != end - start:
                raise InputError(f"{self.path}: ends inside sample {number}", "Run 'seerctl inspect DIR --verify'")
            yield raw, start

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._tar, self._idx):
            if descriptor >= 0:
                os.close(descriptor)
        self._tar = self._idx = -1


class ShardSet:
    """A shard set opened for reading; it can be forked and pickled, files open when first touched."""

    def __init__(self, path: Path, loaded: tuple[dict[str, Any], str] | None = None) -> None:
        """`loaded`: the index and its hash, if they are not to be read from `path`."""
        self.path = path
        self.index, self.sha256 = load_index(path) if loaded is None else loaded
        self.location = str(path.parent)
        self.where = str(path)  # opens the same again
        self.open_shards = _OPEN_SHARDS
        self.columns: tuple[str, ...] = tuple(sorted(self.index["columns"]))
        counts = (shard["nsamples"] for shard in self.index["shardlist"])
        self._starts: list[int] = list(itertools.accumulate(counts, initial=0))
        self._opened: OrderedDict[int, OpenShard] = OrderedDict()

    @classmethod
    def open(cls, where: str | Path) -> ShardSet:
        """The set in the directory `where`, or named by its `index.json`, or some shards in it by braces.

        At a URL, its shards are fetched into a cache as they are read (`shards.remote`).

        Raises:
            InputError: there is none, or its index is damaged.
            EnvironmentFault: a URL that cannot be read from.
        """
        from seerctl.shards.remote.place import named_shards, url_of  # noqa: PLC0415  (a pipe stage starts without)

        url = url_of(where)
        if url is not None:
            from seerctl.shards.remote.remoteset import RemoteSet  # noqa: PLC0415  (the web's client: 60 ms)

            return RemoteSet(url)
        folder, names = ("", ()) if Path(where).exists() else named_shards(os.fspath(where))
        path = index_path(folder if names else where)
        found = cls(path, selected(*load_index(path), names, str(path.parent)))
        if names:
            found.location = found.where = os.fspath(where)
        return found

    @property
    def partial(self) -> bool:
        """Whether these are only some shards of a set."""
        return SELECTED in self.index

    def shard_path(self, number: int) -> Path:
        """The file of shard `number`, its offsets beside it."""
        return self.path.parent / str(self.index["shardlist"][number]["url"])

    def paths(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Each shard's file and its entry in the index, in order.

        Raises:
            InputError, EnvironmentFault: of a set at a URL, it cannot be had.
        """
        for number, entry in enumerate(self.index["shardlist"]):
            yield self.shard_path(number), entry

    def ahead(
        self, steps: Iterable[int], wanted: Callable[[int], NDArray[np.int64]], last: int | None = None
    ) -> Iterator[int]:
        """`steps` as they are: what is here need not be fetched (see `shards.remote`)."""
        return iter(steps)

    def __len__(self) -> int:
        return self._starts[-1]

    def locate(self, position: int) -> tuple[int, int]:
        """(shard, number inside it) of sample `position`.

        Raises:
            IndexError: outside [0, len(self)).
        """
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        shard = bisect.bisect_right(self._starts, position) - 1
        return shard, position - self._starts[shard]

    def read(self, position: int) -> Sample:
        """Sample `position` in the order of the index.

        Raises:
            InputError: its shard is missing, cut or damaged there; the message names it.
            IndexError: outside [0, len(self)).
        """
        number, inside = self.locate(position)
        shard = self._shard(number)
        raw, offset = shard.read(inside)
        return parse_sample(raw, str(shard.path), offset)

    def __iter__(self) -> Iterator[Sample]:
        """Every sample in the order of the index, read in larger pieces than by `read`."""
        for number in range(len(self.index["shardlist"])):
            shard = self._shard(number)
            where = str(shard.path)
            for raw, offset in shard.read_all():
                yield parse_sample(raw, where, offset)

    def _shard(self, number: int) -> OpenShard:
        shard = self._opened.pop(number, None)
        if shard is None:
            shard = self._open_shard(number)
            if len(self._opened) >= self.open_shards:
                self._opened.popitem(last=False)[1].close()
        self._opened[number] = shard
        return shard

    def _open_shard(self, number: int) -> OpenShard:
        return OpenShard(self.shard_path(number), self.index["shardlist"][number])

    def close(self) -> None:
        """Close what is open; the next `read` opens again."""
        while self._opened:
            self._opened.popitem()[1].close()

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_opened"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": OrderedDict()}


def parse_sample(raw: bytes, where: str, offset: int = 0) -> Sample:
    """The sample in its two raw members.

    Raises:
        InputError: they are not an image and its json, exactly.
    """
    name, size = parse(raw[:BLOCK], where, offset)
    second = BLOCK + padded(size)
    other, length = parse(raw[second : second + BLOCK], where, offset + second)
    match = SAMPLE_NAME.fullmatch(name)
    if match is None or other != f"{match[1]}.json" or second + BLOCK + padded(length) != len(raw):
        raise TarError(where, "member", offset, f"{name!r} and {other!r} are no sample")
    text = raw[second + BLOCK : second + BLOCK + length]
    return Sample(match[1], match[2], raw[BLOCK : BLOCK + size], decode_meta(text, f"{where}: {other}"))
