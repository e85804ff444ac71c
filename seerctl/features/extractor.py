"""Extraction: a frozen model over a shard set, row by row in index order, into one feature file a layer.

Killed at any moment it goes on where it was when the same command is run again. Batches are cut in the same places
whatever the number of processes, so one process or many, interrupted or not, give the same numbers on one kind of
device. Several corruptions of the pictures are made from one decoding of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl import __version__
from seerctl.augment.corruptions import Corruption, parse_corruptions
from seerctl.device import pick_device
from seerctl.errors import InputError, UsageError
from seerctl.features.batches import Batch, Batches, by_processes, by_threads, default_workers
from seerctl.features.encoder import make_encoder
from seerctl.features.export import check_installed
from seerctl.features.layers import Layer
from seerctl.features.models import load_frozen
from seerctl.features.plan import Job, Options, Target, in_groups, make_job, name_targets, suffix_of, to_do, view_of
from seerctl.features.ranks import Ranks
from seerctl.features.writer import FeatureWriter, drop, finish, parts_of_others
from seerctl.shards.index import ShardSet

__all__ = ["Extracted", "Options", "extract"]

CORRUPTION_COLUMN = "corruption"  # goes through `probe --predictions` and tells `audit` what a table is of


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written: one file a layer (and a corruption, as "fog-3" or "fog-3/res4", where there are several);
    `resumed` of all their rows together were there from an earlier run."""

    files: dict[str, Path]
    rows: int
    resumed: int


def extract(
    model: str, data: str, output: Path, options: Options | None = None, progress: Callable[[int], None] | None = None
) -> Extracted | None:
    """Write the features of the shard set `data` by the model that `model` names; None on ranks other than the first.

    One layer: `output` is the file. Several: a directory with <layer>.h5 for each. Several corruptions: a directory
    with <name>-<severity>.h5, or, with several layers too, <name>-<severity>/<layer>.h5.

    Raises:
        UsageError: output exists, an unfinished part of another extraction is there, or an unknown layer, pooling,
            corruption or device.
        InputError: no such model or data, damaged shards, no sample at all, non-finite features.
        EnvironmentFault: disk full, a killed worker, a lost rank, or one with another version, model or data.
        Saved: the launcher asked its processes to end; the same call goes on.
    """
    options = options or Options()
    layers = tuple(dict.fromkeys(map(Layer.parse, options.layers)))
    corruptions = parse_corruptions(options.corrupt, options.corrupt_seed)
    single = len(layers) == 1 and len(corruptions) < 2
    targets = name_targets(output, layers, corruptions, suffix_of(output, options, single))
    if single and output.is_dir():
        raise UsageError(f"{output}: a directory", f"Name a file, such as {output / 'features.h5'}")
    if not options.overwrite and all(target.path.exists() for target in targets):
        raise UsageError(f"{output}: exists already", "Choose another output or pass --overwrite")
    check_installed(targets[0].path)
    ranks = Ranks.from_environment()
    device = pick_device(options.device, ranks.local)
    with ShardSet.open(data) as shards, ranks.joined():
        if not len(shards):
            raise InputError(f"{data}: the shard set is empty", "Choose another split")
        frozen = load_frozen(model, trust_code=options.trust_code)
        view = view_of(options, frozen.view)
        encoder = make_encoder(frozen.network, view, layers, options.precision, device, model)
        job = make_job(model, frozen, encoder, shards, targets, options, device, ranks)
        header = next(iter(job.headers.values()))
        ranks.agree({"seerctl": __version__, "weights": header.weights_sha256, "index": shards.sha256})
        resumed = _run(job, progress)
        files = {target.name: target.path for target in targets}
        return Extracted(files, len(shards), resumed) if ranks.rank == 0 else None


def _run(job: Job, progress: Callable[[int], None] | None) -> int:
    """Make all files; returns how many of this rank's rows, view by view, were there before."""
    todo = to_do(job)
    begun = {target.corruption for target in todo}
    kept = len({target.corruption for target in job.headers} - begun) * job.rows()
    if progress is not None:
        progress(kept)
    for group in in_groups(todo):
        views: dict[Corruption | None, list[Target]] = {}
        for target in group:
            views.setdefault(target.corruption, []).append(target)
        done = {view: min(map(job.rows_done, targets)) for view, targets in views.items()}
        # Views that an earlier run left at different rows go in passes of their own: nothing is computed twice.
        for start, same in itertools.groupby(sorted(done, key=lambda view: -done[view]), key=lambda view: done[view]):
            passed = [views[view] for view in same]
            kept += start * len(passed)
            _pass(job, passed, start, progress)
        job.ranks.wait()
        if job.ranks.rank == 0:
            for target in group:
                _finish(job, target)
        job.ranks.wait()
    return kept


