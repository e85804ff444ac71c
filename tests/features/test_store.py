"""Feature files: what is written is read, by us and by plain h5py; what is not ours or not whole is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from seerctl.errors import EnvironmentFault, InputError, UsageError
from seerctl.features.layout import MAX_CATEGORIES, column_name, dataset_name
from seerctl.features.store import FeatureFile, describe
from seerctl.features.writer import FeatureWriter, finish, is_finished, part_of, sidecar, unfinished_rows
from tests.feature_files import HEADER, header, key, write_features

ROWS, DIM = 600, 7
POINTS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
COLUMNS = {
    "label": [f"c{row % 3}" for row in range(ROWS)],
    "age": [None if row % 5 == 0 else row / 4 for row in range(ROWS)],
    "count": list(range(ROWS)),
    "a/b": ["x" if row % 2 else None for row in range(ROWS)],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("store") / "f.h5", POINTS, COLUMNS)


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "f.h5"))


def test_round_trip(written: Path) -> None:
    with FeatureFile.open(written) as file:
        np.testing.assert_array_equal(file.features(), POINTS)
        assert file.features("float64").dtype == np.float64
        assert file.keys[3] == key(3).encode()
        assert file.header == HEADER
        assert file.columns["label"].texts() == COLUMNS["label"]
        np.testing.assert_array_equal(file.columns["age"].missing, [row % 5 == 0 for row in range(ROWS)])
        assert file.columns["count"].values.dtype == np.int64
        assert file.columns["a/b"].texts()[:2] == ["", "x"]
    assert list(written.parent.iterdir()) == [written]  # neither part nor sidecar is left


def test_plain_h5py_reads_the_contract(written: Path) -> None:
    with h5py.File(written) as file:
        assert file["features"].chunks == (256, DIM)
        assert file["features"].compression is None
        assert file["keys"].dtype == "S32"
        labels = file["columns/label"]
        assert labels.attrs["categories"].tolist() == ["c0", "c1", "c2"]
        assert [labels.attrs["categories"][code] for code in labels[:4]] == ["c0", "c1", "c2", "c0"]
        assert np.isnan(file["columns/age"][0])
        assert file["columns/a%2Fb"][0] == -1
        assert file.attrs["rows_done"] == ROWS
        assert {"schema", "model", "weights_sha256", "index_sha256", "layer", "preprocess", "lineage"} < set(file.attrs)


def test_half_precision(tmp_path: Path) -> None:
    path = write_features(tmp_path / "h.h5", POINTS.astype(np.float16), {})
    with FeatureFile.open(path) as file:
        assert file.dtype == "float16"
        np.testing.assert_array_equal(file.features(), POINTS.astype(np.float16).astype(np.float32))


def test_more_categories_than_an_attribute_holds(tmp_path: Path) -> None:
    names = [f"n{row:05d}" for row in range(MAX_CATEGORIES + 1)]
    path = write_features(tmp_path / "m.h5", np.ones((len(names), 1), np.float32), {"name": names}, batch=5000)
    with FeatureFile.open(path) as file:
        assert file.columns["name"].texts() == names


@pytest.mark.parametrize("name", ["plain", "a/b", "a%2Fb", "50%", ".", "..", "\u00e9 \u4e2d"])
def test_column_names(name: str, tmp_path: Path) -> None:
    assert column_name(dataset_name(name)) == name
    path = write_features(tmp_path / "n.h5", np.ones((3, 2), np.float32), {name: [1, 2, 3]})
    with FeatureFile.open(path) as file:
        assert list(file.columns) == [name]


def test_describe(written: Path) -> None:
    found = describe(written)
    assert (found["rows"], found["dim"], found["dtype"], found["layer"]) == (ROWS, DIM, "float32", "avgpool")
    with FeatureFile.open(written) as file:
        array, labels, ages = file.features().astype(np.float64), file.columns["label"].texts(), file.columns["age"]
    assert found["columns"]["label"] == {
        "type": "categories", "categories": 3, "missing": 0,
        "values": {name: labels.count(name) for name in set(labels)},
    }  # fmt: skip
    low, high = np.nanmin(ages.values), np.nanmax(ages.values)
    assert found["columns"]["age"] == {"type": "numbers", "missing": ROWS // 5, "min": low, "max": high}
    lengths = np.linalg.norm(array, axis=1)
    assert list(found["row_length"].values()) == pytest.approx([lengths.min(), lengths.mean(), lengths.max()], rel=1e-5)
    assert (found["not_finite_rows"], found["zero_rows"], found["constant_values"]) == (0, 0, 0)


def test_describe_names_rows_that_are_odd(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    array[:, 2] = 5
    array[7], array[300, 1], array[301, 0] = 0, np.nan, np.inf
    found = describe(write_features(tmp_path / "odd.h5", array, {"source": [f"{row}.jpg" for row in range(600)]}))
    assert (found["not_finite_rows"], found["zero_rows"], found["constant_values"]) == (2, 1, 0)
    array[7, 2] = 5
    found = describe(write_features(tmp_path / "odd2.h5", array, {}))
    assert (found["zero_rows"], found["constant_values"]) == (0, 1)


# ------------------------------------------------------------------------------------------------- what is not ours


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_tail(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + bytes(len(data) - len(data) // 3))


def flip(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["features"].id.get_chunk_info(1).byte_offset + 1000
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def drop(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def outside(file: h5py.File) -> None:
    del file["keys"]
    file["keys"] = h5py.ExternalLink("/etc/hostname", "/keys")


def external(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (ROWS, DIM), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def never_written(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (ROWS, DIM), "f4", chunks=(256, DIM))


def enormous(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (10**12, 10**6), "f4", chunks=(256, 10**3))
    file.attrs["rows_done"] = 10**12


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def codes(file: h5py.File) -> None:
    file["columns/label"][0] = 99


def replaced(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("not hdf5 at all\n" * 50), "not an HDF5 file"),
    "empty": (lambda path: path.write_bytes(b""), "not an HDF5 file"),
    "cut": (cut, "truncated HDF5 file"),
    "zeros": (zero_tail, "damaged"),
    "one bit": (flip, "a checksum of its rows does not match"),
    "another schema": (edit(attribute("schema", "other/1")), "not one of 'seerctl.features/1'"),
    "no schema": (edit(lambda file: file.attrs.pop("schema")), "not one of 'seerctl.features/1'"),
    "unfinished": (edit(attribute("rows_done", 512)), "unfinished, 512 of 600 rows"),
    "lineage": (edit(attribute("lineage", "{")), "damaged"),
    "lineage list": (edit(attribute("lineage", "[]")), "not a JSON object"),
    "model is a number": (edit(attribute("model", 3)), "not text"),
    "no features": (edit(drop("features")), "no 'features'"),
    "no keys": (edit(drop("keys")), "no 'keys'"),
    "keys of another length": (edit(replaced("keys", np.array([b"a"]))), "does not name the 600 rows"),
    "features of integers": (edit(replaced("features", np.ones((ROWS, DIM), np.int32))), "not floats"),
    "features of one dimension": (edit(replaced("features", np.ones(ROWS))), "not a plain array of 2"),
    "column of text": (edit(replaced("columns/label", np.array([b"x"] * ROWS))), "not a number or code"),
    "codes outside": (edit(codes), "codes outside its 3 categories"),
    "external link": (edit(outside), "not a plain array"),
    "external storage": (edit(external), "not a plain array"),
    "never written": (edit(never_written), "holds 0 of the"),
    "enormous": (edit(enormous), "holds 0 of the"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(case: str, copied: Path) -> None:
    spoil, message = BAD[case]
    spoil(copied)
    with pytest.raises(InputError, match=message) as caught, FeatureFile.open(copied) as file:
        file.features()
    assert str(copied) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        FeatureFile.open(tmp_path / "none.h5")
    with pytest.raises(InputError, match="a directory"):
        FeatureFile.open(tmp_path)


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Path], None]]:
    """Another process opens the file for writing and holds it until the test is over."""
    started = []

    def hold(path: Path) -> None:
        code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print(flush=True); input()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    yield hold
    for process in started:
        process.communicate(b"\n")


def test_a_file_in_use_is_left_alone(copied: Path, elsewhere: Callable[[Path], None]) -> None:
    elsewhere(copied)
    with pytest.raises(InputError, match="another process is still writing it"):
        FeatureFile.open(copied)
    with pytest.raises(EnvironmentFault, match="another process is writing it"):
        unfinished_rows(copied, HEADER, ROWS, "float32")


# --------------------------------------------------------------------------------------------------- parts and resuming


def part_with(where: Path, rows_done: int, **changes: object) -> Path:
    part = part_of(where / "f.h5")
    writer = FeatureWriter(part, header(**changes), rows=ROWS, dim=DIM)
    for first in range(0, rows_done, 100):
        span = range(first, min(first + 100, rows_done))
        rows = [{name: values[row] for name, values in COLUMNS.items()} for row in span]
        writer.append(POINTS[span.start : span.stop], [key(row) for row in span], rows)
    writer.close()
    return part


def test_a_resumed_file_has_the_same_bytes(written: Path, tmp_path: Path) -> None:
    part = part_with(tmp_path, 300)
    assert unfinished_rows(part, HEADER, ROWS, "float32") == 256  # whole chunks
    with sidecar(part).open("a") as file:
        file.write('{"label": "half a li')  # killed while writing the next batch
    writer = FeatureWriter(part, HEADER, rows=ROWS, dim=DIM, start=256)
    rows = [{name: values[row] for name, values in COLUMNS.items()} for row in range(256, ROWS)]
    writer.append(POINTS[256:], [key(row) for row in range(256, ROWS)], rows)
    writer.close()
    finish(tmp_path / "f.h5", [part], HEADER, ROWS)
    assert (tmp_path / "f.h5").read_bytes() == written.read_bytes()


def test_parts_of_ranks_join_into_the_same_file(written: Path, tmp_path: Path) -> None:
    parts = []
    for rank, (first, last) in enumerate([(0, 200), (200, 500), (500, 600)]):
        part = part_of(tmp_path / "f.h5", rank, 3)
        writer = FeatureWriter(part, HEADER, rows=last - first, dim=DIM)
        rows = [{name: values[row] for name, values in COLUMNS.items()} for row in range(first, last)]
        writer.append(POINTS[first:last], [key(row) for row in range(first, last)], rows)
        writer.close()
        parts.append(part)
    finish(tmp_path / "f.h5", parts, HEADER, ROWS)
    with FeatureFile.open(tmp_path / "f.h5") as joined, FeatureFile.open(written) as whole:
        np.testing.assert_array_equal(joined.features(), whole.features())
        np.testing.assert_array_equal(joined.keys, whole.keys)
        assert {n: c.texts() for n, c in joined.columns.items()} == {n: c.texts() for n, c in whole.columns.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_a_missing_or_short_part_never_becomes_a_file(tmp_path: Path) -> None:
    whole = FeatureWriter(part_of(tmp_path / "f.h5", 0, 2), HEADER, rows=300, dim=DIM)
    whole.append(POINTS[:300], [key(row) for row in range(300)], [{}] * 300)
    whole.close()
    parts = [part_of(tmp_path / "f.h5", rank, 2) for rank in range(2)]
    with pytest.raises(InputError, match="no such file"):
        finish(tmp_path / "f.h5", parts, HEADER, ROWS)
    short = FeatureWriter(parts[1], HEADER, rows=300, dim=DIM)
    short.append(POINTS[:100], [key(row) for row in range(100)], [{}] * 100)
    short.close()
    with pytest.raises(InputError, match="holds 0 of 300 rows"):
        finish(tmp_path / "f.h5", parts, HEADER, ROWS)
    assert not (tmp_path / "f.h5").exists()


@pytest.mark.parametrize("name", ["model", "weights_sha256", "index_sha256", "layer", "preprocess"])
def test_a_part_of_another_extraction_is_refused(name: str, tmp_path: Path) -> None:
    part = part_with(tmp_path, 300)
    with pytest.raises(UsageError, match=f"its {name} is .* --overwrite"):
        unfinished_rows(part, header(**{name: "c" * 64}), ROWS, "float32")
    with pytest.raises(UsageError, match="its dtype is float32"):
        unfinished_rows(part, HEADER, ROWS, "float16")
    with pytest.raises(UsageError, match="its rows is 600"):
        unfinished_rows(part, HEADER, 500, "float32")


def test_settings_count_but_places_do_not(tmp_path: Path) -> None:
    part = part_with(tmp_path, 300, lineage={"batch": 64, "sources": {"model": "here"}})
    assert unfinished_rows(part, header(lineage={"batch": 64, "sources": {"model": "there"}}), ROWS, "float32") == 256
    with pytest.raises(UsageError, match="lineage batch is 64"):
        unfinished_rows(part, header(lineage={"batch": 32}), ROWS, "float32")


def test_a_part_that_was_killed_too_early_starts_over(tmp_path: Path) -> None:
    part = part_of(tmp_path / "f.h5")
    part.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert unfinished_rows(part, HEADER, ROWS, "float32") == 0
    part = part_with(tmp_path, 300)
    sidecar(part).write_text("")  # its metadata did not survive
    assert unfinished_rows(part, HEADER, ROWS, "float32") == 0


def test_is_finished(written: Path, tmp_path: Path) -> None:
    assert is_finished(written, HEADER, "float32")
    assert not is_finished(written, header(layer="res4"), "float32")
    assert not is_finished(tmp_path / "none.h5", HEADER, "float32")


def test_no_extraction_starts_that_the_disk_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.features.writer.free_bytes", lambda _: 90 * 10**6)
    with pytest.raises(EnvironmentFault, match=r"f\.h5\.part: needs 0\.12 GB more, the disk has 0\.09 GB"):
        FeatureWriter(part_of(tmp_path / "f.h5"), HEADER, rows=100_000, dim=256)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_all_the_same_is_one_line(tmp_path: Path) -> None:
    code = f"""
import resource, sys, numpy as np
from pathlib import Path
from seerctl.features.writer import FeatureWriter, part_of
from tests.feature_files import HEADER, key
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
writer = FeatureWriter(part_of(Path({str(tmp_path / "f.h5")!r})), HEADER, rows=2000, dim=256)
try:
    writer.append(np.ones((1000, 256), np.float32), [key(row) for row in range(1000)], [{{}}] * 1000)
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr)
writer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # HDF5 would end it with a segmentation fault
    assert done.stderr.startswith(f"EnvironmentFault {tmp_path / 'f.h5.part'}: ")
    assert done.stderr.count("\n") == 1
