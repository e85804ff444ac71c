"""What each of two ranks does in test_two_ranks.py: `torchrun --nproc-per-node 2 ranks.py FOLDER`.

Rank 0 writes the answers; the test calls the same functions in one process, with the joined batch, and compares.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from seerctl.errors import Diverged, Saved
from seerctl.recipe import Recipe
from seerctl.train import parallel
from seerctl.train.knn import OnlineKnn
from seerctl.train.objectives import build_objective
from seerctl.train.objectives.swav import sinkhorn
from seerctl.train.optim import build_optimizer, tensor_norms
from seerctl.train.parallel import prepare_model
from seerctl.train.start import train
from seerctl.train.world import World, join
from tests.training import small_recipe, supervised_recipe

BATCH, CLASSES = 16, 5
CHUNKS = ((0, 0), (1, 2), (4, 7))  # of nano's stages of 1, 2, 6 and 2 blocks
LABELLED = supervised_recipe("data.fraction=0.5", "schedule.steps=3")
CASES = {
    "none": ("parallel.activation_checkpointing=none",),
    "fairscale": ("parallel.activation_checkpointing=block", "parallel.checkpoint_wrapper=fairscale"),
    "torch": ("parallel.activation_checkpointing=block", "parallel.checkpoint_wrapper=torch"),
    "nano": ("model.size=nano",),
    "chunks_fairscale": ("model.size=nano", "parallel.activation_checkpointing=dp"),
    "chunks_torch": ("model.size=nano", "parallel.activation_checkpointing=dp", "parallel.checkpoint_wrapper=torch"),
    "node": ("parallel.shard=node", "parallel.reshard_after_forward=false"),
    "resnet": ("model.size=resnet-micro", "parallel.activation_checkpointing=block"),
    "head_norm": ("model.head_batchnorm=true",),
    "adamw": ("optim.name=adamw", "optim.larc=false", "optim.lr=1e-4", "optim.no_decay=['bias', 'norm']"),
    "pad": ("loss.small_crops=pad",),
    "queue": ("loss.queue=16", "loss.power_law=0.5", "loss.freeze_prototypes=1"),
    "sgd": ("optim.larc=false", "optim.lr=0.01"),
    "supervised": ("loss.objective=supervised", "loss.label_smoothing=0.1", "optim.head_lr_scale=2.0"),
    "bf16": ("parallel.precision=bf16", "parallel.activation_checkpointing=block"),
    "bf16_groups": ("parallel.precision=bf16",),
    "fp16": ("parallel.precision=fp16", "parallel.reduce_dtype=fp16"),
}

# Variants of the others: a second a rank each. They run with tests/run.sh --all.
SLOW = ("chunks_torch", "head_norm", "adamw", "sgd", "bf16_groups", "fp16")


def cases() -> list[str]:
    """The names of the cases to run."""
    return [name for name in CASES if name not in SLOW or os.environ.get("SEERCTL_TEST_ALL") == "1"]


def crops(rank: int, world: int) -> list[Tensor]:
    """This rank's part of the same random crops: 2 x 32 px and 2 x 16 px of 16 images."""
    generator = torch.Generator().manual_seed(7)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    kinds = [torch.randn(2, BATCH, 3, size, size, generator=generator) for size in (32, 16)]
    return [kind[:, share].reshape(-1, *kind.shape[2:]) for kind in kinds]


