"""What a picture's file says about people: EXIF, XMP, IPTC and their like, read from the bytes, no pixel decoded.

Every format keeps them in blocks of its own; a block found is read by one of three small parsers (TIFF structure of
EXIF, text of XMP, records of IPTC). Files come from strangers: sizes, counts and loops are bounded, no XML parser is
involved, and what cannot be followed is left out without a word, as a viewer would do.

Sources: Exif 2.32 (CIPA DC-008), IPTC IIM 4.2, XMP part 3 (Adobe 2016), PNG 3rd edition, ISO/IEC 23008-12 (HEIF).
"""

from __future__ import annotations

import binascii
import contextlib
import re
import struct
import zlib
from collections.abc import Callable

from seerctl.sources.boxes import MAX_STEPS as _MAX_STEPS
from seerctl.sources.boxes import boxes, heif_items, heif_places
from seerctl.sources.magic import IMAGE_EXTENSIONS, detect

KINDS: dict[str, str] = {
    "gps": "coordinates",
    "place": "names of places",
    "person": "names or faces of people",
    "owner": "photographer, owner or holder of rights",
    "serial_number": "serial numbers of camera or lens",
    "timestamp": "times",
    "thumbnail": "an embedded thumbnail, perhaps of the picture before it was cropped",
    "email": "e-mail addresses",
    "comment": "free text",
    "maker_note": "a maker's own notes, which may hold any of these",
}
_EMAIL = re.compile(rb"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,24})")
_MAX_BLOCK = 1 << 22  # bytes of one block that are looked at
_MAX_TAGS = 4096
_MAX_TRIES = 2000  # places of one block at which a value is looked for
_MAX_PICTURES = 16  # in one file, as a phone's MPO holds several
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}

# Tags of IFD0 and the Exif IFD.
_TAGS: dict[int, str] = {
    0x013B: "owner", 0x8298: "owner", 0x9C9D: "owner", 0xA430: "owner", 0xA437: "owner", 0xA438: "owner",
    0xA431: "serial_number", 0xA435: "serial_number", 0xC62F: "serial_number",
    0x0132: "timestamp", 0x9003: "timestamp", 0x9004: "timestamp",
    0x010E: "comment", 0x9286: "comment", 0x9C9B: "comment", 0x9C9C: "comment", 0x9C9E: "comment", 0x9C9F: "comment",
    0x927C: "maker_note",
}  # fmt: skip
_POINTERS = {0x8769: "exif", 0x8825: "gps", 0x014A: "sub"}
_GPS: dict[int, str] = {2: "gps", 4: "gps", 20: "gps", 22: "gps", 28: "place", 7: "timestamp", 29: "timestamp"}
_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG = 0x02BC, 0x83BB, 0x8649
_XMP_NAMES: dict[str, tuple[str, ...]] = {
    "gps": ("GPSLatitude", "GPSLongitude", "GPSDestLatitude", "GPSDestLongitude"),
    "place": ("City", "Location", "Sublocation", "State", "ProvinceState", "Country", "CountryName", "LocationCreated",
              "LocationShown"),
    "person": ("PersonInImage", "PersonInImageWDetails", "PersonDisplayName", "PersonName"),
    "owner": ("creator", "Creator", "rights", "OwnerName", "CameraOwnerName", "Owner", "Artist", "Copyright", "Author",
              "AuthorsPosition", "CreatorContactInfo", "CaptionWriter", "Photographer"),
    "serial_number": ("SerialNumber", "BodySerialNumber", "LensSerialNumber", "CameraSerialNumber"),
    "timestamp": ("CreateDate", "ModifyDate", "MetadataDate", "DateCreated", "DateTimeOriginal", "DateTimeDigitized",
                  "DateTime", "GPSTimeStamp"),
    "thumbnail": ("Thumbnails",),
    "comment": ("description", "title", "UserComment", "Headline", "ImageDescription"),
}  # fmt: skip
_XMP_KIND = {name: kind for kind, names in _XMP_NAMES.items() for name in names}
_XMP = re.compile(rb":(" + b"|".join(name.encode() for name in sorted(_XMP_KIND, key=len, reverse=True)) + rb")[\s=>]")
_VALUE = re.compile(rb"\s{0,9}=\s{0,9}[\"'][^\"'<>]|(?:\s[^<>]{0,300})?(?<!/)>\s{0,999}(?:[^<\s]|<rdf:)")
_FACE = re.compile(rb"mwg-rs:Type(?:\s{0,9}=\s{0,9}[\"']|>\s{0,9})Face")
_IPTC: dict[int, str] = {
    80: "owner", 85: "owner", 110: "owner", 116: "owner", 118: "owner", 122: "owner", 90: "place", 92: "place",
    95: "place", 101: "place", 26: "place", 27: "place", 55: "timestamp", 60: "timestamp", 62: "timestamp",
    63: "timestamp", 105: "comment", 120: "comment",
}  # fmt: skip
_PNG_TEXT: dict[bytes, str] = {
    b"Author": "owner", b"Copyright": "owner", b"Creation Time": "timestamp", b"Title": "comment",
    b"Description": "comment", b"Comment": "comment",
}  # fmt: skip
_EXIF_HEAD, _XMP_HEAD = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
_BROKEN = (struct.error, IndexError, ValueError, OverflowError, zlib.error)


