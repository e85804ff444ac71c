"""The `[augment]` section of a recipe. The defaults are SEER's (VISSL configs/config/pretrain/seer)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """`count` random crops of `scale` (fraction of the area), resized to `size` x `size` pixels."""

    size: int
    count: int
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.size < 1 or self.count < 1:
            raise ValueError(f"a crop needs size and count of at least 1, not size={self.size}, count={self.count}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two fractions 0 < low <= high <= 1, not {list(self.scale)}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How one image becomes several views; probabilities in [0, 1], blur radius in pixels.

    `exact` is SEER's order of operations in Pillow; `fused` draws the same parameters and applies colour jitter and
    grey as one matrix (hue as a rotation in YIQ, one clamp at the end): same family, not the same pixels. `device` has
    loader workers crop and flip alone; the rest happens where the model is, in batches, with the draws, the order and
    the roundings of `exact` (97 % of values within one level of 255). Crops are resized bilinearly (pretraining) or
    bicubically (SEER's fine-tuning).
    """

    mode: Literal["exact", "fused", "device"] = "exact"
    crops: tuple[CropSpec, ...] = (
        CropSpec(size=160, count=2, scale=(0.14, 1.0)),
        CropSpec(size=96, count=4, scale=(0.05, 0.14)),
    )
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grey: float = 0.2
    blur: float = 0.5
    blur_radius: tuple[float, float] = field(default=(0.1, 2.0))

    def __post_init__(self) -> None:
        if not self.crops:
            raise ValueError("at least one kind of crop is needed")
        for name in ("flip", "jitter", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, not {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5], not {self.hue}")
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError("brightness, contrast and saturation must not be negative")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be 0 < low <= high, not {list(self.ratio)}")
        if not 0 <= self.blur_radius[0] <= self.blur_radius[1]:
            raise ValueError(f"blur_radius must be 0 <= low <= high, not {list(self.blur_radius)}")

    @property
    def views(self) -> int:
        """Views of one image."""
        return sum(crop.count for crop in self.crops)
