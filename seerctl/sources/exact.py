"""`ingest --dedup exact`: a sample whose stored bytes came before is left out; the first in order stays."""

from __future__ import annotations

import dataclasses
import itertools

from seerctl.fingers import FINGER, FingerTable
from seerctl.sources.pool import DIGEST_BYTES, Outcome
from seerctl.sources.reasons import Reason
from seerctl.sources.worker import PRINT_BYTES


class ExactFilter:
    """Remembers 16 bytes of every sample, on disk: 12 of the SHA-256 of its bytes, and 4 more that complete its key."""

    def __init__(self) -> None:
        self._table = FingerTable()

    def tell(self, content: bytes, half: bytes) -> None:
        """A sample that a set holds already: first bytes of its SHA-256, second half of its key."""
        self._table.setdefault(content, half)

    def apply(self, outcome: Outcome) -> Outcome:
        """`outcome` without the samples whose bytes came before: they are rejects that name the key of the first."""
        twins: dict[int, str] = {}
        for number in range(len(outcome.sizes)):
            fingerprint = bytes(outcome.prints[PRINT_BYTES * number : PRINT_BYTES * (number + 1)])
            half = self._table.setdefault(fingerprint[:FINGER], fingerprint[FINGER:])
            if half is not None:
                twins[number] = f"{fingerprint[:8].hex()}-{half.hex()}"
        return _without(outcome, twins) if twins else outcome

    def close(self) -> None:
        """Give the space back."""
        self._table.close()


def _without(outcome: Outcome, twins: dict[int, str]) -> Outcome:
    starts = list(itertools.accumulate(outcome.sizes, initial=0))
    stay = [number for number in range(len(outcome.sizes)) if number not in twins]
    refused = [(outcome.kept[number], str(Reason.DUPLICATE), f"same bytes as {key}") for number, key in twins.items()]
    return dataclasses.replace(
        outcome,
        raw=memoryview(b"".join(outcome.raw[starts[number] : starts[number + 1]] for number in stay)),
        digests=memoryview(b"".join(outcome.digests[DIGEST_BYTES * n : DIGEST_BYTES * (n + 1)] for n in stay)),
        prints=memoryview(b"".join(outcome.prints[PRINT_BYTES * n : PRINT_BYTES * (n + 1)] for n in stay)),
        sizes=[outcome.sizes[number] for number in stay],
        kept=[outcome.kept[number] for number in stay],
        rejects=[*outcome.rejects, *refused],
    )
