"""The parallel plan at the size of SEER: 496 ranks by torch's fake process group, parameters on the meta device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from seerctl.device import pick_device
from seerctl.errors import UsageError
from seerctl.model.batchnorm import SyncBatchNorm
from seerctl.recipe import load_recipe
from seerctl.train import parallel, recomputing
from seerctl.train.estimate import estimate
from seerctl.train.parallel import assemble, batchnorm_group, prepare_model, shard
from seerctl.train.recomputing import checkpoint_blocks
from seerctl.train.world import World, computes_in_bf16, join
from tests.training import small_recipe


@pytest.fixture
def cluster() -> Iterator[World]:
    """Rank 11 of 62 nodes of 8, none of whose collectives does anything."""
    dist.init_process_group("fake", store=FakeStore(), rank=11, world_size=496)
    yield World(rank=11, size=496, local_rank=3, local_size=8)
    dist.destroy_process_group()


def _sharded(world: World, *overrides: str) -> parallel.SwAVModel:
    recipe = load_recipe("10b", overrides)
    with torch.device("meta"):
        model = assemble(recipe.model)
    checkpoint_blocks(model, recipe.parallel.checkpoint_wrapper)
    shard(model, recipe.parallel, world, torch.bfloat16)
    return model


def test_10b_over_the_whole_cluster(cluster: World) -> None:
    model = _sharded(cluster)
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    assert sum(isinstance(module, nn.Conv2d) for module in units) == 54  # convolutions above 1e8 parameters
    norms = 0 if parallel.has_override() else 86  # older torch: each BatchNorm a unit of its own
    assert len(units) == 54 + 27 + 3 + norms  # blocks; prototypes, head and the rest
    parameters = dict(model.named_parameters())
    assert all(isinstance(p, DTensor) and p.placements == (Shard(0),) for p in parameters.values())
    assert "trunk.trunk_output.block3.block3-16.f.b.0.weight" in parameters  # torchvision's names, through it all
    local = sum(p.to_local().numel() for p in parameters.values())
    assert local <= estimate(load_recipe("10b"), 62, 8).gradients / 4 < 1.1 * 9_628_923_288 / 496


def test_10b_sharded_inside_a_node(cluster: World) -> None:
    model = _sharded(cluster, "parallel.shard=node")
    weight = model.head.prototypes.weight
    assert isinstance(weight, DTensor)
    assert weight.placements == (Replicate(), Shard(0))
    assert weight.device_mesh.shape == (62, 8)
    assert weight.to_local().shape == (2000, 256)


@pytest.mark.parametrize(("wanted", "members"), [("node", range(8, 16)), ("16", range(16)), ("62", range(62))])
def test_batchnorm_groups(cluster: World, wanted: str, members: range) -> None:
    config = load_recipe("10b", [f"parallel.sync_batchnorm={wanted}"]).parallel
    group, synchronised = batchnorm_group(config, cluster)
    assert synchronised
    assert group is not None
    assert dist.get_process_group_ranks(group) == list(members)


def test_batchnorm_of_all_of_none_and_of_odd_groups(cluster: World) -> None:
    def of(value: str) -> tuple[dist.ProcessGroup | None, bool]:
        return batchnorm_group(load_recipe("10b", [f"parallel.sync_batchnorm={value}"]).parallel, cluster)

    assert of("world") == (None, True)
    assert of("none") == (None, False)
    with pytest.raises(UsageError, match="496 ranks do not divide into groups of 7"):
        of("7")


def test_one_process_on_a_cpu_stays_whole() -> None:
    model = prepare_model(small_recipe(), World())
    assert not any(isinstance(p, DTensor) for p in model.parameters())
    assert not any(isinstance(module, SyncBatchNorm) for module in model.modules())
    assert torch.allclose(model.head.prototypes.weight.norm(dim=1), torch.ones(24))
    assert model.autocast is None
    assert prepare_model(small_recipe("parallel.precision=bf16"), World()).autocast == torch.bfloat16
    assert prepare_model(small_recipe("parallel.precision=fp16"), World()).autocast == torch.float16
    automatic = prepare_model(small_recipe("parallel.precision=auto"), World())
    assert (automatic.autocast == torch.bfloat16) == computes_in_bf16(torch.device("cpu"))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_one_process_that_checkpoints_in_half_precision_is_sharded(precision: str, dtype: torch.dtype) -> None:
    recipe = small_recipe(f"parallel.precision={precision}", "parallel.activation_checkpointing=block")
    seen: list[tuple[torch.dtype, ...]] = []

    def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append((inputs[0].dtype, norm.weight.dtype, norm.bias.dtype, norm.running_var.dtype))

    with join("cpu", 1.0) as world:
        assert not dist.is_initialized()
        model = prepare_model(recipe, world).train()
        assert isinstance(model.head.prototypes.weight, DTensor)
        assert model.autocast is None
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(note)
        model(torch.randn(2, 3, 32, 32))
    assert set(seen) == {(dtype, *[torch.float32] * 3)}  # BatchNorm computes in float32 on half inputs
    assert not dist.is_initialized()


@pytest.mark.parametrize("wrapper", ["fairscale", "torch"])
def test_chunks_are_computed_twice_and_change_nothing(wrapper: str) -> None:
    def gradients(*chunks: tuple[int, int]) -> tuple[list[int], list[torch.Tensor]]:
        ways = ("parallel.activation_checkpointing=dp", f"parallel.checkpoint_wrapper={wrapper}")
        model = prepare_model(small_recipe("model.size=nano", *ways), World(), chunks=chunks).train()
        calls = [0] * 11
        for number, block in enumerate(model.trunk.blocks()):

            def count(*_: object, number: int = number) -> None:
                calls[number] += 1

            block.f.a[0].register_forward_hook(count)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        model(images).scores.square().sum().backward()
        return calls, [p.grad for p in model.parameters() if p.grad is not None] + list(model.buffers())

    once, plain = gradients()
    twice, again = gradients((0, 0), (1, 2), (4, 6))
    assert once == [1] * 11
    assert twice == [2, 2, 2, 1, 2, 2, 2, 1, 1, 1, 1]
    assert len(plain) == len(again) > 100
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("wrapper", ["fairscale", "torch"])
def test_what_enters_chunks_goes_to_the_host_and_changes_nothing(wrapper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, ...]] = []
    back: list[tuple[int, ...]] = []

    def send(tensor: torch.Tensor) -> tuple[torch.device, torch.Tensor]:
        sent.append(tuple(tensor.shape))
        return tensor.device, tensor.detach().clone()  # a tensor that nothing else keeps, as on a host

    def bring(packed: tuple[torch.device, torch.Tensor]) -> torch.Tensor:
        back.append(tuple(packed[1].shape))
        return packed[1]

    monkeypatch.setattr(recomputing, "to_host", send)
    monkeypatch.setattr(recomputing, "from_host", bring)

    def gradients(offload: str) -> list[torch.Tensor]:
        ways = ("parallel.activation_checkpointing=dp", f"parallel.checkpoint_wrapper={wrapper}")
        recipe = small_recipe("model.size=nano", f"parallel.activation_offload={offload}", *ways)
        model = prepare_model(recipe, World(), chunks=[(0, 0), (1, 2), (4, 6)]).train()
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        model(images).scores.square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None] + list(model.buffers())

    kept = gradients("false")
    assert sent == []
    offloaded = gradients("true")
    # What enters block 1: the stem keeps what enters block 0 for itself, and block 3, which is not recomputed, what
    # enters block 4.
    assert sent == [(4, 32, 8, 8)]
    assert sorted(back) == sorted(sent)
    assert all(torch.equal(a, b) for a, b in zip(kept, offloaded, strict=True))


def test_offloading_needs_something_recomputed() -> None:
    with pytest.raises(UsageError, match="activation_offload goes with activation_checkpointing"):
        small_recipe("parallel.activation_offload=true")
    here = torch.ones(2)
    assert recomputing.from_host(recomputing.to_host(here)) is here  # a host's own tensors are not copied


def test_devices() -> None:
    assert pick_device("cpu", 3) == torch.device("cpu")
    if not torch.cuda.is_available():
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(UsageError, match="no such GPU"):
            pick_device("cuda")


def test_a_process_group_of_the_caller_is_used_and_left(cluster: World) -> None:
    with join("cpu", 1.0) as world:
        assert world == World()  # the environment says one process
    assert dist.is_initialized()
