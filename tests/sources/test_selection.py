"""What is let through: parts, conditions, countries, exact duplicates; counted, listed, and the same at any --jobs."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seerctl.errors import InputError, UsageError
from seerctl.sources.countries import CountryFilter
from seerctl.sources.ingest import IngestOptions
from seerctl.sources.selection import Part, SelectionOptions
from seerctl.sources.transform import Resize, Treatment
from seerctl.sources.where import parse_conditions
from seerctl.stream.reader import read_streams
from seerctl.stream.records import StreamEnd
from tests.sources.test_ingest import records, run


def choosing(*where: str, **options: Any) -> dict[str, Any]:
    conditions = parse_conditions(where)
    return {
        "selection": SelectionOptions(tuple(one for one in conditions if not one.fact), **options),
        "treatment": Treatment(tuple(one for one in conditions if one.fact)),
    }


def sources(stream: bytes) -> set[str]:
    return {record.meta["source"] for record in records(stream)}


def test_conditions_on_columns_and_facts(folder: Path) -> None:
    stream, report, rejects = run(folder, **choosing("label in a, b", "format != WEBP"), max_reject_rate=0.0)
    assert {record.meta["columns"]["label"] for record in records(stream)} == {"a", "b"}
    assert {record.meta["format"] for record in records(stream)} == {"JPEG", "PNG"}
    assert (report.rejected, report.over_limit, set(report.rejects)) == (0, False, {"where"})
    assert {reject["detail"] for reject in rejects} == {"label in a, b", "format != WEBP"}
    (end,) = [item for item in read_streams(io.BytesIO(stream), "s") if isinstance(item, StreamEnd)]
    assert end.start["options"]["where"] == ["label in a, b", "format != WEBP"]


def test_columns_are_judged_before_anything_is_read(folder: Path) -> None:
    (folder / "c" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert run(folder, **choosing("label != c"))[1].rejects == {"where": 9}
    assert run(folder, **choosing("bytes > 30"))[1].rejects == {"damaged": 1}
    assert run(folder, **choosing("source startswith a/"))[1].samples == 8


def test_a_column_that_nobody_has_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"24 where\)\. No source has a column 'lable'"):
        run(folder, **choosing("lable = a"))


def test_countries(folder: Path) -> None:
    rows = ["path,country", "a/000.jpg,France", "b/001.png,US", "c/002.webp,", "a/003.jpg,Mars", "b/004.jpg,NO"]
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    for name, keep, stay, counts in (
        ("@eu", False, {"b/001.png", "b/004.jpg"}, {"country": 1, "country-unknown": 2}),
        ("@eea", False, {"b/001.png"}, {"country": 2, "country-unknown": 2}),
        ("@eu", True, {"b/001.png", "b/004.jpg", "c/002.webp", "a/003.jpg"}, {"country": 1}),
    ):
        chosen = CountryFilter.load(name, "country", keep_unknown=keep)
        stream, report, rejects = run(folder / "t.csv", selection=SelectionOptions(countries=chosen))
        assert sources(stream) == stay
        assert (report.rejects, report.rejected) == (counts, 0)
        assert rejects[0]["detail"] == "FR"


@pytest.mark.parametrize("count", [1, 3, 7, 40])
def test_parts_are_the_whole_once(folder: Path, count: int) -> None:
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (folder / "notes.txt").write_bytes(b"text")
    whole = run(folder)
    parts = [run(folder, selection=SelectionOptions(part=Part(i, count))) for i in range(1, count + 1)]
    found = list(itertools.chain.from_iterable(records(part[0]) for part in parts))
    assert sorted(record.raw for record in found) == sorted(record.raw for record in records(whole[0]))
    assert sum(part[1].rejects.get("damaged", 0) for part in parts) == 1
    assert sum(part[1].rejects.get("ignored", 0) for part in parts) == 1
    joined = b"".join(part[0] for part in parts)  # streams concatenate
    assert sum(isinstance(item, StreamEnd) for item in read_streams(io.BytesIO(joined), "s")) == count
    assert b"part" not in parts[0][0][:2048]


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "a/b", "1/0", "-1/3", "1/3/5"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="--part"):
        Part.parse(text)


def doubled(folder: Path) -> list[tuple[str, str]]:
    """(copy, original) of planted copies, and a file whose pixels but not whose bytes are the same."""
    pairs = []
    for number in range(0, 24, 5):
        original = next(folder.rglob(f"{number:03d}.*"))
        copy = folder / "z" / f"copy-{original.name}"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(original, copy)
        pairs.append((str(copy.relative_to(folder)), str(original.relative_to(folder))))
    with Image.open(folder / "b" / "001.png") as image:
        image.save(folder / "z" / "other-bytes.png", compress_level=1)
    return pairs


def test_exact_duplicates_the_first_stays(folder: Path) -> None:
    plain, pairs = run(folder)[0], doubled(folder)
    stream, report, rejects = run(folder, dedup=True, max_reject_rate=0.0)
    assert sources(stream) == sources(plain) | {"z/other-bytes.png"}
    assert (report.rejects, report.rejected) == ({"duplicate": 5}, 0)
    keys = {record.meta["source"]: record.key for record in records(stream)}
    expected = {copy: f"same bytes as {keys[original]}" for copy, original in pairs}
    assert {reject["source"]: reject["detail"] for reject in rejects} == expected
    (end,) = [item for item in read_streams(io.BytesIO(stream), "s") if isinstance(item, StreamEnd)]
    assert end.samples == len(keys)


def test_the_same_bytes_at_any_jobs(folder: Path) -> None:
    doubled(folder)
    for number in range(200):  # several batches
        shutil.copy(folder / "a" / ("000.jpg", "003.jpg")[number % 2], folder / "c" / f"x{number:03d}.jpg")
    options: dict[str, Any] = {
        "dedup": True,
        "selection": SelectionOptions(parse_conditions(["label != b"]), part=Part(1, 2)),
        "treatment": Treatment(parse_conditions(["bytes > 10"]), resize=Resize("short", 24), strip=True),
    }
    first = run(folder, jobs=1, **options)
    assert 0 < first[1].samples < 20
    assert first[1].rejects["duplicate"] > 50
    for jobs in (2, 3):
        again = run(folder, jobs=jobs, **options)
        assert again[0] == first[0]
        assert again[2] == first[2]


def test_what_was_changed_says_what_it_was(folder: Path) -> None:
    treatment = Treatment(resize=Resize("short", 20), strip=True)
    stream, _, _ = run(folder, treatment=treatment)
    for record in records(stream):
        original = (folder / record.meta["source"]).read_bytes()
        assert record.meta["orig_sha256"] == hashlib.sha256(original).hexdigest()
        assert record.meta["sha256"] == hashlib.sha256(record.image).hexdigest()
        assert (record.meta["width"], record.meta["height"]) == (24, 20)
        assert (record.meta["orig_width"], record.meta["orig_height"], record.meta["orig_bytes"]) == (
            48, 40, len(original),
        )  # fmt: skip
    untouched = run(folder, treatment=Treatment(resize=Resize("short", 40)))[0]
    assert all("orig_sha256" not in record.meta for record in records(untouched))
    assert json.loads(json.dumps(IngestOptions(treatment=treatment).recorded()))["resize"]["side"] == 20


@pytest.mark.data
def test_hostile_files_meet_every_option(shared_data: Path) -> None:
    """Each is a sample or a named reject when resized and stripped, too; nothing hangs or dies."""
    files = shared_data / "hostile" / "files"
    treatment = Treatment(resize=Resize("square", 64), strip=True)
    stream, report, rejects = run(files, treatment=treatment, dedup=True, max_reject_rate=1.0)
    names = [record.meta["source"] for record in records(stream)] + [reject["source"] for reject in rejects]
    assert sorted(names) == sorted(path.name for path in files.iterdir())
    assert report.samples > 100
    assert not {"timeout", "crashed"} & set(report.rejects)
