"""Arithmetic of steps, batches and ranks."""

from __future__ import annotations

from seerctl.errors import UsageError
from seerctl.recipe import Recipe


def total_steps(recipe: Recipe, samples: int) -> int:
    """Steps of a run over `samples`: as the recipe says, or its epochs in whole batches."""
    return recipe.schedule.steps or max(1, int(recipe.schedule.epochs * samples) // recipe.data.batch)


def check_batch(batch: int, ranks: int, parts: int = 1) -> None:
    """Nothing, if the global batch divides over the ranks, and each rank's part into `parts` micro-batches.

    Raises:
        UsageError: it does not; the message names the nearest numbers of ranks that do.
    """
    if batch % ranks:
        divisors = [number for number in range(1, batch + 1) if batch % number == 0]
        near = [max(n for n in divisors if n < ranks), min((n for n in divisors if n > ranks), default=batch)]
        raise UsageError(
            f"the global batch of {batch} does not divide over {ranks} ranks",
            f"Use {near[0]} or {near[1]} ranks, or --set data.batch={max(1, round(batch / ranks)) * ranks}",
        )
    if batch // ranks % parts:
        raise UsageError(
            f"the {batch // ranks} samples of a rank do not divide into {parts} micro-batches",
            "Change parallel.accumulate",
        )