def _pass(job: Job, views: list[list[Target]], start: int, progress: Callable[[int], None] | None) -> None:
    """Encode and write this rank's rows from `start` on, of several views at once."""
    mine, rows = job.batches(), job.rows()
    if progress is not None:
        progress(start * len(views))
    if start == rows:
        return
    rest = range(mine.start + start // job.batch, mine.stop)
    skip = start % job.batch  # rows of the first batch that are there already
    encoded = _encoded(
        job, views, rest
    )  # any workers fork here: a child would inherit the locks of files opened before
    writers = {target: _Writer(job, target, rows, start) for target in itertools.chain(*views)}
    try:
        for features, batch in encoded:
            for target, writer in writers.items():
                writer.append(features[target][skip:], batch.keys[skip:], batch.columns[skip:])
            if progress is not None:
                progress((len(batch.keys) - skip) * len(views))
            skip = 0
            job.ranks.stop_if_asked()
    finally:
        for writer in writers.values():
            writer.close()


_Encoded = tuple[dict[Target, Tensor], Batch]


def _encoded(job: Job, views: list[list[Target]], numbers: range) -> Iterator[_Encoded]:
    """Features (B, D) for every file and the batch they are of, in order."""
    workers = default_workers(job.device.type) if job.options.workers is None else job.options.workers
    batches = Batches(job.shards, job.encoder.view, job.batch, [targets[0].corruption for targets in views])
    if job.device.type != "cpu":
        return encoded_on_device(job, views, by_processes(batches, numbers, min(workers, len(numbers)), pin=True))

    def encode(number: int) -> _Encoded:
        return _encode(job, views, batches(number))

    return by_threads(encode, numbers, max(1, min(workers, len(numbers))))


def _encode(job: Job, views: list[list[Target]], batch: Batch) -> _Encoded:
    """Takes the pixels from the batch: only its keys and metadata are wanted any longer."""
    found: dict[Target, Tensor] = {}
    with torch.inference_mode():
        for targets in views:
            features = job.encoder.encode(batch.views.pop(0), [target.layer for target in targets])
            found |= zip(targets, features, strict=True)
    return found, batch


def encoded_on_device(job: Job, views: list[list[Target]], batches: Iterator[Batch]) -> Iterator[_Encoded]:
    """One batch is handed over while the device works on the next."""
    waiting: _Encoded | None = None
    for batch in batches:
        encoded = _encode(job, views, batch)
        if waiting is not None:
            yield waiting
        waiting = encoded
    if waiting is not None:
        yield waiting


class _Writer:
    """Writes one file, which is opened when the first features show their dimension."""

    def __init__(self, job: Job, target: Target, rows: int, start: int) -> None:
        self.job, self.target, self.rows, self.start = job, target, rows, start
        self.part = job.part(target)
        self.opened: FeatureWriter | None = None

    def append(self, features: Tensor, keys: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> None:
        """Write one batch.

        Raises:
            InputError: features that are not finite.
        """
        array = self._checked(features, keys)
        if self.opened is None:
            self.opened = FeatureWriter(
                self.part, self.job.headers[self.target], rows=self.rows, dim=array.shape[1], dtype=array.dtype.name,
                start=self.start,
            )  # fmt: skip
        if self.target.corruption is not None:
            columns = [{CORRUPTION_COLUMN: str(self.target.corruption), **row} for row in columns]
        self.opened.append(array, keys, columns)

    def _checked(self, features: Tensor, keys: Sequence[str]) -> NDArray[Any]:
        array = features.cpu().numpy()
        with np.errstate(over="ignore"):
            array = array.astype(self.job.options.dtype)
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{self.part}: the model gives non-finite features of {self.target.layer}, first for sample "
                f"{keys[int(np.argmin(finite))]}",
                "Check the weights, and extract with --precision float32 --dtype float32",
            )
        return array

    def close(self) -> None:
        """Close the file; its rows stay for the next run."""
        if self.opened is not None:
            self.opened.close()


def _finish(job: Job, target: Target) -> None:
    """Make the final file of all ranks' parts."""
    world = job.ranks.world
    parts = [job.part(target, rank) for rank in range(world) if job.rows(rank)]
    finish(target.path, parts, job.headers[target], len(job.shards), columns=job.shards.columns)
    for stray in parts_of_others(target.path, world):
        drop(stray)
