"""Supervised classification: cross-entropy of every crop with its image's class.

The comparison that the self-supervised papers make, and SEER's fine-tuning: the same trunk, data, loop and optimisers
as SwAV. Two processes with half the batch each get the loss and (averaged) the gradients of one with the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Supervised:
    """One step on a model that maps images (N, 3, S, S) to float32 logits (N, C).

    `label_smoothing` spreads so much of the target over all classes (Szegedy et al. 2016, arXiv 1512.00567). `parts`:
    micro-batches a step; BatchNorm sees each alone, all else is as with one batch.
    """

    def __init__(self, *, label_smoothing: float = 0.0, parts: int = 1) -> None:
        self.label_smoothing, self.parts = label_smoothing, parts

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
        """Forward and backward of all crops, one kind at a time; gradients, times `scale`, are left in the parameters.

        Shapes: each of `crops` (count * batch, 3, S, S), crop-major; `labels` (batch,) int64. Returns scalars on the
        device, nothing read by the host: `loss`, the mean over images and crops, and with `measure` also `top1`, the
        share of the first kind's crops whose class has the largest logit. `step` is not used.
        """
        assert labels is not None
        views = [len(kind) // batch for kind in crops]
        size, found = batch // self.parts, dict[str, Tensor]()
        for start in range(0, batch, size):
            wanted = labels[start : start + size]
            for number, (kind, count) in enumerate(zip(crops, views, strict=True)):
                images = kind if self.parts == 1 else _rows(kind, batch, slice(start, start + size))
                logits = model(images)
                targets = wanted.repeat(count)
                loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
                loss = loss * (count / sum(views) / self.parts)
                (loss * scale).backward()  # type: ignore[no-untyped-call]
                found["loss"] = found.get("loss", 0) + loss.detach()
                if measure and number == 0:
                    found["top1"] = found.get("top1", 0) + _top1(logits.detach(), targets) / self.parts
        return found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold beside model and optimiser: nothing."""
        return {}

    def before_update(self, model: nn.Module, step: int) -> None:
        """Nothing is frozen."""

    def after_update(self, model: nn.Module) -> None:
        """Nothing is normalised."""


def _top1(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).float().mean()


def _rows(kind: Tensor, batch: int, rows: slice) -> Tensor:
    """Images `rows` of crop-major (count * batch, ...), still crop-major, in the memory format of the whole."""
    part = kind.view(-1, batch, *kind.shape[1:])[:, rows].flatten(0, 1)
    whole = kind.is_contiguous(memory_format=torch.channels_last)
    return part.contiguous(memory_format=torch.channels_last if whole else torch.contiguous_format)