def steps(recipe: Recipe, world: World, count: int = 3) -> dict[str, Any]:
    """Loss and gradients of the first step, then everything after `count` steps, as whole tensors."""
    supervised = recipe.loss.objective == "supervised"
    model = prepare_model(recipe, world, CLASSES if supervised else 0, _chunks(recipe)).train()
    optimizer = build_optimizer(model, recipe.optim)
    objective = build_objective(recipe, world)
    answers: dict[str, Any] = {}
    for step in range(count):
        mine = crops(world.rank, world.size)
        labels = _labels(world) if supervised else None
        found = objective.accumulate(model, mine, BATCH // world.size, measure=True, step=step, labels=labels)
        if step == 0:
            answers["loss"] = world.mean(found["loss"].clone()).item()
            name = "top1" if supervised else "prototype_entropy"
            answers["measured"] = world.mean(found[name].clone()).item()
            answers["gradients"] = {name: whole(p.grad) for name, p in model.named_parameters()}
            answers["buffers"] = {name: value.clone() for name, value in model.named_buffers()}
            answers["norms"] = tensor_norms([p.grad for p in model.parameters()])
        objective.before_update(model, step)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_update(model)
    answers["parameters"] = {name: whole(p) for name, p in model.named_parameters()}
    return answers


def _chunks(recipe: Recipe) -> tuple[tuple[int, int], ...] | None:
    return CHUNKS if recipe.parallel.activation_checkpointing == "dp" else None


def _labels(world: World) -> Tensor:
    """This rank's part of the labels of the same images."""
    return (torch.arange(BATCH) * 7 % CLASSES).chunk(world.size)[world.rank]


def whole(tensor: Tensor | None) -> Tensor:
    """The full tensor of a sharded one."""
    assert tensor is not None
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


def codes(world: World) -> Tensor:
    """Codes of this rank's half of the same scores, for an epsilon of each form."""
    generator = torch.Generator().manual_seed(3)
    scores = F.normalize(torch.randn(2, 32, 8, generator=generator), dim=-1)
    scores = scores @ F.normalize(torch.randn(20, 8, generator=generator), dim=-1).T
    share = slice(world.rank * 32 // world.size, (world.rank + 1) * 32 // world.size)
    return torch.stack([sinkhorn(scores[:, share], epsilon, 4) for epsilon in (0.05, 0.01)])


class StopAfter:
    """A progress callback that sends this process a signal after so many steps: the step after it is the last."""

    def __init__(self, steps: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.left, self.number = steps, number

    def __call__(self, _: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def _case(name: str, world: World) -> dict[str, Any]:
    recipe = small_recipe(*CASES[name])
    if name == "node":
        return steps(recipe, dataclasses.replace(world, local_rank=0, local_size=1))
    if name == "bf16_groups":
        parallel.has_override, before = (lambda: False), parallel.has_override
        try:
            return steps(recipe, world)
        finally:
            parallel.has_override = before
    return steps(recipe, world)


def _runs(folder: Path, world: World) -> dict[str, Any]:
    """Stop at 2 ranks after 3 steps; go on at 2 ranks from a run that one process stopped; diverge."""
    recipe, shards = small_recipe(), folder / "shards"
    reports: dict[str, Any] = {}
    try:
        train(recipe, shards, folder / "two-then-one", progress=StopAfter(2))
    except Saved as saved:
        reports["saved"] = str(saved)
    planned = small_recipe("parallel.activation_checkpointing=auto")
    reports["resumed"] = dataclasses.asdict(train(planned, shards, folder / "one-then-two"))["start"]
    wild = small_recipe("optim.larc=false", "optim.lr=1e30", "schedule.start=1.0", "checkpoint.every=100")
    try:
        train(wild, shards, folder / "wild")
    except Diverged as diverged:
        reports["diverged"] = str(diverged)
    train(LABELLED, folder / "labelled" / "shards", folder / "labelled-two", predict=folder / "labelled" / "shards",
          predictions=folder / "two.csv", knn=[folder / "labelled" / "shards"])  # fmt: skip
    reports["kept_statistics"] = _kept_statistics(folder / "labelled" / "shards", world)
    return {key: str(value) for key, value in reports.items()}


def _kept_statistics(labelled: Path, world: World) -> bool:
    """Whether ranks whose BatchNorm has statistics of its own still have them after the online kNN."""
    recipe = small_recipe("parallel.sync_batchnorm=none")
    model, knn = prepare_model(recipe, world).train(), OnlineKnn.of(recipe, [labelled])
    assert knn is not None
    build_objective(recipe, world).accumulate(model, crops(world.rank, world.size), BATCH // world.size, measure=False)
    before = [buffer.clone() for buffer in model.buffers()]
    knn.measure(model, world)
    means = [before[index] for index in range(3)]
    others = world.gather(means)[1 - world.rank]
    differ = any(not torch.equal(mine, other) for mine, other in zip(means, others, strict=True))
    return differ and all(torch.equal(old, new) for old, new in zip(before, model.buffers(), strict=True))


def main(folder: Path) -> None:
    with join("cpu", timeout_minutes=10) as world:
        torch.set_num_threads(1)
        answers = {name: _case(name, world) for name in cases()}
        everyones = world.gather(codes(world))
        reports = world.gather(_runs(folder, world))
        if world.first:
            answers["codes"] = torch.cat(everyones, dim=2)
            torch.save(answers, folder / "answers.pt")
            (folder / "reports.json").write_text(json.dumps(reports))
        dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
