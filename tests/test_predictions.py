"""The predictions table: written, read back by us and by pandas, and every way it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seerctl.columns import Column
from seerctl.errors import InputError, UsageError
from seerctl.predictions import Predictions, first_repeated, read_predictions, write_predictions


def table() -> Predictions:
    return Predictions(
        keys=np.array(["k1", "k2", "k3"], dtype=object),
        classes=("ant", 'bee, "big"', "cat"),
        label=np.array([0, 1, 2], dtype=np.int32),
        prediction=np.array([0, 2, 2], dtype=np.int32),
        score=np.array([0.75, 1 / 3, np.nan]),
        top=np.array([[0, 1], [2, 1], [2, -1]], dtype=np.int32),
        top_scores=np.array([[0.75, 0.25], [1 / 3, 0.3], [0.9, np.nan]]),
        columns={
            "group": Column(np.array([1, -1, 0], dtype=np.int32), ("new\nline", "old")),
            "age": Column(np.array([31.5, np.nan, 70.0])),
            "score": Column(np.array([1, 2, 3])),
        },
    )


def same(one: Predictions, other: Predictions) -> None:
    assert one.keys.tolist() == other.keys.tolist()
    assert [one.classes[c] for c in one.label] == [other.classes[c] for c in other.label]
    assert [one.classes[c] for c in one.prediction] == [other.classes[c] for c in other.prediction]
    np.testing.assert_allclose(one.score, other.score, rtol=1e-8)
    np.testing.assert_allclose(one.top_scores, other.top_scores, rtol=1e-8)
    names = [[(*p.classes, "")[c] for c in p.top.ravel()] for p in (one, other)]
    assert names[0] == names[1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"p.{suffix}"
    write_predictions(path, table())
    read = read_predictions(path, ranked=True)
    same(read, table())
    assert read.columns["group"].texts() == ["old", "", "new\nline"]
    assert read.columns["age"].texts() == ["31.5", "", "70"]
    assert read.columns["column.score"].texts() == ["1", "2", "3"]  # metadata never shadows the table's own columns


def test_pandas_reads_it(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", table())
    frame = pd.read_csv(tmp_path / "p.csv")
    assert list(frame.columns[:8]) == ["key", "label", "prediction", "score", "top1", "top2", "score1", "score2"]
    assert frame["label"].tolist() == ["ant", 'bee, "big"', "cat"]
    assert frame["age"].isna().tolist() == [False, True, False]
    write_predictions(tmp_path / "p.jsonl", table())
    lines = pd.read_json(tmp_path / "p.jsonl", lines=True)
    assert lines["prediction"].tolist() == ["ant", "cat", "cat"]


def test_only_asked_columns_are_read(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", table())
    read = read_predictions(tmp_path / "p.csv", ["age"])
    assert list(read.columns) == ["age"]
    assert read.top.shape == (3, 0)


def test_many_rows_and_blank_lines(tmp_path: Path) -> None:
    rows = [f"k{i},{i % 3},{i % 2},g{i % 5}" for i in range(3000)]
    rows.insert(700, "")
    (tmp_path / "p.csv").write_text("\ufeffkey,label,prediction,group\n" + "\n".join(rows) + "\n\n", encoding="utf-8")
    read = read_predictions(tmp_path / "p.csv")
    assert len(read) == 3000
    assert np.bincount(read.label).tolist() == [1000, 1000, 1000]
    assert read.columns["group"].values.tolist() == [i % 5 for i in range(3000)]


def test_integers_that_pandas_wrote_as_floats_are_the_same_classes(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("key,label,prediction\na,1.0,1\nb,,0\nc,0.0,1\n")
    read = read_predictions(tmp_path / "p.csv")
    assert read.classes == ("0", "1")
    assert read.label.tolist() == [1, -1, 0]


def test_jsonl_values_become_text(tmp_path: Path) -> None:
    rows = [
        {"key": "a", "label": 1, "prediction": True, "group": None},
        {"key": "b", "label": True, "prediction": 1, "group": 2.0},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = read_predictions(tmp_path / "p.jsonl")
    assert read.classes == ("1", "true")
    assert read.columns["group"].texts() == ["", "2"]


BAD = {
    "empty": ("", "empty"),
    "header only": ("key,label,prediction\n", "no rows"),
    "no label column": ("key,prediction\na,1\n", "no column 'label'"),
    "no key column": ("label,prediction\n1,1\n", "no column 'key'"),
    "column twice": ("key,label,prediction,label\na,1,1,1\n", "'label' comes twice"),
    "key twice": ("key,label,prediction\na,1,1\na,0,1\n", "key 'a' comes twice"),
    "no key": ("key,label,prediction\n,1,1\n", "row 1 has no key"),
    "no prediction": ("key,label,prediction\na,1,1\nb,1,\n", "row 2 has no prediction"),
    "no labels": ("key,label,prediction\na,,1\n", "no row has a label"),
    "score of text": ("key,label,prediction,score\na,1,1,0.5\nb,0,1,high\n", "row 2: 'score' is 'high', not a number"),
    "short row": ("key,label,prediction\na,1,1\nb,1\n", "line 3 has 2 cells, the header has 3"),
    "long row": ("key,label,prediction\na,1,1,9\n", "line 2 has 4 cells"),
    "other names": ("key,label,prediction\na,cat,0\nb,dog,1\n", "no prediction is ever the name of a label"),
    "label lists": ('key,label,prediction\na,"[""x"",""y""]",x\nb,x,x\n', "is a list of labels"),
    "not utf-8": (b"key,label,prediction\na,\xff\xfe,1\n", "not a csv table"),
    "nul": (b"key,label,prediction\na,\x00,\x00\nb,1,\n", "row 2 has no prediction"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "p.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_predictions(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"key": 1\n', "line 1 is not JSON"),
        (b"[1]\n", "line 1 is not a JSON object"),
        (b"", "no rows"),
        (b'{"key":"a","label":"x","prediction":"x"}\n\xff\n', "line 2 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "p.jsonl")


def test_bad_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match=r"End the name with one of \.csv, \.jsonl, \.parquet"):
        read_predictions(tmp_path / "p.xlsx")
    write_predictions(tmp_path / "p.csv", table())
    with pytest.raises(UsageError, match="Did you mean 'group'"):
        read_predictions(tmp_path / "p.csv", ["grup"])


def test_parquet_without_pyarrow_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match="parquet needs pyarrow"):
        write_predictions(tmp_path / "p.parquet", table())
    assert not list(tmp_path.iterdir())


LISTS = (
    'key,label,prediction,top1,top2\na,"[""cat"",""dog""]","[""dog"",""cat""]",dog,cat\nb,[],[],ant,cat\n'
    'c,,cat,cat,ant\nd,dog,ant,ant,dog\ne,"[""cat"",""cat""]",cat,cat,dog\n'
)


def test_labels_that_are_lists(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(LISTS)
    read = read_predictions(tmp_path / "p.csv", ranked=True, lists=True)
    assert read.classes == ("ant", "cat", "dog")
    assert read.truth is not None
    assert [[read.classes[code] for code in read.truth.of(row)] for row in range(5)] == [
        ["cat", "dog"], [], [], ["dog"], ["cat"],
    ]  # fmt: skip
    assert read.labelled.tolist() == [True, True, False, True, True]
    assert read.is_a(1).tolist() == [True, False, False, False, True]
    assert read.prediction.tolist() == [2, -1, 1, 0, 1]  # of a list the first
    assert (read.label == -1).all()
    write_predictions(tmp_path / "again.jsonl", read)
    again = read_predictions(tmp_path / "again.jsonl", ranked=True, lists=True, labels=False)
    assert again.truth is not None
    for name in ("starts", "codes", "known"):
        np.testing.assert_array_equal(getattr(again.truth, name), getattr(read.truth, name))
    plain = read_predictions(tmp_path / "p.csv", lists=True, labels=False)
    assert plain.truth is not None


def test_lists_do_not_touch_plain_tables(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", table())
    read = read_predictions(tmp_path / "p.csv", ranked=True, lists=True)
    assert read.truth is None
    same(read, table())
    assert read.labelled.all()
    assert read.is_a(1).tolist() == [False, True, False]


def test_labels_are_needed_only_where_they_are_judged(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("key,label,prediction\na,,cat\nb,,dog\n")
    with pytest.raises(InputError, match="no row has a label"):
        read_predictions(tmp_path / "p.csv")
    assert read_predictions(tmp_path / "p.csv", labels=False).label.tolist() == [-1, -1]
    (tmp_path / "p.csv").write_text('key,label,prediction\na,"[""x""]",cat\n')
    with pytest.raises(InputError, match="ever the name of a label"):
        read_predictions(tmp_path / "p.csv", lists=True)


def test_columns_of_few_values_read_alike_from_parquet_and_csv(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = 70_000  # more than a batch
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({
        "key": [f"k{row}" for row in range(rows)], "label": generator.integers(0, 12, rows),
        "prediction": generator.integers(0, 12, rows), "tone": generator.choice(["dark", "light"], rows),
        "age": pd.array(generator.integers(18, 70, rows), dtype="Int64"), "known": generator.random(rows) < 0.5,
        "rare": [f"r{row}" for row in range(rows)],
    })  # fmt: skip
    frame.loc[generator.random(rows) < 0.1, ["tone", "age"]] = None
    frame.loc[5, "label"] = 12
    frame.to_parquet(tmp_path / "p.parquet")
    frame.assign(known=frame.known.map({True: "true", False: "false"})).to_csv(tmp_path / "p.csv", index=False)
    one, two = (read_predictions(tmp_path / name) for name in ("p.parquet", "p.csv"))
    assert one.classes == two.classes
    np.testing.assert_array_equal(one.label, two.label)
    np.testing.assert_array_equal(one.prediction, two.prediction)
    assert one.keys.tolist() == two.keys.tolist()
    for name in ("tone", "age", "known", "rare"):
        assert one.columns[name].categories == two.columns[name].categories
        np.testing.assert_array_equal(one.columns[name].values, two.columns[name].values)


def test_repeated_keys_are_found_and_equal_hashes_are_not_enough() -> None:
    class Same(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    assert first_repeated([]) is None
    assert first_repeated([f"k{i}" for i in range(1000)]) is None
    assert first_repeated(["a", "b", "c", "b", "a"]) == "b"
    assert first_repeated([Same("a"), Same("b")]) is None
    assert first_repeated([Same("a"), Same("b"), Same("a")]) == "a"
