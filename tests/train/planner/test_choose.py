"""What is recomputed: within a budget by the bytes of a traced step, within a memory, and as a run asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from seerctl.errors import UsageError
from seerctl.recipe import Recipe, load_recipe, resolved
from seerctl.train.hardware import GIB, GPUS
from seerctl.train.planner import choose as planner
from seerctl.train.planner.blocks import chain_of
from seerctl.train.planner.choose import answer, choose, choose_here, each
from seerctl.train.planner.cost import MARGIN, Cluster
from seerctl.train.planner.ledger import ACTIVATIONS
from seerctl.train.planner.recompute import Chain, peak_of
from seerctl.train.planner.trace import trace
from seerctl.train.world import World

SMALL = str(Path(__file__).parents[2] / "small.toml")
CLUSTER = Cluster(1, 2, GPUS["a100-40gb"])


def nano(*overrides: str) -> Recipe:
    return load_recipe(SMALL, ("model.size=nano", "data.batch=32", *overrides))


def dp(budget: float, mode: str = "dp") -> Recipe:
    return nano(f"parallel.activation_checkpointing={mode}", f"parallel.activation_budget={budget / GIB:.9f}")


@pytest.fixture(scope="module")
def chain() -> Chain:
    return chain_of(nano(), 2, 2, "fp32")


def test_a_traced_step_keeps_within_the_budget(chain: Chain) -> None:
    budget = 0.6 * peak_of(chain, ())
    recipe = dp(budget)
    choice, traced = choose(recipe, CLUSTER)
    assert traced is None  # sizes decide
    assert choice.mode == "dp"
    assert 0 < len(choice.recomputed) < len(chain.blocks)
    assert 0 < choice.share < 0.25
    kept = max(one.by_category.get(ACTIVATIONS, 0) for one in trace(recipe, 1, 2, chunks=choice.chunks).timeline)
    assert 0.9 * peak_of(chain, choice.chunks) < kept <= budget


def test_budgets_from_all_to_too_little(chain: Chain) -> None:
    assert choose(dp(2 * peak_of(chain, ())), CLUSTER)[0].mode == "none"
    with pytest.raises(UsageError, match=r"parallel.activation_budget = .*: activations take at least 0\.\d+ GiB"):
        choose(dp(1e4), CLUSTER)
    forced, _ = choose(dp(1e4, "auto"), CLUSTER)
    assert (forced.mode, len(forced.recomputed)) == ("block", 11)
    with pytest.raises(UsageError, match="activation_budget goes with"):
        nano("parallel.activation_budget=1.0")


def test_blocks_are_counted_as_they_are_kept(chain: Chain) -> None:
    half = chain_of(nano(), 4, 4, "fp32")
    assert peak_of(half, ()) == pytest.approx(peak_of(chain, ()) / 2, rel=0.05)
    low = chain_of(nano(), 2, 2, "bf16")
    assert peak_of(low, ()) == pytest.approx(peak_of(chain, ()) / 2, rel=0.05)
    assert [one.name for one in chain.blocks[:3]] == ["block1-0", "block2-0", "block2-1"]
    assert chain_of(nano("parallel.reshard_after_forward=false"), 2, 2, "fp32").blocks[0].gathering == 0


def test_the_fastest_that_fits_a_memory(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = nano("parallel.activation_checkpointing=auto")
    rest = 10_000_000  # beside the activations, which here a trace would find as they are planned

    class Peak:
        def __init__(self, total: int) -> None:
            self.total, self.peak = total, self

    monkeypatch.setattr(planner, "trace", lambda *_, chunks, **__: Peak(int(1.02 * peak_of(chain, chunks)) + rest))

    def of(usable: float) -> tuple[str, int]:
        gpu = replace(CLUSTER.gpu, memory=int(usable / MARGIN))
        choice, traced = choose(recipe, replace(CLUSTER, gpu=gpu))
        assert traced is not None
        return choice.mode, traced.peak.total

    least, most = peak_of(chain, each(chain)), peak_of(chain, ())
    assert of(1.1 * most + rest)[0] == "none"
    middle = (least + most) / 2 + rest
    mode, peak = of(middle)
    assert (mode, peak <= middle) == ("dp", True)
    assert of(0.5 * least)[0] == "block"


def test_a_run_asks_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(SMALL, ("parallel.activation_checkpointing=auto",))
    monkeypatch.setattr(planner, "available_bytes", lambda *_: 1 << 40)
    assert choose_here(recipe, World()).mode == "none"


def test_what_another_process_answers(chain: Chain) -> None:
    question = {
        "recipe": resolved(dp(0.6 * peak_of(chain, ()))), "nodes": 1, "per_node": 2, "classes": 0, "accelerated": False,
        "gpu": {"name": "cpu", "memory": GIB, "flops": 0.0, "link": 0.0},
    }  # fmt: skip
    assert answer(question)["mode"] == "dp"
    kind, message, _ = answer({**question, "recipe": resolved(dp(1e4))})["fault"]
    assert (kind, "at least" in message) == ("UsageError", True)
