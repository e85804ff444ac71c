"""Model files as other libraries write them, built from their documented names: small, and with known values.

`regnet_keys.json` lists names and shapes of one small RegNetY as torchvision 0.29, timm 1.0, transformers 5.23 and
ClassyVision 0.7 (under VISSL's `_feature_blocks`) themselves name and shape it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
import types
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

GOLDEN = json.loads(Path(__file__).with_name("regnet_keys.json").read_text())
HEAD = {"projection.0": (24, 96), "projection.2": (16, 24)}

# torchvision -> VISSL, as written in the specification: the tail of a block's names.
_TAILS = {
    "proj.0.": "proj.", "proj.1.": "bn.", "f.se.fc1.": "f.se.excitation.0.", "f.se.fc2.": "f.se.excitation.2.",
    "f.c.0.": "f.c.", "f.c.1.": "f.final_bn.",
}  # fmt: skip


def values(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of those names and shapes; running variances positive, counters whole."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        state[key] = torch.randn(shape, generator=generator) * 0.1
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(len(state))
    return state


def torchvision_state(seed: int = 0) -> dict[str, Tensor]:
    """A state dict of torchvision's small RegNetY, with its classifier."""
    return values(GOLDEN["layouts"]["torchvision"], seed)


def ours_with_head(seed: int = 0) -> dict[str, Tensor]:
    """The same trunk under our names, with a SwAV head."""
    state = {f"trunk.{key}": value for key, value in torchvision_state(seed).items() if not key.startswith("fc.")}
    for name, shape in HEAD.items():
        state |= values({f"head.{name}.weight": list(shape), f"head.{name}.bias": [shape[0]]}, seed + 1)
    return state | values({"head.prototypes.weight": [10, 16]}, seed + 2)


def vissl_trunk(trunk: dict[str, Tensor], parts: dict[int, list[int]] | None = None) -> dict[str, Tensor]:
    """A trunk in VISSL's names; `parts`: where each stage's groups end, as `regnet_fsdp` cuts them."""
    found = {}
    for key, value in trunk.items():
        if key.startswith("stem."):
            found[f"_feature_blocks.conv1.{key}"] = value
        elif match := re.fullmatch(r"trunk_output\.block(\d+)\.block\d+-(\d+)\.(.*)", key):
            stage, block, tail = int(match[1]), int(match[2]), match[3]
            for theirs, vissl in _TAILS.items():
                tail = re.sub(rf"^{re.escape(theirs)}", vissl, tail)
            part = "" if parts is None else f"block{stage}-part{sum(block >= end for end in parts[stage])}."
            found[f"_feature_blocks.res{stage + 1}.{part}block{stage}-{block}.{tail}"] = value
    return found


