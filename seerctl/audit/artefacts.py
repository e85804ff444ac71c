"""What each artefact says it was made from: one small reader a kind, none of which loads a model or runs code.

A claim names the hash of another artefact and where it was found at the time; `lineage` looks whether that holds.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from seerctl.errors import InputError, UsageError
from seerctl.features.layout import text_attribute
from seerctl.files import blame, read_json, sha256_file
from seerctl.shards.index import INDEX, ShardSet, split_paths
from seerctl.stream.records import START
from seerctl.stream.ustar import BLOCK

WEIGHTS_FILE, RUN_FILE = "weights.safetensors", "run.json"
SIDECAR = ".lineage.json"  # beside a table of predictions
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_HEADER = 100_000_000  # bytes, as safetensors allows
_TABLES = (".csv", ".jsonl", ".parquet")
_NO_MODEL_FILE = ("torchvision:", "timm:")

KINDS = ("report", "predictions", "scores", "features", "sample weights", "weights", "run", "set", "stream", "sources")


@dataclass(frozen=True, slots=True)
class Claim:
    """That an artefact was made from another: of kind `kind` (or any file), with hash `sha256` ("": it names none).

    hint: where it was then. role: such as train or test. why: the reason where nothing can be checked by nature.
    """

    kind: str
    sha256: str
    hint: str = ""
    role: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """One artefact as it is now. sha256: of the file, of a set's index, or a stream's own; "" for directories."""

    kind: str
    path: Path
    sha256: str
    claims: tuple[Claim, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_artefacts(path: Path) -> list[Artefact]:
    """What stands at `path`: a file, a run, a shard set or its splits, or a folder of source files.

    Raises:
        InputError: nothing is there, or it is damaged.
        UsageError: a file of no kind that is known here.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or directory", "Name artefacts as they lie there now")
    if path.is_dir():
        splits = split_paths(path)
        if splits:
            return [_set(directory) for directory in splits.values()]
        if (path / INDEX).is_file():
            return [_set(path)]
        if (path / RUN_FILE).is_file():
            weights = path / WEIGHTS_FILE
            return [_run(path), *([_weights(weights)] if weights.is_file() else [])]
        if (path / "report.json").is_file():
            return [_report(path / "report.json")]
        return [Artefact("sources", path, "")]
    return [_file(path)]


def _file(path: Path) -> Artefact:
    with blame(path), path.open("rb") as file:
        head = file.read(BLOCK)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5(path)
    if path.name == INDEX:
        return _set(path)
    if path.suffix == ".safetensors":
        return _weights(path)
    if path.suffix in (".pth", ".pt", ".torch"):
        return Artefact("weights", path, sha256_file(path), (Claim("set", "", why="a .pth file names no data"),))
    if path.suffix == ".json":
        return _report(path)
    if path.suffix in _TABLES:
        return _predictions(path)
    if head.startswith(START.encode() + b"\0"):
        return Artefact("stream", path, "")
    raise UsageError(
        f"{path}: not an artefact with a lineage",
        "Name reports, predictions, features, weights, runs, shard sets, streams or source folders",
    )


# ------------------------------------------------------------------------------------------------------------- by kind


def _report(path: Path) -> Artefact:
    report = read_json(path)
    schema = report.get("schema") if isinstance(report, dict) else None
    claims: list[Claim] = []
    if schema == "seerctl.probe/1":
        for role, side in report.items():
            if isinstance(side, dict) and "sha256" in side:
                kind = "predictions" if role == "predictions" else "features"
                claims.append(Claim(kind, _hex(side["sha256"]), _text(side.get("path")), role))
    elif schema == "seerctl.audit/1":
        claims = list(dict.fromkeys(_inputs(report)))
    else:
        raise InputError(f"{path}: not a report of 'probe' or 'audit'", "Name a report.json")
    if not claims:
        claims = [Claim("any", "", why="the report names no input")]
    return Artefact("report", path, sha256_file(path), tuple(claims), {"schema": schema})


def _inputs(report: Mapping[str, Any]) -> Iterator[Claim]:
    """Every file and set with a hash among the inputs of an audit's report and of its sections."""
    sections = report.get("sections")
    places = [report.get("inputs")]
    places += [part.get("inputs") for part in sections.values() if isinstance(part, dict)] if isinstance(
        sections, dict) else []  # fmt: skip
    for place in places:
        yield from _hashed(place, "")


def _hashed(value: Any, role: str, depth: int = 0) -> Iterator[Claim]:
    if depth > 8:
        return
    if isinstance(value, list):
        for item in value:
            yield from _hashed(item, role, depth + 1)
    if not isinstance(value, dict):
        return
    names = [value.get(name) for name in ("path", "predictions", "location", "source")]
    hint = next((name for name in names if isinstance(name, str)), "")
    if "sha256" in value and hint:
        yield Claim("any", _hex(value["sha256"]), hint, role)
    elif "index_sha256" in value:
        yield Claim("set", _hex(value["index_sha256"]), hint, role)
    for name, item in value.items():
        yield from _hashed(item, str(name), depth + 1)


