"""Suites: TOML that names benchmarks, each with its data, its protocol and the values published for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from seerctl.errors import UsageError, did_you_mean
from seerctl.features.layers import Layer
from seerctl.probes.registry import check_inputs, checked_options, protocol
from seerctl.typed import build, read_toml

SEARCH_VARIABLE = "SEERCTL_SUITES"
Kind = Literal["class", "classes", "integer", "number", "latitude", "longitude", "text"]
Layout = Literal["folders", "table", "files"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Pictures that an entry reads, below the data root: `path` is a shard set, or a source for `ingest` in `layout`.

    folders: one directory a class. files: any pictures below a directory, without labels. table: csv or jsonl with the
    column `path` and the `columns` named here, each of a kind: class (a name), classes (a JSON list of names), integer,
    number, latitude, longitude, text (of which no two are equal). name: how the protocol is to call it, where it takes
    NAME=FILE (the sets of `ood`).
    """

    path: str
    name: str = ""
    layout: Layout = "folders"
    columns: Mapping[str, Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.path), "path must name something")
        _require(bool(self.columns) == (self.layout == "table"), 'layout = "table" and columns go together')

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that its samples have."""
        return tuple(self.columns) if self.layout == "table" else ("label",) if self.layout == "folders" else ()


@dataclass(frozen=True, kw_only=True)
class Published:
    """A value that somebody published, as printed there: what of, under which protocol, and where it stands.

    It is shown beside ours only where `protocol` and `metric` are the entry's own. differs: in what the published
    protocol is still another one.
    """

    model: str
    value: float
    metric: str
    protocol: str
    source: str
    differs: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One benchmark. data, or finished feature files (`features`), by the protocol's names for its inputs.

    files: options of the protocol that are files below the data root (`truth`). layers: of each data set, as `extract`
    takes them; several for a protocol that chooses among them (`sgd`). size, crop, resize: as there (size 0: as
    trained). elsewhere: by which command or program it is run where this one cannot; such an entry has no protocol.
    note: what else to know.
    """

    name: str
    task: str
    protocol: str = ""
    metric: str = "top1"
    target: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, tuple[DataSet, ...] | DataSet] = field(default_factory=dict)
    features: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ("avgpool",)
    size: int = 0
    crop: float = 0.0
    resize: str = ""
    published: tuple[Published, ...] = ()
    elsewhere: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _require(_NAME.fullmatch(self.name) is not None, f"name '{self.name}' is not made of letters, digits, . _ -")
        _require(bool(self.protocol) != bool(self.elsewhere), "either protocol or elsewhere has to be given")
        if self.protocol:
            _require(bool(self.data) != bool(self.features), "either data or features have to be given")
        _require(bool(self.layers), "layers must name one")
        _require(self.size >= 0 and 0 <= self.crop <= 1, "size must not be negative, crop must be in [0, 1]")

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Data sets or feature files by the protocol's names."""
        return self.features or self.data

    def data_sets(self) -> list[tuple[str, DataSet]]:
        """(input, data set) of all of them."""
        return [(key, one) for key, value in self.data.items() for one in _several(value)]

    def feature_files(self) -> list[tuple[str, str]]:
        """(input, path) of all feature files."""
        return [(key, one) for key, value in self.features.items() for one in _several(value)]

    def comparable(self) -> list[Published]:
        """The published values whose protocol and metric are this entry's."""
        return [one for one in self.published if (one.protocol, one.metric) == (self.protocol, self.metric)]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Entries with names of their own."""

    description: str = ""
    entry: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        names = [one.name for one in self.entry]
        _require(bool(names), "a suite needs at least one [[entry]]")
        twice = sorted({name for name in names if names.count(name) > 1})
        _require(not twice, f"two entries are called '{twice[0] if twice else ''}'")


def load_suite(name_or_path: str | Path) -> Suite:
    """The suite of that name or file, every entry's protocol, options and inputs checked.

    Raises:
        UsageError: no such suite, not TOML, an unknown key, protocol or option, a wrong value, a missing input, or a
            metric that the protocol does not have.
    """
    path = find_suite(name_or_path)
    suite = build(Suite, read_toml(path), str(path))
    return replace(suite, entry=tuple(_checked(one, f"{path}: {one.name}") for one in suite.entry))


def _checked(entry: Entry, where: str) -> Entry:
    """The entry with every option of its protocol."""
    if not entry.protocol:
        return entry
    check_inputs(entry.protocol, entry.inputs, entry.target or None, where)
    for layer in entry.layers:
        Layer.parse(layer)
    single = [key for key in entry.data if not protocol(entry.protocol).inputs[key].many]
    if len(entry.layers) > 1 and single:
        raise UsageError(f"{where}: {entry.protocol} takes one '{single[0]}', of one layer", "Name one in layers")
    both = sorted(entry.files.keys() & entry.options.keys())
    if both:
        raise UsageError(f"{where}: '{both[0]}' stands in options and in files", "Keep the one in files")
    checked_options(entry.protocol, {**entry.options, **entry.files}, where)
    options = checked_options(entry.protocol, entry.options, where)
    if not protocol(entry.protocol).measures(entry.metric):
        raise UsageError(
            f"{where}: {entry.protocol} does not measure '{entry.metric}'",
            did_you_mean(entry.metric, protocol(entry.protocol).metrics),
        )
    return replace(entry, options=options)


def select(suite: Suite, only: Iterable[str]) -> list[Entry]:
    """The entries called `only`, in the suite's order; all for none.

    Raises:
        UsageError: a name that no entry has.
    """
    wanted, names = list(only), [one.name for one in suite.entry]
    for name in wanted:
        if name not in names:
            raise UsageError(f"--only {name}: no such entry", did_you_mean(name, names))
    return [one for one in suite.entry if not wanted or one.name in wanted]


def find_suite(name_or_path: str | Path) -> Path:
    """The file behind a suite's name or path.

    Raises:
        UsageError: there is none.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.suffix == ".toml" or os.sep in name:
        if path.is_file():
            return path
        raise UsageError(f"{name}: no such suite file", f"Suites by name: {', '.join(suite_names())}")
    for folder in _folders():
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise UsageError(f"no suite '{name}'", did_you_mean(name, suite_names()))


def suite_names() -> list[str]:
    """Names of the suites that can be found, sorted."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def _folders() -> list[Path]:
    own = [Path(part) for part in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep) if part]
    return [*own, Path(__file__).parent / "suites"]
