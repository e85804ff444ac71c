"""Privacy: what is left in files, sources and columns is counted by kind, from files that other programs wrote."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from seerctl.audit.metadata import KINDS, personal_metadata, xmp
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.privacy import METRICS, audit_privacy, personal_text
from seerctl.audit.suite import Finding, SuiteResult
from seerctl.errors import InputError, UsageError
from seerctl.files import sha256_file, write_json
from seerctl.shards.drop import Entry, drop_samples
from seerctl.shards.index import ShardSet
from tests.pictures import draw
from tests.streams import meta_of, shards_of, stream_of

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>
<rdf:Description {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>"""


def exif(**tags: Any) -> bytes:
    """An EXIF block by Pillow: names of tags, `gps` and `exif` for those of the inner IFDs."""
    made = Image.Exif()
    made[ExifTags.Base.Orientation] = 1
    for name, value in tags.items():
        if name in ("gps", "exif"):
            inner = made.get_ifd(ExifTags.IFD.GPSInfo if name == "gps" else ExifTags.IFD.Exif)
            for tag, item in value.items():
                inner[tag] = item
        else:
            made[ExifTags.Base[name]] = value
    return made.tobytes()


def saved(kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    draw(1, 32, 24).save(file, kind, **options)
    return file.getvalue()


GPS = {1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)}
BLOCKS: dict[str, tuple[bytes, set[str]]] = {
    "nothing": (exif(), set()),
    "gps": (exif(gps=GPS), {"gps"}),
    "gps version alone": (exif(gps={0: b"\2\3\0\0"}), set()),
    "serial": (exif(exif={0xA431: "X123"}), {"serial_number"}),
    "lens serial": (exif(exif={0xA435: "L9"}), {"serial_number"}),
    "owner": (exif(exif={0xA430: "Ada"}), {"owner"}),
    "artist": (exif(Artist="Ada Lovelace <ada@example.org>"), {"owner", "email"}),
    "blank artist": (exif(Artist="    ", Copyright=" "), set()),
    "times": (exif(DateTime="2020:01:02 03:04:05"), {"timestamp"}),
    "no time": (exif(DateTime="0000:00:00 00:00:00"), set()),
    "taken": (exif(exif={0x9003: "2020:01:02 03:04:05"}), {"timestamp"}),
    "maker note": (exif(exif={0x927C: b"Canon stuff"}), {"maker_note"}),
    "comment": (exif(exif={0x9286: b"ASCII\0\0\0at home"}), {"comment"}),
    "empty comment": (exif(exif={0x9286: b"ASCII\0\0\0     "}), set()),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("name", BLOCKS)
def test_exif_in_every_format(kind: str, name: str) -> None:
    block, wanted = BLOCKS[name]
    assert personal_metadata(saved(kind, exif=block)) == wanted


XMPS: dict[str, tuple[str, str, set[str]]] = {
    "nothing": ('tiff:Orientation="1" xmp:CreatorTool="GIMP"', "", set()),
    "gps": ('exif:GPSLatitude="52,30N" exif:GPSLongitude="13,24E"', "", {"gps"}),
    "gps elements": ("", "<exif:GPSLatitude>52,30N</exif:GPSLatitude>", {"gps"}),
    "empty": ('aux:SerialNumber="" photoshop:City=""', "<dc:creator/><exif:GPSLatitude></exif:GPSLatitude>", set()),
    "serial": ('aux:SerialNumber="0123"', "", {"serial_number"}),
    "owner": ('aux:OwnerName="Ada"', "<dc:creator><rdf:Seq><rdf:li>Ada</rdf:li></rdf:Seq></dc:creator>", {"owner"}),
    "people": ("", "<Iptc4xmpExt:PersonInImage><rdf:Bag><rdf:li>Ada</rdf:li></rdf:Bag></Iptc4xmpExt:PersonInImage>",
               {"person"}),
    "face": ('mwg-rs:Type="Face"', "", {"person"}),
    "pet": ('mwg-rs:Type="Pet"', "", set()),
    "times": ('xmp:CreateDate="2020-01-02"', "", {"timestamp"}),
    "place": ('photoshop:City="Berlin"', "", {"place"}),
    "thumbnail": ("", "<xmpGImg:image>/9j/4AAQ</xmpGImg:image>", {"thumbnail"}),
    "email": ('x:contact="ada@example.org"', "", {"email"}),
}  # fmt: skip


def with_xmp(kind: str, packet: bytes) -> bytes:
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
        return saved("PNG", pnginfo=info)
    if kind == "GIF":
        blocks = b"\x21\xff\x0bXMP DataXMP" + packet + b'<?xpacket end="w"?>' + bytes([1, *range(255, -1, -1), 0])
        data = saved("GIF")
        end = 13 + 3 * 2 ** ((data[10] & 7) + 1)
        return data[:end] + blocks + data[end:]
    return saved(kind, xmp=packet)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
@pytest.mark.parametrize("name", XMPS)
def test_xmp_in_every_format(kind: str, name: str) -> None:
    attributes, elements, wanted = XMPS[name]
    packet = XMP.format(attributes=attributes, elements=elements).encode()
    assert personal_metadata(with_xmp(kind, packet)) == wanted


def test_wide_xmp_and_xmp_in_tiff() -> None:
    text = XMP.format(attributes='exif:GPSLatitude="52,30N"', elements="")
    for encoding in ("utf-16", "utf-16-be", "utf-16-le", "utf-32-le", "utf-32-be"):
        assert personal_metadata(saved("JPEG", xmp=text.encode(encoding))) == {"gps"}
    assert personal_metadata(saved("TIFF", tiffinfo={700: text.encode()})) == {"gps"}


def iptc(**records: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text for number, text in records.values())


def photoshop(number: int, body: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HH", number, 0) + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)


def segment(data: bytes, marker: int, body: bytes) -> bytes:
    """`data`, a JPEG, with one more segment at its beginning."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ({"by": (80, b"Ada")}, {"owner"}), ({"city": (90, b"Berlin")}, {"place"}),
        ({"date": (55, b"20200102")}, {"timestamp"}),
        ({"text": (120, b"write to ada@example.org")}, {"comment", "email"}), ({"blank": (80, b"   ")}, set()),
        ({"other": (5, b"title of the object")}, set()),
    ],
)  # fmt: skip
def test_iptc_in_jpeg_and_tiff(records: dict[str, tuple[int, bytes]], wanted: set[str]) -> None:
    block = iptc(**records)
    whole = photoshop(1005, b"\0" * 16) + photoshop(0x0404, block)
    assert personal_metadata(segment(saved(), 0xED, b"Photoshop 3.0\0" + whole)) == wanted
    assert personal_metadata(saved("TIFF", tiffinfo={33723: block})) == wanted
    assert personal_metadata(saved("TIFF", tiffinfo={34377: whole})) == wanted


def test_jpeg_comments_thumbnails_and_second_pictures() -> None:
    assert personal_metadata(segment(saved(), 0xFE, b"made by ada@example.org")) == {"comment", "email"}
    assert personal_metadata(segment(saved(), 0xFE, b"\0 ")) == frozenset()
    assert personal_metadata(segment(saved(), 0xE0, b"JFXX\0\x10" + saved())) == {"thumbnail"}
    jfif = saved()
    place = jfif.index(b"JFIF\0") + 12
    assert personal_metadata(jfif[:place] + b"\1\1" + jfif[place + 2 :]) == {"thumbnail"}
    assert personal_metadata(segment(saved(), 0xED, b"Photoshop 3.0\0" + photoshop(0x040C, b"x" * 9))) == {"thumbnail"}
    assert personal_metadata(saved() + saved(exif=exif(gps=GPS))) == {"gps"}
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40 + b'exif:GPSLatitude="1"'
    assert personal_metadata(segment(saved(), 0xE1, extended)) == {"gps"}


def test_exif_thumbnails() -> None:
    """The second IFD of an EXIF block is a thumbnail; that of a TIFF is its next page."""
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HI", 0, 14)
    block += struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 60, 0x0202, 4, 1, 20, 0) + b"\xff\xd8" + b"x" * 40
    assert personal_metadata(segment(saved(), 0xE1, block)) == {"thumbnail"}
    file = io.BytesIO()
    draw(1).save(file, "TIFF", save_all=True, append_images=[draw(2)])
    assert personal_metadata(file.getvalue()) == frozenset()


def test_png_texts() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Ada")
    info.add_text("date:create", "2020-01-02", zip=True)
    info.add_text("exif:GPSLatitude", "52/1")
    info.add_itxt("Comment", "at ada@example.org")
    info.add_text("Software", "GIMP")
    assert personal_metadata(saved("PNG", pnginfo=info)) == {"owner", "timestamp", "gps", "comment", "email"}
    info = PngImagePlugin.PngInfo()
    block = exif(gps=GPS)
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    assert personal_metadata(saved("PNG", pnginfo=info)) == {"gps"}


def test_gif_comments_and_jpeg_2000() -> None:
    assert personal_metadata(saved("GIF", comment=b"by ada@example.org")) == {"comment", "email"}
    plain = saved("JPEG2000")
    assert personal_metadata(plain) == frozenset()
    for uuid, body in (
        (bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), b'exif:GPSLatitude="1"'),
        (b"JpgTiffExif->JP2", exif(gps=GPS)[6:]),
        (bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"geo"),
    ):
        assert personal_metadata(plain + struct.pack(">I4s", 24 + len(body), b"uuid") + uuid + body) == {"gps"}


def boxes(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def test_heif_items_that_pillow_does_not_write() -> None:
    """An iPhone's HEIC: Exif in `mdat`, found through `iloc` (version 1, also in `idat`)."""
    block = struct.pack(">I", 6) + b"Exif\0\0" + exif(gps=GPS)[6:]
    for inside in (False, True):
        infe = boxes(b"infe", struct.pack(">BxxxHH4sB", 2, 7, 0, b"Exif", 0))
        iinf = boxes(b"iinf", struct.pack(">IH", 0, 1) + infe)

        def meta(offset: int, iinf: bytes = iinf, inside: bool = inside) -> bytes:
            place = struct.pack(">BxxxHHHHHHII", 1, 0x4400, 1, 7, inside, 0, 1, offset, len(block))
            tail = boxes(b"idat", block) if inside else b""
            return boxes(b"meta", bytes(4) + iinf + boxes(b"iloc", place) + tail)

        head = boxes(b"ftyp", b"heic\0\0\0\0mif1heic")
        offset = 0 if inside else len(head) + len(meta(0)) + 8
        assert personal_metadata(head + meta(offset) + boxes(b"mdat", block)) == {"gps"}


# -------------------------------------------------------------------------------------------------------- hostile files


@settings(max_examples=300, deadline=500)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "JPEG2000"]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_damage_is_answered_quickly_and_without_a_word(kind: str, seed: int, cut: bool) -> None:
    data = bytearray(SEEDS[kind])
    generator = np.random.default_rng(seed)
    for place in generator.integers(0, len(data), 12):
        data[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, int(generator.integers(0, 256))])
    assert personal_metadata(bytes(data[: generator.integers(0, len(data))] if cut else data)) <= set(KINDS)


