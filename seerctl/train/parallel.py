"""The parallel plan in its order: BatchNorm groups, compilation, checkpoints, sharding and precision, weights.

One process on a CPU is left as it is; everything else is sharded by FSDP2 (`fully_shard`), also a single GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm

from seerctl.errors import UsageError
from seerctl.model.batchnorm import norm_layer
from seerctl.model.heads import Classifier, ClassifierHead, Model, SwAVHead, SwAVModel
from seerctl.model.init import init_weights
from seerctl.model.sizes import size_named
from seerctl.model.trunk import build_trunk
from seerctl.recipe import ModelConfig, ParallelConfig, Recipe
from seerctl.train.compiling import compile_blocks
from seerctl.train.objectives.swav import normalise_rows, prototypes_of
from seerctl.train.planner.recompute import Chunk
from seerctl.train.recomputing import checkpoint_blocks
from seerctl.train.world import World, computes_in_bf16, group_of_one

BIG_CONVOLUTION = 100_000_000  # parameters; VISSL's AUTO_WRAP_THRESHOLD for the 10B model
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_model(recipe: Recipe, world: World, classes: int = 0, chunks: Sequence[Chunk] | None = None) -> Model:
    """The model of `recipe`, spread over `world`, with its initial weights (the same for any number of ranks).

    `classes`: of a supervised recipe's data. `chunks`: as in `plan_model`.
    """
    model = plan_model(recipe, world, classes, chunks=chunks, compiled=recipe.parallel.compile)
    model.to_empty(device=world.device)
    init_weights(model, recipe.run.seed)
    if isinstance(model, SwAVModel):
        normalise_rows(prototypes_of(model))
    return model


def plan_model(
    recipe: Recipe,
    world: World,
    classes: int = 0,
    *,
    accelerated: bool | None = None,
    chunks: Sequence[Chunk] | None = None,
    compiled: bool = False,
) -> Model:
    """The model of `prepare_model` before it takes any memory: its parameters are on the meta device.

    `accelerated`: whether it is for a GPU; by default as `world.device` says. `chunks`: of blocks to recompute, where
    the recipe leaves that to the memory there is (`dp`, `auto`: `seerctl.train.planner.choose`); None: each block.
    `compiled`: compile the blocks when they are first called, which a plan without values cannot.
    """
    config = recipe.parallel
    accelerated = world.device.type != "cpu" if accelerated is None else accelerated
    group, synchronised = batchnorm_group(config, world)
    with torch.device("meta"):
        model = assemble(recipe.model, group, synchronised=synchronised, classes=classes)
    if compiled:  # innermost: what recomputes a block and what gathers its parameters calls the compiled one
        compile_blocks(model)
    if config.activation_checkpointing != "none":
        checkpoint_blocks(model, config.checkpoint_wrapper, chunks, offload=config.activation_offload)
    precision = computing_precision(config, world.device)
    # fairscale's checkpoint does not restore a CPU autocast in its recomputation: there, sharding casts instead.
    plain_half = precision != "fp32" and config.activation_checkpointing == "none"
    if world.size == 1 and not accelerated and (precision == "fp32" or plain_half):
        model.autocast = DTYPES[precision] if plain_half else None
    else:
        group_of_one(world.device)
        shard(model, config, world, DTYPES[precision])
    return model


def computing_precision(config: ParallelConfig, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """What the recipe's precision is on `device`."""
    if config.precision == "auto":
        return "bf16" if computes_in_bf16(device) else "fp32"
    return config.precision


def assemble(
    config: ModelConfig, group: dist.ProcessGroup | None = None, *, synchronised: bool = False, classes: int = 0
) -> Model:
    """Trunk and SwAV head of `config`, or with `classes` a linear head for so many, on the current default device."""
    size = size_named(config.size)
    trunk = build_trunk(size, norm_layer(nn.BatchNorm2d, group, synchronised=synchronised))
    if classes:
        return Classifier(trunk, ClassifierHead(size.widths[-1], classes))
    head_norm = norm_layer(nn.BatchNorm1d, group, synchronised=synchronised) if config.head_batchnorm else None
    return SwAVModel(trunk, SwAVHead(size.widths[-1], config.head, config.prototypes, head_norm))


def batchnorm_group(config: ParallelConfig, world: World) -> tuple[dist.ProcessGroup | None, bool]:
    """The ranks that share BatchNorm statistics (None: all of them), and whether any do.

    Raises:
        UsageError: the world does not divide into groups of that size.
    """
    wanted = config.sync_batchnorm
    if world.size == 1 or wanted == "none":
        return None, False
    size = {"world": world.size, "node": world.local_size}[wanted] if isinstance(wanted, str) else wanted
    if world.size % size:
        raise UsageError(f"parallel.sync_batchnorm: {world.size} ranks do not divide into groups of {size}")
    if size == world.size:
        return None, True
    return (dist.new_subgroups(group_size=size)[0], True) if size > 1 else (None, False)


def shard(model: Model, config: ParallelConfig, world: World, dtype: torch.dtype) -> None:
    """Split the parameters: each block, each convolution above 1e8 parameters, prototypes (float32), head, the rest."""
    mesh = device_mesh(config, world)
    reduce = DTYPES[config.reduce_dtype]
    plain = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = plain if dtype == torch.float32 else _mixed_policy(model, mesh, dtype, reduce)
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": config.reshard_after_forward}
    for block in model.trunk.blocks():
        for module in block.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > BIG_CONVOLUTION:
                fully_shard(module, mp_policy=policy, **options)
        fully_shard(block, mp_policy=policy, **options)
    if isinstance(model, SwAVModel):
        fully_shard(model.head.prototypes, mp_policy=plain, **options)
    fully_shard(model.head, mp_policy=policy, **options)
    fully_shard(model, mp_policy=policy, **options)


def device_mesh(config: ParallelConfig, world: World) -> DeviceMesh:
    """All ranks in one dimension, or (nodes, ranks of a node): shard over the last, replicate over the first."""
    if config.shard == "node" and world.size > world.local_size:
        shape = (world.size // world.local_size, world.local_size)
        return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))


def has_override() -> bool:
    """Whether this torch can keep single parameters of a group in their own dtype (2.15 can, 2.13 cannot)."""
    return "param_dtype_override_fn" in {field.name for field in dataclasses.fields(MixedPrecisionPolicy)}


def _mixed_policy(model: Model, mesh: DeviceMesh, dtype: torch.dtype, reduce: torch.dtype) -> MixedPrecisionPolicy:
    """Compute in `dtype` with BatchNorm in float32: its kernels refuse half weights beside float32 statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if has_override():
        kept = {id(parameter) for norm in norms for parameter in norm.parameters()}
        # Spread from a dict: types have to check with a torch whose policy has no such field too.
        override: dict[str, Any] = {
            "param_dtype_override_fn": lambda parameter: torch.float32 if id(parameter) in kept else None
        }
        return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce, **override)
    # There, BatchNorms are groups of their own, which see the input as it comes.
    for norm in norms:
        fully_shard(
            norm, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        )
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce)