def personal_metadata(data: bytes) -> frozenset[str]:
    """Which of `KINDS` the file's bytes hold; nothing is raised for damage."""
    found: set[str] = set()
    kind = detect(data)
    walk = _WALKS.get("" if kind is None else kind.name)
    if walk is not None:
        with contextlib.suppress(*_BROKEN):
            walk(data, found)
    return frozenset(found)


def holds_email(text: bytes) -> bool:
    """Whether an e-mail address stands in `text`; icon@2x.png is none."""
    at = text.find(b"@")
    for _ in range(_MAX_TRIES):
        if at < 0:
            return False
        for match in _EMAIL.finditer(text[max(0, at - 64) : at + 600]):
            if match[1].decode().lower() not in IMAGE_EXTENSIONS:
                return True
        at = text.find(b"@", at + 1)
    return False


# -------------------------------------------------------------------------------------------------------- containers


def _jpeg(data: bytes, found: set[str]) -> None:
    """Segments up to the first scan, of every picture in the file: an MPO holds several, each with its own EXIF."""
    start = 0
    for _ in range(_MAX_PICTURES):
        at = _jpeg_segments(data, start + 2, found)
        start = data.find(b"\xff\xd8\xff", at)
        if start < 0:
            return


def _jpeg_segments(data: bytes, at: int, found: set[str]) -> int:
    photoshop, more = b"", b""
    for _ in range(_MAX_STEPS):
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] in (0xDA, 0xD9):
            break
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and body.startswith(_EXIF_HEAD):
            exif(body[6:], found)
        elif marker == 0xE1 and body.startswith(_XMP_HEAD):
            xmp(body[len(_XMP_HEAD) :], found)
        elif marker == 0xE1 and body.startswith(_XMP_MORE) and len(more) < _MAX_BLOCK:
            more += body[len(_XMP_MORE) + 40 :]
        elif marker == 0xED and body.startswith(b"Photoshop 3.0\0") and len(photoshop) < _MAX_BLOCK:
            photoshop += body[14:]
        elif marker == 0xE0 and (body.startswith(b"JFXX\0") or (body.startswith(b"JFIF\0") and any(body[12:14]))):
            found.add("thumbnail")
        elif marker == 0xFE:
            _comment(body, found)
        at += 2 + max(length, 2)
    photoshop_resources(photoshop, found)
    xmp(more, found)
    return at


def _png(data: bytes, found: set[str]) -> None:
    at = 8
    for _ in range(_MAX_STEPS):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + min(length, _MAX_BLOCK)]
        if name == b"eXIf":
            exif(body, found)
        elif name == b"tIME":
            found.add("timestamp")
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            with contextlib.suppress(*_BROKEN):
                _png_text(name, body, found)
        elif name == b"IEND":
            return
        at += 12 + length


def _png_text(name: bytes, body: bytes, found: set[str]) -> None:
    keyword, _, rest = body.partition(b"\0")
    if name == b"zTXt":
        rest = _inflate(rest[1:])
    elif name == b"iTXt":
        packed, parts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
        rest = _inflate(parts[2]) if packed else parts[2]
    if keyword == b"XML:com.adobe.xmp":
        xmp(rest, found)
    elif keyword.startswith(b"Raw profile type "):
        _raw_profile(keyword[17:], rest, found)
    elif rest.strip(b"\0 \r\n"):
        local = keyword.rpartition(b":")[2].decode("latin-1")  # ImageMagick: exif:GPSLatitude, date:create
        kind = "timestamp" if keyword.startswith(b"date:") else _PNG_TEXT.get(keyword) or _XMP_KIND.get(local)
        if kind:
            found.add(kind)
        _emails(rest, found)


