"""Where tensors are computed."""

from __future__ import annotations

import torch

from seerctl.errors import UsageError


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device called `name`; "auto" is the GPU of `local_rank` where there is one, else the CPU.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = f"cuda:{local_rank % available}" if available else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: no such device", "Use auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: not supported", "Use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= available:
        raise UsageError(f"--device {name}: this machine has {available} GPUs", "Use --device cpu")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank % available)
    return device
