"""The training loop: steps are numbers, the position in the data is the step, and a run goes on where it was."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from seerctl import __version__
from seerctl.errors import Diverged, InputError, Saved
from seerctl.files import write_json
from seerctl.model.load import fill_model
from seerctl.model.sizes import size_named
from seerctl.model.weights import save_weights
from seerctl.recipe import Recipe, dump
from seerctl.shards.index import ShardSet
from seerctl.train import checkpoint
from seerctl.train.board import Board
from seerctl.train.clock import Clock, busy_clock
from seerctl.train.data import CropBatch, loader
from seerctl.train.knn import OnlineKnn
from seerctl.train.labels import Labels
from seerctl.train.metrics import SUSPICIOUS_ROWS
from seerctl.train.objectives import build_objective, derived, suspicion
from seerctl.train.optim import build_optimizer, global_norm, lr_at, peak_lr, scale_gradients, set_lr
from seerctl.train.parallel import prepare_model
from seerctl.train.planner.choose import choose_here
from seerctl.train.planner.recompute import Chunk
from seerctl.train.run import RunDirectory
from seerctl.train.saver import Saver
from seerctl.train.scaler import LossScaler
from seerctl.train.signals import StopSignals
from seerctl.train.speed import Speed
from seerctl.train.steps import check_batch, total_steps
from seerctl.train.world import World
from seerctl.weighting import Sampling, check_weights

_log = logging.getLogger("seerctl")
_TOLD = 5  # damaged images that a rank names on stderr
_LET_PASS = 10  # damaged images that a rank lets pass whatever their share


class Trainer:
    """One run of one recipe on this process of `world`; `fit` trains from wherever the run directory stands."""

    def __init__(
        self,
        recipe: Recipe,
        shards: ShardSet,
        run: RunDirectory,
        world: World,
        *,
        init: Path | None = None,
        progress: Callable[[int], None] | None = None,
        sampling: Sampling | None = None,
        labels: Labels | None = None,
        knn: OnlineKnn | None = None,
    ) -> None:
        """Build the model, then fill it from the newest checkpoint of `run`, from `init`, or from the seed.

        `labels`: what a supervised recipe learns from in `shards`, and which samples it sees of it. `knn`: what is
        measured every `watch.knn_every` steps.

        Raises:
            UsageError: the global batch does not divide over the ranks.
            InputError: `init` is damaged or of another size.
        """
        check_batch(recipe.data.batch, world.size, recipe.parallel.accumulate)
        self.recipe, self.shards, self.run, self.world, self.progress = recipe, shards, run, world, progress
        self.sampling, self.labels, self.knn = sampling, labels, knn
        self.samples = shards if labels is None else labels.of(shards)
        self.steps = total_steps(recipe, len(self.samples))
        self.peak = peak_lr(recipe.optim, recipe.data.batch)
        classes = len(labels.classes) if labels else 0
        self.model = prepare_model(recipe, world, classes, self._recomputed(classes))
        self.optimizer = build_optimizer(self.model, recipe.optim)
        self.objective = build_objective(recipe, world)
        self.scaler = LossScaler(recipe.parallel)
        self.speed = Speed.of(recipe, world, len(labels.classes) if labels else 0)
        self.step = 0
        self.saver = Saver(run.checkpoints, recipe.checkpoint, world)
        self._clock, self._busy = Clock(), busy_clock(world.device)
        self._suspicious = 0
        self._seen = self._damaged = 0  # images of this rank since the start or the resume
        self._resume(init)
        self.board = Board(run.board, run.metrics.rows()) if recipe.watch.tensorboard and world.first else None

    def _recomputed(self, classes: int) -> Sequence[Chunk] | None:
        """The chunks of blocks to recompute, on which the first rank decides; None: as the recipe says."""
        if self.recipe.parallel.activation_checkpointing in ("none", "block"):
            return None
        choice = self.world.on_first(lambda: choose_here(self.recipe, self.world, classes))
        self.world.on_first(lambda: self.run.note("checkpointing", choice.values()))
        _log.info("recomputing %d blocks: %.1f %% of a step", len(choice.recomputed), 100 * choice.share)
        return choice.chunks

    def fit(self) -> None:
        """Train to the last step, then write the weights.

        Raises:
            Saved: a signal asked to stop; a checkpoint was written first.
            Diverged: the loss is not finite; the update was not made.
            SeerctlError: data that cannot be read, or a checkpoint that cannot be written.
        """
        self.model.train()
        with StopSignals() as signals, self.saver:
            self._clock = Clock(time.perf_counter(), met=self._busy())
            for batch in self._timed(self._batches()):
                found = self.forward_backward(batch)
                self._clock.busy += self._busy() - self._clock.met
                stopping, overflow = self._agree(batch, found["loss"], signals.reason)
                self._clock.met = self._busy()
                self.update(found, overflow)
                self._after_step(batch, found)
                if stopping and self.step < self.steps:
                    self._save()
                    self.saver.wait(last=True)
                    reason = signals.reason or "another rank's request"
                    raise Saved(f"{self.run.path}: stopped by {reason} after step {self.step}, a checkpoint is saved",
                                "Start the same command again to go on")  # fmt: skip
        self._finish()

    def _batches(self) -> Iterator[CropBatch]:
        weights, labels = self.sampling.weight if self.sampling else None, self.labels
        if weights is not None and labels is not None and labels.positions is not None:
            weights = weights[labels.positions]
            check_weights(weights, f"{self.recipe.data.weights}, of the labelled samples that are seen")
        return loader(self.samples, self.recipe, self.world, self.step, self.steps, weights, labels)

    def forward_backward(self, batch: CropBatch) -> dict[str, Tensor]:
        """Gradients of one step, and its scalars on the device; nothing is read by the host."""
        crops, labels = batch.on(self.world.device, channels_last=self.recipe.parallel.channels_last)
        measure = self._logs(self.step + 1)
        scale = self.scaler.scale
        return self.objective.accumulate(self.model, crops, len(batch.keys), measure, self.step, labels, scale)

    def update(self, found: dict[str, Tensor], overflow: bool = False) -> None:
        """One step of the optimiser; the gradient's norm (before clipping) joins `found` when this step is logged.

        A step whose gradients overflowed is counted and changes no parameter.
        """
        if overflow:
            self.optimizer.zero_grad()
            self.step += 1
            return
        self.objective.before_update(self.model, self.step)
        most = self.recipe.optim.clip_norm
        if most or self._logs(self.step + 1):
            found["gradient_norm"] = global_norm(self.model)
        if most:
            scale_gradients(self.model, (most / (found["gradient_norm"] + 1e-6)).clamp(max=1.0))
        set_lr(self.optimizer, lr_at(self.step, self.steps, self.peak, self.recipe.schedule))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_update(self.model)
        self.step += 1

    def _agree(self, batch: CropBatch, loss: Tensor, reason: str | None) -> tuple[bool, bool]:
        """Whether any rank wants to stop, and whether its gradients overflowed.

        The one place where all ranks look at the loss before the update.
        """
        wishes = [float(reason is not None), float(self._too_damaged(batch)), float(self.saver.failed)]
        flags = torch.stack([loss.isfinite().logical_not().float(), self.scaler.unscale(self.model)])
        broken, overflow, stopping, damaged, unsaved = self.world.largest(
            torch.cat([flags, loss.new_tensor(wishes)])
        ).tolist()
        if unsaved:
            self.saver.wait()
        if damaged:
            lists = [entry for part in self.world.gather(batch.damaged) for entry in part]
            key, why = lists[-1] if lists else ("", "")
            raise InputError(
                f"{self.shards.location}: more images cannot be decoded than data.max_damaged lets pass, the last "
                f"{key} ({why})",
                "Write the set again from 'seerctl ingest --check decode', or raise it",
            )
        if not self.scaler.adapt(bool(overflow)) or broken:
            keys = [key for part in self.world.gather(batch.keys) for key in part]
            where = self._broken_ranks(batch, loss) if broken else ""
            report = self.run.path / "diverged.json"
            self.world.on_first(lambda: write_json(report, {"step": self.step + 1, "epoch": batch.epoch, "keys": keys}))
            raise Diverged(
                f"{self.run.path}: the {'loss' if broken else 'gradient'} of step {self.step + 1} is not finite"
                f"{where}; the update was not made",
                f"Lower optim.lr or set parallel.precision=fp32; the step's samples are in {report}",
            )
        return bool(stopping), bool(overflow)

    def _broken_ranks(self, batch: CropBatch, loss: Tensor) -> str:
        """ " on rank 1 (node b)": where a loss that is not finite began, if that can be told from here.

        Synchronised BatchNorm and codes pass it on to all ranks, but not to their crops.
        """
        crops = all(bool(kind.isfinite().all()) for kind in batch.crops)
        reports = self.world.gather((crops, bool(loss.isfinite()), socket.gethostname()))
        began = [rank for rank, report in enumerate(reports) if not report[0]]
        began = began or [rank for rank, report in enumerate(reports) if not report[1]]
        if self.world.size == 1 or len(began) == self.world.size:
            return ""
        return " on " + ", ".join(f"rank {rank} (node {reports[rank][2]})" for rank in began)

    def _too_damaged(self, batch: CropBatch) -> bool:
        """Count what of `batch` could not be decoded, and say so; whether it was too much."""
        for key, why in batch.damaged[: max(0, _TOLD - self._damaged)]:
            _log.warning("sample %s cannot be decoded (%s): the next one of the set took its place", key, why)
        self._seen += len(batch.keys)
        self._damaged += len(batch.damaged)
        self._clock.damaged += len(batch.damaged)
        most = self.recipe.data.max_damaged
        return self._damaged > (max(_LET_PASS, most * self._seen) if most else 0)

    def _after_step(self, batch: CropBatch, found: dict[str, Tensor]) -> None:
        self._clock.steps += 1
        if self.progress is not None and self.world.first:
            self.progress(self.recipe.data.batch)
        if self._logs(self.step):
            self._write_metrics(batch, found)
        if self.step % self.recipe.checkpoint.every == 0 or self.step == self.steps:
            self._save()

    def _logs(self, step: int) -> bool:
        return step % self.recipe.run.log_every == 0 or step == self.steps or self._looks_for_neighbours(step)

    def _looks_for_neighbours(self, step: int) -> bool:
        return self.knn is not None and (step % self.recipe.watch.knn_every == 0 or step == self.steps)

    def _write_metrics(self, batch: CropBatch, found: dict[str, Tensor]) -> None:
        # The one place where the host reads numbers off the device.
        found["damaged"] = found["loss"].new_tensor(
            float(self._clock.damaged * self.world.size)
        )  # a mean becomes a sum
        seconds = max(time.perf_counter() - self._clock.started, 1e-9)
        shares = self._per_rank(self._clock.waited / seconds, self._clock.busy / max(self._clock.steps, 1))
        names = sorted(found)
        values = dict(
            zip(names, self.world.mean(torch.stack([found[name].float() for name in names])).tolist(), strict=True)
        )
        rate = self._clock.steps * self.recipe.data.batch / seconds
        row: dict[str, Any] = {
            "step": self.step,
            "epoch": batch.epoch,
            "loss": values["loss"],
            **derived(self.recipe, values["loss"]),
            **{name: value for name, value in values.items() if name not in ("loss", "damaged")},
            "lr": lr_at(self.step - 1, self.steps, self.peak, self.recipe.schedule),
            "images_per_second": rate,
            **self.speed.facts(rate),
            **shares,
            **self.scaler.facts(),
            "damaged": round(values["damaged"]),
        }
        if self.knn is not None and self._looks_for_neighbours(self.step):
            row |= self.knn.measure(self.model, self.world)
        if self.world.first:
            self.run.metrics.append(row)
            if self.board is not None:
                self.board.add(row)
            self._warn_of_collapse(row)
        self._clock = Clock(time.perf_counter(), met=self._busy())

    def _per_rank(self, waited: float, step_seconds: float) -> dict[str, float]:
        """What a row says of ranks: shares of time that wait for data, seconds of own work a step, who has most."""
        world = self.world
        mine = torch.zeros(2, world.size, dtype=torch.float64)
        mine[:, world.rank] = torch.tensor([waited, step_seconds], dtype=torch.float64)
        waits, steps = (world.mean(mine.to(world.device)) * world.size).cpu()
        return {
            "data_wait": waits.mean().item(),
            "data_wait_max": waits.max().item(),
            "data_wait_rank": int(waits.argmax()),
            "step_seconds": steps.mean().item(),
            "step_seconds_max": steps.max().item(),
            "step_seconds_rank": int(steps.argmax()),
        }

    def _warn_of_collapse(self, row: dict[str, Any]) -> None:
        warning = suspicion(self.recipe, self.step, self.steps, row)
        self._suspicious = self._suspicious + 1 if warning else 0
        if warning and self._suspicious == SUSPICIOUS_ROWS:
            _log.warning("%s", warning)

    def _timed(self, batches: Iterator[CropBatch]) -> Iterator[CropBatch]:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._clock.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _save(self) -> None:
        if self.saver.saved == self.step:
            return
        started, busy = time.perf_counter(), self._busy()
        facts = {
            "schema": "seer-checkpoint-1",
            "seerctl": __version__,
            "index_sha256": self.shards.sha256,
            "weights": self._metadata(),
        }
        self.saver.save(self.step, self._tensors(), facts)
        self._clock.started += time.perf_counter() - started  # not the speed of training
        self._clock.met += self._busy() - busy

    def _tensors(self) -> dict[str, Tensor]:
        return checkpoint.tensors_of(self.model, self.optimizer) | self.objective.state() | self.scaler.state()

    def _resume(self, init: Path | None) -> None:
        found = checkpoint.newest(self.run.checkpoints, self.world)
        if found is not None:
            path, facts = found
            checkpoint.load(path, self._tensors(), self.world)
            self.step = self.saver.saved = int(facts["step"])
        elif init is not None:
            head_taken = fill_model(self.model, init, size_named(self.recipe.model.size), self._head_facts())
            if not head_taken and self.world.first:
                # Fine-tuning replaces the head, so nobody has to be warned.
                level = logging.INFO if self.labels else logging.WARNING
                _log.log(level, "%s: only the trunk was taken, its head is not this recipe's", init)
        self.world.on_first(lambda: self.run.metrics.truncate(self.step))

    def _finish(self) -> None:
        self.saver.wait()
        if self.board is not None:
            self.board.close()
        state = whole_state(self.model, self.world)
        if self.world.first:
            save_weights(self.run.weights, state, self._metadata())

    def _metadata(self) -> dict[str, str]:
        """What weights of this moment say of themselves, in a file of their own or in a checkpoint."""
        recipe = self.recipe
        return {
            "size": recipe.model.size,
            "seerctl": __version__,
            "step": str(self.step),
            "recipe": dump(recipe),
            "index_sha256": self.shards.sha256,
            **({"sample_weights_sha256": self.sampling.sha256} if self.sampling else {}),
            **({"init_sha256": self.run.init_sha256} if self.run.init_sha256 else {}),
            "crop_size": str(recipe.predict.size or recipe.augment.crops[0].size),
            **self._head_facts(),
        }

    def _head_facts(self) -> dict[str, str]:
        """What the head's outputs mean, as the weights' metadata says it."""
        labels = self.labels
        return {"target": labels.target, "classes": json.dumps(labels.classes)} if labels else {}


def whole_state(model: torch.nn.Module, world: World) -> dict[str, Tensor]:
    """The model's tensors, gathered one by one; kept on the first rank alone, in its host memory."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if world.first:
            state[name] = full.detach().cpu().clone()
    return state
