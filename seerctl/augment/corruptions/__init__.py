"""The 19 common corruptions of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261) at five severities.

Own code in numpy; Pillow for JPEG and coarse pixels. How strong they are is said in `levels`, where the numbers come
from too; what is drawn otherwise than in ImageNet-C is said by the functions (frost, spatter, elastic_transform,
glass_blur). So scores on them are not scores on ImageNet-C: compare models on the same corrupted views only.
"""

from seerctl.augment.corruptions.registry import FAMILIES, NAMES, VERSION, Corruption, parse_corruptions

__all__ = ["FAMILIES", "NAMES", "VERSION", "Corruption", "parse_corruptions"]