def _raw_profile(kind: bytes, text: bytes, found: set[str]) -> None:
    """ImageMagick's way: a name, a length, and the block in hexadecimal."""
    block = binascii.unhexlify(b"".join(text.split()[2:] if text.strip() else ()))
    if block.startswith(_EXIF_HEAD):
        exif(block[6:], found)
    elif kind in (b"iptc", b"8bim"):
        photoshop_resources(block.removeprefix(b"Photoshop 3.0\0"), found)
    elif kind == b"xmp" or block.startswith(_XMP_HEAD):
        xmp(block, found)
    elif kind == b"exif":
        exif(block, found)


def _inflate(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MAX_BLOCK)


def _webp(data: bytes, found: set[str]) -> None:
    at = 12
    for _ in range(_MAX_STEPS):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + min(length, _MAX_BLOCK)]
        if name == b"EXIF":
            exif(body.removeprefix(_EXIF_HEAD), found)
        elif name == b"XMP ":
            xmp(body, found)
        at += 8 + length + length % 2


def _gif(data: bytes, found: set[str]) -> None:
    flags = data[10]
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(_MAX_STEPS):
        if data[at] == 0x21:
            label = data[at + 1]
            text, after = _sub_blocks(data, at + 2)
            if label == 0xFE:
                _comment(text, found)
            elif label == 0xFF and text.startswith(b"XMP DataXMP"):
                end = data.find(b"<?xpacket end", at)
                xmp(data[at + 14 : end if end > 0 else at + _MAX_BLOCK], found)
                after = max(after, end)
            at = after
        elif data[at] == 0x2C:
            local = data[at + 9]
            at += 10 + (3 << (local & 7) + 1 if local & 0x80 else 0) + 1
            _, at = _sub_blocks(data, at)
        else:
            return


def _sub_blocks(data: bytes, at: int) -> tuple[bytes, int]:
    """The start of what is in a chain of blocks, and where it ends."""
    pieces: list[bytes] = []
    while length := data[at]:
        if len(pieces) < 256:
            pieces.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return b"".join(pieces), at + 1


_UUIDS: dict[bytes, str] = {
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp",
    b"JpgTiffExif->JP2": "exif",
    bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"): "iptc",
    bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"): "geo",
}


def _jpeg2000(data: bytes, found: set[str]) -> None:
    for name, begin, end in boxes(data, 0, len(data)):
        body = data[begin : min(end, begin + _MAX_BLOCK)]
        if name == b"xml ":
            xmp(body, found)
        elif name == b"uuid":
            kind = _UUIDS.get(body[:16])
            if kind == "geo":
                found.add("gps")
            elif kind is not None:
                {"xmp": xmp, "exif": exif, "iptc": iptc}[kind](body[16:], found)


def _heif(data: bytes, found: set[str]) -> None:
    """Items of the types Exif and mime (XMP), wherever `iloc` says that they lie."""
    for name, begin, end in boxes(data, 0, len(data)):
        if name == b"meta":
            _heif_meta(data, begin + 4, end, found)


def _heif_meta(data: bytes, begin: int, end: int, found: set[str]) -> None:
    parts = {name: (start, stop) for name, start, stop in boxes(data, begin, end)}
    if b"iinf" not in parts or b"iloc" not in parts:
        return
    items = heif_items(data, *parts[b"iinf"])
    base = parts.get(b"idat", (0, 0))[0]
    for item, extents in heif_places(data, *parts[b"iloc"]):
        kind = items.get(item)
        if kind is None:
            continue
        block = b""
        for inside, offset, length in extents:
            start = offset + (base if inside else 0)
            block += data[start : start + min(length or _MAX_BLOCK, _MAX_BLOCK)]
        if kind == b"Exif" and len(block) > 4:
            exif(block[4 + int.from_bytes(block[:4], "big") :].removeprefix(_EXIF_HEAD), found)
        elif kind == b"mime":
            xmp(block, found)


def _tiff(data: bytes, found: set[str]) -> None:
    exif(data, found, file=True)


