"""RegNetY sizes by explicit stage widths: the numbers that checkpoints carry, rather than the formula behind them.

The generating formula (depth, w_0, w_a, w_m) is not used, because two libraries round its result differently:
torchvision's `BlockParams.from_init_params` widens the first stage of 8GF from 168 to 224.
Sources: Goyal et al. 2021 (arXiv 2103.01988), Goyal et al. 2022 (arXiv 2202.08360), ClassyVision's RegNet.
"""

from __future__ import annotations

from dataclasses import dataclass

from seerctl.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class RegNetSize:
    """One RegNet: blocks per stage, channels per stage, channels per group of the 3x3 convolutions.

    `se_ratio` is the squeeze width over the block's *input* width; None leaves squeeze-and-excitation out (RegNetX).
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_widths: tuple[int, ...]
    se_ratio: float | None = 0.25
    stem_width: int = 32

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.widths) == len(self.group_widths) > 0:
            raise ValueError("depths, widths and group_widths need one value per stage")
        for width, group in zip(self.widths, self.group_widths, strict=True):
            if group < 1 or width % group:
                raise ValueError(f"a stage of width {width} cannot be split into groups of {group}")

    def __str__(self) -> str:
        return f"widths {'/'.join(map(str, self.widths))}, depths {'/'.join(map(str, self.depths))}"


def _size(depths: tuple[int, ...], widths: tuple[int, ...], group: int) -> RegNetSize:
    return RegNetSize(depths, widths, tuple(min(group, width) for width in widths))


SIZES: dict[str, RegNetSize] = {
    "micro": RegNetSize((1, 1, 1, 1), (16, 24, 32, 64), (8, 8, 8, 8), stem_width=16),  # for tests: seconds on one core
    "pico": _size((1, 1, 2, 1), (32, 64, 160, 384), 16),  # 0.55 M parameters: the CPU recipes
    "nano": _size((1, 2, 6, 2), (32, 64, 160, 384), 16),  # 1.35 M parameters
    "400mf": _size((1, 3, 6, 6), (48, 104, 208, 440), 8),
    "800mf": _size((1, 3, 8, 2), (64, 144, 320, 784), 16),
    "1.6gf": _size((2, 6, 17, 2), (48, 120, 336, 888), 24),
    "3.2gf": _size((2, 5, 13, 1), (72, 216, 576, 1512), 24),
    "8gf": _size((2, 4, 10, 1), (168, 448, 896, 2016), 56),
    "16gf": _size((2, 4, 11, 1), (224, 448, 1232, 3024), 112),
    "32gf": _size((2, 5, 12, 1), (232, 696, 1392, 3712), 232),
    "64gf": _size((2, 5, 12, 1), (328, 984, 1968, 4920), 328),
    "128gf": _size((2, 7, 17, 1), (528, 1056, 2904, 7392), 264),
    "256gf": _size((2, 7, 17, 1), (746, 1492, 4103, 10444), 373),  # SEER 2021; VISSL's "256gf_1"
    "256gf-5088": _size((3, 7, 16, 1), (640, 1696, 2544, 5088), 848),  # what ClassyVision and HF call 256GF
    "10b": _size((2, 7, 17, 1), (2020, 4040, 11110, 28280), 1010),  # SEER 2022
}

# What torchvision builds under each of its names; its 8GF is not ClassyVision's (see above).
TORCHVISION_SIZES: dict[str, RegNetSize] = {
    "regnet_y_400mf": SIZES["400mf"],
    "regnet_y_800mf": SIZES["800mf"],
    "regnet_y_1_6gf": SIZES["1.6gf"],
    "regnet_y_3_2gf": SIZES["3.2gf"],
    "regnet_y_8gf": _size((2, 4, 10, 1), (224, 448, 896, 2016), 56),
    "regnet_y_16gf": SIZES["16gf"],
    "regnet_y_32gf": SIZES["32gf"],
    "regnet_y_128gf": SIZES["128gf"],
}


def size_named(name: str) -> RegNetSize:
    """The size called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in SIZES:
        raise UsageError(f"no model size '{name}'", did_you_mean(name, SIZES))
    return SIZES[name]


def name_of(size: RegNetSize) -> str:
    """The name of `size`, or its widths where it has none."""
    return next((name for name, known in SIZES.items() if known == size), "w" + "-".join(map(str, size.widths)))
