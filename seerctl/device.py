"""Where tensors are computed."""

from __future__ import annotations

import torch

from seerctl.errors import UsageError


def pick_device(name: str = "auto", local_rank: int = 0, *, shared: bool = True) -> torch.device:
    """The device called `name`; "auto" and "cuda" are the GPU of `local_rank`, "auto" the CPU where there is none.

    shared: several processes may use one GPU, as extraction does; NCCL refuses that, so training has one each.

    Raises:
        UsageError: torch knows no such device, or this machine has none (left).
    """
    available = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "auto" and not available:
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError:
        raise UsageError(f"device '{name}': no such device", "Use auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}': not supported", "Use auto, cpu, cuda or cuda:1")
    if device.type == "cpu":
        return device
    index = local_rank if device.index is None else device.index
    if available and shared and device.index is None:
        index %= available
    if index >= available:
        whom = f"process {local_rank} of this node" if local_rank else "this machine"
        raise UsageError(f"device '{name}': {whom} has no such GPU, {available} usable here", "Use cpu, or start fewer")
    return torch.device("cuda", index)
