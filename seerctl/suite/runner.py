"""Running a suite: each entry's report is kept, and made again only when its protocol or an input has changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seerctl import __version__
from seerctl.errors import InputError, SeerctlError
from seerctl.files import json_text, read_json, sha256_file, write_json
from seerctl.probes.registry import Progress, run_protocol
from seerctl.suite.extraction import Extraction, Look, Model, layers_of, looks
from seerctl.suite.spec import Entry

SCHEMA = "seerctl.suite/1"

log = logging.getLogger("seerctl")


@dataclass(frozen=True)
class Plan:
    """What is to be run: entries, the models for those that name pictures, and where everything lies.

    root: below it lie the data sets and feature files that entries name. output: the suite's own directory.
    """

    entries: Sequence[Entry]
    models: Sequence[Model]
    root: Path
    output: Path
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)
    suite: str = ""

    @cached_property
    def extraction(self) -> Extraction:
        """Where the features lie."""
        return Extraction(self.root, self.output, self.settings)

    def runs(self) -> list[tuple[Entry, Model | None]]:
        """Every entry with every model; one of finished features has none."""
        return [(entry, model) for entry in self.entries if entry.protocol
                for model in (self.models if entry.data else [None])]  # fmt: skip

    def report(self, entry: Entry, model: Model | None) -> Path:
        """Where the report of a run lies."""
        return self.output / "reports" / (model.slug if model else "features") / f"{entry.name}.json"

    def predictions(self, entry: Entry, model: Model | None) -> Path:
        """Where the predictions of a run lie."""
        return self.output / "predictions" / (model.slug if model else "features") / f"{entry.name}.csv"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run's end: its report, or why there is none. kept: the report is of an earlier start."""

    entry: Entry
    model: Model | None
    report: Mapping[str, Any] | None = None
    error: SeerctlError | None = None
    kept: bool = False


def run_suite(
    plan: Plan, progress: Callable[[str, int], Progress] | None = None, done: Callable[[Outcome], None] | None = None
) -> list[Outcome]:  # fmt: skip
    """Run all entries of `plan`, those of one data set together; an entry that fails leaves the others alone.

    progress: called with what begins and its number of pictures, returns what counts them. done: called after each
    entry.
    """
    outcomes = []
    hashes = _Hashes()
    for model in (None, *plan.models):
        made: dict[Look, SeerctlError | None] = {}
        mine = [entry for entry, of in plan.runs() if of == model]
        wanted = layers_of(mine)
        for entry in mine:
            outcome = _run(plan, entry, model, wanted, made, hashes, progress)
            outcomes.append(outcome)
            if done is not None:
                done(outcome)
    order = {(entry.name, model.spec if model else ""): place for place, (entry, model) in enumerate(plan.runs())}
    return sorted(outcomes, key=lambda one: order[one.entry.name, one.model.spec if one.model else ""])


def _run(
    plan: Plan, entry: Entry, model: Model | None, wanted: Mapping[Look, tuple[str, ...]],
    made: dict[Look, SeerctlError | None], hashes: _Hashes, progress: Callable[[str, int], Progress] | None,
) -> Outcome:  # fmt: skip
    try:
        if model is not None:
            for look in (look for some in looks(entry).values() for look in some):
                _make(plan, model, look, wanted[look], made, progress)
        inputs = _inputs(plan, entry, model)
        report, kept = _report(plan, entry, model, inputs, hashes)
    except SeerctlError as error:
        log.warning("%s: %s", entry.name, error)
        return Outcome(entry, model, error=error)
    return Outcome(entry, model, report, kept=kept)


def _make(
    plan: Plan, model: Model, look: Look, layers: Sequence[str], made: dict[Look, SeerctlError | None],
    progress: Callable[[str, int], Progress] | None,
) -> None:  # fmt: skip
    """Features of one look, made once for all entries: the second entry of broken data fails at once."""
    if look not in made:
        made[look] = None
        try:
            plan.extraction.make(model, look, layers, progress(look.data.path, 0) if progress else None)
        except SeerctlError as error:
            made[look] = error
    failed = made[look]
    if failed is not None:
        raise failed


def _inputs(plan: Plan, entry: Entry, model: Model | None) -> dict[str, Path | list[Path]]:
    """Feature files by the protocol's names."""
    if model is None:
        found = {key: [plan.root / path for k, path in entry.feature_files() if k == key] for key in entry.features}
    else:
        found = {
            key: [plan.extraction.file(model, look, layer) for look in some for layer in entry.layers]
            for key, some in looks(entry).items()
        }  # fmt: skip
    many = {key: isinstance(value, tuple) or len(entry.layers) > 1 for key, value in entry.inputs.items()}
    return {key: paths if many[key] else paths[0] for key, paths in found.items()}


def _report(
    plan: Plan, entry: Entry, model: Model | None, inputs: Mapping[str, Path | list[Path]], hashes: _Hashes
) -> tuple[Mapping[str, Any], bool]:
    """The entry's report, and whether it was there."""
    path = plan.report(entry, model)
    identity = _identity(entry, inputs, {name: hashes(plan.root / file) for name, file in entry.files.items()}, hashes)
    if path.is_file():
        before = read_json(path)
        if isinstance(before, dict) and (before.get("suite") or {}).get("identity") == identity:
            return before, True
    options = {**entry.options, **{name: str(plan.root / file) for name, file in entry.files.items()}}
    result = run_protocol(entry.protocol, _named(entry, inputs), entry.target or None, options, device=plan.device)
    facts = {"suite": plan.suite, "entry": entry.name, "identity": identity, "seerctl": __version__}
    if model is not None:
        facts |= {"model": model.spec}
    if result.predictions is not None:
        result.save_predictions(plan.predictions(entry, model))
    report = {**result.report, "suite": facts}
    write_json(path, report)
    return report, False


def _named(entry: Entry, inputs: Mapping[str, Path | list[Path]]) -> dict[str, Any]:
    """Feature files of data sets with names of their own as NAME=FILE."""
    named: dict[str, Any] = dict(inputs)
    for key, value in entry.data.items():
        if isinstance(value, tuple) and any(one.name for one in value):
            paths = inputs[key]
            assert isinstance(paths, list)
            named[key] = [f"{one.name}={path}" if one.name else path for one, path in zip(value, paths, strict=True)]
    return named


def _identity(entry: Entry, inputs: Mapping[str, Path | list[Path]], others: Mapping[str, str], hashes: _Hashes) -> str:
    """A hash of all that an entry's report follows from; others: the hashes of files that options name."""
    files = {key: [hashes(path) for path in (value if isinstance(value, list) else [value])]
             for key, value in inputs.items()}  # fmt: skip
    facts = {
        "protocol": entry.protocol,
        "target": entry.target,
        "options": dict(entry.options),
        "inputs": files,
        "files": dict(others),
        "names": [one.name for _, one in entry.data_sets()],
    }
    return hashlib.sha256(json_text(json.loads(json.dumps(facts, sort_keys=True))).encode()).hexdigest()


class _Hashes:
    """SHA-256 of files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        if path not in self._known:
            if not path.is_file():
                raise InputError(f"{path}: no such file")
            self._known[path] = sha256_file(path)
        return self._known[path]
