"""VISSL's checkpoints: consolidated, in shards of fairscale's FSDP, or in slices of a tensor each.

`{"type": ..., "classy_state_dict": {"base_model": {"model": {"trunk", "heads"}, "meta": ...}}}`; a file without a type
is consolidated. Lists name their parts by file: shards relative to the list, slices by the path they were written at.
Parts are looked for beside the list alone, whatever directory it names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from seerctl.errors import InputError
from seerctl.model.layouts.entries import Entry, entry_of, joined
from seerctl.model.layouts.names import unwrap
from seerctl.model.layouts.torchfile import load_torch, tensors_in

_PATH = ("classy_state_dict", "base_model")


def is_vissl(content: object) -> bool:
    """Whether `content` of a file is one of VISSL's checkpoints."""
    return isinstance(content, dict) and (
        "classy_state_dict" in content or content.get("type") in ("shard", "shard_list", "slice", "slice_list")
    )


def read_vissl(content: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Entry], list[Path]]:
    """The kind of a checkpoint, its tensors under VISSL's names (heads `0.*`), and the files that it consists of.

    Raises:
        InputError: parts that are missing, damaged or no list of their own.
    """
    kind = content.get("type", "consolidated")
    readers: dict[object, Callable[[Mapping[str, Any], Path], tuple[dict[str, Entry], list[Path]]]] = {
        "consolidated": _consolidated, "shard_list": _shards, "slice_list": _slices,
    }  # fmt: skip
    if kind in ("shard", "slice"):
        raise InputError(f"{path}: is one {kind} of several", f"Name the file that lists them (type {kind}_list)")
    if kind not in readers:
        raise InputError(f"{path}: is a VISSL checkpoint of unknown type {str(kind)[:40]!r}")
    try:
        entries, files = readers[kind](content, path)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: is no whole VISSL checkpoint ({type(error).__name__}: {error})") from None
    return f"VISSL {kind}", entries, files


def _consolidated(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Entry], list[Path]]:
    model = _model(content)
    found = tensors_in(model["trunk"], f"{path}: trunk")
    for prefix, head in _heads(model.get("heads", {})):
        found |= {prefix + key: value for key, value in tensors_in(head, f"{path}: heads").items()}
    return {key: entry_of(value) for key, value in found.items()}, [path]


def _model(content: Mapping[str, Any]) -> Mapping[str, Any]:
    model: Mapping[str, Any] = content[_PATH[0]][_PATH[1]]["model"]
    return model


def _heads(heads: object) -> list[tuple[str, Any]]:
    """Heads with the prefix of their names: a state dict of all, or a list of one each."""
    return [(f"{index}.", head) for index, head in enumerate(heads)] if isinstance(heads, list) else [("", heads)]


def _slices(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Entry], list[Path]]:
    if _PATH[0] in content:
        model = _model(content)
        named = {**model["trunk"], **model.get("heads", {})}
    else:
        named = content["layers"]  # before the classy_state_dict was kept
    files = {str(key): _slice_file(path, str(value)) for key, value in named.items()}
    return {key: _slice(file, key) for key, file in files.items()}, [path, *files.values()]


def _slice_file(listing: Path, name: str) -> Path:
    written = PurePath(name)
    for place in (Path(f"{listing.with_suffix('')}_layers"), listing.parent / written.parent.name, listing.parent):
        if (place / written.name).is_file():
            return place / written.name
    raise InputError(
        f"{listing}: its slice {written.name} is missing", f"Put the folder of slices beside it: {written.parent.name}/"
    )


def _slice(file: Path, key: str) -> Entry:
    # Opened here for the shape alone: the file is mapped again when it is read, so that few are open at a time.
    def load() -> Tensor:
        content = load_torch(file)
        if content.get("type") != "slice":
            raise InputError(f"{file}: is no slice of a VISSL checkpoint")
        return tensors_in({key: content["weight"]}, str(file))[key]

    first = entry_of(load())
    return Entry(first.shape, first.dtype, lambda: entry_of(load()).pieces())


def _shards(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Entry], list[Path]]:
    files = [path.parent / PurePath(str(name)).name for name in content["shards"]]
    missing = next((file for file in files if not file.is_file()), None)
    if missing or not files:
        raise InputError(f"{path}: its shard {missing.name if missing else '0'} is missing", "Put all beside the list")
    ranks = [load_torch(file)[_PATH[0]][_PATH[1]] for file in files]
    found = _whole([rank["model"]["trunk"] for rank in ranks], [rank["meta"]["trunk"] for rank in ranks], path)
    heads = [_heads(rank["model"].get("heads", {})) for rank in ranks]
    metas = [rank["meta"].get("heads") or [{}] * len(heads[0]) for rank in ranks]
    for index, (prefix, _) in enumerate(heads[0]):
        part = _whole([head[index][1] for head in heads], [meta[index] for meta in metas], path)
        found |= {prefix + key: value for key, value in part.items()}
    return found, [path, *files]


def _whole(states: Sequence[Any], metas: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Entry]:
    """The parameters and buffers of one module from the local states of all ranks (fairscale 0.4.13's metadata).

    Each rank holds 1/N of every flat parameter, the last ones padded; a flat parameter holds one tensor or several.
    Buffers, and modules that were not sharded at all, are the same on every rank.
    """
    local = [tensors_in(state, str(path)) for state in states]
    if not metas[0]:
        return {key: entry_of(value) for key, value in local[0].items()}
    found: dict[str, Entry] = {}
    for number, unit in enumerate(metas[0]["param_metadata"]):
        prefix = f"{unit['fsdp_path']}." if unit["fsdp_path"] else ""
        alone = bool(unit["no_broadcast_optim_state"])
        for name, flat in unit["params"].items():
            parts = []
            for rank in range(1 if alone else len(local)):
                padding = metas[rank]["param_metadata"][number]["params"][name]["padding"]
                part = local[rank][prefix + name].reshape(-1)
                parts.append(part[: part.numel() - padding] if padding > 0 else part)
            found |= _split(parts, flat, prefix, path)
    found |= {name: entry_of(local[0][name]) for name in metas[0]["buffer_names"]}
    for unit in metas[0]["param_metadata"]:
        found |= {copy: found[original] for original, copy in unit.get("shared_param_info", ())}
    return found


def _split(parts: Sequence[Tensor], flat: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Entry]:
    shapes = [tuple(int(side) for side in shape) for shape in flat["shapes"]]
    have, need = sum(part.numel() for part in parts), sum(math.prod(shape) for shape in shapes)
    if have != need or any(min(shape, default=1) < 0 for shape in shapes) or len({part.dtype for part in parts}) > 1:
        raise InputError(
            f"{path}: '{prefix}{flat['names'][0]}' has {have:,} values in the shards, {need:,} by their list"
        )
    found, position = {}, 0
    for name, shape in zip(flat["names"], shapes, strict=True):
        found[unwrap(prefix + name)] = joined(parts, position, shape)
        position += math.prod(shape)
    return found
