"""Sample weights: files that come back as they were written, the sets they are of, and everything that is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from seerctl.cli import run
from seerctl.errors import InputError, UsageError
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_keys, read_metadata
from seerctl.shards.verify import verify
from seerctl.weighting import SampleWeights, load_sampling, read_weights, write_weights
from tests.pictures import draw
from tests.streams import meta_of, numbered, set_of, shards_of, stream_of


@pytest.fixture
def shards(tmp_path: Path):  # type: ignore[no-untyped-def]
    with set_of(tmp_path / "set", 50, maxcount=8) as opened:
        yield opened


def weights_of(shards: ShardSet, **changes: object) -> SampleWeights:
    weight = np.random.default_rng(0).random(len(shards))
    fields = {"keys": read_keys(shards), "weight": weight, "index_sha256": shards.sha256, "lineage": {"made_by": "me"}}
    return SampleWeights(**{**fields, **changes})  # type: ignore[arg-type]


def test_keys_and_columns_are_those_of_the_samples(shards: ShardSet) -> None:
    keys = [sample.key.encode() for sample in shards]
    assert read_keys(shards).tolist() == keys
    heard: list[int] = []
    metadata = read_metadata(shards, ["label", "size"], heard.append)
    assert metadata.keys.tolist() == keys
    assert metadata.columns["label"].texts() == [sample.meta["columns"]["label"] for sample in shards]
    assert metadata.columns["size"].values.tolist() == [sample.meta["columns"]["size"] for sample in shards]
    assert sum(heard) == len(shards)
    with pytest.raises(UsageError, match=r"no column 'labl'. Did you mean 'label'"):
        read_metadata(shards, ["labl"])


@pytest.mark.parametrize("remembered", [1, 2, 1 << 16])
def test_samples_that_say_the_same_are_parsed_once_and_others_not(
    tmp_path: Path, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a column is called as the field after the columns, which ends their text too early."""
    monkeypatch.setattr("seerctl.shards.metadata._REMEMBERED", remembered)
    kinds: list[dict[str, object]] = [
        {"a": {"x": 1}, "format": "p", "z": 1}, {"a": {"x": 1}, "format": "q", "z": 2}, {"a": "}", "z": 3}, {"z": 4.5},
        {"a": '},"format":"', "z": 5}, {"a": "b", "z": 6}, {"a": "", "z": 7}, {"é": 1, "z": 8},
    ]  # fmt: skip
    values = [kinds[number * 5 % 8] for number in range(40)]
    big = [bytes([number]) * (20 if number % 3 else 40_000) for number in range(40)]
    shards_of(
        tmp_path / "set",
        stream_of((data, meta_of(data, "x", columns)) for data, columns in zip(big, values, strict=True)),
    )
    with ShardSet.open(tmp_path / "set") as shards:
        found = read_metadata(shards, ["z", "format", "a"])
        metas = [sample.meta["columns"] for sample in shards]
        keys = [sample.key.encode() for sample in shards]
    assert found.keys.tolist() == keys
    assert found.columns["z"].values.tolist() == [meta["z"] for meta in metas]
    assert found.columns["format"].texts() == [meta.get("format", "") for meta in metas]
    names = [meta.get("a", "") for meta in metas]
    assert found.columns["a"].texts() == [name if isinstance(name, str) else json.dumps(name) for name in names]


@pytest.mark.parametrize("damage", ["cut", "json", "offsets", "missing"])
def test_damaged_shards_are_named(shards: ShardSet, damage: str) -> None:
    shard = Path(shards.location) / "shard-000003.tar"
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(data[:-512])
    elif damage == "json":
        data[data.rindex(b'{"columns"')] = ord("[")
        shard.write_bytes(data)
    elif damage == "offsets":
        idx = shard.with_name(shard.name + ".idx")
        idx.write_bytes(idx.read_bytes()[::-1])
    else:
        shard.unlink()
    with pytest.raises(InputError, match=r"shard-000003\.tar"):
        read_metadata(shards, ["label"])


