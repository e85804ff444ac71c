"""How closely images are looked at, and at what size they stop being looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seerctl.errors import UsageError, did_you_mean
from seerctl.sources.magic import DECODABLE, DEFAULT_FORMATS

MAX_PIXELS = 178_956_970  # what `augment.decode.to_rgb` accepts, so that nothing is stored that cannot be read again


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How closely to look: `check` is header, decode or strict; `max_bytes` of a file, `max_pixels` of a picture.

    min_side: pixels of the shorter side. max_aspect: the long side over the short one; None: any.
    """

    check: str = "decode"
    formats: tuple[str, ...] = DEFAULT_FORMATS
    max_bytes: int = 1 << 28
    max_pixels: int = MAX_PIXELS
    min_side: int = 0
    max_aspect: float | None = None

    def recorded(self) -> dict[str, Any]:
        """What of it changes a stream, for its start marker; what was not asked for is left out."""
        limits = {"min_side": self.min_side or None, "max_aspect": self.max_aspect}
        return {
            "check": self.check,
            "formats": list(self.formats),
            "max_bytes": self.max_bytes,
            "max_pixels": self.max_pixels,
            **{name: value for name, value in limits.items() if value is not None},
        }


def allowed_formats(more: str) -> tuple[str, ...]:
    """The allow-list and the formats named in `more` ("PSD,ICO").

    Raises:
        UsageError: one that cannot be decoded safely, or at all.
    """
    wanted = {name.strip().upper() for name in more.split(",") if name.strip()}
    for name in wanted - set(DECODABLE):
        raise UsageError(f"--formats: no format '{name}' that can be let in", did_you_mean(name, DECODABLE))
    return tuple(name for name in DECODABLE if name in DEFAULT_FORMATS or name in wanted)