_WALKS: dict[str, Callable[[bytes, set[str]], None]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "TIFF": _tiff, "AVIF": _heif, "HEIF": _heif,
    "JPEG2000": _jpeg2000,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ blocks


def exif(data: bytes, found: set[str], *, file: bool = False) -> None:
    """Kinds in an EXIF block, which is a small TIFF; `file`: it is a TIFF picture, whose second IFD is another page."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return
    waiting = [("main", struct.unpack_from(order + "I", data, 4)[0])]
    seen: set[int] = set()
    budget = _MAX_TAGS
    while waiting and budget > 0:
        place, start = waiting.pop()
        if start in seen or not 8 <= start < len(data):
            continue
        seen.add(start)
        with contextlib.suppress(*_BROKEN):
            (count,) = struct.unpack_from(order + "H", data, start)
            count = min(count, budget)
            budget -= count
            for entry in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, number, value = struct.unpack_from(order + "HHI4s", data, entry)
                size = _SIZES.get(kind, 0) * number
                body = value[:size] if size <= 4 else _slice(data, struct.unpack(order + "I", value)[0], size)
                if place != "gps" and tag in _POINTERS and body:
                    for at in range(0, min(len(body), 64), 4):
                        waiting.append((_POINTERS[tag], struct.unpack_from(order + "I", body, at)[0]))
                _tag(place, tag, body, found)
            if place == "main":
                (following,) = struct.unpack_from(order + "I", data, start + 2 + 12 * count)
                if following:
                    waiting.append(("main" if file else "thumbnail", following))


def _slice(data: bytes, start: int, size: int) -> bytes:
    return data[start : start + min(size, _MAX_BLOCK)] if 0 < start < len(data) else b""


def _tag(place: str, tag: int, body: bytes, found: set[str]) -> None:
    if not body.strip(b"\0 "):
        return
    if place == "gps":
        kind = _GPS.get(tag)
    elif place == "thumbnail":
        kind = "thumbnail" if tag in (0x0111, 0x0201) else None
    else:
        kind = _TAGS.get(tag)
        if tag == _XMP_TAG:
            xmp(body, found)
        elif tag == _IPTC_TAG:
            iptc(body, found)
        elif tag == _PHOTOSHOP_TAG:
            photoshop_resources(body, found)
    if tag == 0x9286:  # a user's comment begins with the name of its character set
        body = body[8:]
    if kind is None or (kind == "timestamp" and not body.strip(b"\0 0:")) or not body.strip(b"\0 "):
        return
    found.add(kind)
    if kind in ("owner", "comment"):
        _emails(body, found)


def xmp(data: bytes, found: set[str]) -> None:
    """Kinds in an XMP packet: names of properties that have a value, in whatever namespace prefix."""
    data = _narrow(data[:_MAX_BLOCK])
    tries = _MAX_TRIES
    for match in _XMP.finditer(data):
        kind = _XMP_KIND[match[1].decode()]
        if kind not in found:
            tries -= 1
            if _VALUE.match(data, match.end(1)):
                found.add(kind)
            if not tries:
                break
    if _FACE.search(data):
        found.add("person")
    if b"xmpGImg:image" in data:
        found.add("thumbnail")
    _emails(data, found)


def _narrow(data: bytes) -> bytes:
    """UTF-16 and UTF-32 packets as UTF-8."""
    head = data[:64]
    if b"\0" not in head:
        return data
    wide = 4 if b"\0\0\0" in head else 2
    big = head[:1] in (b"\0", b"\xfe")
    name = f"utf-{8 * wide}-{'be' if big else 'le'}"
    return data[: len(data) // wide * wide].decode(name, "replace").encode("utf-8", "replace")


def iptc(data: bytes, found: set[str]) -> None:
    """Kinds in the records of an IPTC IIM block."""
    at = 0
    for _ in range(_MAX_TAGS):
        if at + 5 > len(data) or data[at] != 0x1C:
            return
        record, dataset, length = data[at + 1], data[at + 2], int.from_bytes(data[at + 3 : at + 5], "big")
        at += 5
        if length & 0x8000:
            width = length & 0x7FFF
            length = int.from_bytes(data[at : at + min(width, 8)], "big")
            at += width
        body = data[at : at + min(length, _MAX_BLOCK)]
        if record == 2 and dataset in _IPTC and body.strip(b"\0 "):
            found.add(_IPTC[dataset])
            _emails(body, found)
        at += length


def photoshop_resources(data: bytes, found: set[str]) -> None:
    """Kinds in Photoshop's image resources: IPTC, EXIF, XMP and thumbnails inside them."""
    at = 0
    for _ in range(_MAX_TAGS):
        if data[at : at + 4] != b"8BIM":
            return
        number, name = int.from_bytes(data[at + 4 : at + 6], "big"), data[at + 6 : at + 7]
        at += 6 + (1 + (name[0] if name else 0) + 1) // 2 * 2
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 4 + min(size, _MAX_BLOCK)]
        if number == 0x0404:
            iptc(body, found)
        elif number in (0x0409, 0x040C):
            found.add("thumbnail")
        elif number in (0x0422, 0x0423):
            exif(body, found)
        elif number == 0x0424:
            xmp(body, found)
        at += 4 + size + size % 2


def _comment(text: bytes, found: set[str]) -> None:
    if text.strip(b"\0 \r\n"):
        found.add("comment")
        _emails(text, found)


def _emails(text: bytes, found: set[str]) -> None:
    if holds_email(text):
        found.add("email")