def _seed(kind: str) -> bytes:
    packet = XMP.format(attributes='exif:GPSLatitude="1"', elements="<dc:creator>Ada</dc:creator>").encode()
    block = exif(gps=GPS, Artist="Ada", exif={0xA431: "1", 0x9286: b"ASCII\0\0\0x"})
    options: dict[str, Any] = {
        "JPEG2000": {},
        "GIF": {"comment": b"hello"},
        "TIFF": {"exif": block},
        "PNG": {"exif": block},
    }
    return saved(kind, **options.get(kind, {"exif": block, "xmp": packet}))


SEEDS = {kind: _seed(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "JPEG2000")}


def test_bombs_loops_and_endless_counts_are_bounded() -> None:
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    huge = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 65535, 0x013B, 2, 2**32 - 1, 8) + b"\0" * 40
    bomb = zlib.compress(b"\0" * 50_000_000)
    chunk = b"zTXtAuthor\0\0" + bomb
    png = saved("PNG")
    png = png[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    regex = b"<a dc:creator" + b" " * 200_000 + b"=" + b" x:City " * 20_000
    for data in (segment(saved(), 0xE1, loop), segment(saved(), 0xE1, huge), png, saved(xmp=regex[:60_000]),
                 b"II*\0\x08\0\0\0" + regex, saved("WEBP", xmp=regex)):  # fmt: skip
        personal_metadata(data)


def test_blocks_made_to_be_slow_to_search_are_not() -> None:
    for block in (b":City " * 700_000, b":creator  =" * 350_000, b"a@a." * 1_000_000, b"a" * 4_000_000 + b"@"):
        found: set[str] = set()
        xmp(block, found)
        assert not found


def test_other_files_hold_nothing_that_is_looked_for() -> None:
    for data in (b"", b"no picture", saved("BMP"), saved("PPM")):
        assert personal_metadata(data) == frozenset()


@pytest.mark.data
def test_real_photographs_against_pillow(shared_data: Path) -> None:
    """Where Pillow's EXIF reader finds coordinates or a date, so does this one, and nowhere else."""
    seen = 0
    for path in sorted((shared_data / "photos" / "odd").iterdir()):
        try:
            with Image.open(path) as image:
                block = image.getexif()
                gps, inner = block.get_ifd(ExifTags.IFD.GPSInfo), block.get_ifd(ExifTags.IFD.Exif)
        except Exception:  # formats that Pillow does not read
            continue
        found = personal_metadata(path.read_bytes())
        if path.suffix in (".jpg", ".webp", ".avif"):
            assert ("gps" in found) == bool(gps.get(2) and gps.get(4)), path.name
            dates = (block.get(0x0132), inner.get(0x9003), inner.get(0x9004))
            if any(isinstance(date, str) and date.strip("\0 0:") for date in dates):
                assert "timestamp" in found, path.name
            seen += 1
    assert seen > 30
    assert (
        sum("gps" in personal_metadata(p.read_bytes()) for p in (shared_data / "photos" / "odd").glob("exif_gps*")) == 9
    )


@pytest.mark.data
def test_hostile_real_files_are_answered(shared_data: Path) -> None:
    for path in (shared_data / "hostile").rglob("*"):
        if path.is_file():
            assert personal_metadata(path.read_bytes()) <= set(KINDS)


# -------------------------------------------------------------------------------------------------------- the suite


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("photos/cat.jpg", set()), ("a@b", set()), ("cat@2x.png", set()), ("https://x.org/@user/1.jpg", set()),
        ("ada@example.org/1.jpg", {"email"}), ("mail ada.l+x@mail.example.co.uk!", {"email"}),
        ("/home/ada/1.jpg", {"home"}), ("C:\\Users\\Ada\\1.jpg", {"home"}), ("/Users/Shared/x/1.jpg", set()),
        ("homes/ada/1.jpg", set()), ("my/home/1.jpg", set()), ("https://ada:secret@x.org/1.jpg", {"credentials"}),
        ("file:///home/ada/1.jpg", {"home"}),
    ],
)  # fmt: skip
def test_texts_that_look_personal(text: str, kinds: set[str]) -> None:
    assert personal_text(text) == kinds


