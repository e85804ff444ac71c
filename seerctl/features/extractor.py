"""Extraction: a frozen model over a shard set, row by row in index order, into one feature file a layer.

Killed at any moment it goes on where it was when the same command is run again. Batches are cut in the same places
whatever the number of processes, so one process or many, interrupted or not, give the same numbers on one kind of
device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seerctl import __version__
from seerctl.augment.corruptions import Corruption, parse_corruptions
from seerctl.device import pick_device
from seerctl.errors import InputError, UsageError
from seerctl.features.batches import Batch, Batches, by_processes, by_threads, default_workers
from seerctl.features.encoder import DEFAULT_LAYER, Encoder, Precision, load_encoder
from seerctl.features.layers import Layer, region_slots
from seerctl.features.layout import Header
from seerctl.features.pixels import View
from seerctl.features.ranks import Ranks
from seerctl.features.writer import (
    FeatureWriter,
    drop,
    finish,
    is_finished,
    part_of,
    parts_of_others,
    unfinished_rows,
)
from seerctl.files import claim
from seerctl.model.load import LoadedModel, scale_of
from seerctl.shards.index import ShardSet

DEFAULT_SIZE = 224
DEFAULT_BATCH = {"cpu": 64, "cuda": 256}

log = logging.getLogger("seerctl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to extract.

    size: pixels, by default what the model was trained at. crop: see `View.of`. dtype: of the file. batch, workers: by
    the kind of device when None. corrupt: "NAME:SEVERITY" texts, see `corruptions.parse_corruptions`.
    """

    layers: tuple[str, ...] = (DEFAULT_LAYER,)
    size: int | None = None
    crop: float | None = None
    precision: Precision = "float32"
    dtype: str = "float32"
    batch: int | None = None
    workers: int | None = None
    device: str = "auto"
    overwrite: bool = False
    corrupt: tuple[str, ...] = ()
    corrupt_seed: int = 0


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written: one file a layer (and a corruption, as "fog-3" or "fog-3/res4", where there are several);
    `resumed` of all their rows together were there from an earlier run."""

    files: dict[str, Path]
    rows: int
    resumed: int


@dataclass(frozen=True, slots=True)
class _Job:
    """One process's share of an extraction: the layers still to be made, and the batches that are its own."""

    shards: ShardSet
    encoder: Encoder
    files: dict[Layer, Path]
    headers: dict[Layer, Header]
    view: View
    batch: int
    device: torch.device
    ranks: Ranks
    options: Options

    @property
    def batches(self) -> range:
        """The numbers of this rank's batches."""
        return self.ranks.share((len(self.shards) + self.batch - 1) // self.batch)

    def rows(self, batches: range) -> int:
        """How many samples lie in `batches`."""
        return max(0, min(len(self.shards), batches.stop * self.batch) - batches.start * self.batch)


def extract(
    model: str, data: str, output: Path, options: Options | None = None, progress: Callable[[int], None] | None = None
) -> Extracted | None:
    """Write the features of the shard set `data` by the model that `model` names; None on ranks other than the first.

    One layer: `output` is the file. Several: a directory with <layer>.h5 for each. Several corruptions: a directory
    with <name>-<severity>.h5, or, with several layers too, <name>-<severity>/<layer>.h5.

    Raises:
        UsageError: output exists, an unfinished part of another extraction is there, or an unknown layer,
            corruption or device.
        InputError: no such model or data, damaged shards, no sample at all, non-finite features.
        EnvironmentFault: disk full, a killed worker, a lost rank.
    """
    options = options or Options()
    layers = tuple(dict.fromkeys(map(Layer.parse, options.layers)))
    corruptions = parse_corruptions(options.corrupt, options.corrupt_seed)
    named = _targets(output, layers, corruptions)
    files = {name: path for names in named.values() for name, path in names.items()}
    if len(files) == 1 and output.is_dir():
        raise UsageError(f"{output}: a directory", f"Name a file, such as {output / 'features.h5'}")
    if not options.overwrite and all(path.exists() for path in files.values()):
        raise UsageError(f"{output}: exists already", "Choose another output or pass --overwrite")
    ranks = Ranks.from_environment()
    device = pick_device(options.device, ranks.local)
    with ShardSet.open(data) as shards, ranks.joined():
        if not len(shards):
            raise InputError(f"{data}: the shard set is empty", "Choose another split")
        loaded, encoder = load_encoder(model, layers, options.precision, device)
        jobs = [
            _prepare(model, loaded, encoder, shards, dict(zip(layers, paths.values(), strict=True)), options, device,
                     ranks, corruption)
            for corruption, paths in named.items()
        ]  # fmt: skip
        resumed = 0
        for job in jobs:
            resumed += _run(job, progress)
            ranks.wait()
            if ranks.rank == 0:
                _finish(job)
            ranks.wait()
        return Extracted(files, len(shards), resumed) if ranks.rank == 0 else None


def _targets(
    output: Path, layers: Sequence[Layer], corruptions: Sequence[Corruption]
) -> dict[Corruption | None, dict[str, Path]]:  # fmt: skip
    """For each view of the pictures, the name and the file of every layer, in the order of `layers`."""
    if len(corruptions) < 2:
        only = corruptions[0] if corruptions else None
        return {only: {str(one): output if len(layers) == 1 else output / f"{one.stem}.h5" for one in layers}}
    if len(layers) == 1:
        return {one: {one.stem: output / f"{one.stem}.h5"} for one in corruptions}
    return {
        one: {f"{one.stem}/{name}": output / one.stem / f"{name.stem}.h5" for name in layers} for one in corruptions
    }  # fmt: skip


def _prepare(
    spec: str, model: LoadedModel, encoder: Encoder, shards: ShardSet, files: dict[Layer, Path], options: Options,
    device: torch.device, ranks: Ranks, corruption: Corruption | None = None,
) -> _Job:  # fmt: skip
    """Name what is to be made, and make sure before any work that the output may be written."""
    batch = options.batch or DEFAULT_BATCH[device.type]
    view = replace(View.of(options.size or _trained_size(model), options.crop), corruption=corruption)
    lineage = {
        "made_by": "extract", "seerctl": __version__, "torch": str(torch.__version__), "batch": batch,
        "precision": options.precision, "device": device.type, "sources": {"model": spec, "data": shards.location},
        **scale_of(model.trunk, model.metadata),
    }  # fmt: skip
    headers = {
        layer: Header(model.name, model.weights_sha256, shards.sha256, str(layer), str(view), lineage,
                      str(corruption or ""), region_slots(layer.levels, True) if layer.kind == "regions" else 0)
        for layer in files
    }  # fmt: skip
    # A file that an interrupted run of several had finished already is kept.
    kept = {n for n, path in files.items() if not options.overwrite and is_finished(path, headers[n], options.dtype)}
    todo = {name: path for name, path in files.items() if name not in kept}
    for path in todo.values():
        claim(path, overwrite=options.overwrite)
        for stray in parts_of_others(path, ranks.world) if ranks.rank == 0 else ():
            log.warning("%s: left by a run of another number of processes, not used", stray)
    return _Job(shards, encoder, todo, headers, view, batch, device, ranks, options)


def _trained_size(model: LoadedModel) -> int:
    size = model.metadata.get("crop_size", "")
    return int(size) if size.isascii() and size.isdigit() and int(size) > 0 else DEFAULT_SIZE


def _run(job: _Job, progress: Callable[[int], None] | None) -> int:
    """Encode and write this rank's rows; returns how many of them were done before."""
    mine, rows = job.batches, job.rows(job.batches)
    if not rows:
        return 0
    if not job.files:
        if progress is not None:
            progress(rows)
        return rows
    job.encoder.layers = tuple(job.files)
    parts = {name: part_of(path, job.ranks.rank, job.ranks.world) for name, path in job.files.items()}
    done = min(_rows_done(job, parts[name], job.headers[name], rows) for name in parts)
    if progress is not None:
        progress(done)
    if done == rows:
        return done
    rest = range(mine.start + done // job.batch, mine.stop)
    skip = done % job.batch  # rows of the first batch that are there already
    encoded = _encoded(job, rest)  # any workers fork here: a child would inherit the locks of files opened before
    writers = _Writers(job, parts, rows, done)
    try:
        for features, batch in encoded:
            writers.append([tensor[skip:] for tensor in features], batch.keys[skip:], batch.columns[skip:])
            if progress is not None:
                progress(len(batch.keys) - skip)
            skip = 0
    finally:
        writers.close()
    return done


def _encoded(job: _Job, numbers: range) -> Iterator[tuple[list[Tensor], Batch]]:
    """Features of the layers (B, D) and the batch they are of, in order."""
    workers = default_workers(job.device.type) if job.options.workers is None else job.options.workers
    batches = Batches(job.shards, job.view, job.batch)
    if job.device.type != "cpu":
        return _encoded_on_device(job, by_processes(batches, numbers, min(workers, len(numbers)), pin=True))

    def encode(number: int) -> tuple[list[Tensor], Batch]:
        batch = batches(number)
        with torch.inference_mode():
            return job.encoder(batch.pixels), batch

    return by_threads(encode, numbers, max(1, min(workers, len(numbers))))


def _encoded_on_device(job: _Job, batches: Iterator[Batch]) -> Iterator[tuple[list[Tensor], Batch]]:
    """One batch is handed over while the device works on the next."""
    waiting: tuple[list[Tensor], Batch] | None = None
    for batch in batches:
        with torch.inference_mode():
            features = job.encoder(batch.pixels.to(job.device, non_blocking=True))
        if waiting is not None:
            yield waiting
        waiting = features, batch
    if waiting is not None:
        yield waiting


def _rows_done(job: _Job, part: Path, header: Header, rows: int) -> int:
    try:
        return unfinished_rows(part, header, rows, job.options.dtype)
    except UsageError:
        if not job.options.overwrite:
            raise
        drop(part)
        return 0


class _Writers:
    """One writer for each layer, opened when the first features show their dimension."""

    def __init__(self, job: _Job, parts: dict[Layer, Path], rows: int, start: int) -> None:
        self.job, self.parts, self.rows, self.start = job, parts, rows, start
        self.opened: dict[Layer, FeatureWriter] = {}

    def append(self, features: Sequence[Tensor], keys: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> None:
        """Write one batch of every layer.

        Raises:
            InputError: features that are not finite.
        """
        for name, tensor in zip(self.parts, features, strict=True):
            array = tensor.cpu().numpy()
            with np.errstate(over="ignore"):
                array = array.astype(self.job.options.dtype)
            finite = np.isfinite(array).all(axis=1)
            if not finite.all():
                raise InputError(
                    f"{self.parts[name]}: the model gives non-finite features of {name}, first for sample "
                    f"{keys[int(np.argmin(finite))]}",
                    "Check the weights, and extract with --precision float32 --dtype float32",
                )
            if name not in self.opened:
                self.opened[name] = FeatureWriter(
                    self.parts[name], self.job.headers[name], rows=self.rows, dim=array.shape[1],
                    dtype=self.job.options.dtype, start=self.start,
                )  # fmt: skip
            self.opened[name].append(array, keys, columns)

    def close(self) -> None:
        """Close all files; their rows stay for the next run."""
        for writer in self.opened.values():
            writer.close()


def _finish(job: _Job) -> None:
    """Make the final files of all ranks' parts."""
    total = (len(job.shards) + job.batch - 1) // job.batch
    world = job.ranks.world
    ranks = [rank for rank in range(world) if job.rows(job.ranks.share(total, rank))]
    for name, path in job.files.items():
        finish(path, [part_of(path, rank, world) for rank in ranks], job.headers[name], len(job.shards),
               columns=job.shards.columns)  # fmt: skip
        for stray in parts_of_others(path, world):
            drop(stray)
