"""What is worth asking again, and when."""

from __future__ import annotations

import random
import time

from seerctl.sources.reasons import RejectedError


class TryAgain(RejectedError):
    """A refusal that may pass: 429, 5xx, a timeout. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, detail: str = "", after: float | None = None) -> None:
        super().__init__(reason, detail)
        self.after = after


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    import email.utils  # noqa: PLC0415  (30 ms that few answers need)

    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def backoff(tries: int, base: float) -> float:
    """Seconds before repetition number `tries` (from 0): doubled each time, and spread so that not all come at once."""
    return base * 2.0**tries * random.uniform(0.5, 1.5)
