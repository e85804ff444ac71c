"""Words: tags as people write them, embeddings by hand, planted translations, groups, the map, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seerctl.columns import columns_from_rows
from seerctl.errors import InputError, UsageError
from seerctl.probes.registry import run_protocol
from seerctl.probes.tags import Tag, normal, read_tags, split_tags
from seerctl.probes.words import load_words, word_map, words
from tests.feature_files import write_features

ENGLISH, GREEK = ("dog", "cat", "sun", "sea"), ("σκύλος", "γάτα", "ήλιος", "θάλασσα")


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("#Dog #cat", ["dog", "cat"]),
        ("#dog#cat", ["dog", "cat"]),
        ("dog, cat;dog|sea", ["dog", "cat", "sea"]),
        ('["New York", "Straße", 7]', ["new york", "strasse", "7"]),
        ("[broken", ["[broken"]),
        ("ＣＡＦÉ", ["café"]),
        ("cafe\u0301", ["café"]),
        ("  # , ", []),
    ],
)
def test_tags_as_people_write_them(text: str, tags: list[str]) -> None:
    assert split_tags(text) == tags


def test_a_separator_keeps_spaces() -> None:
    assert split_tags("New York/Sea Side", "/") == ["new york", "sea side"]
    assert normal("#ΓΆΤΑ ") == "γάτα"


def test_embeddings_are_means_of_unit_features() -> None:
    features = np.array([[2.0, 0], [0, 5], [3, 4], [1, 0]], np.float32)
    column = columns_from_rows([{"t": "a b"}, {"t": "a"}, {"t": "b"}, {}])["t"]
    tagged = read_tags(column, ["en", "en", "fr", "en"], 1)
    assert tagged.tags == (Tag("a", "en"), Tag("b", "en"), Tag("b", "fr"))
    assert tagged.counts.tolist() == [2, 1, 1]
    np.testing.assert_allclose(tagged.embed(features), [[0.5, 0.5], [1, 0], [0.6, 0.8]], rtol=1e-6)
    assert read_tags(column, ["en"] * 4, 2).tags == (Tag("a", "en"), Tag("b", "en"))


def bilingual(where: Path, rows: int = 400, **changes: object) -> Path:
    """Pictures of four things, their tags in English or Greek, and a noise tag on some."""
    generator = np.random.default_rng(0)
    centres = np.random.default_rng(99).normal(size=(4, 12))
    things = generator.integers(0, 4, rows)
    points = centres[things] + 0.6 * generator.normal(size=(rows, 12)) + 4  # far from the origin: centring matters
    languages = np.array(["en", "el"])[generator.integers(0, 2, rows)]
    tags = [
        f"#{(ENGLISH if language == 'en' else GREEK)[thing]}" + (" #photo" if row % 9 == 0 else "")
        for row, (thing, language) in enumerate(zip(things, languages, strict=True))
    ]
    return write_features(where, points.astype(np.float32), {"tags": tags, "lang": languages.tolist()}, **changes)


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("tag,other\n" + "".join(f"{a},{b}\n" for a, b in zip(ENGLISH, GREEK, strict=True)))
    return path


def test_translations_are_found_by_sight(tmp_path: Path, dictionary: Path) -> None:
    task = load_words(bilingual(tmp_path / "f.h5"), "tags", language="lang", dictionary=dictionary)
    result = words(task, k=5)
    metrics = result.report["metrics"]
    assert metrics["translation_r1"]["value"] == 1.0
    assert metrics["translation_r1"]["n"] == 4
    assert metrics["translation_r1"]["low"] < 0.6  # four pairs prove little
    assert metrics["split_half"]["value"] >= 0.8
    by_tag = {word["tag"]: word for word in result.words if word["tag"] != "photo"}
    for one, other in zip(ENGLISH, GREEK, strict=True):
        assert by_tag[one]["across"][0]["tag"] == normal(other)
        assert by_tag[one]["group"] == by_tag[normal(other)]["group"]
        assert {near["language"] for near in by_tag[one]["nearest"]} == {"en"}
    assert result.report["tags_by_language"] == {"en": 5, "el": 5}
    result.save_words(tmp_path / "w.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["tag"] for line in lines] == [tag.text for tag in result.tags]


def test_languages_from_a_file(tmp_path: Path) -> None:
    file, languages = bilingual(tmp_path / "f.h5"), tmp_path / "languages.json"
    languages.write_text(json.dumps({**dict.fromkeys(ENGLISH, "en"), **dict.fromkeys(GREEK, "el")}))
    report = run_protocol("words", {"test": file}, "tags", {"languages": str(languages)}).report
    assert report["tags_by_language"] == {"en": 4, "el": 4, "": 1}
    assert "1 of 9 tags have no language" in report["warnings"][0]
    plain = run_protocol("words", {"test": file}, "tags").report
    assert plain["tags_by_language"] == {"": 9}
    assert all("across" not in word for word in plain["most_frequent"])


def test_the_map(tmp_path: Path) -> None:
    wordmap = pytest.importorskip("seerctl.wordmap")
    result = words(load_words(bilingual(tmp_path / "f.h5"), "tags", language="lang"))
    places = word_map(result, kind="pca", most=6)
    assert [place["tag"] for place in places] == [tag.text for tag in result.tags[:6]]
    marks = [wordmap.Word(p["tag"], p["x"], p["y"], p["group"], p["language"] == "el") for p in places]
    drawn = wordmap.draw(marks, shapes=["en", "el"], form="svg")
    for place in places:
        assert place["tag"] in drawn.image.decode("utf-8")
    assert drawn.labelled == 6
    assert drawn.image == wordmap.draw(marks, shapes=["en", "el"], form="svg").image
    assert wordmap.draw(marks, form="png").image.startswith(b"\x89PNG")


def test_labels_keep_out_of_each_other_s_way() -> None:
    wordmap = pytest.importorskip("seerctl.wordmap")
    crowd = [wordmap.Word(f"word number {n}", 0.001 * n, 0.0) for n in range(30)]
    far = [wordmap.Word("far", 1.0, 1.0)]
    drawn = wordmap.draw(crowd + far, form="svg")
    assert 2 <= drawn.labelled <= 12
    assert "word number 0<" in drawn.image.decode()
    assert "word number 29<" not in drawn.image.decode()
    strange = wordmap.draw([wordmap.Word("\U00012000", 0, 0), wordmap.Word("sun", 1, 1)], form="svg")
    assert strange.missing == ("\U00012000",) or wordmap._covered("\U00012000")


def test_bad_input(tmp_path: Path, dictionary: Path) -> None:
    file = bilingual(tmp_path / "f.h5", 60)
    with pytest.raises(InputError, match=r"0 tags in 'tags' have 50 pictures or more.*--least"):
        load_words(file, "tags", least=50)
    with pytest.raises(UsageError, match=r"no column 'tag'. Did you mean 'tags'"):
        load_words(file, "tag")
    with pytest.raises(UsageError, match="one of --language and --languages"):
        load_words(file, "tags", language="lang", languages=dictionary)
    with pytest.raises(InputError, match="no column 'language'"):
        load_words(file, "tags", languages=dictionary)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match=r"none.json: no pairs"):
        load_words(file, "tags", dictionary=tmp_path / "none.json")
    with pytest.raises(InputError, match="no pair of the dictionary is among the tags of two languages"):
        words(load_words(file, "tags", dictionary=dictionary))
    with pytest.raises(UsageError, match="99 clusters of"):
        words(load_words(file, "tags"), k=99)
