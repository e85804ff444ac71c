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
    BAD_URL = "bad-url"  # no http or https URL that can be asked for
    DNS = "dns"  # its host has no address
    PRIVATE_ADDRESS = "private-address"  # its host, or one it redirects to, is not on the public internet
    CONNECTION = "connection"  # refused, broken off, cut short, or no valid certificate
    NET_TIMEOUT = "net-timeout"  # no connection, silence, or too slow altogether
    HTTP_PROTOCOL = "http-protocol"  # what answers does not keep to HTTP; other answers than 200 are http-404 and so on
    REDIRECTS = "redirects"  # too many of them
    # Listed and counted, but for no rate: not a fault of the file, but what was asked for (`records.EXCLUSIONS`).
    IGNORED = IGNORED  # neither its name nor its bytes claim to be an image
    OPT_OUT = "opt-out"  # its owner says so in X-Robots-Tag
    ROBOTS_TXT = "robots-txt"  # --robots-txt: its host says so there
    TOO_SMALL = "too-small"  # --min-side
    ASPECT = "aspect"  # --max-aspect
    WHERE = "where"  # a --where does not hold
    COUNTRY = "country"  # --exclude-country names its country
    COUNTRY_UNKNOWN = "country-unknown"  # --exclude-country cannot tell its country
    FILTERED = "filtered"  # a --filter said no
    DUPLICATE = "duplicate"  # --dedup exact: the bytes of an earlier sample


def http_reason(status: int) -> str:
    """The reason of an answer with another status than 200: `http-404`."""
    return f"http-{status}"


# Reasons that say more about the place, or the machine at that moment, than about the file: a rerun tries again.
_UNFETCHED = (Reason.DNS, Reason.CONNECTION, Reason.NET_TIMEOUT, Reason.REDIRECTS, Reason.HTTP_PROTOCOL)
_RETRIED = frozenset((Reason.MISSING, Reason.UNREADABLE, Reason.MEMORY, Reason.TIMEOUT, Reason.CRASHED, *_UNFETCHED))


def passing(reason: str, *, network: bool = False) -> bool:
    """Whether another try may end otherwise: the place was at fault (with `network`: the network), not the file."""
    return reason in (_UNFETCHED if network else _RETRIED) or reason.startswith("http-")


class RejectedError(Exception):
    """An image was refused; raised inside the examination of one file only."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
