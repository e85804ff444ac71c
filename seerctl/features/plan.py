"""What an extraction is to make: which files, of which layer and view of the pictures, and in how many passes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seerctl import __version__
from seerctl.augment.corruptions import Corruption
from seerctl.errors import UsageError
from seerctl.features.encoder import DEFAULT_LAYER, Encoder, Precision
from seerctl.features.export import FORMATS, HDF5, format_of
from seerctl.features.frozen import Frozen
from seerctl.features.layers import Layer, region_slots
from seerctl.features.layout import Header
from seerctl.features.pixels import View, parse_resize
from seerctl.features.ranks import Ranks
from seerctl.features.writer import drop, is_finished, part_of, parts_of_others, unfinished_rows
from seerctl.files import claim
from seerctl.shards.index import ShardSet

DEFAULT_BATCH = {"cpu": 64, "cuda": 256}
WHOLE_BATCH = {"cpu": 16, "cuda": 32}  # of whole pictures, which are larger
OPEN_FILES = 32  # in one pass over the pictures

log = logging.getLogger("seerctl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to extract.

    layers: "LAYER[:POOL]" texts. size: pixels, by default what the model was trained at. crop: see `View`. resize:
    "long=PX" for whole pictures. tta: the mean with the mirror image. dtype: of the file. format: by the name of the
    output when None. batch, workers: by the kind of device when None. corrupt: "NAME:SEVERITY" texts, see
    `corruptions.parse_corruptions`. trust_code: whether a model may be a function of the user's.
    """

    layers: tuple[str, ...] = (DEFAULT_LAYER,)
    size: int | None = None
    crop: float | None = None
    resize: str | None = None
    tta: bool = False
    precision: Precision = "float32"
    dtype: str = "float32"
    format: str | None = None
    batch: int | None = None
    workers: int | None = None
    device: str = "auto"
    overwrite: bool = False
    corrupt: tuple[str, ...] = ()
    corrupt_seed: int = 0
    trust_code: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One file to be made: of a layer, and of the pictures as they are or corrupted."""

    name: str
    path: Path
    layer: Layer
    corruption: Corruption | None


@dataclass(frozen=True, slots=True)
class Job:
    """One process's share of an extraction."""

    shards: ShardSet
    encoder: Encoder
    headers: dict[Target, Header]
    batch: int
    device: torch.device
    ranks: Ranks
    options: Options

    def batches(self, rank: int | None = None) -> range:
        """The numbers of a rank's batches, this one's by default."""
        return self.ranks.share((len(self.shards) + self.batch - 1) // self.batch, rank)

    def rows(self, rank: int | None = None) -> int:
        """How many samples lie in them."""
        batches = self.batches(rank)
        return max(0, min(len(self.shards), batches.stop * self.batch) - batches.start * self.batch)

    def part(self, target: Target, rank: int | None = None) -> Path:
        """The file in which a rank collects its rows of `target`."""
        return part_of(target.path, self.ranks.rank if rank is None else rank, self.ranks.world)

    def rows_done(self, target: Target) -> int:
        """How many of this rank's rows an earlier run left.

        Raises:
            UsageError: the part is of another extraction, and may not be overwritten.
        """
        part = self.part(target)
        try:
            return unfinished_rows(part, self.headers[target], self.rows(), self.options.dtype)
        except UsageError:
            if not self.options.overwrite:
                raise
            drop(part)
            return 0


def view_of(options: Options, usual: View) -> View:
    """The view that options ask for of a model that is usually shown `usual`.

    Raises:
        UsageError: options that exclude each other.
    """
    view = usual
    if options.resize is not None:
        if options.size or options.crop:
            raise UsageError("--resize: shows whole pictures, --size and --crop cut them", "Pass one or the other")
        view = replace(usual, size=parse_resize(options.resize), short=0)
    elif options.size is not None and options.size != usual.size:
        view = replace(usual, size=options.size, short=View.of(options.size).short)
    if options.crop is not None:
        view = view.cropped(options.crop)
    return replace(view, mirror=options.tta)


def name_targets(
    output: Path, layers: Sequence[Layer], corruptions: Sequence[Corruption], suffix: str
) -> list[Target]:  # fmt: skip
    """Every file, view by view in the order of `layers`; a single one is `output` itself, several lie in it.

    Raises:
        UsageError: two layers would have the same file.
    """
    targets = []
    for corruption, layer in itertools.product(corruptions or (None,), layers):
        names, places = [], []
        if corruption is not None and len(corruptions) > 1:
            names, places = [corruption.stem], [corruption.stem]
        if len(layers) > 1:
            names, places = [*names, str(layer)], [*places, layer.stem]
        path = output.joinpath(*places[:-1], f"{places[-1]}{suffix}") if places else output
        targets.append(Target("/".join(names) or str(layer), path, layer, corruption))
    if len({target.path for target in targets}) < len(targets):
        raise UsageError(f"{output}: two of the layers would be one file there", "Extract them one by one")
    return targets


def suffix_of(output: Path, options: Options, single: bool) -> str:
    """How the files' names end: of a single one its own.

    Raises:
        UsageError: its name says another format than the option.
    """
    told = format_of(output) if single else None
    if options.format and told and told != options.format:
        raise UsageError(
            f"{output}: its name says {told}, --format says {options.format}", f"Name it *{FORMATS[options.format]}"
        )
    return FORMATS[options.format or told or HDF5]


def make_job(
    spec: str, model: Frozen, encoder: Encoder, shards: ShardSet, targets: Iterable[Target], options: Options,
    device: torch.device, ranks: Ranks,
) -> Job:  # fmt: skip
    """What `targets` are of; nothing is touched."""
    batch = options.batch or (WHOLE_BATCH if encoder.view.whole else DEFAULT_BATCH)[device.type]
    lineage: dict[str, Any] = {
        "made_by": "extract", "seerctl": __version__, "torch": str(torch.__version__), "batch": batch, **model.facts,
        "precision": options.precision, "device": device.type, "sources": {"model": spec, "data": shards.location},
    }  # fmt: skip
    headers = {
        one: Header(
            model.name, model.weights_sha256, shards.sha256, str(one.layer), encoder.view.steps(one.corruption),
            lineage, str(one.corruption or ""), _regions(one.layer, encoder.view),
        )
        for one in targets
    }  # fmt: skip
    return Job(shards, encoder, headers, batch, device, ranks, options)


def _regions(layer: Layer, view: View) -> int:
    return region_slots(layer.levels, not view.whole) if layer.kind == "regions" else 0


def to_do(job: Job) -> list[Target]:
    """The files that are not finished; a file that an interrupted run of several had finished already is kept.

    Raises:
        UsageError: something else is where one shall be.
    """
    left = []
    for target, header in job.headers.items():
        if not job.options.overwrite and is_finished(target.path, header, job.options.dtype):
            continue
        claim(target.path, overwrite=job.options.overwrite)
        for stray in parts_of_others(target.path, job.ranks.world) if job.ranks.rank == 0 else ():
            log.warning("%s: left by a run of another number of processes, not used", stray)
        left.append(target)
    return left


def in_groups(targets: Sequence[Target]) -> Iterator[list[Target]]:
    """The views one after another, as many at a time as there may be open files, the same on every rank."""
    group: list[Target] = []
    for _, of_view in itertools.groupby(targets, key=lambda target: target.corruption):
        view = list(of_view)
        if group and len(group) + len(view) > OPEN_FILES:
            yield group
            group = []
        group += view
    if group:
        yield group
