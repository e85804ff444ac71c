"""What GPUs can do, from their makers' data sheets: the peaks that plans and metrics compare with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from seerctl.errors import UsageError, did_you_mean

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU: bytes of memory, dense 16-bit operations a second, bytes a second to others of its node.

    `flops` are those of tensor cores without sparsity, bfloat16 where there is bfloat16 (V100: float16). `link` is one
    direction of NVLink, or of PCIe 4.0 x16 where there is no NVLink.
    """

    name: str
    memory: int
    flops: float
    link: float


def _gpu(name: str, gib: int, teraflops: float, link: float) -> tuple[str, Gpu]:
    return name, Gpu(name, gib * GIB, teraflops * 1e12, link * 1e9)


# NVIDIA's data sheets: V100 (2020), A100 (2022), H100 SXM (2023), H200 (2024), A10, L4, L40S, RTX A6000, and the
# architecture white papers of GeForce RTX 30 and 40 (float16 with float32 accumulation).
GPUS: dict[str, Gpu] = dict([
    _gpu("v100-16gb", 16, 125, 150), _gpu("v100-32gb", 32, 125, 150),
    _gpu("a100-40gb", 40, 312, 300), _gpu("a100-80gb", 80, 312, 300),
    _gpu("h100-80gb", 80, 989, 450), _gpu("h200-141gb", 141, 989, 450),
    _gpu("a10-24gb", 24, 125, 32), _gpu("l4-24gb", 24, 121, 32), _gpu("l40s-48gb", 48, 362, 32),
    _gpu("a6000-48gb", 48, 155, 56), _gpu("rtx3090-24gb", 24, 71, 56), _gpu("rtx4090-24gb", 24, 165, 32),
])  # fmt: skip


def gpu_named(name: str) -> Gpu:
    """The GPU of that name (`a100-40gb`), also without its memory where only one kind bears the name.

    Raises:
        UsageError: no such GPU, or several.
    """
    wanted = name.lower()
    found = [gpu for key, gpu in GPUS.items() if wanted in (key, key.rpartition("-")[0])]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"--gpu {name}: it comes in several sizes", "Say " + " or ".join(gpu.name for gpu in found))
    raise UsageError(f"--gpu {name}: not a GPU that is known here", did_you_mean(wanted, GPUS))


def recognise(device_name: str, memory: int) -> Gpu | None:
    """The GPU that CUDA calls `device_name` ("NVIDIA A100-SXM4-40GB") and that has `memory` bytes, or None."""
    words = re.sub(r"geforce|nvidia|\s", "", device_name.lower())
    models = {key.rpartition("-")[0] for key in GPUS}
    # The longest name wins: an L40S is no L4.
    model = max((one for one in models if one in words), key=len, default=None)
    sizes = [gpu for key, gpu in GPUS.items() if key.rpartition("-")[0] == model]
    return min(sizes, key=lambda gpu: abs(gpu.memory - memory), default=None)