def _predictions(path: Path) -> Artefact:
    """A table and, where `probe` wrote one, the lineage beside it."""
    digest = sha256_file(path)
    with blame(path), path.open("rb") as file:
        if file.readline(64).strip() == b"key,weight":
            return Artefact("sample weights", path, digest, (Claim("set", "", why="a csv of weights names no set"),))
    beside = path.with_name(path.name + SIDECAR)
    if not beside.is_file():
        why = f"no {beside.name} beside it says what it was made from"
        return Artefact("predictions", path, digest, (Claim("features", "", why=why),))
    told = read_json(beside)
    if not isinstance(told, dict):
        raise InputError(f"{beside}: not the lineage of a table", "Write both again with 'probe --predictions'")
    claims = [Claim("self", _hex(told.get("sha256")), str(path), "table")]
    made_from = told.get("made_from")
    for entry in made_from if isinstance(made_from, list) else []:
        if isinstance(entry, dict):
            fields = (_text(entry.get(name)) for name in ("path", "role"))
            claims.append(Claim(_text(entry.get("kind")) or "any", _hex(entry.get("sha256")), *fields))
    return Artefact("predictions", path, digest, tuple(claims))


def _hdf5(path: Path) -> Artefact:
    """Features, full scores or sample weights, by their `schema`."""
    try:
        with blame(path), h5py.File(path, "r") as file:
            schema = text_attribute(file, "schema")
            texts = {name: text_attribute(file, name) for name in ("weights_sha256", "index_sha256", "lineage")
                     if name in file.attrs}  # fmt: skip
            lineage = json.loads(texts.get("lineage", "{}"))
            keys = (
                file["keys"][:]
                if "keys" in file and isinstance(file.get("keys", getlink=True), h5py.HardLink)
                else None
            )
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged or no file of ours ({str(error)[:80]})", "Make it again") from None
    kind = {"seerctl.features/1": "features", "seerctl.scores/1": "scores", "seerctl.weights/1": "sample weights"}.get(
        schema
    )
    if kind is None:
        raise InputError(f"{path}: an HDF5 file of schema '{schema}'", "Name a file that seerctl wrote")
    sources = lineage.get("sources") if isinstance(lineage, dict) else None
    hints = sources if isinstance(sources, dict) else {}
    claims = []
    if kind == "features":
        model = _text(hints.get("model"))
        outside = model.startswith(_NO_MODEL_FILE) and "@" not in model
        why = f"{model}: a model that is no file" if outside else ""
        claims.append(Claim("weights", _hex(texts.get("weights_sha256")), model.rpartition("@")[2], why=why))
    if kind == "scores":
        claims.append(Claim("features", "", why="scores name no lineage of their own"))
    else:
        claims.append(Claim("set", _hex(texts.get("index_sha256")), _text(hints.get("data"))))
    if kind == "features" and keys is None:
        raise InputError(f"{path}: damaged, it has no keys", "Extract it again")
    facts = {"keys": keys} if kind == "features" else {}
    return Artefact(kind, path, sha256_file(path), tuple(claims), facts)


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file, of whose tensors nothing is read.

    Raises:
        InputError: its header is not one, or its size is not what the header says.
    """
    with blame(path), path.open("rb") as file:
        head = file.read(8)
        (length,) = struct.unpack("<Q", head) if len(head) == 8 else (0,)
        text = file.read(length) if 0 < length <= _MAX_HEADER else b""
        size = file.seek(0, 2)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise InputError(f"{path}: not a whole safetensors file", "Name a weights.safetensors") from None
    if size != 8 + length + end:
        raise InputError(f"{path}: {size} bytes, its header says {8 + length + end}", "Copy it again")
    return {str(name): str(value) for name, value in metadata.items()}


def _weights(path: Path) -> Artefact:
    metadata = read_safetensors_metadata(path)
    run = path.parent / RUN_FILE
    hint = _text(read_json(run).get("data")) if run.is_file() else ""
    claims = [Claim("set", _hex(metadata.get("index_sha256")), hint, "training data")]
    if metadata.get("init_sha256"):
        claims.append(Claim("weights", _hex(metadata["init_sha256"]), role="start"))
    if run.is_file():
        claims.append(Claim("run", "", str(path.parent), "run"))
    return Artefact("weights", path, sha256_file(path), tuple(claims), {"metadata": metadata})


def _run(path: Path) -> Artefact:
    told = read_json(path / RUN_FILE)
    if not isinstance(told, dict):
        raise InputError(f"{path / RUN_FILE}: not the facts of a run", "Name a run directory")
    claims = [Claim("set", _hex(told.get("index_sha256")), _text(told.get("data")), "training data")]
    start = told.get("init")
    if isinstance(start, dict):
        claims.append(Claim("weights", _hex(start.get("sha256")), _text(start.get("path")), "start"))
    weights = told.get("sample_weights")
    if isinstance(weights, dict):
        source = _text(weights.get("source"))
        if Path(source).suffix in (".h5", ".hdf5", *_TABLES):  # else a column of the set, which its hash covers
            claims.append(Claim("any", _hex(weights.get("sha256")), source, "sample weights"))
    return Artefact("run", path, "", tuple(claims), {"run": told})


def _set(path: Path) -> Artefact:
    with ShardSet.open(path) as shards:
        lineage = shards.index.get("lineage")
        told = lineage.get("streams") if isinstance(lineage, dict) else None
        streams = [
            Claim("stream", _hex(stream.get("sha256")), role=f"{stream.get('samples', '?')} samples")
            for stream in (told if isinstance(told, list) else []) if isinstance(stream, dict)
        ]  # fmt: skip
        return Artefact("set", shards.path.parent, shards.sha256, tuple(streams), {"index": shards.index})


def _hex(value: object) -> str:
    return value if isinstance(value, str) and _HEX.fullmatch(value) else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
