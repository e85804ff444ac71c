"""A traced step against the real one: the same operations, and the bytes that torch's own allocator reports."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from seerctl.errors import UsageError
from seerctl.recipe import Recipe, load_recipe
from seerctl.train.data import CropBatch
from seerctl.train.objectives import build_objective
from seerctl.train.optim import build_optimizer, global_norm
from seerctl.train.parallel import prepare_model
from seerctl.train.planner.ledger import ACTIVATIONS, CATEGORIES, GATHERED, PARAMETERS
from seerctl.train.planner.trace import Traced, trace
from seerctl.train.world import World

SMALL = str(Path(__file__).parents[2] / "small.toml")


def small(*overrides: str) -> Recipe:
    return load_recipe(SMALL, ("parallel.precision=fp32", "data.batch=32", *overrides))


def allocated(recipe: Recipe) -> int:
    """Peak bytes above the start of one real step on the CPU, parameters, optimiser and crops included."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        model = prepare_model(recipe, World())
        optimizer, objective = build_optimizer(model, recipe.optim), build_objective(recipe, World())
        batch = recipe.data.batch
        loaded = [torch.randn(kind.count * batch, 3, kind.size, kind.size) for kind in recipe.augment.crops]
        crops, _ = CropBatch(0, 0, [], loaded).on(torch.device("cpu"), channels_last=recipe.parallel.channels_last)
        objective.accumulate(model, crops, batch, True, recipe.loss.freeze_prototypes)
        global_norm(model)
        optimizer.step()
    total = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


@pytest.mark.parametrize(("checkpointing", "last"), [("none", "true"), ("none", "false"), ("block", "true")])
def test_the_peak_is_that_of_the_allocator(checkpointing: str, last: str) -> None:
    recipe = small(f"parallel.activation_checkpointing={checkpointing}", f"parallel.channels_last={last}")
    real, planned = allocated(recipe), trace(recipe, 1, 1, accelerated=False).peak.total
    # oneDNN's workspaces are the allocator's, and no tensors.
    assert planned == pytest.approx(real, rel=0.10)


@pytest.fixture(scope="module")
def ranks() -> dict[int, Traced]:
    recipe = small("data.batch=64", "optim.name=sgd")
    return {count: trace(recipe, 1, count) for count in (1, 4)}


def test_ranks_share_the_operations_and_the_state(ranks: dict[int, Traced]) -> None:
    assert ranks[4].flops == pytest.approx(ranks[1].flops / 4, rel=0.02)
    state = ranks[4].peak.by_category[PARAMETERS]
    assert ranks[1].peak.by_category[PARAMETERS] / 4 <= state < ranks[1].peak.by_category[PARAMETERS] / 3
    assert (ranks[1].trunk, ranks[1].head) == (ranks[4].trunk, ranks[4].head)


def test_every_byte_of_the_peak_has_a_purpose(ranks: dict[int, Traced]) -> None:
    traced = ranks[4]
    assert set(traced.peak.by_category) <= set(CATEGORIES)
    assert sum(traced.peak.by_category.values()) == traced.peak.total
    assert traced.peak.by_category[ACTIVATIONS] > 0
    assert traced.peak.by_category[GATHERED] > 0
    assert max(moment.total for moment in traced.timeline) == traced.peak.total
    assert [moment.progress for moment in traced.timeline] == sorted(moment.progress for moment in traced.timeline)


def test_parameters_are_gathered_and_gradients_reduced_once_a_crop_size_and_pass(ranks: dict[int, Traced]) -> None:
    by_kind = {one.kind: one for one in ranks[4].collectives if one.kind != "all_reduce"}
    parameters = 4 * (ranks[4].trunk + ranks[4].head)
    assert by_kind["reduce_scatter"].bytes == pytest.approx(2 * parameters * 3 / 4, rel=0.05)
    assert by_kind["all_gather"].bytes > 3 * parameters * 3 / 4  # forward and backward, but for the root's


def _with(recipe: Recipe, checkpointing: Any) -> Recipe:
    return replace(recipe, parallel=replace(recipe.parallel, activation_checkpointing=checkpointing))


def test_checkpoints_trade_activations_for_operations() -> None:
    deep = load_recipe("nano", ("optim.name=sgd",))
    plain, kept = (trace(_with(deep, one), 1, 2) for one in ("none", "block"))
    assert kept.peak.total < plain.peak.total
    assert kept.flops > 1.2 * plain.flops


def test_offloaded_activations_leave_the_gpu() -> None:
    ways = ("augment.crops=[{size=32, count=2, scale=[0.3, 1.0]}]", "parallel.activation_checkpointing=block")
    kept, gone = (trace(small(*ways, f"parallel.activation_offload={one}"), 1, 2) for one in ("false", "true"))
    assert kept.host == 0
    held = [{one.progress: one.by_category.get(ACTIVATIONS, 0) for one in traced.timeline} for traced in (kept, gone)]
    saved = [held[0][moment] - held[1][moment] for moment in held[0]]
    assert (min(saved), max(saved)) == (0, gone.host)  # all that the host holds, and never a second copy
    assert gone.host > 0
    assert gone.peak.total <= kept.peak.total
    assert (gone.flops, gone.collectives) == (kept.flops, kept.collectives)


def test_every_kind_of_recipe_can_be_traced() -> None:
    for override in ('loss.small_crops="pad"', "optim.clip_norm=1.0", "parallel.accumulate=2", 'augment.mode="device"'):
        assert trace(small(override), 1, 2).peak.total > 0, override
    adam = load_recipe("nano", ())
    assert trace(adam, 1, 2).peak.total > 0
    supervised = load_recipe("supervised", ())
    assert trace(supervised, 1, 2, classes=10).peak.total > 0


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="does not divide"):
        trace(replace(small(), data=replace(small().data, batch=30)), 1, 4)
