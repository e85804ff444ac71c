"""The consuming end: samples of one or several concatenated streams, and proof that each came whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from seerctl.errors import InputError
from seerctl.stream.records import (
    FINISH,
    SAMPLE_NAME,
    SCHEMA,
    START,
    Record,
    StreamEnd,
    decode_meta,
    open_seal,
    sample_digest,
)
from seerctl.stream.ustar import MemberReader, TarError

AGAIN = "Run ingest again (in scripts, 'set -o pipefail' shows that it failed)"


class IncompleteStreamError(InputError):
    """A stream that ends, or starts anew, before its end marker."""


def read_streams(
    file: BinaryIO, where: str, begin: Callable[[dict[str, Any]], None] | None = None
) -> Iterator[Record | StreamEnd]:
    """Every sample of every stream in `file`, each stream closed by its `StreamEnd`; `begin` gets each start marker.

    Samples are yielded before the end marker proves them: a consumer commits nothing until it has seen `StreamEnd`.

    Raises:
        IncompleteStreamError: cut anywhere, empty, or a new start before an end.
        InputError: damaged, changed, or not a stream of `seerctl ingest`.
    """
    members = MemberReader(file, where)
    if members.at_end():
        raise IncompleteStreamError(f"{where}: empty, not even a start marker", AGAIN)
    while not members.at_end():
        yield from _read_one(members, begin)


def _read_one(members: MemberReader, begin: Callable[[dict[str, Any]], None] | None) -> Iterator[Record | StreamEnd]:
    running = hashlib.sha256()
    samples = size = 0
    start = _read_start(members, running)
    if begin is not None:
        begin(start)
    while True:
        name, data, raw = _next(members, samples)
        if name == FINISH:
            end = open_seal(data, running, members.where)
            _check_end(members, end, samples, size)
            yield dataclasses.replace(end, start=start)
            return
        record = _read_sample(members, name, data, raw, samples, running)
        samples += 1
        size += len(record.raw)
        yield record


def _read_start(members: MemberReader, running: hashlib._Hash) -> dict[str, Any]:
    try:
        member = members.read_member()
    except TarError as fault:
        if fault.fault == "cut":
            raise IncompleteStreamError(f"{members.where}: cut inside its start marker", AGAIN) from None
        raise InputError(
            f"{members.where}: not a stream of 'seerctl ingest' (at byte {fault.offset}: {fault.fault})",
            "Other tars go through ingest first: seerctl ingest FILE.tar | seerctl shard ...",
        ) from None
    if member is None or member[0] != START:
        raise InputError(
            f"{members.where}: the start marker {START} is missing",
            "Other tars go through ingest first: seerctl ingest FILE.tar | seerctl shard ...",
        )
    running.update(member[1])
    try:
        start = json.loads(member[1])
        schema = start["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{members.where}: the start marker cannot be read", AGAIN) from None
    if schema != SCHEMA:
        raise InputError(f"{members.where}: stream schema {schema!r}, not {SCHEMA}", "Use the same version")
    return dict(start)


def _next(members: MemberReader, samples: int) -> tuple[str, bytes, bytes]:
    """The next member, where one has to come."""
    try:
        member = None if members.at_end() else members.read_member()
    except TarError as fault:
        if fault.fault != "cut":
            raise
        member = None
    if member is None:
        raise IncompleteStreamError(
            f"{members.where}: the stream ends without its end marker, after {samples} samples", AGAIN
        )
    if member[0] == START:
        raise IncompleteStreamError(
            f"{members.where}: a new stream starts before the end marker of the one before, after {samples} samples",
            AGAIN,
        )
    return member


def _read_sample(
    members: MemberReader, name: str, data: bytes, raw: bytes, samples: int, running: hashlib._Hash
) -> Record:
    offset = members.offset - len(raw)
    match = SAMPLE_NAME.fullmatch(name)
    if match is None or match[2] == "json":
        raise TarError(members.where, "member", offset, f"{name!r} is no image of a sample")
    key = match[1]
    second, text, more = _next(members, samples)
    if second != f"{key}.json":
        raise TarError(members.where, "member", offset, f"{name} is followed by {second!r}, not by its json")
    meta = decode_meta(text, f"{members.where}: {second}")
    running.update(sample_digest(name, data, text))
    return Record(key, match[2], data, meta, raw + more)


def _check_end(members: MemberReader, end: StreamEnd, samples: int, size: int) -> None:
    if (end.samples, end.stored) != (samples, size):
        raise InputError(
            f"{members.where}: {samples} samples came, the end marker says {end.samples}", "Run ingest again"
        )
    try:
        closed = members.read_member() is None
    except TarError as fault:
        if fault.fault == "cut":
            raise IncompleteStreamError(f"{members.where}: cut after its end marker", AGAIN) from None
        raise
    if not closed:
        raise TarError(members.where, "member", members.offset, "a member after the end marker")
