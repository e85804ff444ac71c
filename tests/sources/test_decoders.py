"""Examining bytes: facts about good pictures, reasons for bad ones, and verdicts that training agrees with."""

from __future__ import annotations

import io
import random
import struct
from collections import Counter
from pathlib import Path

import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seerctl.augment import decode
from seerctl.sources import check, decoders
from seerctl.sources.check import CheckOptions, allowed_formats
from seerctl.sources.magic import DECODABLE
from seerctl.sources.reasons import Reason, RejectedError
from tests.pictures import draw


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about hostile files


def saved(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (picture or draw(1)).save(file, kind, **options)
    return file.getvalue()


def reason(data: bytes, **options: object) -> str:
    with pytest.raises(RejectedError) as caught:
        decoders.examine(data, CheckOptions(**options))  # type: ignore[arg-type]
    assert "\n" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("level", ["header", "decode", "strict"])
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"subsampling": 0}), ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}),
        ("PNG", "1", {}), ("PNG", "I;16", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}), ("BMP", "RGB", {}), ("TIFF", "CMYK", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("AVIF", "RGB", {}), ("JPEG2000", "RGB", {}), ("PPM", "L", {}),
    ],
)  # fmt: skip
def test_good_pictures_are_described(kind: str, mode: str, options: dict[str, object], level: str) -> None:
    picture = draw(2).convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)  # encoders drop an alpha channel that says nothing
    found = decoders.examine(saved(kind, picture, **options), CheckOptions(level))
    assert (found.format.name, found.width, found.height, found.mode, found.orientation) == (kind, 48, 40, mode, 1)


