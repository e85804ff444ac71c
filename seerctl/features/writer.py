"""Writing feature files so that a kill at any moment loses one chunk of rows at most.

While a file is being made it is called `<name>.part`, or `<name>.r00003-of-00008.part` for one of several ranks; its
metadata lie beside it in `<part>.jsonl`, one line a row, because the types of the columns are known only at the end.
The attribute `rows_done` counts the rows that are safe in both.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seerctl.columns import columns_from_rows
from seerctl.errors import EnvironmentFault, InputError, UsageError
from seerctl.features.export import EXPORTS, export, exported_attributes, format_of
from seerctl.features.layout import (
    ATTRIBUTES,
    CHUNK_ROWS,
    KEY_DTYPE,
    READ_ROWS,
    Header,
    create_datasets,
    text_attribute,
    write_column,
)
from seerctl.features.store import FeatureFile
from seerctl.files import blame, commit, environment_fault, free_bytes

CHUNK_CACHE = 64 << 20  # bytes
SPARE_BYTES = 16 << 20  # for the metadata beside the features


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what HDF5 says about a full disk and the like into one line (it hides the errno in its text)."""
    try:
        with blame(path):
            yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        named = OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path))
        raise environment_fault(named) or EnvironmentFault(f"{path}: {named.strerror}") from None


def demand_space(path: Path, need: int) -> None:
    """Stop before the disk is full.

    Raises:
        EnvironmentFault: fewer than `need` bytes (and a little more) are free where `path` lies.
    """
    free = free_bytes(path)
    if need + SPARE_BYTES > free:
        raise EnvironmentFault(
            f"{path}: needs {(need + SPARE_BYTES) / 1e9:.2f} GB more, the disk has {free / 1e9:.2f} GB",
            "Free space, then run the same command again",
        )


def _never_close(*objects: object) -> None:
    """Keep HDF5 objects for good: after a failed write HDF5 1.14 crashes when they are closed, also at exit."""
    for thing in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def unfinished_rows(part: Path, header: Header, rows: int, dtype: str) -> int:
    """The rows of `part` that an earlier run of the same extraction made safe; 0 when there is nothing of use.

    Raises:
        UsageError: the part belongs to another extraction.
    """
    if not part.exists():
        return 0
    try:
        with h5py.File(part, "r") as file:
            found, done = _identity(file), int(file.attrs["rows_done"])
    except BlockingIOError:
        raise EnvironmentFault(
            f"{part}: another process is writing it", "Wait for it, or choose another output"
        ) from None
    except (OSError, KeyError, ValueError, TypeError):
        return 0  # killed before its first batch was safe
    wanted = _wanted(header, rows, dtype)
    for name, value in found.items():
        if value != wanted[name]:
            raise UsageError(
                f"{part}: the unfinished file of another extraction (its {name} is {_short(value)}, "
                f"this one's {_short(wanted[name])})",
                "Repeat that command to go on with it, or pass --overwrite to drop it",
            )
    whole = done == rows or done % CHUNK_ROWS == 0
    return done if whole and _count_lines(sidecar(part)) >= done else 0


def is_finished(path: Path, header: Header, dtype: str) -> bool:
    """Whether `path` is the finished file of just this extraction, in whatever format its name says."""
    if format_of(path) in EXPORTS:
        return _is_exported(path, header, dtype)
    try:
        with h5py.File(path, "r") as file:
            found, rows = _identity(file), int(file.attrs["rows_done"])
    except (OSError, KeyError, ValueError, TypeError):
        return False
    return found == _wanted(header, rows, dtype)


def _is_exported(path: Path, header: Header, dtype: str) -> bool:
    try:
        told = exported_attributes(path)
        rows, lineage = int(told["rows"]), json.loads(told["lineage"])
    except (InputError, KeyError, ValueError, TypeError):
        return False
    wanted = _wanted(header, rows, dtype)
    same = all(told.get(name) == wanted[name] for name in (*ATTRIBUTES, "dtype"))
    return same and isinstance(lineage, dict) and dict(_settings(lineage)) == dict(_settings(header.lineage))


