"""What is done to a picture before it is stored: nothing, unless it is asked for. What was asked for, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seerctl.errors import UsageError, did_you_mean
from seerctl.sources.where import Condition

MODES = ("short", "long", "square")
FILTER = "lanczos"  # of Pillow, which widens it when it shrinks: no aliasing
_MAX_SIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Resize:
    """Bring a side to `side` pixels: the `short` or the `long` one, or (`square`) the short one before a centre crop.

    Pictures are only made smaller unless `enlarge`. quality: of JPEG, WebP and AVIF, 1 to 100.
    """

    mode: str
    side: int
    enlarge: bool = False
    quality: int = 90

    @classmethod
    def parse(cls, text: str, *, enlarge: bool = False, quality: int = 90) -> Resize:
        """The one in "short=256".

        Raises:
            UsageError: not understood.
        """
        mode, _, side = text.partition("=")
        if mode not in MODES or not side.isdecimal() or not 1 <= int(side) <= _MAX_SIDE:
            hint = "Write short=256, long=1024 or square=224"
            raise UsageError(f"--resize {text}: not MODE=PIXELS", hint if mode in MODES else did_you_mean(mode, MODES))
        return cls(mode, int(side), enlarge, quality)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The sides after it, before the crop of `square`, of an upright picture; never below one pixel."""
        by = max(width, height) if self.mode == "long" else min(width, height)
        if by <= self.side and not self.enlarge:
            return width, height
        return max(1, round(width * self.side / by)), max(1, round(height * self.side / by))

    def crop(self, width: int, height: int) -> tuple[int, int]:
        """The sides that are kept of `size`."""
        if self.mode != "square":
            return width, height
        side = min(width, height, self.side)
        return side, side

    def recorded(self) -> dict[str, Any]:
        """What of it changes bytes, for the start marker of a stream."""
        return {"mode": self.mode, "side": self.side, "enlarge": self.enlarge, "quality": self.quality,
                "filter": FILTER}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Treatment:
    """What happens to a picture that passed the checks, in this order.

    where: conditions on facts about it. filters: a user's own functions, as `module:function`. resize, strip: how it is
    changed; strip takes out metadata.
    """

    where: tuple[Condition, ...] = ()
    filters: tuple[str, ...] = ()
    resize: Resize | None = None
    strip: bool = False

    def recorded(self) -> dict[str, Any]:
        """What of it changes a stream, for its start marker; what was not asked for is left out."""
        asked = {"filters": list(self.filters), "resize": self.resize and self.resize.recorded(), "strip": self.strip}
        return {name: value for name, value in asked.items() if value}
