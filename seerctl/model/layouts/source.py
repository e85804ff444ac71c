"""A model in whatever file it came: which layout it is, and its tensors under our names, unread."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import safetensors
import torch

from seerctl.errors import InputError, UsageError
from seerctl.files import blame, read_json, sha256_file
from seerctl.model.layouts import dcp, names
from seerctl.model.layouts.entries import Entry, entry_of
from seerctl.model.layouts.torchfile import load_torch, tensors_in
from seerctl.model.layouts.vissl import is_vissl, read_vissl
from seerctl.model.load import WEIGHTS_FILE
from seerctl.model.shapes import size_of
from seerctl.model.sizes import Size, family_of
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import FORMAT

_SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MOST_BLOCKS = 1000  # in all stages: SEER's 10B has 27
_ONE_FILE = (WEIGHTS_FILE, "model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Source:
    """A trunk found in `path`: its size by shapes, trunk and head by our names without prefix.

    `unknown` are keys of a head that no layout knows; `metadata` is what the file says of itself, if it is ours.
    """

    path: Path
    layout: str
    size: Size
    trunk: dict[str, Entry]
    head: dict[str, Entry]
    unknown: tuple[str, ...]
    metadata: dict[str, str]
    files: tuple[Path, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 of the file; of several, of the list of their names and sums (a checkpoint's are checked)."""
        if len(self.files) == 1 and self.files[0].is_file():
            return sha256_file(self.files[0])
        sums = dcp.sums_of(self.path) if dcp.is_checkpoint(self.path) else {
            file.name: sha256_file(file) for file in self.files
        }  # fmt: skip
        return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def open_source(path: Path, *, unfinished: bool = False) -> Source:
    """The model at `path`: a file of any known layout, a run, a checkpoint of a run, or a Hugging Face directory.

    `unfinished`: of a run that has no weights yet, its newest checkpoint.

    Raises:
        InputError: no such file, damaged, naming code, or no trunk of ours; the message names the first unknown keys.
    """
    place = _place(path, unfinished)
    container, entries, metadata, files = _directory(place) if place.is_dir() else _file(place)
    claimed, held = sum(entry.nbytes for entry in entries.values()), sum(_bytes(file) for file in files)
    if claimed > held:
        raise InputError(f"{place}: its tensors claim {claimed:,} bytes, the files have {held:,}")
    plain = {names.unwrap(key): entry for key, entry in entries.items()}
    layout, ours, unknown = names.recognise(plain, str(place))
    foreign = [key for key in unknown if not names.of_head(key)]
    if foreign:
        raise InputError(
            f"{place}: a {layout.title} {layout.family} with keys of something else: {names.listing(foreign)}"
        )
    trunk = {new.removeprefix("trunk."): plain[key] for key, new in ours.items() if new.startswith("trunk.")}
    head = {new.removeprefix("head."): plain[key] for key, new in ours.items() if new.startswith("head.")}
    size = _checked_size(trunk, str(place))
    title = container if container.startswith("VISSL") or layout.title in container else f"{layout.title} {container}"
    return Source(place, title, size, trunk, head, tuple(unknown), metadata, tuple(files))


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of any kind of model, under the file's own names without wrappers', mapped into memory.

    Raises:
        InputError: damaged, or naming code.
    """
    return {names.unwrap(key): entry.mapped() for key, entry in _file(path)[1].items()}


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size


def _place(path: Path, unfinished: bool) -> Path:
    """What to read of `path`: of a run its weights."""
    if path.is_file():
        return path.resolve()
    if not path.is_dir():
        raise InputError(f"{path}: no such file", f"Name a run directory or a {WEIGHTS_FILE}")
    for name in (dcp.METADATA, *_ONE_FILE, *_SHARDED):
        if (path / name).is_file():
            return path / name if name in _ONE_FILE else path
    steps = [
        place for place in path.glob("checkpoints/step-*") if place.name[5:].isdigit() and dcp.is_checkpoint(place)
    ]
    newest = max(steps, key=lambda place: int(place.name[5:]), default=None)
    if newest and unfinished:
        return newest
    hint = f"Name a checkpoint, as {newest}" if newest else "It is written when training ends: run pretrain again"
    raise InputError(f"{path}: holds no {WEIGHTS_FILE}", hint)


_Read = tuple[str, dict[str, Entry], dict[str, str], list[Path]]


def _directory(path: Path) -> _Read:
    if dcp.is_checkpoint(path):
        found = dcp.read_checkpoint(path)
        model = {key.removeprefix("model."): entry for key, entry in found.items() if key.startswith("model.")}
        return "seerctl checkpoint", model or found, _facts_of_run(path), [path]
    index = next(path / name for name in _SHARDED if (path / name).is_file())
    listed = read_json(index)
    weights = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{index}: is no index of a sharded model")
    files = sorted({path / PurePath(str(name)).name for name in weights.values()})
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(f"{index}: its part {missing[0].name} is missing", "Put all parts beside it")
    entries = {key: entry for file in files for key, entry in _file(file)[1].items()}
    return f"in {len(files)} files", entries, {}, [index, *files]


def _facts_of_run(path: Path) -> dict[str, str]:
    """What `pretrain` writes into weights, from the files beside a checkpoint of a run."""
    facts = {}
    state = read_json(path / "state.json") if (path / "state.json").is_file() else {}
    told = state.get("weights") if isinstance(state, dict) else None
    if isinstance(told, dict):
        return {str(key): value for key, value in told.items() if isinstance(value, str)}
    for key in ("step", "index_sha256"):
        if isinstance(state, dict) and key in state:
            facts[key] = str(state[key])
    recipe = path.parent.parent / "recipe.toml"
    if recipe.is_file() and recipe.stat().st_size < 1 << 20:
        from seerctl.recipe import load_recipe  # noqa: PLC0415  # only checkpoints of runs have one

        facts["recipe"] = recipe.read_text(encoding="utf-8", errors="replace")
        with contextlib.suppress(UsageError):  # of another version: the weights are what is asked for
            loaded = load_recipe(recipe)
            facts["crop_size"] = str(loaded.predict.size or loaded.augment.crops[0].size)
    return facts


def _file(path: Path) -> _Read:
    with blame(path), path.open("rb") as file:
        start = file.read(9)
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:9] != b"{"):
        return _torch_file(path)
    entries, metadata = _safetensors(path)
    kept = metadata if metadata.get("format") == FORMAT else {}
    return "safetensors", entries, kept, [path]


def _torch_file(path: Path) -> _Read:
    content = load_torch(path)
    if is_vissl(content):
        container, entries, files = read_vissl(content, path)
        return container, entries, {}, files
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else content
    entries = {key: entry_of(value) for key, value in tensors_in(content, str(path)).items()}
    return "state dict", entries, {}, [path]


def _safetensors(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    with blame(path):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                found = {key: entry_of(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118  # memory-mapped
                return found, dict(file.metadata() or {})
        except safetensors.SafetensorError as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def _checked_size(trunk: Mapping[str, Entry], where: str) -> Size:
    """The size of a trunk, every tensor of which is there and has its shape."""
    try:
        size = size_of({key: torch.empty(entry.shape, device="meta") for key, entry in trunk.items()}, where)
    except (IndexError, ZeroDivisionError, RuntimeError):
        raise InputError(f"{where}: the shapes in it are no trunk's") from None
    if sum(size.depths) > _MOST_BLOCKS or min(size.widths) < 1:
        raise InputError(f"{where}: the shapes in it are no {family_of(size)}'s ({size})")
    with torch.device("meta"):
        expected = build_trunk(size).state_dict()
    for key, value in expected.items():
        if key in trunk and trunk[key].shape != tuple(value.shape):
            raise InputError(
                f"{where}: '{key}' has shape {list(trunk[key].shape)}, this model's is {list(value.shape)}"
            )
        if key not in trunk and not key.endswith("num_batches_tracked"):
            raise InputError(f"{where}: '{key}' is missing")
    extra = sorted(trunk.keys() - expected.keys())
    if extra:
        raise InputError(f"{where}: '{extra[0]}' is not part of this model")
    return size