@pytest.mark.parametrize("name", ["weights.h5", "weights.csv"])
def test_files_come_back(shards: ShardSet, tmp_path: Path, name: str) -> None:
    weights = weights_of(shards)
    write_weights(tmp_path / name, weights)
    again = read_weights(tmp_path / name)
    np.testing.assert_array_equal(again.weight, weights.weight)
    assert again.keys.tolist() == weights.keys.tolist()
    loaded = load_sampling(shards, str(tmp_path / name))
    np.testing.assert_array_equal(loaded.weight, weights.weight)
    assert len(loaded.sha256) == 64


def test_the_hdf5_layout_is_the_documented_one(shards: ShardSet, tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.h5", weights_of(shards))
    with h5py.File(tmp_path / "weights.h5") as file:
        assert (file["keys"].dtype, file["weight"].dtype) == (np.dtype("S32"), np.dtype("float64"))
        assert file["keys"].shape == file["weight"].shape == (50,)
        assert file.attrs["index_sha256"] == shards.sha256
        assert json.loads(file.attrs["lineage"]) == {"made_by": "me"}


def test_inspect_shows_them(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_of(shards)
    weights.weight[:5] = 0
    write_weights(tmp_path / "weights.h5", weights)
    assert run(["inspect", str(tmp_path / "weights.h5"), "--output-format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kind"], shown["samples"], shown["zero"]) == ("sample weights", 50, 5)
    assert shown["effective_samples"] == pytest.approx(weights.weight.sum() ** 2 / (weights.weight**2).sum())
    assert run(["inspect", str(tmp_path / "weights.h5")]) == 0
    assert "effective samples" in capsys.readouterr().out


def test_a_table_may_be_in_any_order(shards: ShardSet, tmp_path: Path) -> None:
    weights = weights_of(shards)
    rows = [(key.decode(), weight) for key, weight in zip(weights.keys, weights.weight, strict=True)]
    np.random.default_rng(1).shuffle(rows)  # type: ignore[arg-type]
    with (tmp_path / "w.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("weight", "who", "key"), *((weight, "me", key) for key, weight in rows)])
    np.testing.assert_array_equal(load_sampling(shards, str(tmp_path / "w.csv")).weight, weights.weight)
    (tmp_path / "w.jsonl").write_text("".join(json.dumps({"key": k, "weight": w}) + "\n" for k, w in rows))
    np.testing.assert_array_equal(load_sampling(shards, str(tmp_path / "w.jsonl")).weight, weights.weight)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["w.h5", "w.csv"])
def test_weights_that_are_none_are_refused(shards: ShardSet, tmp_path: Path, name: str, bad: float) -> None:
    weights = weights_of(shards)
    write_weights(tmp_path / name, weights)
    weights.weight[7] = bad
    key = weights.keys[7].decode()
    with pytest.raises(InputError, match=f"the weight of sample {key} is"):
        write_weights(tmp_path / "new.h5", weights)
    assert not (tmp_path / "new.h5").exists()
    if name == "w.csv":
        lines = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join([*lines[:8], f"{key},{bad}", *lines[9:]]))
    else:
        with h5py.File(tmp_path / name, "r+") as file:
            file["weight"][7] = bad
    with pytest.raises(InputError, match=f"the weight of sample {key} is"):
        load_sampling(shards, str(tmp_path / name))


def test_all_zero_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample has a weight above 0"):
        write_weights(tmp_path / "w.h5", weights_of(shards, weight=np.zeros(50)))


def test_weights_of_another_set_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    with set_of(tmp_path / "other", 51, maxcount=8) as other:
        for name in ("w.h5", "w.csv"):
            write_weights(tmp_path / name, weights_of(other))
        with pytest.raises(UsageError, match="weights of another shard set"):
            load_sampling(shards, str(tmp_path / "w.h5"))
        with pytest.raises(UsageError, match="1 of its samples are not in"):
            load_sampling(shards, str(tmp_path / "w.csv"))
        write_weights(tmp_path / "w.csv", weights_of(shards))
        with pytest.raises(UsageError, match="no weight for 1 of the 51 samples"):
            load_sampling(other, str(tmp_path / "w.csv"))


def test_rows_in_another_order_than_the_index_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    weights = weights_of(shards)
    write_weights(tmp_path / "w.h5", weights_of(shards, keys=weights.keys[::-1]))
    with pytest.raises(InputError, match="its row 0 is not sample 0 of the index"):
        load_sampling(shards, str(tmp_path / "w.h5"))


def _damaged(path: Path, what: str) -> None:
    if what == "text":
        path.write_text("no weights")
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-3000])
    elif what == "directory":
        path.unlink()
        path.mkdir()
    else:
        with h5py.File(path, "r+") as file:
            if what == "schema":
                file.attrs["schema"] = "other"
            elif what == "lineage":
                file.attrs["lineage"] = "[]"
            elif what == "short":
                del file["weight"]
                file["weight"] = np.ones(3)
            elif what == "text weights":
                del file["weight"]
                file["weight"] = np.array([b"1"] * 50)
            elif what == "link":
                del file["weight"]
                file["weight"] = h5py.ExternalLink("/etc/passwd", "x")
            else:
                del file[what]