def check(metric: str, **fields: Any) -> SuiteCheck:
    return SuiteCheck(metric, "privacy", metric, op="<=", threshold=0.0, **fields)


def only(result: SuiteResult) -> Finding:
    assert len(result.findings) == 1
    return result.findings[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures: 0-2 with GPS, 2 also with an owner, 3 with a time, 4 and 5 with personal texts."""
    blocks = [exif(gps=GPS)] * 2 + [exif(gps=GPS, Artist="Ada"), exif(DateTime="2020:01:02 03:04:05")] + [exif()] * 4
    sources = [f"{n}.jpg" for n in range(4)] + ["/home/ada/4.jpg", "5.jpg", "6.jpg", "7.jpg"]
    samples = []
    for number, (block, source) in enumerate(zip(blocks, sources, strict=True)):
        file = io.BytesIO()
        draw(number, 24, 20).save(file, "JPEG", exif=block)
        columns: dict[str, Any] = {"label": "xy"[number % 2]}
        if number == 5:
            columns["notes"] = {"by": ["ada@example.org"]}
        samples.append((file.getvalue(), meta_of(file.getvalue(), source, columns)))
    shards_of(tmp_path / "set", stream_of(samples), maxcount=3)
    return tmp_path / "set"


def test_counts_shares_and_evidence(data: Path) -> None:
    wanted = {"gps": 3, "owner": 1, "timestamp": 1, "home_in_source": 1, "email_in_columns": 1, "any": 6, "person": 0,
              "gps_share": 3 / 8, "any_share": 0.75, "dropped_in_set": 0}  # fmt: skip
    result = audit_privacy([data], [check(metric) for metric in wanted])
    assert {finding.metric: finding.value for finding in result.findings} == wanted
    assert all(finding.n == 8 and finding.interval is None for finding in result.findings)
    with ShardSet.open(data) as shards:
        keys = [sample.key for sample in shards]
    assert [sample["key"] for sample in result.findings[0].evidence["samples"]] == keys[:3]
    assert result.data["columns"] == {"notes": 1}
    text = repr(result)
    assert "ada@example.org" not in text
    assert "/home/ada" not in text
    assert result.charts


def test_groups_are_columns(data: Path) -> None:
    found = audit_privacy([data], [check("gps", groups=("label",))]).findings
    assert [(finding.group, finding.value, finding.n) for finding in found] == [
        ({"label": "x"}, 2, 4), ({"label": "y"}, 1, 4),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no column 'colour'"):
        audit_privacy([data], [check("gps", groups=("colour",))])


def test_what_was_dropped_is_looked_for_in_other_sets(data: Path, tmp_path: Path) -> None:
    with ShardSet.open(data) as shards:
        copy = shards.read(6)
    shards_of(tmp_path / "other", stream_of([(copy.image, {**copy.meta, "source": "elsewhere.jpg"})]))
    assert only(audit_privacy([data, tmp_path / "other"], [check("dropped_in_set")])).value == 0
    drop_samples(data, [Entry("source", "6.jpg")])
    finding = only(audit_privacy([data, tmp_path / "other"], [check("dropped_in_set")]))
    assert finding.value == 1
    assert finding.evidence["samples"][0]["set"] == str(tmp_path / "other")


def test_what_was_dropped_is_looked_for_in_models(data: Path, tmp_path: Path) -> None:
    assert only(audit_privacy([data], [check("dropped_in_lineage")])).reason == (
        "no model, run or features were named (--artefact)"
    )
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "run.json", {"data": str(data), "index_sha256": sha256_file(data / "index.json")})
    assert only(audit_privacy([data], [check("dropped_in_lineage")], artefacts=[run])).value == 0
    drop_samples(data, [Entry("source", "6.jpg"), Entry("source", "7.jpg")])
    finding = only(audit_privacy([data], [check("dropped_in_lineage")], artefacts=[run]))
    assert finding.value == 2
    assert finding.group == {"model": f"run {run}"}
    assert len(finding.evidence["sets"][0]["keys"]) == 2
    write_json(run / "run.json", {"data": "gone", "index_sha256": "0" * 64})
    assert only(audit_privacy([data], [check("dropped_in_lineage")], artefacts=[run])).reason is not None
    with pytest.raises(UsageError, match="no groups"):
        audit_privacy([data], [check("dropped_in_lineage", groups=("label",))], artefacts=[run])


def test_bad_input_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to look at"):
        audit_privacy([], [])
    with pytest.raises(InputError, match="no such shard set"):
        audit_privacy([tmp_path / "nowhere"], [])
    (data / "shard-000001.tar").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"shard-000001\.tar"):
        audit_privacy([data], [])


@pytest.mark.parametrize("odd", [1, "x", ["x", 1], {"a": 1}, [{"sha256": 3}], None])
def test_odd_records_in_an_index_are_passed_over(data: Path, odd: Any) -> None:
    index = json.loads((data / "index.json").read_text())
    write_json(data / "index.json", {**index, "dropped": odd, "lineage": {"history": odd, "streams": odd}})
    checks = [check("dropped_in_set"), check("dropped_in_lineage")]
    assert audit_privacy([data], checks, artefacts=[data]).findings[0].value == 0
    write_json(data / "index.json", {**index, "lineage": odd})
    assert audit_privacy([data], checks, artefacts=[data]).findings[0].value == 0


def test_every_metric_can_be_asked_for(data: Path) -> None:
    result = audit_privacy([data], [check(metric) for metric in METRICS])
    assert [finding.metric for finding in result.findings] == list(METRICS)
    assert {f"{kind}_share" for kind in KINDS} <= set(METRICS)
