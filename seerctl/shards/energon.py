"""The side files by which NVIDIA's Megatron-Energon reads a shard set for training: `.nv-meta/` beside the shards.

Its training path reads the number of samples in each shard from `.info.json`, the shards of each split from
`split.yaml`, the kind of sample from `dataset.yaml`, and the offsets from the `.tar.idx` that every set has. One
`.nv-meta` stands for all splits below it. Format: https://nvidia.github.io/Megatron-Energon/ (version 7).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seerctl import __version__
from seerctl.files import atomic_write, blame, write_json
from seerctl.shards.index import INDEX, load_index, split_paths

FOLDER = ".nv-meta"
INFO, SPLIT, DATASET = ".info.json", "split.yaml", "dataset.yaml"
_MARK = "# Written by 'seerctl shard --energon' and kept up to date by it."
_PARTS = ("train", "val", "test")
_DATASET = f"""{_MARK}
# Samples come as dictionaries of their files: the picture, and the json with sha256, width, height and columns.
# Where all pictures are in one format another class gives typed samples: ImageClassificationSample with a field_map.
__module__: megatron.energon
__class__: CrudeWebdataset
"""


def write_side_files(directory: Path) -> None:
    """Write `.nv-meta` for the set, or for the splits, in `directory`; a `dataset.yaml` that is there stays."""
    sets = _sets(directory)
    folder = directory / FOLDER
    with blame(folder):
        folder.mkdir(exist_ok=True)
    write_json(folder / INFO, _info(sets))
    with atomic_write(folder / SPLIT, "w") as file:
        file.write(_split(sets))
    if not (folder / DATASET).exists():
        with atomic_write(folder / DATASET, "w") as file:
            file.write(_DATASET)


def refresh(directory: Path) -> None:
    """Bring what `--energon` wrote for the set in `directory`, or for the splits it belongs to, up to date."""
    for place in (directory, directory.parent):
        if stale(place):
            write_side_files(place)


def stale(directory: Path) -> str | None:
    """What is wrong with the `.nv-meta` in `directory`; None where it is right, absent or by another program."""
    folder = directory / FOLDER
    try:
        split = (folder / SPLIT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not split.startswith(_MARK):
        return None
    sets = _sets(directory)
    told: Any = None
    with contextlib.suppress(OSError, ValueError):
        told = json.loads((folder / INFO).read_bytes())
    counts = told.get("shard_counts") if isinstance(told, dict) else None
    if counts != _info(sets)["shard_counts"]:
        return f"{FOLDER}/{INFO} does not list the shards of the index"
    return None if split == _split(sets) else f"{FOLDER}/{SPLIT} does not list the shards of the index"


def remove(directory: Path) -> None:
    """Remove the side files of a set that is no more, if `--energon` wrote them."""
    folder = directory / FOLDER
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if (folder / SPLIT).read_text(encoding="utf-8").startswith(_MARK):
            for name in (INFO, SPLIT, DATASET):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def _sets(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The shard lists below `directory`, by split ("" for a set that is none)."""
    places = split_paths(directory) or {"": directory}
    return {
        name: load_index(place / INDEX)[0]["shardlist"] for name, place in places.items() if (place / INDEX).is_file()
    }


def _names(split: str, shards: list[dict[str, Any]]) -> list[str]:
    return [f"{split}/{shard['url']}" if split else str(shard["url"]) for shard in shards]


def _info(sets: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    counts = {
        name: shard["nsamples"]
        for split, shards in sets.items()
        for name, shard in zip(_names(split, shards), shards, strict=True)
    }
    return {"energon_version": f"seerctl {__version__}", "shard_counts": counts}


def _split(sets: Mapping[str, list[dict[str, Any]]]) -> str:
    """The YAML of `split_parts`, whose lists are also JSON; a set without splits is all for training."""
    parts = {"train": _names("", sets.get("", []))} if "" in sets else {}
    parts |= {split: _names(split, shards) for split, shards in sets.items() if split}
    parts |= {name: [] for name in _PARTS if name not in parts}
    lines = [f"  {json.dumps(name)}: {json.dumps(names)}" for name, names in parts.items()]
    return "\n".join([_MARK, "split_parts:", *lines, "exclude: []", ""])
