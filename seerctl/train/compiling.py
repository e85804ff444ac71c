"""torch.compile for the blocks of a trunk: kernels made for their shapes, in place of one call per operator."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from seerctl.errors import EnvironmentFault
from seerctl.model.batchnorm import SyncBatchNorm
from seerctl.model.heads import Model

BACKEND = "inductor"
# Blocks share code, and dynamo counts the compilations of one code: each shape, mode and size of crops is another.
_LIMIT = 512


def compile_blocks(model: Model) -> None:
    """Compile the forward pass of each block by itself, at its first call for each size of crops.

    Block by block, what surrounds a block stays as it is: FSDP's hooks, activation checkpoints, the loss. A BatchNorm
    over several ranks stays outside too, since its collectives are its own.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _LIMIT)
    limit = torch._dynamo.config.accumulated_recompile_limit
    torch._dynamo.config.accumulated_recompile_limit = max(limit, 8 * _LIMIT)
    for block in model.trunk.blocks():
        for module in block.modules():
            if isinstance(module, SyncBatchNorm):
                module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign, no-untyped-call]
        block.forward = torch.compile(block.forward, backend=BACKEND, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """Nothing, if what torch.compile calls to make code for `device` is installed.

    Raises:
        EnvironmentFault: it is not.
    """
    if device.type == "cuda":
        missing = None if importlib.util.find_spec("triton") else "triton"
        if missing is None and not any(map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"])):
            missing = "a C compiler (gcc, or the one that $CC names)"
    else:
        wanted = os.environ.get("CXX") or "g++"
        missing = None if shutil.which(wanted) else f"a C++ compiler ({wanted}, or the one that $CXX names)"
    if missing:
        raise EnvironmentFault(
            f"parallel.compile needs {missing}, which is not installed", "Install it, or --set parallel.compile=false"
        )
