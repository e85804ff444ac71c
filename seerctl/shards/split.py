"""Splits by content: a picture's part depends on its bytes alone, so twins stay together and a re-run moves nothing."""

from __future__ import annotations

import bisect
import itertools
import re
from dataclasses import dataclass

from seerctl.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Split:
    """Named shares of the key space; `bounds` are the upper ends, in 64-bit content hashes, of all but the last.

    kept: the sets that are read are split already, and each sample stays where it is; `text` may then be empty.
    """

    names: tuple[str, ...]
    bounds: tuple[int, ...]
    text: str
    kept: bool = False

    @classmethod
    def parse(cls, text: str) -> Split:
        """The split in `train=0.9,val=0.1`.

        Raises:
            UsageError: an odd or repeated name, a share that is no positive number, or shares that do not sum to 1.
        """
        from fractions import Fraction  # noqa: PLC0415  (slow to load, and most sets are not split)

        shares: dict[str, Fraction] = {}
        for part in text.split(","):
            name, _, share = part.strip().partition("=")
            try:
                value = Fraction(share.strip())
            except (ValueError, ZeroDivisionError):
                raise UsageError(
                    f"--split {text}: '{part}' is no NAME=SHARE", "For example train=0.9,val=0.1"
                ) from None
            if not _NAME.fullmatch(name) or name in shares or value <= 0:
                raise UsageError(f"--split {text}: '{part}'", "Names must differ and shares be positive")
            shares[name] = value
        if abs(sum(shares.values(), Fraction(-1))) > Fraction(1, 10**9):
            raise UsageError(f"--split {text}: the shares sum to {float(sum(shares.values())):g}", "They must sum to 1")
        sums = itertools.accumulate(shares.values())
        bounds = tuple(int(part * 2**64) for part in list(sums)[:-1])
        return cls(tuple(shares), bounds, ",".join(f"{name}={float(share):g}" for name, share in shares.items()))

    def choose(self, key: str) -> str:
        """The name of the split that `key` belongs to, by its content half."""
        return self.names[bisect.bisect_right(self.bounds, int(key[:16], 16))]
