"""Smaller pictures: sides, filters, formats, orientation and colours, against Pillow doing it in the plain way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seerctl.audit.metadata import personal_metadata
from seerctl.augment.decode import to_rgb
from seerctl.errors import UsageError
from seerctl.sources import decoders
from seerctl.sources.check import CheckOptions
from seerctl.sources.resize import resized
from seerctl.sources.transform import Resize
from tests.pictures import draw
from tests.sources.test_strip import exif

PROFILE = bytes(400)


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def saved(kind: str, picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def run(data: bytes, text: str, **options: bool) -> tuple[bytes, decoders.Picture]:
    return resized(data, decoders.examine(data, CheckOptions()), Resize.parse(text, **options))


@pytest.mark.parametrize(
    ("text", "enlarge", "sides", "expected"),
    [
        ("short=100", False, (400, 300), (133, 100)), ("short=100", False, (300, 400), (100, 133)),
        ("long=100", False, (400, 300), (100, 75)), ("square=100", False, (400, 300), (100, 100)),
        ("short=500", False, (400, 300), (400, 300)), ("short=600", True, (400, 300), (800, 600)),
        ("square=350", False, (400, 300), (300, 300)), ("square=350", True, (400, 300), (350, 350)),
        ("long=10", False, (5000, 3), (10, 1)), ("square=5", False, (9, 5), (5, 5)),
    ],
)  # fmt: skip
def test_sides(text: str, enlarge: bool, sides: tuple[int, int], expected: tuple[int, int]) -> None:
    resize = Resize.parse(text, enlarge=enlarge)
    assert resize.crop(*resize.size(*sides)) == expected
    data = saved("PNG", draw(0, *sides))
    stored, found = run(data, text, enlarge=enlarge)
    assert (found.width, found.height) == expected
    assert (stored == data) == (sides == expected)


@given(st.sampled_from(["short", "long", "square"]), st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000))
def test_sides_are_never_larger_than_before_or_than_wished(mode: str, side: int, width: int, height: int) -> None:
    resize = Resize(mode, side)
    size = resize.size(width, height)
    kept = resize.crop(*size)
    assert all(1 <= now <= before for now, before in zip(kept, (width, height), strict=True))
    assert (max(kept) if mode == "long" else min(kept)) <= side or kept == (width, height)
    if mode == "square":
        assert kept[0] == kept[1]


@pytest.mark.parametrize("text", ["", "short", "short=", "short=0", "shrt=5", "short=-3", "short=99999", "256"])
def test_what_is_no_resize(text: str) -> None:
    with pytest.raises(UsageError, match="--resize"):
        Resize.parse(text)


@pytest.mark.parametrize(
    ("kind", "mode", "becomes"),
    [
        ("JPEG", "RGB", ("JPEG", "RGB")), ("JPEG", "L", ("JPEG", "L")), ("JPEG", "CMYK", ("JPEG", "CMYK")),
        ("PNG", "RGB", ("PNG", "RGB")), ("PNG", "RGBA", ("PNG", "RGBA")), ("PNG", "P", ("PNG", "RGB")),
        ("PNG", "1", ("PNG", "L")), ("PNG", "I;16", ("PNG", "I;16")), ("PNG", "LA", ("PNG", "LA")),
        ("WEBP", "RGB", ("WEBP", "RGB")), ("WEBP", "RGBA", ("WEBP", "RGBA")), ("GIF", "P", ("PNG", "RGB")),
        ("BMP", "RGB", ("PNG", "RGB")), ("TIFF", "CMYK", ("TIFF", "CMYK")), ("TIFF", "F", ("TIFF", "F")),
        ("TIFF", "I;16", ("TIFF", "I;16")), ("AVIF", "RGB", ("AVIF", "RGB")), ("JPEG2000", "RGB", ("JPEG2000", "RGB")),
        ("PPM", "L", ("PNG", "L")),
    ],
)  # fmt: skip
def test_formats_and_modes(kind: str, mode: str, becomes: tuple[str, str]) -> None:
    picture = draw(3, 120, 90)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.linear_gradient("L").resize((120, 90)))
    data = saved(kind, picture)
    stored, found = run(data, "short=45")
    assert (found.format.name, found.mode, found.width, found.height) == (*becomes, 60, 45)
    ours = to_rgb(stored).astype(float)
    plain = np.asarray(Image.fromarray(to_rgb(data)).resize((60, 45), Image.Resampling.LANCZOS)).astype(float)
    assert np.abs(ours - plain).mean() < (12 if mode == "1" else 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied_before_the_sides_are_measured(kind: str, orientation: int) -> None:
    data = saved(kind, draw(5, 120, 80), exif=exif(orientation))
    stored, found = run(data, "square=40")
    assert (found.width, found.height, found.orientation) == (40, 40, 1)
    assert personal_metadata(stored) == frozenset()
    upright = Image.fromarray(to_rgb(data))
    left, top = (upright.width - 80) / 2, (upright.height - 80) / 2
    peer = upright.resize((40, 40), Image.Resampling.LANCZOS, box=(left, top, left + 80, top + 80))
    assert np.abs(to_rgb(stored).astype(float) - np.asarray(peer)).mean() < 4


def test_fine_stripes_do_not_become_coarse_ones() -> None:
    """Nearest neighbour would show black or white, or a pattern of its own; the mean is grey."""
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    stored, _ = run(saved("PNG", Image.fromarray(stripes)), "short=50")
    middle = to_rgb(stored)[5:-5, 5:-5]
    assert middle.min() > 118
    assert middle.max() < 138


def test_shrinking_inside_libjpeg_is_not_to_be_seen() -> None:
    data = saved("JPEG", draw(6, 1600, 1200), quality=95)
    ours = to_rgb(run(data, "short=100")[0]).astype(float)
    full = Image.open(io.BytesIO(data)).resize((133, 100), Image.Resampling.LANCZOS)
    peer = to_rgb(saved("JPEG", full, quality=90)).astype(float)
    error = ((ours - peer) ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 38


def test_the_profile_stays_and_nothing_else() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        stored, _ = run(saved(kind, draw(1, 90, 90), exif=exif(), icc_profile=PROFILE), "short=45")
        assert personal_metadata(stored) == frozenset()
        with Image.open(io.BytesIO(stored)) as image:
            assert image.info["icc_profile"] == PROFILE