def vissl_heads(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """SwAV's head in VISSL's names, without the number of the head."""
    renamed = {"projection.": "projection_head.", "prototypes.": "prototypes0."}
    return {re.sub(r"^\w+\.", renamed[key.split(".")[0] + "."], key): value for key, value in head.items()}


def split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trunk and head of our state dict, without prefixes."""
    return tuple(  # type: ignore[return-value]
        {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
        for part in ("trunk.", "head.")
    )


def consolidated(state: dict[str, Tensor], **extra: Any) -> dict[str, Any]:
    """The content of VISSL's consolidated file."""
    trunk, head = split(state)
    model = {
        "trunk": OrderedDict(vissl_trunk(trunk)),
        "heads": OrderedDict({f"0.{key}": value for key, value in vissl_heads(head).items()}),
    }
    return {"phase_idx": 3, "iteration": 7, "classy_state_dict": {"base_model": {"model": model}}, **extra}


class AttrDict(dict[str, Any]):
    """Stands for VISSL's configuration; pickled under its name."""


AttrDict.__module__, AttrDict.__qualname__ = "vissl.utils.hydra_config", "AttrDict"


def save_as_vissl_trains(content: dict[str, Any], path: Path) -> None:
    """`torch.save` with what a training's checkpoint has beside tensors: a configuration, NumPy scalars, counters."""
    modules = {name: types.ModuleType(name) for name in ("vissl", "vissl.utils", "vissl.utils.hydra_config")}
    modules["vissl.utils.hydra_config"].AttrDict = AttrDict  # type: ignore[attr-defined]
    counts: defaultdict[str, list[int]] = defaultdict(list, a=[1])
    extra = {"config": AttrDict(MODEL=AttrDict(lr=0.1)), "loss": np.float64(0.25), "losses": [np.int64(3)], "c": counts}
    sys.modules.update(modules)
    try:
        torch.save({**content, **extra}, path)
    finally:
        for name in modules:
            del sys.modules[name]


def save_slices(state: dict[str, Tensor], path: Path) -> None:
    """A list of slices and the folder beside it, with the absolute paths of another machine."""
    content = consolidated(state)
    folder = Path(f"{path.with_suffix('')}_layers")
    folder.mkdir()
    model = content["classy_state_dict"]["base_model"]["model"]
    for part in ("trunk", "heads"):
        for key, value in model[part].items():
            name = f"{hashlib.sha1(key.encode()).hexdigest()}.torch"
            torch.save({"type": "slice", "weight": value}, folder / name)
            model[part][key] = f"/private/checkpoints/{folder.name}/{name}"
    torch.save({"type": "slice_list", "classy_state_dict": content["classy_state_dict"]}, path)


def local_states(
    state: dict[str, Tensor], ranks: int, flatten: bool
) -> tuple[list[dict[str, Tensor]], list[dict[str, Any]]]:
    """What each rank of fairscale's FSDP has of a module, and its metadata: by module, or each parameter alone.

    BatchNorms are units of their own, whole on every rank, as VISSL wraps them.
    """
    states: list[dict[str, Tensor]] = [{} for _ in range(ranks)]
    units: list[list[dict[str, Any]]] = [[] for _ in range(ranks)]
    buffers = [key for key in state if key.split(".")[-1].startswith(("running_", "num_batches"))]
    modules: dict[str, list[str]] = {}
    for key in state:
        if key not in buffers:
            modules.setdefault(key.rpartition(".")[0], []).append(key.rpartition(".")[2])
    for path, leaves in modules.items():
        alone = f"{path}.running_mean" in state
        unit: list[dict[str, Any]] = [{} for _ in range(ranks)]
        for names in [leaves] if flatten and not alone else [[leaf] for leaf in leaves]:
            backing = "flat_param_0" if flatten and not alone else names[0]
            flat = torch.cat([state[f"{path}.{leaf}"].reshape(-1) for leaf in names])
            shapes = [state[f"{path}.{leaf}"].shape for leaf in names]
            size = flat.numel() if alone else -(-flat.numel() // ranks)
            for rank in range(ranks):
                part = flat if alone else flat[rank * size : (rank + 1) * size]
                padding = size - part.numel()
                # As fairscale's own metadata: "names, shapes, numels, padding", in this order.
                unit[rank][backing] = {
                    "names": names, "shapes": shapes, "numels": [shape.numel() for shape in shapes], "padding": padding,
                }  # fmt: skip
                states[rank][f"{path}.{backing}"] = torch.cat([part, torch.full((padding,), 9.9, dtype=part.dtype)])
        for rank in range(ranks):
            units[rank].append(
                {"fsdp_path": path, "params": unit[rank], "no_broadcast_optim_state": alone, "shared_param_info": []}
            )
    for rank in range(ranks):
        states[rank] |= {key: state[key] for key in buffers}
    return states, [{"param_metadata": unit, "buffer_names": buffers} for unit in units]


def save_shards(state: dict[str, Tensor], path: Path, ranks: int = 3, flatten: bool = False) -> None:
    """A list of shards and the shards beside it; heads are a list, and their blocks stand in parts."""
    trunk, head = split(state)
    trunks, metas = local_states(vissl_trunk(trunk, {1: [1], 2: [1], 3: [1, 2], 4: [1]}), ranks, flatten)
    heads, head_metas = local_states(vissl_heads(head), ranks, flatten)
    names = [f"{path.stem}_shard{rank}.torch" for rank in range(ranks)]
    for rank, name in enumerate(names):
        base = {"model": {"trunk": trunks[rank], "heads": [heads[rank]]},
                "meta": {"trunk": metas[rank], "heads": [head_metas[rank]]}}  # fmt: skip
        torch.save({"type": "shard", "classy_state_dict": {"base_model": base}}, path.parent / name)
    torch.save({"type": "shard_list", "shards": names}, path)


def save_checkpoint(tensors: dict[str, Tensor], folder: Path) -> None:
    """A distributed checkpoint of one process."""
    writer = FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp_save(dict(tensors), storage_writer=writer, no_dist=True)


def cut_checkpoint(tensors: dict[str, Tensor], cuts: dict[str, list[tuple[int, ...]]], folder: Path) -> None:
    """A distributed checkpoint whose tensors in `cuts` lie in blocks that begin at those corners, as DTensors do."""
    blocks = {f"{key}@{index}": block for key, corners in cuts.items()
              for index, (_, block) in enumerate(_blocks(tensors[key], corners))}  # fmt: skip
    save_checkpoint({**tensors, **blocks}, folder)
    listed = pickle.loads((folder / ".metadata").read_bytes())
    for key, corners in cuts.items():
        listed.storage_data.pop(MetadataIndex(key, (0,) * tensors[key].ndim))
        chunks = []
        for index, (corner, block) in enumerate(_blocks(tensors[key], corners)):
            listed.state_dict_metadata.pop(f"{key}@{index}")
            where = listed.storage_data.pop(MetadataIndex(f"{key}@{index}", (0,) * block.ndim))
            listed.storage_data[MetadataIndex(key, corner)] = where
            chunks.append(ChunkStorageMetadata(torch.Size(corner), block.shape))
        listed.state_dict_metadata[key].chunks = chunks[::-1]
    (folder / ".metadata").write_bytes(pickle.dumps(listed))


def _blocks(tensor: Tensor, corners: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], Tensor]]:
    found = []
    for corner in corners:
        region = []
        for dim, low in enumerate(corner):
            beyond = [other[dim] for other in corners if other[dim] > low]
            region.append(slice(low, min(beyond) if beyond else tensor.shape[dim]))
        found.append((corner, tensor[tuple(region)].clone()))
    return found
