"""GPUs by name: what people type, and what CUDA calls them."""

from __future__ import annotations

import pytest

from seerctl.errors import UsageError
from seerctl.train.hardware import GIB, GPUS, gpu_named, recognise


@pytest.mark.parametrize(
    ("device", "gib", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40gb"), ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80gb"), ("NVIDIA H200", 139.8, "h200-141gb"),
        ("Tesla V100-SXM2-32GB", 31.7, "v100-32gb"), ("NVIDIA L40S", 44.4, "l40s-48gb"), ("NVIDIA L4", 22.0, "l4-24gb"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090-24gb"), ("NVIDIA RTX A6000", 47.5, "a6000-48gb"),
    ],
)  # fmt: skip
def test_cuda_names_are_recognised(device: str, gib: float, name: str) -> None:
    assert recognise(device, int(gib * GIB)) == GPUS[name]


def test_an_unknown_device_is_not_guessed() -> None:
    assert recognise("Quadro FX 5800", 4 * GIB) is None


def test_names_on_the_command_line() -> None:
    assert gpu_named("H100") == gpu_named("h100-80gb")
    with pytest.raises(UsageError, match="several sizes"):
        gpu_named("a100")
    with pytest.raises(UsageError, match="not a GPU") as error:
        gpu_named("a100-40")
    assert "a100-40gb" in error.value.hint
