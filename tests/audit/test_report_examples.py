"""Pictures of the worst-off rows: the right ones, small, without metadata, and only when asked."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seerctl.audit.examples import MOST, NOTHING, SIZE, thumbnail, worst_examples, worst_rows
from seerctl.audit.fairness import audit_fairness
from seerctl.audit.policy import load_policy
from seerctl.audit.report import html, save
from seerctl.errors import InputError, UsageError
from seerctl.predictions import read_predictions
from seerctl.shards.index import ShardSet
from tests.pictures import draw

POLICY = '[[check]]\nid = "accuracy"\nmetric = "accuracy"\nmin_n = 5\n[stats]\ncorrection = "none"\n'


@pytest.fixture
def audited(tmp_path: Path, seerctl: Callable[..., Any]) -> tuple[Path, Path, Path]:
    """(predictions, policy, shards): 80 pictures with GPS in their EXIF; of group b, most answers are wrong."""
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    exif[0x010E] = "a secret description"
    rows = ["path,label,group"]
    for number in range(80):
        path = tmp_path / "photos" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        draw(number, 200, 120).save(path, quality=90, exif=exif)
        rows.append(f"photos/{number:02d}.jpg,{'cat' if number % 4 < 2 else 'dog'},{'ab'[number % 2]}")
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    assert seerctl("ingest", tmp_path / "photos.csv", "-o", tmp_path / "s.tar").exit_code == 0
    assert seerctl("shard", tmp_path / "s.tar", "-o", tmp_path / "shards").exit_code == 0
    lines = ["key,label,prediction,score,group"]
    with ShardSet.open(tmp_path / "shards") as shards:
        for position, sample in enumerate(shards):
            columns = sample.meta["columns"]
            other = {"cat": "dog", "dog": "cat"}[columns["label"]]
            wrong = columns["group"] == "b" and position % 5 != 0
            said = other if wrong else columns["label"]
            lines.append(f"{sample.key},{columns['label']},{said},{position / 100},{columns['group']}")
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "audit.toml").write_text(POLICY)
    return tmp_path / "p.csv", tmp_path / "audit.toml", tmp_path / "shards"


def test_the_surest_mistakes_of_the_worst_group(audited: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, policy, shards = audited
    loaded = load_policy(policy)
    report = audit_fairness(predictions, loaded, ["group"])
    assert report["verdict"] == "FAIL"
    table = read_predictions(predictions)
    rows = worst_rows(report, table, 6)
    wrong = {row for row in range(len(table)) if table.label[row] != table.prediction[row]}
    surest = sorted(wrong, key=lambda row: -table.score[row])[:6]
    assert {row for row, _ in rows} == set(surest)
    found = worst_examples(report, predictions, loaded.policy, [shards], 6)
    assert [example.key for example in found] == [table.keys[row] for row, _ in rows]
    with ShardSet.open(shards) as images:
        stored = {sample.key: sample.image for sample in images}
    for example in found:
        assert example.group == "group b"
        assert example.label != example.prediction
        kind, data = example.uri.split(",")
        assert kind == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (picture.width, picture.height) == (example.width, example.height) == (SIZE, 58)
        assert not picture.getexif()
        assert b"secret" in stored[example.key]
        assert b"secret" not in base64.b64decode(data)
        original = Image.open(io.BytesIO(stored[example.key])).convert("RGB").resize(picture.size)
        difference = sum(abs(a - b) for a, b in zip(original.tobytes(), picture.convert("RGB").tobytes(), strict=True))
        assert difference / len(original.tobytes()) < 12  # the right picture
    save(report, tmp_path / "out", found)
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(example.uri in page and example.key in page for example in found)
    assert "data:image" not in (tmp_path / "out" / "report.json").read_text()
    assert "data:image" not in html(report)
    assert table.keys[0] not in html(report)  # aggregates only


def test_keys_that_no_shard_set_has(audited: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, policy, shards = audited
    loaded = load_policy(policy)
    table = tmp_path / "other.csv"
    header, *lines = predictions.read_text().splitlines()
    table.write_text("\n".join([header, *(f"other-{line}" for line in lines)]) + "\n")
    report = audit_fairness(table, loaded, ["group"])
    with pytest.raises(InputError, match="none of the worst-off rows is here, such as 'other-"):
        worst_examples(report, table, loaded.policy, [shards], 3)
    with pytest.raises(UsageError, match=f"more than {MOST}"):
        worst_examples(report, table, loaded.policy, [shards], MOST + 1)
    with pytest.raises(InputError, match="no such shard set"):
        worst_examples(report, table, loaded.policy, [tmp_path / "none"], 3)


def test_binned_groups_and_a_report_without_mistakes(audited: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, _, shards = audited
    header, *lines = predictions.read_text().splitlines()
    ages = [f"{line},{10 + number}" for number, line in enumerate(lines)]
    (tmp_path / "aged.csv").write_text("\n".join([f"{header},age", *ages]) + "\n")
    policy = tmp_path / "aged.toml"
    policy.write_text(POLICY + '[[bin]]\ncolumn = "age"\nedges = [40.0]\nlabels = ["young", "old"]\n')
    loaded = load_policy(policy)
    report = audit_fairness(tmp_path / "aged.csv", loaded, ["age"])
    found = worst_examples(report, tmp_path / "aged.csv", loaded.policy, [shards], 4)
    assert {example.group for example in found} <= {"age young", "age old"}
    assert len(found) == 4
    cells = [line.split(",") for line in lines]
    right = "\n".join([header, *(",".join([*row[:2], row[1], *row[3:]]) for row in cells)])
    (tmp_path / "right.csv").write_text(right + "\n")
    report = audit_fairness(tmp_path / "right.csv", loaded_without_bins(tmp_path), ["group"])
    assert worst_examples(report, tmp_path / "right.csv", loaded.policy, [shards], 4) == []


def loaded_without_bins(where: Path) -> Any:
    return load_policy(where / "audit.toml")


def test_the_command_shows_them_when_asked(
    audited: tuple[Path, Path, Path], tmp_path: Path, seerctl: Callable[..., Any]
) -> None:
    predictions, policy, shards = audited
    command = ["audit", "--fairness", "--predictions", predictions, "--policy", policy, "--groups", "group"]
    done = seerctl(*command, "--examples", 3, "--data", shards, "-o", tmp_path / "out")
    assert done.exit_code == 3, done.stderr
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg") == 3
    for arguments, said in (
        (("--examples", 3, "-o", tmp_path / "new"), "--data SET"),
        (("--examples", 3, "--data", shards), "-o DIR"),
        (("--examples", 1000, "--data", shards, "-o", tmp_path / "new"), "1<=x<=100"),
        (("--data", shards, "-o", tmp_path / "new"), "--data is not read by --fairness"),
    ):
        done = seerctl(*command, *arguments)
        assert (done.exit_code, said in done.stderr + str(done.exception)) == (2, True), (arguments, done.stderr)
        assert not (tmp_path / "new").exists()


def test_damaged_pictures_have_no_thumbnail() -> None:
    assert thumbnail(b"\xff\xd8\xff nothing") == NOTHING
    assert thumbnail(b"") == NOTHING
    uri, width, height = thumbnail(png(draw(1, 20, 400)))
    assert uri.startswith("data:image/jpeg;base64,")
    assert (width, height) == (5, SIZE)


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()
