"""Metadata goes and pixels stay: planted in every format, on real files, and on files that try to be clever."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from seerctl.audit.metadata import personal_metadata
from seerctl.augment.decode import to_rgb
from seerctl.sources import decoders
from seerctl.sources.check import CheckOptions
from seerctl.sources.reasons import RejectedError
from seerctl.sources.strip import stripped
from tests.pictures import draw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description exif:GPSLatitude="48,51N" xmp:CreateDate="2020"/>'
       b"</x:xmpmeta>")  # fmt: skip
PROFILE = bytes(400)


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def exif(orientation: int = 1) -> bytes:
    """Coordinates, a name, a time, a serial number."""
    block = Image.Exif()
    block[0x0112], block[0x013B], block[0x0132] = orientation, "A. Person", "2020:01:01 00:00:00"
    block.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 0.0), 3: "E", 4: (2.0, 21.0, 0.0)})
    block.get_ifd(0x8769)[0xA431] = "12345"
    return block.tobytes()


def saved(kind: str, orientation: int = 1, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    picture = draw(4, 61, 40).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize((61, 40)))
    picture.save(file, kind, exif=exif(orientation), **options)
    return file.getvalue()


def strip(data: bytes) -> tuple[bytes, decoders.Picture]:
    return stripped(data, decoders.examine(data, CheckOptions()))


def gps_png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "A. Person")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("Comment", "me@example.org", zip=True)
    return saved("PNG", pnginfo=info)


def jpeg_with(*segments: tuple[int, bytes], tail: bytes = b"") -> bytes:
    data = saved("JPEG", quality=90, icc_profile=PROFILE, comment=b"me@example.org", xmp=XMP)
    extra = b"".join(b"\xff" + bytes((m,)) + struct.pack(">H", len(body) + 2) + body for m, body in segments)
    return data[:2] + extra + data[2:] + tail


PLANTED = {
    "jpeg": lambda: saved("JPEG", xmp=XMP, comment=b"me@example.org"),
    "progressive": lambda: saved("JPEG", progressive=True, xmp=XMP),
    "grey": lambda: saved("JPEG", mode="L"),
    "cmyk": lambda: saved("JPEG", mode="CMYK"),
    "iptc": lambda: jpeg_with((0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0c\x1c\x02\x50\0\x08A.Person")),
    "jfif thumbnail": lambda: jpeg_with((0xE0, b"JFIF\0\1\2\0\0\1\0\1\2\2" + bytes(12))),
    "second picture": lambda: jpeg_with(tail=saved("JPEG")),
    "png": gps_png,
    "rgba": lambda: saved("PNG", mode="RGBA"),
    "webp": lambda: saved("WEBP", xmp=XMP, quality=80),
    "lossless webp": lambda: saved("WEBP", lossless=True, mode="RGBA"),
    "tiff": lambda: saved("TIFF"),
    "avif": lambda: saved("AVIF", xmp=XMP),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_gone_and_pixels_are_the_same(name: str) -> None:
    data = PLANTED[name]()
    assert personal_metadata(data)
    clean, found = strip(data)
    assert personal_metadata(clean) == frozenset()
    assert b"Person" not in clean
    assert b"example.org" not in clean
    assert np.array_equal(to_rgb(clean), to_rgb(data))
    assert (found.width, found.height, found.orientation) == (61, 40, 1)
    again, _ = strip(clean)
    assert np.array_equal(to_rgb(again), to_rgb(data))
    if found.format.name != "TIFF":  # written anew each time
        assert again == clean


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_stays(kind: str, orientation: int) -> None:
    data = saved(kind, orientation)
    clean, found = strip(data)
    assert personal_metadata(clean) == frozenset()
    assert np.array_equal(to_rgb(clean), to_rgb(data))
    assert found == decoders.examine(clean, CheckOptions())
    assert found.orientation == (1 if kind == "TIFF" else orientation)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_profile_stays(kind: str) -> None:
    clean, _ = strip(saved(kind, icc_profile=PROFILE))
    with Image.open(io.BytesIO(clean)) as image:
        assert image.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_moving_pictures_keep_their_frames(kind: str) -> None:
    file = io.BytesIO()
    frames = [draw(number, 40, 30) for number in range(3)]
    more = {"exif": exif()} if kind != "GIF" else {"comment": b"me@example.org"}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100, loop=0, **more)
    clean, _ = strip(file.getvalue())
    assert personal_metadata(file.getvalue())
    assert personal_metadata(clean) == frozenset()
    with Image.open(io.BytesIO(clean)) as ours, Image.open(io.BytesIO(file.getvalue())) as theirs:
        assert ours.n_frames == theirs.n_frames == 3
        assert ours.info.get("loop") == theirs.info.get("loop")
        for number in range(3):
            ours.seek(number)
            theirs.seek(number)
            assert np.array_equal(np.asarray(ours.convert("RGB")), np.asarray(theirs.convert("RGB")))


def test_a_jpeg2000_loses_its_boxes_and_comments() -> None:
    file = io.BytesIO()
    draw(1).save(file, "JPEG2000", comment=b"by A. Person")
    box = struct.pack(">I4s", 24 + len(XMP), b"uuid") + bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP
    data = file.getvalue().replace(b"\xff\x4f\xff\x51", b"\xff\x4f\xff\x51", 1) + box
    # The codestream's box ends at the end of the file, unless it says otherwise.
    assert "gps" in personal_metadata(data)
    clean, _ = strip(data)
    assert personal_metadata(clean) == frozenset()
    assert b"Person" not in clean
    assert np.array_equal(to_rgb(clean), to_rgb(data))


def test_nothing_to_take_out_changes_nothing() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        file = io.BytesIO()
        draw(2).save(file, kind)
        assert strip(file.getvalue())[0] == file.getvalue()


@pytest.mark.data
def test_real_files_lose_their_metadata_and_no_pixel(shared_data: Path) -> None:
    warnings.simplefilter("ignore")
    planted = checked = 0
    for path in sorted((shared_data / "photos" / "odd").iterdir()):
        data = path.read_bytes()
        try:
            clean, _ = strip(data)
        except RejectedError:
            continue
        checked += 1
        planted += bool(personal_metadata(data))
        assert personal_metadata(clean) == frozenset(), path.name
        assert np.array_equal(to_rgb(clean), to_rgb(data)), path.name
    assert checked > 60
    assert planted > 10


@pytest.mark.data
def test_hostile_files_never_crash_it(shared_data: Path) -> None:
    warnings.simplefilter("ignore")
    checked = 0
    for path in sorted((shared_data / "hostile" / "files").iterdir()):
        try:
            clean, _ = strip(path.read_bytes())
        except RejectedError:
            continue
        assert personal_metadata(clean) == frozenset(), path.name
        to_rgb(clean)
        checked += 1
    assert checked > 100
