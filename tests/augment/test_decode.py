"""Pixels: every format and mode upright, in RGB, in 8 bits; damage refused."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from seerctl.augment.decode import DecodeError, to_rgb, upright


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF"])
def test_lossless_formats_keep_their_pixels(picture, kind: str) -> None:
    image = picture(1)
    if kind == "GIF":
        image = image.quantize(64).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(to_rgb(encode(image, kind, **options)), np.asarray(image))


def test_jpeg_equals_pillow(picture) -> None:
    data = encode(picture(2, 200, 150), "JPEG", quality=88)
    assert np.array_equal(to_rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(picture, orientation: int, kind: str) -> None:
    image = picture(3, 64, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(to_rgb(data), np.asarray(expected))
    assert to_rgb(data).flags.c_contiguous


def test_unknown_orientation_changes_nothing() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(upright(pixels, 0), pixels)
    assert np.array_equal(upright(pixels, 99), pixels)


def test_alpha_lies_over_white() -> None:
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    assert to_rgb(encode(image, "PNG")).tolist() == [[[255, 255, 255], [255, 127, 127]]]


def test_transparent_palette_entry_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    assert to_rgb(encode(image, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_is_scaled_not_clipped(kind: str) -> None:
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert to_rgb(encode(image, kind))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_is_converted(picture) -> None:
    data = encode(picture(4).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(to_rgb(data), expected)


def test_first_frame_of_an_animation(picture) -> None:
    first, second = picture(5).quantize(32), picture(6).quantize(32)
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(to_rgb(data), np.asarray(first.convert("RGB")))


def test_damage_is_refused_where_pillow_shows_grey(picture) -> None:
    data = bytearray(encode(picture(7, 400, 300), "JPEG", quality=90))
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    Image.open(io.BytesIO(bytes(data))).load()  # Pillow does not mind
    with pytest.raises(DecodeError):
        to_rgb(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(60)])
def test_rubbish_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        to_rgb(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_too_many_pixels_are_refused_before_decoding(picture, kind: str) -> None:
    with pytest.raises(DecodeError, match="more than 100 pixels"):
        to_rgb(encode(picture(8), kind), max_pixels=100)


@pytest.mark.data
def test_odd_photographs_decode_upright(shared_data: Path) -> None:
    names = sorted(path for path in (shared_data / "photos" / "odd").iterdir() if path.is_file())
    decoded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in names:
            pixels = to_rgb(path.read_bytes())
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            with Image.open(path) as image:
                expected = ImageOps.exif_transpose(image).size
            assert pixels.shape == (expected[1], expected[0], 3), path.name
            decoded += 1
    assert decoded == len(names) >= 60


@pytest.mark.data
def test_hostile_files_decode_or_are_refused(shared_data: Path) -> None:
    with (shared_data / "hostile" / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["maxrss_mb"] or 0) < 500]
    assert len(rows) > 300
    for row in rows:
        try:
            pixels = to_rgb((shared_data / "hostile" / row["file"]).read_bytes(), max_pixels=20_000_000)
        except DecodeError:
            continue
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
