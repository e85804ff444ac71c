"""The view of a frozen model against torchvision's transforms."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from seerctl.augment.decode import DecodeError
from seerctl.features.pixels import View


def png(width: int, height: int, seed: int = 0) -> tuple[bytes, Image.Image]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue(), Image.fromarray(noise)


@pytest.mark.parametrize("size", [32, 64, 160, 224])
def test_equal_to_torchvision(size: int) -> None:
    view = View.of(size)
    generator = np.random.default_rng(size)
    for width, height in [(32, 32), (size, size), (300, 301), *generator.integers(20, 500, (12, 2)).tolist()]:
        data, image = png(width, height, width)
        reference = transforms.Compose([
            transforms.Resize(view.short, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size),
        ])  # fmt: skip
        np.testing.assert_array_equal(view(data), np.asarray(reference(image)), err_msg=f"{width}x{height}")


def test_margins() -> None:
    assert View.of(224).short == 256
    assert View.of(64).short == 64  # small pictures have no margin to spare
    assert View.of(224, 1.0).short == 224
    assert "short side 256 bicubic; centre crop 224" in View.of(224).steps()


def test_damage_is_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        View.of(32)(b"\x89PNG\r\n\x1a\n and then nothing")
