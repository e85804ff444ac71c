"""Compiled blocks compute what plain ones do, alone, recomputed and sharded; a missing compiler is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from seerctl.errors import EnvironmentFault, Saved, UsageError
from seerctl.recipe import Recipe
from seerctl.train import compiling
from seerctl.train.compiling import check_compiler
from seerctl.train.metrics import Metrics
from seerctl.train.parallel import prepare_model
from seerctl.train.start import train
from seerctl.train.world import World, join
from tests.training import make_shards, small_recipe

COMPILE = ("parallel.compile=false", "parallel.compile=true")
RECOMPUTED = ("parallel.activation_checkpointing=block", "parallel.checkpoint_wrapper=torch")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that reach the backend, which here runs them as they are: what is slow is making code of them."""
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    return found


def gradients(recipe: Recipe, world: World, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    """Gradients of all parameters after crops of these sizes, and the buffers."""
    model = prepare_model(recipe, world).train()
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        images = torch.randn(8, 3, size, size, generator=generator)
        model(images).scores.square().sum().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None] + list(model.buffers())
    return [value.full_tensor() if isinstance(value, DTensor) else value for value in found]


def test_compiled_blocks_compute_the_same(graphs: list[Any]) -> None:
    plain = gradients(small_recipe(*RECOMPUTED), World(), (32,))
    assert graphs == []
    compiled = gradients(small_recipe("parallel.compile=true", *RECOMPUTED), World(), (32,))
    assert len(graphs) >= 4  # one a block
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(compiled, plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("ways", [(), RECOMPUTED])
def test_compiled_code_alone_and_sharded(ways: tuple[str, ...]) -> None:
    """The real backend: both sizes of crops, and bf16 under FSDP2 where blocks are recomputed."""
    torch._dynamo.reset()
    one, other = (gradients(small_recipe(*ways, more), World(), (32, 16)) for more in COMPILE)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(one, other, strict=True))
    with join("cpu", 1.0) as world:
        both = [gradients(small_recipe(*ways, more, "parallel.precision=bf16"), world, (32, 16)) for more in COMPILE]
    one, other = (torch.cat([value.double().flatten() for value in side]) for side in both)
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.999


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler(torch.device("cpu"))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(EnvironmentFault, match=r"parallel.compile needs a C\+\+ compiler \(/nowhere/c\+\+, .*false$"):
        check_compiler(torch.device("cpu"))
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFault, match=r"parallel.compile needs triton, which is not installed"):
        check_compiler(torch.device("cuda"))


def test_fairscales_checkpoints_are_refused() -> None:
    with pytest.raises(UsageError, match='need checkpoint_wrapper = "torch"'):
        small_recipe("parallel.compile=true", "parallel.activation_checkpointing=block")


def stop_after(steps: int) -> Callable[[int], None]:
    from tests.distributed.ranks import StopAfter

    return StopAfter(steps)


@pytest.mark.slow
def test_a_compiled_run_goes_on_exactly(tmp_path: Path) -> None:
    """With the real backend: the losses of a run in one go, of one in two parts, and those without compilation."""
    shards = make_shards(tmp_path)
    recipe = small_recipe("parallel.compile=true", *RECOMPUTED)
    train(recipe, shards, tmp_path / "whole")
    with pytest.raises(Saved):
        train(recipe, shards, tmp_path / "parts", progress=stop_after(3))
    train(recipe, shards, tmp_path / "parts")
    train(small_recipe(*RECOMPUTED), shards, tmp_path / "plain")
    whole, parts, plain = (
        [row["loss"] for row in Metrics(tmp_path / name / "metrics.jsonl").rows()]
        for name in ("whole", "parts", "plain")
    )
    assert parts == whole
    assert whole == pytest.approx(plain, rel=1e-4)
    with pytest.raises(UsageError, match=r"another recipe \(parallel.compile: true -> false\)"):
        train(small_recipe(*RECOMPUTED), shards, tmp_path / "whole")
