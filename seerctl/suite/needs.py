"""What every entry of a suite needs, looked at before anything starts: data, layouts, columns, models, space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seerctl.errors import InputError, SeerctlError
from seerctl.features.layers import Layer
from seerctl.features.models import load_frozen
from seerctl.features.store import FeatureFile
from seerctl.suite.datasets import problem, samples, source_bytes
from seerctl.suite.extraction import Model, layers_of
from seerctl.suite.runner import Plan
from seerctl.suite.spec import Entry

ABOUT_DIM = 2048  # values of a layer, where nothing is known of it
SPACE_FACTOR = 1.1


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that an entry lacks."""

    entry: str
    what: str


def find_model(spec: str, layers: Iterable[str] = (), *, trust_code: bool = False) -> Model:
    """The model that `spec` names, loaded once to hash its weights and to try which of `layers` it has.

    Raises:
        SeerctlError: what `load_frozen` raises.
    """
    frozen = load_frozen(spec, trust_code=trust_code)
    lacks, side = {}, frozen.view.size
    for layer in dict.fromkeys(layers):
        try:
            frozen.network.try_out((Layer.parse(layer).name,), (side, side), spec)
        except SeerctlError as error:
            lacks[layer] = str(error)
    return Model(spec, frozen.weights_sha256, lacks)


def missing(plan: Plan) -> list[Missing]:
    """Everything that entries of `plan` lack, in their order; nothing is read but headers and indexes."""
    found = []
    for entry in plan.entries:
        if entry.protocol:
            found += [Missing(entry.name, what) for what in _of(plan, entry)]
    return found


def _of(plan: Plan, entry: Entry) -> list[str]:
    absent = [f"{plan.root / path}: not there" for path in entry.files.values() if not (plan.root / path).is_file()]
    if entry.features:
        return absent + [
            what for _, path in entry.feature_files() if (what := _features_problem(plan.root / path, entry))
        ]
    found = absent if plan.models else ["a model: name one with --model", *absent]
    found += [why for model in plan.models for layer, why in model.lacks.items() if layer in entry.layers]
    return found + list(dict.fromkeys(what for _, data in entry.data_sets() if (what := problem(data, plan.root))))


def _features_problem(path: Path, entry: Entry) -> str:
    try:
        with FeatureFile.open(path) as file:
            if entry.target and entry.target not in file.columns:
                return f"{path}: no column '{entry.target}', it has {', '.join(file.columns) or 'none'}"
    except SeerctlError as error:
        return str(error)
    return ""


def without(plan: Plan, lacking: Iterable[Missing]) -> Plan:
    """`plan` without the entries that lack something.

    Raises:
        InputError: none is left.
    """
    names = {one.entry for one in lacking}
    left = [entry for entry in plan.entries if entry.name not in names]
    if not any(entry.protocol for entry in left):
        raise InputError("suite: no entry has all that it needs", "See the table of what is missing")
    return replace(plan, entries=left)


def demand_space(plan: Plan) -> None:
    """Stop before the disk is full, by an estimate of what will be written.

    Raises:
        EnvironmentFault: too little space where the output lies.
    """
    from seerctl.features.writer import demand_space as demand  # noqa: PLC0415

    demand(plan.output, int(SPACE_FACTOR * space(plan, plan.models)))


def space(plan: Plan, models: Sequence[Model]) -> int:
    """Bytes that the shards and features of `plan` will take, about, beyond what is there."""
    total, sources = 0, set()
    for look, layers in layers_of(plan.entries).items():
        place = plan.root / look.data.path
        if place not in sources:
            sources.add(place)
            total += source_bytes(look.data, plan.root, plan.extraction.shards)
        count = samples(look.data, plan.root)
        for model in models:
            absent = sum(not plan.extraction.file(model, look, layer).is_file() for layer in layers)
            total += absent * count * ABOUT_DIM * 4
    return total
