"""`LAYER[:POOL]`: which layer of a model, and how its map becomes one vector. No torch.

avg      mean over the places of the map (the default; of a vector nothing is left to pool)
max      their maximum (MAC)
gemP     generalised mean of power P (Radenovic et al. 2018, arXiv 1711.02512), 3 without a number; SEER's is gem4
rmacL    R-MAC of L levels, 3 without a number: maximum of each region, unit length, their sum, unit length
regionsL the regions of R-MAC alone, each of unit length: R x C values, region by region; the file says R
RxC      means over a grid of R rows and C columns, as 2x1: C_layer x R x C values, channel by channel; SEER's linear
         probes learn from 2x1 and 1x2
cls      the first token of a transformer's layer
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from seerctl.errors import UsageError

POOLS = "avg, max, gem, gem4, rmac, rmac3, regions, regions3, cls, or a grid such as 2x1"
OVERLAP = 0.4  # of neighbouring regions along the long side, which R-MAC aims at
MOST_ALONG = 7  # regions along the long side at the coarsest level
_NUMBERED = re.compile(r"(gem|rmac|regions)(\d{1,3}(?:\.\d{1,3})?)?")
_GRID = re.compile(r"([1-9]\d?)x([1-9]\d?)")
_DEFAULT_NUMBER = 3.0
_MOST_LEVELS, _MOST_POWER = 8, 100


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer and its pooling, spelled out: `kind` is "avg", "max", "gem", "rmac", "regions", "grid" or "cls".

    power: of gem. levels: of rmac and regions. grid: rows and columns.
    """

    name: str
    kind: str = "avg"
    power: float = 0.0
    levels: int = 0
    grid: tuple[int, int] = (1, 1)

    @classmethod
    def parse(cls, text: str) -> Layer:
        """The layer that `text` names.

        Raises:
            UsageError: no layer before the colon, or a pooling that is none of ours.
        """
        name, _, pool = text.rpartition(":") if ":" in text else (text, "", "avg")
        if not name:
            raise UsageError(f"layer '{text}': names no layer", f"Write LAYER or LAYER:POOL, with POOL {POOLS}")
        if pool in ("avg", "max", "cls"):
            return cls(name, pool)
        if found := _GRID.fullmatch(pool):
            return cls(name, "grid", grid=(int(found[1]), int(found[2])))
        if found := _NUMBERED.fullmatch(pool):
            number = float(found[2]) if found[2] else _DEFAULT_NUMBER
            if found[1] == "gem" and 0 < number <= _MOST_POWER:
                return cls(name, "gem", power=number)
            if found[1] != "gem" and number.is_integer() and 1 <= number <= _MOST_LEVELS:
                return cls(name, found[1], levels=int(number))
        raise UsageError(f"layer '{text}': no pooling '{pool}'", f"Known: {POOLS}")

    @property
    def pool(self) -> str:
        """The pooling in full: "gem3" also where "gem" was asked for."""
        if self.kind == "gem":
            return f"gem{self.power:g}"
        if self.kind == "grid":
            return "{}x{}".format(*self.grid)
        return f"{self.kind}{self.levels}" if self.levels else self.kind

    def __str__(self) -> str:
        """What goes into the attribute `layer`."""
        return self.name if self.kind == "avg" else f"{self.name}:{self.pool}"

    @property
    def stem(self) -> str:
        """What its file is called."""
        return re.sub(r"[^\w.-]", "-", str(self))


def rmac_regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """The square regions (top, left, side) of R-MAC on a map, coarse to fine, each level in reading order.

    Tolias, Sicre and Jegou 2016 (arXiv 1511.05879, section 3.2): at level l regions of side 2 min(H, W) / (l + 1), l
    along the short side and l + m - 1 along the long one, spread evenly; m, from 1 for a square to 7, makes the overlap
    of neighbours at the first level closest to 40 %. On maps so small that a side would be 0 it is 1.
    """
    short, along = min(height, width), _along(height, width)
    found = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        tops = _spread(height - side, level + (along - 1 if height > width else 0))
        lefts = _spread(width - side, level + (along - 1 if width > height else 0))
        found += [(top, left, side) for top, left in itertools.product(tops, lefts)]
    return found


def region_slots(levels: int, square: bool) -> int:
    """How many regions maps have: of squares all the same number, of other shapes at most this one."""
    along = 1 if square else MOST_ALONG
    return sum(level * (level + along - 1) for level in range(1, levels + 1))


def _along(height: int, width: int) -> int:
    short, rest = min(height, width), abs(height - width)
    if not rest:
        return 1
    return min(range(2, MOST_ALONG + 1), key=lambda count: abs(1 - rest / (count - 1) / short - OVERLAP))


def _spread(room: int, count: int) -> list[int]:
    """`count` offsets from 0 to `room`, evenly, rounded down."""
    return [place * room // max(1, count - 1) for place in range(count)]
