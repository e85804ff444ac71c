"""What a run learns: the one place that knows which objective a recipe names, and what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from seerctl.recipe import Recipe
from seerctl.train.metrics import collapse
from seerctl.train.objectives.supervised import Supervised
from seerctl.train.objectives.swav import Queue, SwAV
from seerctl.train.world import World


class Objective(Protocol):
    """What the training loop asks of an objective. `parts`: micro-batches of a step."""

    parts: int

    def accumulate(
        self,
        model: nn.Module,
        crops: Sequence[Tensor],
        batch: int,
        measure: bool,
        step: int = 0,
        labels: Tensor | None = None,
        scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Leave the gradients of step `step`, times `scale`, in `model`; its scalars on the device: `loss` and more.

        Shapes: each of `crops` (count * batch, 3, S, S), crop-major; `labels` (batch,) int64 where the recipe has a
        target. `measure` asks for more scalars. Means over this rank's images, so that the means over ranks are those
        of the global batch.
        """

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold beside model and optimiser; loading fills the same tensors."""

    def before_update(self, model: nn.Module, step: int) -> None:
        """Called with the gradients of `step` in place."""

    def after_update(self, model: nn.Module) -> None:
        """Called when the optimiser has changed the parameters."""


def build_objective(recipe: Recipe, world: World) -> Objective:
    """The recipe's objective for one of the ranks of `world`."""
    loss, parts = recipe.loss, recipe.parallel.accumulate
    if loss.objective == "supervised":
        return Supervised(label_smoothing=loss.label_smoothing, parts=parts)
    queue = None
    if loss.queue:
        batch = recipe.data.batch
        steps, width = loss.queue // batch, recipe.model.head[-1]
        queue = Queue(SwAV.assigned, steps, batch // world.size, width, loss.queue_start, world.device)
    return SwAV(
        temperature=loss.temperature,
        epsilon=loss.epsilon,
        iterations=loss.iterations,
        freeze_prototypes=loss.freeze_prototypes,
        hard=loss.hard,
        power_law=loss.power_law,
        queue=queue,
        parts=parts,
        whole_codes=recipe.parallel.accumulated_codes == "batch",
        pad=loss.small_crops == "pad",
    )


def derived(recipe: Recipe, loss: float) -> dict[str, Any]:
    """What a metrics row says beside what was measured, from the recipe and the `loss`."""
    parts, swav = recipe.parallel.accumulate, recipe.loss.objective == "swav"
    row: dict[str, Any] = {"micro_batches": parts} if parts > 1 else {}
    if swav:
        row["loss_over_ln_k"] = loss / math.log(recipe.model.prototypes)
        row |= {"codes": recipe.parallel.accumulated_codes} if parts > 1 else {}
    return row


def suspicion(recipe: Recipe, step: int, steps: int, row: Mapping[str, Any]) -> str | None:
    """What is wrong with the run by the metrics row of `step` of `steps`, in plain words; None when nothing is."""
    if recipe.loss.objective != "swav" or step < max(steps // 10, recipe.loss.freeze_prototypes):
        return None
    return collapse(row)


def accumulation(recipe: Recipe) -> str:
    """What micro-batches change, for the user."""
    codes = {"micro": "each micro-batch alone", "batch": "a pass over the whole batch"}
    more = f", codes come from {codes[recipe.parallel.accumulated_codes]}" if recipe.loss.objective == "swav" else ""
    return (
        f"{recipe.parallel.accumulate} micro-batches a step are another objective than one batch: BatchNorm sees a "
        f"micro-batch{more}"
    )
