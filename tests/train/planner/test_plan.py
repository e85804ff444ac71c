"""Plans: seconds by hand, what fits, and remedies that a trace of their own confirms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from seerctl.recipe import Recipe, load_recipe
from seerctl.train.hardware import GPUS, Gpu
from seerctl.train.planner.cost import MARGIN, Cluster, step_cost
from seerctl.train.planner.ledger import Moment
from seerctl.train.planner.operations import Collective
from seerctl.train.planner.plan import Data, Planned, make_plan, remedy, sweep
from seerctl.train.planner.text import plan_text, sweep_text
from seerctl.train.planner.trace import Traced

SMALL = str(Path(__file__).parents[2] / "small.toml")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(SMALL, ("data.batch=64", "parallel.precision=fp32"))


@pytest.fixture(scope="module")
def planned(recipe: Recipe) -> Planned:
    return make_plan(recipe, Cluster(1, 2, GPUS["a100-40gb"]), Data(images=6400, free=10**9))


def test_seconds_by_hand() -> None:
    gpu = Gpu("toy", 1 << 30, 100e12, 100e9)
    collectives = (Collective("all_gather", 16, 10, 5 * 10**9), Collective("all_reduce", 8, 5, 10**9))
    traced = Traced(Moment(0, {}), (), 20 * 10**12, collectives, 0, 0)
    cost = step_cost(traced, Cluster(2, 8, gpu, efficiency=0.5, interconnect=10e9))
    assert cost.compute == pytest.approx(0.4)
    assert cost.communication == pytest.approx((0.5 + 10 * 50e-6) + (0.01 + 5 * 10e-6))
    assert (cost.seconds, cost.no_overlap) == (cost.communication, cost.compute + cost.communication)


def test_a_plan_says_what_it_takes(recipe: Recipe, planned: Planned) -> None:
    values = planned.values
    assert values["fits"] is True
    assert values["verdict"].startswith("fits 40 GB: yes")
    assert values["training"]["steps"] == recipe.schedule.steps
    assert values["checkpoints"]["bytes"] == 8 * values["params"]["total"]
    assert values["checkpoints"]["fit"] == 10**9 // values["checkpoints"]["bytes"]
    assert values["fits_gib"]["16"] is True
    assert values["checkpointing"] == {"mode": "none", "chunks": [], "recomputed": [], "recompute_flops_share": 0.0}
    text = plan_text(values)
    assert "recomputed  nothing" in text
    assert "fits 40 GB: yes" in text
    assert f"{values['params']['total']:,}" in text


def test_a_remedy_is_traced_before_it_is_promised(recipe: Recipe, planned: Planned) -> None:
    gpu = replace(planned.cluster.gpu, memory=int(0.8 * planned.traced.peak.total / MARGIN))
    tight = replace(planned, cluster=replace(planned.cluster, gpu=gpu))
    assert not tight.fits
    hint = remedy(tight)
    nodes = re.search(r"--nodes (\d+)", hint)
    assert nodes is not None, hint
    changed = replace(recipe, parallel=replace(recipe.parallel, activation_checkpointing="block"))
    assert make_plan(changed, replace(tight.cluster, nodes=int(nodes[1]))).fits


def test_what_no_change_can_mend_names_a_gpu(planned: Planned) -> None:
    tiny = replace(planned, cluster=replace(planned.cluster, gpu=replace(planned.cluster.gpu, memory=1000)))
    assert "take GPUs of" in remedy(tiny)


def test_a_sweep_compares_sharding_and_small_crops(recipe: Recipe) -> None:
    plans = list(sweep(recipe, Cluster(1, 2, GPUS["a100-40gb"]), Data(), [2]))
    ways = [(one.recipe.parallel.shard, one.recipe.loss.small_crops) for one in plans]
    assert ways == [("world", "own"), ("world", "pad"), ("node", "own"), ("node", "pad")]
    own, padded = plans[:2]
    assert padded.traced.flops > 1.2 * own.traced.flops
    gathered = [sum(one.bytes for one in plan.traced.collectives if one.kind == "all_gather") for plan in plans[:2]]
    assert gathered[1] < 0.7 * gathered[0]
    assert len(sweep_text(plans).splitlines()) == 5
