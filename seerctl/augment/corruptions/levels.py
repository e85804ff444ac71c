"""How strong each corruption is at severities 1 to 5, for pictures of three sizes.

Where nothing else is said, the numbers are those of the scripts that made CIFAR-10-C (32 px), ImageNet-64-C (64 px) and
ImageNet-C (224 px): D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv 1903.12261; github.com/hendrycks/robustness, ImageNet-C/create_c/make_*.py.

The rule for any picture: take the column whose side is closest to the picture's short side (as a ratio), and multiply
its lengths in pixels by short side / column's side. At 32, 64 and 224 px these are exactly the published numbers.

Not published are the numbers of frost, glass_blur below 224 px, spatter and elastic_transform (whose code differs too,
see `weather`, `blur` and `digital`), and those that were changed because with the published ones a higher severity is
not the stronger distortion (by mean PSNR on photographs):
- saturate: its levels, which take colour away and then add it, come in the order of their distortion; factor 2 is 2.1
  at 64 and 224 px.
- motion_blur at 32 px: deviations 2.25 and 2.75 for 2 and 2.5 at severities 4 and 5.
- snow: the picture's share is 0.85 for 0.8 at severity 1 (64 px) and 0.76 for 0.7 at severity 2 (224 px).
- fog at 224 px: (3, 1.6) for (2.5, 1.5) at severity 4, (4, 1.5) for (3, 1.4) at severity 5.
"""

from __future__ import annotations

from math import log

Level = tuple[float, ...]
Levels = tuple[Level, Level, Level, Level, Level]

SIDES = (32, 64, 224)


def _each(*values: float) -> Levels:
    """Five severities of one number each."""
    one, two, three, four, five = ((value,) for value in values)
    return one, two, three, four, five


def _alike(levels: Levels) -> dict[int, Levels]:
    """Levels without a length in pixels, the same at any size."""
    return dict.fromkeys(SIDES, levels)


# What the numbers of a level mean is said by the function of the same name.
LEVELS: dict[str, dict[int, Levels]] = {
    "gaussian_noise": {
        32: _each(0.04, 0.06, 0.08, 0.09, 0.10),
        64: _each(0.04, 0.08, 0.12, 0.15, 0.18),
        224: _each(0.08, 0.12, 0.18, 0.26, 0.38),
    },
    "shot_noise": {
        32: _each(500, 250, 100, 75, 50),
        64: _each(250, 100, 50, 30, 15),
        224: _each(60, 25, 12, 5, 3),
    },
    "impulse_noise": {
        32: _each(0.01, 0.02, 0.03, 0.05, 0.07),
        64: _each(0.01, 0.02, 0.05, 0.08, 0.14),
        224: _each(0.03, 0.06, 0.09, 0.17, 0.27),
    },
    "speckle_noise": {
        32: _each(0.06, 0.10, 0.12, 0.16, 0.20),
        64: _each(0.15, 0.20, 0.25, 0.30, 0.35),
        224: _each(0.15, 0.20, 0.35, 0.45, 0.60),
    },
    "gaussian_blur": {
        32: _each(0.4, 0.6, 0.7, 0.8, 1.0),
        64: _each(0.5, 0.75, 1.0, 1.25, 1.5),
        224: _each(1, 2, 3, 4, 6),
    },
    "defocus_blur": {
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    },
    "glass_blur": {
        32: ((0.3, 1, 1, 0.3), (0.3, 1, 1, 0.6), (0.4, 1, 1, 1), (0.4, 1, 2, 1), (0.4, 2, 1, 1)),
        64: ((0.4, 1, 1, 0.5), (0.5, 1, 1, 1), (0.6, 1, 2, 1), (0.7, 2, 1, 1), (0.9, 2, 2, 1)),
        224: ((0.7, 1, 2, 1), (0.9, 2, 1, 1), (1.0, 2, 3, 1), (1.1, 3, 2, 1), (1.5, 4, 2, 1)),
    },
    "motion_blur": {
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2.25), (9, 2.75)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    },
    "zoom_blur": {
        32: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        64: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    },
    "snow": {
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.85),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.76),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    },
    "frost": {
        32: ((1, 0.2), (0.95, 0.3), (0.85, 0.42), (0.75, 0.55), (0.65, 0.7)),
        64: ((1, 0.3), (0.9, 0.42), (0.8, 0.55), (0.7, 0.7), (0.6, 0.85)),
        224: ((1, 0.4), (0.9, 0.55), (0.8, 0.7), (0.7, 0.85), (0.6, 1.0)),
    },
    "fog": {
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (3, 1.6), (4, 1.5)),
    },
    "brightness": {
        32: _each(0.05, 0.1, 0.15, 0.2, 0.3),
        64: _each(0.1, 0.2, 0.3, 0.4, 0.5),
        224: _each(0.1, 0.2, 0.3, 0.4, 0.5),
    },
    # ours: side of the drops as a share of the picture's, share covered, 0 water or 1 mud, opacity
    "spatter": _alike(
        (
            (0.022, 0.04, 0, 0.5),
            (0.020, 0.09, 0, 0.6),
            (0.018, 0.16, 0, 0.7),
            (0.022, 0.14, 1, 0.9),
            (0.020, 0.24, 1, 1),
        )
    ),
    "contrast": {
        32: _each(0.75, 0.5, 0.4, 0.3, 0.15),
        64: _each(0.4, 0.3, 0.2, 0.1, 0.05),
        224: _each(0.4, 0.3, 0.2, 0.1, 0.05),
    },
    "elastic_transform": _alike(
        ((0.010, 0.004, 0.03), (0.018, 0.007, 0.03), (0.028, 0.011, 0.03), (0.040, 0.016, 0.03), (0.055, 0.023, 0.03))
    ),
    "pixelate": {
        32: _each(0.95, 0.9, 0.85, 0.75, 0.65),
        64: _each(0.9, 0.8, 0.7, 0.6, 0.5),
        224: _each(0.6, 0.5, 0.4, 0.3, 0.25),
    },
    "jpeg_compression": {
        32: _each(80, 65, 58, 50, 40),
        64: _each(65, 58, 50, 40, 25),
        224: _each(25, 18, 15, 10, 7),
    },
    "saturate": {
        32: ((1.5, 0), (0.3, 0), (0.1, 0), (2, 0.1), (2.5, 0.2)),
        64: ((0.3, 0), (2.1, 0), (0.1, 0), (5, 0.1), (30, 0.2)),
        224: ((0.3, 0), (2.1, 0), (0.1, 0), (5, 0.1), (20, 0.2)),
    },
}


def level(name: str, severity: int, side: int) -> tuple[Level, float]:
    """The numbers of a severity for pictures of short side `side`, and what its lengths in pixels are multiplied by."""
    column = min(SIDES, key=lambda known: abs(log(known / side)))
    return LEVELS[name][column][severity - 1], side / column
