"""Features for a suite: every layer that its entries want of a data set in one pass, kept while nothing has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seerctl.features.extractor import Options, extract
from seerctl.features.layers import Layer
from seerctl.files import read_json, write_json
from seerctl.probes.registry import Progress
from seerctl.shards.index import ShardSet
from seerctl.suite.datasets import shards, slug
from seerctl.suite.spec import DataSet, Entry


@dataclass(frozen=True, slots=True)
class Model:
    """A model as `extract` takes it, the hash of its weights, and why it cannot give some layers."""

    spec: str
    sha256: str
    lacks: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def slug(self) -> str:
        """Its name in paths."""
        return slug(self.spec)


@dataclass(frozen=True, slots=True)
class Look:
    """How an entry looks at a data set; entries that look alike at the same pictures share their features."""

    path: str
    size: int
    crop: float
    resize: str
    data: DataSet = field(compare=False)

    @property
    def slug(self) -> str:
        """Its name in paths."""
        return slug(f"{self.path} {self.resize or self.size or 'trained'} {self.crop:g}")


def looks(entry: Entry) -> dict[str, list[Look]]:
    """The looks of an entry by the protocol's inputs."""
    found: dict[str, list[Look]] = {}
    for key, data in entry.data_sets():
        found.setdefault(key, []).append(Look(data.path, entry.size, entry.crop, entry.resize, data))
    return found


def layers_of(entries: Iterable[Entry]) -> dict[Look, tuple[str, ...]]:
    """Every look of the entries with all layers that any of them wants of it."""
    wanted: dict[Look, dict[str, None]] = {}
    for entry in entries:
        for some in looks(entry).values():
            for look in some:
                wanted.setdefault(look, {}).update(dict.fromkeys(entry.layers))
    return {look: tuple(layers) for look, layers in wanted.items()}


@dataclass(frozen=True, slots=True)
class Extraction:
    """Where a suite's features lie and how they are made."""

    root: Path
    output: Path
    settings: Mapping[str, Any]  # of `Options`: batch, workers, device, precision

    @property
    def shards(self) -> Path:
        """Where shard sets that are made of sources lie."""
        return self.output / "shards"

    def file(self, model: Model, look: Look, layer: str) -> Path:
        """The feature file of a look in one layer, whether it is there or not."""
        return self.output / "features" / model.slug / look.slug / f"{Layer.parse(layer).stem}.h5"

    def make(self, model: Model, look: Look, layers: Iterable[str], progress: Progress | None = None) -> None:
        """Bring the files of `layers` up to date; an interrupted extraction goes on.

        Raises:
            SeerctlError: what `shards` and `extract` raise.
        """
        location = shards(look.data, self.root, self.shards)
        with ShardSet.open(location) as opened:
            facts = {"model": model.spec, "model_sha256": model.sha256, "index_sha256": opened.sha256,
                     "size": look.size, "crop": look.crop, "resize": look.resize}  # fmt: skip
        facts["precision"] = str(self.settings.get("precision", "float32"))
        stale = [layer for layer in layers if not _is_fresh(self.file(model, look, layer), {**facts, "layer": layer})]
        for layer in stale:
            self.file(model, look, layer).unlink(missing_ok=True)
            write_json(_note(self.file(model, look, layer)), {**facts, "layer": layer})
        if stale:
            folder = self.file(model, look, stale[0]).parent
            target = folder if len(stale) > 1 else self.file(model, look, stale[0])
            options = Options(
                layers=tuple(stale), size=look.size or None, crop=look.crop or None, resize=look.resize or None,
                overwrite=True, **self.settings,
            )  # fmt: skip
            extract(model.spec, str(location), target, options, progress)


def _note(path: Path) -> Path:
    """What a feature file is made from, written before it: the file itself appears only when it is whole."""
    return path.with_name(path.name + ".json")


def _is_fresh(path: Path, facts: Mapping[str, Any]) -> bool:
    return path.is_file() and _note(path).is_file() and read_json(_note(path)) == dict(facts)
