"""What a sample and the two markers look like in a stream: keys, compact JSON, the running hash.

The running hash covers the start marker, every sample's digest in order, and the end marker itself. Of a picture's
bytes the digest takes a CRC-32: it notices accidents, at a tenth of the cost of another SHA-256 over everything. That
the bytes are those of the `sha256` in their json is for `seerctl inspect --verify`.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seerctl.errors import InputError
from seerctl.stream import ustar

SCHEMA = "seer-stream-1"
START = "__seer__/stream.json"
FINISH = "__seer__/end.json"
IGNORED = "ignored"
# Reasons that are no fault of a file: nobody said it was an image, or the user asked for it to be left out.
EXCLUSIONS = frozenset(
    (
        IGNORED,
        "opt-out",
        "robots-txt",
        "too-small",
        "aspect",
        "where",
        "country",
        "country-unknown",
        "filtered",
        "duplicate",
    )
)
SAMPLE_NAME = re.compile(r"([0-9a-f]{16}-[0-9a-f]{8})\.([a-z0-9]{1,8})")
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_TYPED = ("columns", "format", "height", "mode", "orientation", "sha256", "source", "width")
META_FIELDS = frozenset(_TYPED)
_TYPES = (dict, str, int, str, int, str, str, int)
_DECODE = json.JSONDecoder().raw_decode


def rejected_of(counts: Mapping[str, int]) -> int:
    """Rejects over all reasons but the `EXCLUSIONS`."""
    return sum(count for reason, count in counts.items() if reason not in EXCLUSIONS)


def compact(value: object) -> bytes:
    """JSON with sorted keys, no spaces and ASCII only: the same value gives the same bytes everywhere."""
    return _ENCODE(value).encode()


def content_key(content: str, source: str) -> str:
    """The key of bytes with SHA-256 `content` (hex) that came from `source`."""
    return joined_key(content, hashlib.sha256(source.encode()).hexdigest())


def joined_key(content: str, source: str) -> str:
    """The key of two SHA-256 (hex), of the bytes and of where they came from."""
    return f"{content[:16]}-{source[:8]}"


def sample_digest(name: str, data: bytes, text: bytes) -> bytes:
    """What the running hash takes of one sample: its file's name, a CRC-32 of its bytes, its json."""
    return hashlib.sha256(b"%b %08x %b" % (name.encode(), zlib.crc32(data), text)).digest()


def encode_sample(data: bytes, ext: str, meta: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The two tar members of one sample, and its digest; `meta` holds at least `sha256` and `source`."""
    pieces, digest = sample_pieces(content_key(meta["sha256"], meta["source"]), ext, data, meta)
    return b"".join(pieces), digest


def sample_pieces(key: str, ext: str, data: bytes, meta: Mapping[str, Any]) -> tuple[tuple[bytes, ...], bytes]:
    """The two tar members of the sample `key`, in pieces to be written one after the other, and its digest."""
    name, text = f"{key}.{ext}", compact(meta)
    return (*ustar.pieces(name, data), *ustar.pieces(f"{key}.json", text)), sample_digest(name, data, text)


def decode_meta(text: bytes, where: str) -> dict[str, Any]:
    """The parsed `<key>.json`.

    Raises:
        InputError: not a JSON object, or a field of `META_FIELDS` is missing.
    """
    try:
        letters = text.decode()
        meta, end = _DECODE(letters)
        if end != len(letters):
            raise ValueError(f"more after its end at character {end}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})", "Make it again from its source") from None
    if not isinstance(meta, dict) or not meta.keys() >= META_FIELDS:
        raise InputError(f"{where}: not the description of a sample", "Make it again from its source")
    if tuple(map(type, map(meta.get, _TYPED))) != _TYPES:
        raise InputError(f"{where}: a field is of the wrong type", "Make it again from its source")
    return meta


@dataclass(frozen=True, slots=True)
class Record:
    """One sample on its way: `raw` is both members as they stand in the tar."""

    key: str
    ext: str
    image: bytes
    meta: dict[str, Any]
    raw: bytes


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The end marker: what the producer says it wrote, and the running SHA-256 that proves it.

    `stored` counts the bytes of all samples with headers and padding. Among `rejects`, those under `EXCLUSIONS` count
    for no rate.
    """

    samples: int
    stored: int
    rejects: dict[str, int] = field(default_factory=dict)
    over_limit: bool = False
    sha256: str = ""
    start: dict[str, Any] = field(default_factory=dict)  # the start marker it belongs to, filled in by the reader

    @property
    def rejected(self) -> int:
        """Rejects over all reasons but the `EXCLUSIONS`."""
        return rejected_of(self.rejects)

    def seal(self, running: hashlib._Hash) -> bytes:
        """The JSON of this marker, closed by the hash of everything before it and of itself."""
        claims = self._claims()
        running = running.copy()
        running.update(compact(claims))
        return compact({**claims, "sha256": running.hexdigest()})

    def _claims(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "samples": self.samples,
            "bytes": self.stored,
            "rejects": self.rejects,
            "over_limit": self.over_limit,
        }


def open_seal(text: bytes, running: hashlib._Hash, where: str) -> StreamEnd:
    """The end marker in `text`, checked against the running hash.

    Raises:
        InputError: another schema, or the stream or the marker was changed on the way.
    """
    try:
        table = json.loads(text)
        end = StreamEnd(
            samples=int(table["samples"]),
            stored=int(table["bytes"]),
            rejects={str(name): int(count) for name, count in table["rejects"].items()},
            over_limit=bool(table["over_limit"]),
            sha256=str(table["sha256"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{where}: the end marker cannot be read", "Run ingest again") from None
    if table.get("schema") != SCHEMA:
        raise InputError(f"{where}: stream schema {table.get('schema')!r}, not {SCHEMA}", "Use the same version")
    if end.seal(running) != text:
        raise InputError(f"{where}: the stream was changed on its way: its hash is another", "Run ingest again")
    return end