def _identity(file: h5py.File) -> dict[str, object]:
    """What has to agree before a file is gone on with: everything that changes a number in it."""
    found: dict[str, object] = {name: text_attribute(file, name) for name in ATTRIBUTES}
    found |= {"rows": file["features"].shape[0], "dtype": file["features"].dtype.name}
    return found | {f"lineage {name}": value for name, value in _settings(json.loads(text_attribute(file, "lineage")))}


def _wanted(header: Header, rows: int, dtype: str) -> dict[str, object]:
    attributes: Mapping[str, object] = header.attributes()
    wanted: dict[str, object] = {name: attributes[name] for name in ATTRIBUTES} | {"rows": rows, "dtype": dtype}
    return wanted | {f"lineage {name}": value for name, value in _settings(header.lineage)}


def _settings(lineage: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The lineage without the places where model and data were found: they may move."""
    return [(name, value) for name, value in lineage.items() if name != "sources"]


class FeatureWriter:
    """Appends rows to `part` and its sidecar; what counts in `rows_done` survives a kill.

    Rows go out in whole chunks, each written once: a chunk that is killed half-written holds no row that was counted.
    `start` rows (whole chunks) are kept from an earlier run.
    """

    def __init__(
        self, part: Path, header: Header, *, rows: int, dim: int, dtype: str = "float32", start: int = 0
    ) -> None:
        assert start % CHUNK_ROWS == 0 or start == rows
        self.part, self.rows, self.rows_done = part, rows, start
        self._broken = False
        self._features: list[NDArray[Any]] = []
        self._samples: list[tuple[str, Mapping[str, Any]]] = []
        self._row_bytes = dim * np.dtype(dtype).itemsize
        with writing(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            demand_space(part, (rows - start) * self._row_bytes)
            if start:
                _keep_lines(sidecar(part), start)
            self._lines = sidecar(part).open("a" if start else "w", encoding="utf-8")
            # The default format, not libver "latest": after a SIGKILL only the default opens without repair tools.
            self._file = h5py.File(part, "r+" if start else "w", rdcc_nbytes=CHUNK_CACHE)
            if not start:
                self._file.attrs.update({**header.attributes(), "rows_done": 0})
                create_datasets(self._file, rows, dim, dtype)
            self._data, self._keys = self._file["features"], self._file["keys"]

    def append(self, features: NDArray[Any], keys: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> None:
        """Take one batch: (B, D) features, their B keys and metadata; whole chunks are written at once."""
        self._features.append(features)
        self._samples += zip(keys, columns, strict=True)
        waiting, last = len(self._samples), self.rows_done + len(self._samples) == self.rows
        if waiting >= CHUNK_ROWS or last:
            self._write(waiting if last else waiting - waiting % CHUNK_ROWS)

    def _write(self, count: int) -> None:
        """Write the first `count` waiting rows; they are counted only when all of them are in both files."""
        rows = np.concatenate(self._features)
        end = self.rows_done + count
        demand_space(self.part, count * self._row_bytes)
        try:
            with writing(self.part):
                self._data[self.rows_done : end] = rows[:count]
                keys = [key.encode() for key, _ in self._samples[:count]]
                self._keys[self.rows_done : end] = np.array(keys, dtype=KEY_DTYPE)
                for _, columns in self._samples[:count]:
                    self._lines.write(json.dumps(dict(columns), ensure_ascii=False, separators=(",", ":")) + "\n")
                self._lines.flush()
                self._file.attrs["rows_done"] = self.rows_done = end
                self._file.flush()
        except EnvironmentFault:
            _never_close(self._data, self._data.id, self._keys, self._keys.id, self._file, self._file.id)
            self._broken = True
            raise
        self._features, self._samples = [rows[count:]], self._samples[count:]

    def close(self) -> None:
        """Close both files; the rows that were counted stay for the next run."""
        with writing(self.part):
            self._lines.close()
            if not self._broken:
                self._file.close()


def finish(path: Path, parts: Sequence[Path], header: Header, rows: int, columns: Sequence[str] = ()) -> None:
    """Make the final file of complete parts, in order: one part is renamed, several are copied into one file, which is
    exported where the name of `path` says another format.

    `columns` are names that exist even when no row has them.

    Raises:
        InputError: a part is missing, is of another extraction, or the parts do not add up to `rows`.
    """
    whole = parts[0] if len(parts) == 1 else path.with_name(path.name + ".tmp")
    if len(parts) > 1:
        with writing(whole):
            _merge(whole, parts, header, rows)
    with writing(whole), h5py.File(whole, "r+") as file:
        if int(file.attrs["rows_done"]) != rows:
            raise InputError(f"{whole}: holds {file.attrs['rows_done']} of {rows} rows", "Run the same command again")
        file.pop("columns", None)  # left by a run that was killed right here
        lines = itertools.chain.from_iterable(_sidecar_rows(part) for part in parts)
        file.pop("categories", None)
        file.create_group("columns")
        for name, column in columns_from_rows(lines, columns).items():
            write_column(file, name, column)
    if format_of(path) in EXPORTS:
        with FeatureFile.open(whole) as finished:
            export(finished, path)
        whole.unlink()
    else:
        commit(whole, path)
    for part in parts:
        drop(part)


def _merge(whole: Path, parts: Sequence[Path], header: Header, rows: int) -> None:
    demand_space(whole, sum(part.stat().st_size for part in parts if part.exists()))
    with h5py.File(whole, "w", rdcc_nbytes=CHUNK_CACHE) as target:
        target.attrs.update({**header.attributes(), "rows_done": 0})
        done = 0
        for part in parts:
            if not part.is_file():
                raise InputError(f"{part}: no such file", "Every rank has to finish, on a file system that all share")
            with h5py.File(part, "r") as file:
                features, keys = file["features"], file["keys"]
                if int(file.attrs["rows_done"]) != len(features):
                    raise InputError(f"{part}: holds {file.attrs['rows_done']} of {len(features)} rows")
                _check_same(part, file, header)
                if "features" not in target:
                    create_datasets(target, rows, features.shape[1], features.dtype.name)
                for first in range(0, len(features), READ_ROWS):
                    last = min(first + READ_ROWS, len(features))
                    target["features"][done + first : done + last] = features[first:last]
                target["keys"][done : done + len(keys)] = keys[:]
                done += len(features)
        target.attrs["rows_done"] = done


def _check_same(part: Path, file: h5py.File, header: Header) -> None:
    """Nothing, if `part` was made of what `header` says, but for its number of rows and their type."""
    found = _identity(file)
    wanted = _wanted(header, found["rows"], found["dtype"])  # type: ignore[arg-type]
    for name, value in found.items():
        if value != wanted[name]:
            raise InputError(
                f"{part}: of another extraction (its {name} is {_short(value)}, this one's {_short(wanted[name])})",
                "Give every rank the same model and data, and pass --overwrite",
            )


def part_of(path: Path, rank: int = 0, world: int = 1) -> Path:
    """What the file at `path` is called while rank `rank` of `world` makes its part of it."""
    return path.with_name(f"{path.name}.part" if world == 1 else f"{path.name}.r{rank:05d}-of-{world:05d}.part")


def parts_of_others(path: Path, world: int) -> list[Path]:
    """Parts beside `path` that another number of ranks left."""
    ours = {part_of(path, rank, world) for rank in range(world)}
    pattern = re.compile(re.escape(path.name) + r"(\.r\d{5}-of-\d{5})?\.part")
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(other for other in found if pattern.fullmatch(other.name) and other not in ours)


def drop(part: Path) -> None:
    """Remove a part and its metadata."""
    part.unlink(missing_ok=True)
    sidecar(part).unlink(missing_ok=True)


def sidecar(part: Path) -> Path:
    """The file beside `part` that holds its metadata, one JSON object a row."""
    return part.with_name(part.name + ".jsonl")


def _count_lines(path: Path) -> int:
    """Whole lines in `path`, 0 when it is missing."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def _keep_lines(path: Path, count: int) -> None:
    with path.open("rb+") as file:
        for _ in range(count):
            file.readline()
        file.truncate(file.tell())


def _sidecar_rows(part: Path) -> Iterator[dict[str, Any]]:
    with sidecar(part).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
