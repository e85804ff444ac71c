"""Formats by their first bytes."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seerctl.errors import UsageError
from seerctl.sources.check import allowed_formats
from seerctl.sources.magic import DECODABLE, DEFAULT_FORMATS, detect, named_like_image
from tests.pictures import draw

SAVED = {
    "JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif",
    "JPEG2000": "jp2", "PPM": "ppm", "ICO": "ico", "ICNS": "icns", "DDS": "dds", "QOI": "qoi", "SGI": "sgi",
    "PCX": "pcx",
}  # fmt: skip


def saved(kind: str, picture: Image.Image | None = None) -> bytes:
    file = io.BytesIO()
    (picture or draw(1)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", SAVED)
def test_what_pillow_writes_is_recognised(kind: str) -> None:
    found = detect(saved(kind))
    assert found is not None
    assert (found.name, found.ext) == (kind, SAVED[kind])
    assert found.pillow == Image.open(io.BytesIO(saved(kind))).format


@pytest.mark.parametrize(("mode", "ext"), [("1", "pbm"), ("L", "pgm"), ("RGB", "ppm")])
def test_portable_maps_have_their_own_names(mode: str, ext: str) -> None:
    found = detect(saved("PPM", draw(1).convert(mode)))
    assert found is not None
    assert (found.name, found.ext) == ("PPM", ext)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"\xd7\xcd\xc6\x9a\0\0", "WMF"),
        (b"%PDF-1.7", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="', "SVG"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"8BPS\0\1\0\0", "PSD"),
    ],
)
def test_other_formats_are_named_but_not_let_in(head: bytes, name: str) -> None:
    found = detect(head)
    assert found is not None
    assert found.name == name
    assert name not in allowed_formats("")


@pytest.mark.parametrize(
    "head", [b"", b"hello, world", b"BMX stunts", b"<html>", b"P7 is no picture here", b"\xff\xd8"]
)
def test_text_and_stubs_are_nothing(head: bytes) -> None:
    assert detect(head) is None


@given(st.binary(max_size=80))
def test_noise_never_breaks_it(head: bytes) -> None:
    found = detect(head)
    assert found is None or found.ext


def test_formats_are_widened_by_name() -> None:
    assert allowed_formats("") == DEFAULT_FORMATS
    assert set(allowed_formats("psd, ico")) == {*DEFAULT_FORMATS, "PSD", "ICO"}
    assert "EPS" not in DECODABLE
    for name in ("EPS", "WMF", "PGN"):
        with pytest.raises(UsageError, match=f"no format '{name}'"):
            allowed_formats(name)


def test_names_claim_to_be_images() -> None:
    assert all(map(named_like_image, ("a.jpg", "b/c.JPEG", "x.y.webp", "z.tiff", "w.psd")))
    assert not any(map(named_like_image, ("a.txt", "jpg", "b.jpg/c", "Thumbs.db", "a.csv", "")))
