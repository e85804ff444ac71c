"""Why a file did not become a sample: stable codes, the same in `--rejects`, end markers and indexes."""

from __future__ import annotations

from enum import StrEnum

from seerctl.stream.records import IGNORED


class Reason(StrEnum):
    """Reject reasons. Codes are never renamed; new ones may come."""

    MISSING = "missing"  # a list or table names it, but there is no such file
    UNREADABLE = "unreadable"  # cannot be read: permission, input/output error, a directory or a device
    EMPTY = "empty"  # no bytes
    TOO_LARGE = "too-large"  # more than --max-bytes
    NOT_IMAGE = "not-image"  # no known image format by its first bytes, whatever its name says
    FORMAT = "format"  # an image of a format that is not on the allow-list
    DAMAGED = "damaged"  # the decoder refuses it: cut, broken or impossible
    BOMB = "bomb"  # more than --max-pixels
    MEMORY = "memory"  # decoding needs more than --max-memory
    TIMEOUT = "timeout"  # decoding takes more than --timeout
    CRASHED = "crashed"  # the decoder's process died
    DISAGREE = "disagree"  # --check strict: two decoders see different pictures
    BAD_ROW = "bad-row"  # a table's row without a usable path
    # Listed and counted, but for no rate: not a fault of the file, but what was asked for (`records.EXCLUSIONS`).
    IGNORED = IGNORED  # neither its name nor its bytes claim to be an image
    TOO_SMALL = "too-small"  # --min-side
    ASPECT = "aspect"  # --max-aspect
    WHERE = "where"  # a --where does not hold
    COUNTRY = "country"  # --exclude-country names its country
    COUNTRY_UNKNOWN = "country-unknown"  # --exclude-country cannot tell its country
    FILTERED = "filtered"  # a --filter said no
    DUPLICATE = "duplicate"  # --dedup exact: the bytes of an earlier sample


class RejectedError(Exception):
    """An image was refused; raised inside the examination of one file only."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
