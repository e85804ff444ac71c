"""RegNet and ResNet sizes by explicit stage widths: the numbers that checkpoints carry, rather than formulas.

RegNet's generating formula (depth, w_0, w_a, w_m) is not used, because two libraries round its result differently:
torchvision's `BlockParams.from_init_params` widens the first stage of 8GF from 168 to 224.
Sources: Goyal et al. 2021 (arXiv 2103.01988), Goyal et al. 2022 (arXiv 2202.08360), ClassyVision's RegNet; He et al.
2016 (arXiv 1512.03385, table 1) for ResNet-50.
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


@dataclass(frozen=True, slots=True)
class ResNetSize:
    """One ResNet of bottleneck blocks: blocks per stage, channels that leave a stage, channels of its 3x3 convolutions.

    `group_widths`: channels per group of the 3x3 convolutions; all of them in a ResNet, fewer in a ResNeXt.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    inner_widths: tuple[int, ...]
    group_widths: tuple[int, ...]
    stem_width: int = 64

    def __post_init__(self) -> None:
        if len({len(part) for part in (self.depths, self.widths, self.inner_widths, self.group_widths)}) != 1:
            raise ValueError("depths, widths, inner_widths and group_widths need one value per stage")
        if not self.depths:
            raise ValueError("a ResNet needs at least one stage")
        for stage, (width, inner, group) in enumerate(
            zip(self.widths, self.inner_widths, self.group_widths, strict=True)
        ):
            if group < 1 or inner % group:
                raise ValueError(f"a stage of inner width {inner} cannot be split into groups of {group}")
            planes, groups, base = self.planes(stage)
            if width % _EXPANSION or int(planes * (base / 64.0)) * groups != inner:
                raise ValueError(f"a stage of width {width} and inner width {inner} is no bottleneck's")

    def planes(self, stage: int) -> tuple[int, int, float]:
        """Planes, groups and base width by which torchvision's `Bottleneck` makes these widths."""
        planes, groups = self.widths[stage] // _EXPANSION, self.inner_widths[stage] // self.group_widths[stage]
        return planes, groups, 64.0 * self.group_widths[stage] / planes if planes else 0.0

    def __str__(self) -> str:
        return (
            f"widths {'/'.join(map(str, self.widths))}, inner widths {'/'.join(map(str, self.inner_widths))}, "
            f"depths {'/'.join(map(str, self.depths))}"
        )


Size = RegNetSize | ResNetSize
_EXPANSION = 4  # what leaves a bottleneck over torchvision's planes


def _size(depths: tuple[int, ...], widths: tuple[int, ...], group: int) -> RegNetSize:
    return RegNetSize(depths, widths, tuple(min(group, width) for width in widths))


SIZES: dict[str, Size] = {
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
    "resnet-micro": ResNetSize(
        (1, 2, 1, 1), (32, 48, 64, 96), (8, 12, 16, 24), (8, 12, 16, 24), stem_width=16
    ),  # tests
    "resnet50": ResNetSize((3, 4, 6, 3), (256, 512, 1024, 2048), (64, 128, 256, 512), (64, 128, 256, 512)),
}
_REGNETS: dict[str, RegNetSize] = {name: size for name, size in SIZES.items() if isinstance(size, RegNetSize)}

# What torchvision builds under each of its names; its 8GF is not ClassyVision's (see above).
TORCHVISION_SIZES: dict[str, Size] = {
    "regnet_y_400mf": _REGNETS["400mf"],
    "regnet_y_800mf": _REGNETS["800mf"],
    "regnet_y_1_6gf": _REGNETS["1.6gf"],
    "regnet_y_3_2gf": _REGNETS["3.2gf"],
    "regnet_y_8gf": _size((2, 4, 10, 1), (224, 448, 896, 2016), 56),
    "regnet_y_16gf": _REGNETS["16gf"],
    "regnet_y_32gf": _REGNETS["32gf"],
    "regnet_y_128gf": _REGNETS["128gf"],
}


def size_named(name: str) -> Size:
    """The size called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in SIZES:
        raise UsageError(f"no model size '{name}'", did_you_mean(name, SIZES))
    return SIZES[name]


def name_of(size: Size) -> str:
    """The name of `size`, or its widths where it has none."""
    prefix = "resnet-w" if isinstance(size, ResNetSize) else "w"
    return next((name for name, known in SIZES.items() if known == size), prefix + "-".join(map(str, size.widths)))


def family_of(size: Size) -> str:
    """ "RegNet" or "ResNet"."""
    return "ResNet" if isinstance(size, ResNetSize) else "RegNet"


def model_name(size: Size) -> str:
    """What features and reports call a trunk of `size`, as torchvision does: regnet_y_128gf, resnet50."""
    return name_of(size) if isinstance(size, ResNetSize) else f"regnet_y_{name_of(size)}"
