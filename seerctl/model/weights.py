"""`weights.safetensors`: torchvision's key names under `trunk.` and `head.`, sizes read from shapes, no pickle.

String metadata of the file: `size, seerctl, step, recipe` (TOML text), `index_sha256, crop_size, format`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seerctl.errors import EnvironmentFault, InputError
from seerctl.files import blame, commit
from seerctl.model.sizes import Size, family_of, name_of

FORMAT = "seerctl-weights-v1"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a file by part, and its metadata."""

    trunk: dict[str, Tensor]
    head: dict[str, Tensor]
    metadata: dict[str, str]


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `state` (keys `trunk.*` and `head.*`) to a safetensors file, atomically."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    temporary = path.with_name(path.name + ".tmp")
    with blame(path):
        try:
            save_file(tensors, temporary, metadata={**metadata, "format": FORMAT})
            commit(temporary, path)
        except safetensors.SafetensorError as error:
            raise EnvironmentFault(f"{path}: could not be written ({error})") from None
        finally:
            temporary.unlink(missing_ok=True)


def load_weights(path: Path) -> Weights:
    """The tensors in a file of any layout that `seerctl.model.layouts` knows, under our names, mapped from the file.

    Raises:
        InputError: no such file, damaged, holds pickled code, or no trunk of ours is in it.
    """
    from seerctl.model.layouts.source import open_source  # noqa: PLC0415  # which checks sizes with this module

    source = open_source(path)
    trunk, head = ({key: entry.mapped() for key, entry in part.items()} for part in (source.trunk, source.head))
    return Weights(trunk, head, source.metadata)


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy `state` into `module`, which must fit exactly.

    Raises:
        InputError: tensors that are missing, unexpected or of another shape; the message names the first.
    """
    expected = module.state_dict()
    for key in sorted(expected.keys() ^ state.keys()):
        if not key.endswith("num_batches_tracked"):
            raise InputError(f"{where}: '{key}' is {'missing' if key in expected else 'not part of this model'}")
    for key, value in expected.items():
        if key in state and state[key].shape != value.shape:
            raise InputError(
                f"{where}: '{key}' has shape {list(state[key].shape)}, this model's is {list(value.shape)}"
            )
    module.load_state_dict(dict(state), strict=False)


def check_size(found: Size, wanted: Size, where: str) -> None:
    """Nothing, if the two are equal.

    Raises:
        InputError: they differ; the message holds both.
    """
    if found != wanted:
        raise InputError(
            f"{where}: holds a {family_of(found)} '{name_of(found)}' ({found}), "
            f"but '{name_of(wanted)}' ({wanted}) is wanted",
            "Name weights of that size",
        )


def state_sha256(state: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names and bytes of tensors in order of name: the identity of weights that stand in no file."""
    digest = hashlib.sha256()
    for key, value in sorted(state):
        digest.update(key.encode() + b"\0")
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