@pytest.mark.parametrize(
    "what", ["text", "cut", "directory", "schema", "lineage", "short", "text weights", "link", "keys", "weight"]
)
def test_files_that_are_none_are_refused_in_one_line(shards: ShardSet, tmp_path: Path, what: str) -> None:
    path = tmp_path / "w.h5"
    write_weights(path, weights_of(shards))
    _damaged(path, what)
    with pytest.raises(InputError, match=r"w\.h5") as caught:
        load_sampling(shards, str(path))
    assert "\n" not in str(caught.value)
    assert "xtract" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("key,wait\na,1\n", "no column 'weight'"),
        ("key,weight\na,heavy\n", "row 1: its weight is not a number"),
        ("key,weight,weight\na,1,1\n", "or not just one"),
    ],
)
def test_tables_that_are_none_are_refused(shards: ShardSet, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_sampling(shards, str(tmp_path / "w.csv"))


def test_keys_that_come_twice_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    write_weights(tmp_path / "w.csv", weights_of(shards))
    with (tmp_path / "w.csv").open("a") as file:
        file.write(f"{read_keys(shards)[3].decode()},1\n")
    with pytest.raises(InputError, match="comes twice"):
        load_sampling(shards, str(tmp_path / "w.csv"))


def test_a_column_of_the_set(tmp_path: Path) -> None:
    values = [{"weight": number % 3, "label": "x", "some": 1 if number else None} for number in range(12)]
    values[1]["debt"] = -1
    samples = [(bytes([n]) * 20, meta_of(bytes([n]) * 20, f"{n}.jpg", columns)) for n, columns in enumerate(values)]
    shards_of(tmp_path / "set", stream_of(samples))
    with ShardSet.open(tmp_path / "set") as shards:
        assert load_sampling(shards, "weight").weight.tolist() == [number % 3 for number in range(12)]
        for name, message in (
            ("wieght", "no column 'wieght' to take weights from, and not the name of a file. Did you mean 'weight'"),
            ("label", "holds text"),
            ("some", "is missing for 1 samples"),
            ("debt", "is missing for 11 samples"),
        ):
            with pytest.raises(UsageError, match=message):
                load_sampling(shards, name)


def test_a_weight_travels_with_the_pictures_through_ingest_and_shard(tmp_path: Path) -> None:
    rows = ["path,weight"]
    for number in range(6):
        draw(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{number / 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    assert run(["-q", "ingest", str(tmp_path / "table.csv"), "-o", str(tmp_path / "stream.tar")]) == 0
    assert run(["-q", "shard", str(tmp_path / "stream.tar"), "-o", str(tmp_path / "set")]) == 0
    with ShardSet.open(tmp_path / "set") as shards:
        assert sorted(load_sampling(shards, "weight").weight.tolist()) == [0, 0.5, 1, 1.5, 2, 2.5]


def test_other_suffixes_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"End the name with .h5 or .csv"):
        write_weights(tmp_path / "w.txt", weights_of(shards))
    with pytest.raises(UsageError, match="not a format of weights"):
        load_sampling(shards, str(tmp_path / "w.txt"))
    with pytest.raises(InputError, match="no such file"):
        load_sampling(shards, str(tmp_path / "w.h5"))


@pytest.mark.parametrize("suffix", [".h5", ".csv"])
def test_weights_become_a_column_of_new_shards(shards: ShardSet, tmp_path: Path, suffix: str) -> None:
    weights = weights_of(shards)
    write_weights(tmp_path / f"w{suffix}", weights)
    stream = stream_of(numbered(range(40)))  # ten samples of the file never come
    shards_of(tmp_path / "weighted", stream, weights=tmp_path / f"w{suffix}", maxcount=16)
    with ShardSet.open(tmp_path / "weighted") as found:
        expected = dict(zip(weights.keys.tolist(), weights.weight.tolist(), strict=True))
        assert {s.key.encode(): s.meta["columns"]["weight"] for s in found} == {
            s.key.encode(): expected[s.key.encode()] for s in found
        }
        assert len(found) == 40
        assert [s.meta["columns"]["label"] for s in found] == ["abc"[number % 3] for number in range(40)]
        assert verify(found) == []
        sampling = load_sampling(found, "weight")
        assert sampling.weight.tolist() == [expected[key] for key in read_keys(found).tolist()]


def test_a_sample_without_a_weight_leaves_no_set(shards: ShardSet, tmp_path: Path) -> None:
    write_weights(tmp_path / "w.h5", weights_of(shards))
    stream = stream_of(numbered(range(60)))
    with pytest.raises(InputError, match=r"w\.h5: no weight for sample .* \(pictures/50\.jpg\)"):
        shards_of(tmp_path / "weighted", stream, weights=tmp_path / "w.h5")
    assert not (tmp_path / "weighted" / "index.json").exists()
    (tmp_path / "twice.csv").write_text(f"key,weight\n{'a' * 25},1\n{'a' * 25},2\n")
    with pytest.raises(InputError, match="twice"):
        shards_of(tmp_path / "weighted", stream, weights=tmp_path / "twice.csv")


def test_shard_takes_what_balance_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["path,label,gender"]
    for number in range(24):
        draw(number).save(f"{number}.png")
        rows.append(f"{number}.png,{('cat', 'dog')[number % 2]},{'f' if number % 8 < 2 else 'm'}")
    Path("photos.csv").write_text("\n".join(rows))
    assert run(["-q", "ingest", "photos.csv", "-o", "stream.tar"]) == 0
    assert run(["-q", "shard", "stream.tar", "-o", "plain"]) == 0
    assert run(["-q", "audit", "--balance", "--data", "plain", "--groups", "gender", "-o", "audit"]) == 0
    assert run(["-q", "shard", "stream.tar", "-o", "weighted", "--weights", "audit/weights.h5"]) == 0
    with ShardSet.open(tmp_path / "weighted") as found:
        weight = load_sampling(found, "weight").weight
        few = np.array([sample.meta["columns"]["gender"] == "f" for sample in found])
        assert few.mean() == 0.25
        assert weight[few].sum() > 0.45 * weight.sum()
    assert run(["-q", "shard", "--drop", "x", "--weights", "audit/weights.h5", "-o", "weighted"]) == 2
