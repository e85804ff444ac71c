"""The producing end of a stream: start marker, samples, end marker, and a running hash over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from seerctl import __version__
from seerctl.stream import ustar
from seerctl.stream.records import FINISH, SCHEMA, START, StreamEnd, compact


class StreamWriter:
    """Writes one stream to a binary file; without `finish` what was written is incomplete by contract.

    `options` are those that change the bytes of samples: equal inputs and equal options give equal streams. `continues`
    names the unfinished shards (`Pending.token`) whose samples the stream leaves out.
    """

    def __init__(self, file: BinaryIO, options: Mapping[str, Any], continues: Sequence[str] = ()) -> None:
        self._file = file
        self._running = hashlib.sha256()
        self.samples = 0
        self.bytes = 0
        more = {"continues": sorted(continues)} if continues else {}
        start = compact({"schema": SCHEMA, "version": __version__, "options": dict(options), **more})
        self._running.update(start)
        file.write(ustar.member(START, start))

    def write(self, raw: bytes | memoryview, digests: bytes | memoryview) -> None:
        """Append whole samples made by `records.encode_sample`, and their digests of 32 bytes each."""
        self._running.update(digests)
        self._file.write(raw)
        self.samples += len(digests) // hashlib.sha256().digest_size
        self.bytes += len(raw)

    def finish(self, rejects: Mapping[str, int], *, over_limit: bool = False) -> StreamEnd:
        """Write the end marker and the two zero blocks, and flush."""
        end = StreamEnd(self.samples, self.bytes, dict(sorted(rejects.items())), over_limit)
        self._file.write(ustar.member(FINISH, end.seal(self._running)) + ustar.END)
        self._file.flush()
        return end