@pytest.mark.parametrize("level", ["header", "decode", "strict"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_recorded(kind: str, level: str) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        found = decoders.examine(saved(kind, exif=exif), CheckOptions(level))
        assert (found.orientation, found.width, found.height) == (turn, 48, 40)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("value", "kind", "expected"), [(6, 3, 6), (0, 3, 1), (9, 3, 1), (6, 4, 1)])
def test_both_byte_orders_and_odd_values(order: str, value: int, kind: int, expected: int) -> None:
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    tiff = magic + struct.pack(order + "IH", 8, 1) + struct.pack(order + "HHIHxx", 0x0112, kind, 1, value) + bytes(4)
    segment = b"Exif\0\0" + tiff
    jpeg = saved("JPEG")
    assert decoders.jpeg_orientation(jpeg) == 1
    data = jpeg[:20] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[20:]
    assert decoders.jpeg_orientation(data) == expected
    assert decoders.examine(data, CheckOptions()).orientation == expected


@given(st.binary(max_size=300))
def test_broken_exif_is_no_orientation(noise: bytes) -> None:
    assert 1 <= decoders.jpeg_orientation(b"\xff\xd8" + noise) <= 8
    segment = b"Exif\0\0II*\0" + noise
    assert 1 <= decoders.jpeg_orientation(b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment) <= 8


def test_bad_bytes_have_reasons() -> None:
    assert reason(b"") == Reason.EMPTY
    assert reason(b"this is text") == Reason.NOT_IMAGE
    assert reason(b"%!PS-Adobe-3.0") == Reason.FORMAT
    assert reason(saved("ICO")) == Reason.FORMAT
    assert decoders.examine(saved("ICO"), CheckOptions(formats=allowed_formats("ICO"))).format.name == "ICO"
    assert reason(saved("PNG"), max_pixels=48 * 40 - 1) == Reason.BOMB
    assert reason(saved("JPEG"), max_pixels=48 * 40 - 1) == Reason.BOMB
    bomb = saved("PNG", Image.new("1", (14_000, 14_000)))
    assert reason(bomb, check="header") == reason(bomb) == Reason.BOMB


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "BMP"])
def test_half_a_picture_is_damaged(kind: str) -> None:
    whole = saved(kind, draw(3, 200, 200))
    assert reason(whole[: len(whole) // 2]) == Reason.DAMAGED


def test_one_broken_chunk_is_damage_of_a_png() -> None:
    whole = saved("PNG", draw(3, 200, 200))
    at = whole.index(b"IDAT") + 100
    assert reason(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) == Reason.DAMAGED


def test_strict_needs_both_decoders_and_every_frame() -> None:
    frames = [draw(number, 64, 64) for number in range(3)]
    whole = saved("PNG", frames[0], save_all=True, append_images=frames[1:])
    assert decoders.examine(whole, CheckOptions("strict")).format.name == "PNG"
    cut = whole[: whole.rindex(b"fdAT") + 200]
    assert decoders.examine(cut, CheckOptions("decode")).width == 64
    assert reason(cut, check="strict") == Reason.DAMAGED


def damaged(data: bytes, kind: int, generator: random.Random) -> bytes:
    broken, at = bytearray(data), generator.randrange(2, len(data))
    if kind == 0:
        broken[at] ^= 1 << generator.randrange(8)
    elif kind == 1:
        broken[at : at + 100] = bytes(len(broken[at : at + 100]))
    elif kind == 2:
        del broken[at:]
    else:
        broken[at:] = bytes(len(data) - at)
    return bytes(broken)


def verdict(data: bytes, colours: str, **options: int) -> str:
    try:
        simplejpeg.decode_jpeg(data, colours, **options)
    except ValueError as error:
        return str(error)
    return "good"


def test_an_eighth_in_grey_judges_as_the_whole_in_colour() -> None:
    """What `examine` relies on to be quick: checked on every kind of scan, damaged in every way."""
    generator = random.Random(0)
    originals = [
        saved("JPEG", draw(number, 150 + 13 * number, 120), quality=80 + number, subsampling=number % 3,
              progressive=number % 2 == 0, restart_marker_blocks=(0, 3)[number % 4 == 3])
        for number in range(8)
    ]  # fmt: skip
    verdicts: Counter[bool] = Counter()
    for number in range(1500):
        data = damaged(originals[number % 8], number // 8 % 4, generator)
        whole = verdict(data, "RGB")
        assert (verdict(data, "GRAY", min_factor=8) == "good") == (whole == "good")
        verdicts[whole == "good"] += 1
    assert min(verdicts.values()) > 100


def test_limits_are_those_of_training() -> None:
    assert check.MAX_PIXELS == decode.MAX_PIXELS


def agrees_with_training(data: bytes, options: CheckOptions) -> bool:
    """Whether `to_rgb` takes what `examine` takes, at the size it says."""
    try:
        found = decoders.examine(data, options)
    except RejectedError:
        return True
    height, width, _ = decode.to_rgb(data).shape
    return (width, height) == ((found.width, found.height) if found.orientation < 5 else (found.height, found.width))


@pytest.mark.data
def test_what_is_let_in_can_be_trained_on(shared_data: Path) -> None:
    paths = [*(shared_data / "hostile" / "files").iterdir(), *(shared_data / "photos" / "odd").iterdir()]
    options = CheckOptions(formats=allowed_formats(",".join(name for name in DECODABLE if name != "FLI")))
    assert len(paths) > 500
    assert [path.name for path in paths if not agrees_with_training(path.read_bytes(), options)] == []


@pytest.mark.data
def test_real_photographs_are_good_and_their_damage_is_found(shared_data: Path) -> None:
    paths = sorted((shared_data / "clothing").rglob("*.jpg"))[::12]
    photographs = [path.read_bytes() for path in paths]
    for data in photographs:
        assert decoders.examine(data, CheckOptions()).format.name == "JPEG"
    generator = random.Random(1)
    found = Counter(
        kind
        for number in range(400)
        for kind in (number % 4,)
        if rejected(damaged(photographs[number % len(photographs)], kind, generator))
    )
    assert found[2] == found[3] == 100  # cut, or the end lost: always
    assert found[1] > 70  # a hundred bytes of zeros


@pytest.mark.parametrize(("span", "least"), [(512, 45), (4096, 49)])
def test_strict_finds_damage_in_the_middle(span: int, least: int) -> None:
    """Blocks of a file that were lost to zeros, of which Pillow shows what it can."""
    generator = random.Random(span)
    noise = Image.effect_noise((700, 500), 60).convert("RGB")
    whole = saved("JPEG", noise, quality=85)
    scan = whole.index(b"\xff\xda") + 14
    found = lenient = 0
    for _ in range(50):
        at = generator.randrange(scan, len(whole) - span - 2)
        data = whole[:at] + bytes(span) + whole[at + span :]
        found += rejected(data, "strict")
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
            lenient += 1
        except OSError:
            pass
    assert found >= least
    assert lenient == 50


@pytest.mark.data
@pytest.mark.parametrize("level", ["decode", "strict"])
def test_no_false_alarm_on_photographs(shared_data: Path, level: str) -> None:
    for path in sorted((shared_data / "clothing").rglob("*.jpg"))[::4]:
        assert decoders.examine(path.read_bytes(), CheckOptions(level)).format.name == "JPEG"


def rejected(data: bytes, level: str = "decode") -> bool:
    try:
        decoders.examine(data, CheckOptions(level))
    except RejectedError:
        return True
    return False
