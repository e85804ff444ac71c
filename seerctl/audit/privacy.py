"""The privacy suite: what shard sets still say about people beside the pixels, and what should be gone by now.

Three things are counted, sample by sample: personal metadata inside the pictures' files (`metadata.KINDS`), what looks
like personal data in sources and columns (e-mail addresses, home directories, passwords in addresses), and samples that
were dropped on request from one set and still are in another, or were in what a model learnt from.

Evidence names keys, never the data itself: a report on personal data must not spread it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.lineage import Dropped, Library, dropped_findings, models_with_dropped, trace
from seerctl.audit.metadata import KINDS, holds_email, personal_metadata
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.samples import Mask, RowsBuilder, SampleRows, describe_set, groupings, members
from seerctl.audit.suite import Bars, Finding, MetricInfo, SuiteResult, Table
from seerctl.errors import UsageError
from seerctl.shards.drop import dropped_records
from seerctl.shards.index import Sample, ShardSet

SHOWN = 30
MODELS = ("weights", "run", "features")
_HOME = re.compile(r"(?:^|[/\\:])(?:home|Users|Documents and Settings)[/\\](?!(?:Shared|Public)[/\\])[^/\\]+[/\\]")
_CREDENTIALS = re.compile(r"://[^/@\s:]{1,100}:[^/@\s]{1,100}@")

TEXT_KINDS: dict[str, str] = {
    "email_in_source": "e-mail addresses in the source",
    "home_in_source": "home directories in the source",
    "credentials_in_source": "passwords in the source",
    "email_in_columns": "e-mail addresses in columns",
    "home_in_columns": "home directories in columns",
    "credentials_in_columns": "passwords in columns",
}
ALL_KINDS = {**KINDS, **TEXT_KINDS}

METRICS: dict[str, MetricInfo] = {
    **{kind: MetricInfo(f"Samples with {title}", "count", False) for kind, title in ALL_KINDS.items()},
    "any": MetricInfo("Samples with personal data of any kind", "count", False),
    **{
        f"{kind}_share": MetricInfo(f"Share of samples with {title}", "share", False)
        for kind, title in ALL_KINDS.items()
    },
    "any_share": MetricInfo("Share of samples with personal data of any kind", "share", False),
    "dropped_in_set": MetricInfo("Samples that were dropped on request and are still in a set", "count", False),
    "dropped_in_lineage": MetricInfo("Dropped samples that a model learnt from", "count", False),
}

LIMITS = (
    "The pixels are not looked at: a face, a number plate or a document in the picture is not found.",
    "Metadata in formats that nobody documented, such as makers' notes, are counted where they are and not read.",
    "A copy of a dropped sample with other bytes is not recognised here; --leakage finds such copies between two sets.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """Every sample of all sets together. kinds: (N,) masks by kind. dropped: (N,) dropped before. sets: (N,) which."""

    rows: SampleRows
    kinds: Mapping[str, Mask]
    dropped: Mask
    sets: NDArray[np.int64]
    described: list[dict[str, Any]]
    columns: Counter[str]


def audit_privacy(
    data: Sequence[Path],
    checks: Sequence[SuiteCheck],
    *,
    artefacts: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> SuiteResult:
    """What the shard sets `data` hold that is personal; a check's groups are their columns.

    artefacts: models, runs and features, for samples that were dropped since they were made.

    Raises:
        UsageError: no set, or a column that no set has.
        InputError: a set or an artefact is missing or damaged.
    """
    if not data:
        raise UsageError("audit --privacy: nothing to look at", "Pass --data SET")
    held = _read(data, progress)
    library = trace([*artefacts, *data]) if artefacts else None
    models = [] if library is None else _models(library)
    return SuiteResult(
        suite="privacy",
        findings=tuple(finding for check in checks for finding in _findings(check, held, library, models)),
        tables=(_kinds_table(held), *_columns_table(held), *_models_table(models)),
        charts=_chart(held),
        inputs={"data": held.described, "artefacts": [str(path) for path in artefacts]},
        limits=LIMITS,
        data={
            "counts": _counts(held, np.arange(len(held.rows))),
            "columns": dict(sorted(held.columns.items())),
            "dropped_in_set": int(held.dropped.sum()),
            "models": [{"model": one.model, "count": one.count, "certain": one.certain} for one in models],
        },
    )


def _read(data: Sequence[Path], progress: Callable[[int], None] | None) -> Holdings:
    opened = [ShardSet.open(path) for path in data]
    records = [record for shards in opened for record in dropped_records(shards.index)]
    gone = {str(record[name]) for record in records for name in ("sha256", "orig_sha256") if record.get(name)}
    builder, columns = RowsBuilder(), Counter[str]()
    kinds: dict[str, list[bool]] = {kind: [] for kind in ALL_KINDS}
    dropped: list[bool] = []
    sets: list[int] = []
    for number, shards in enumerate(opened):
        with shards:
            for sample in builder.watch(iter(shards), progress):
                found = personal_metadata(sample.image) | _texts(sample, columns)
                for kind, mask in kinds.items():
                    mask.append(kind in found)
                dropped.append(not gone.isdisjoint((sample.meta["sha256"], sample.meta.get("orig_sha256"))))
                sets.append(number)
    names = sorted({name for shards in opened for name in shards.columns})
    return Holdings(
        rows=builder.finish(names),
        kinds={kind: np.array(mask, dtype=np.bool_) for kind, mask in kinds.items()},
        dropped=np.array(dropped, dtype=np.bool_),
        sets=np.array(sets, dtype=np.int64),
        described=[describe_set(shards) for shards in opened],
        columns=columns,
    )


def _texts(sample: Sample, columns: Counter[str]) -> set[str]:
    """What the source and the columns of a sample look like; `columns` counts the columns it was found in."""
    found = {f"{kind}_in_source" for kind in personal_text(sample.meta["source"])}
    for name, value in sample.meta["columns"].items():
        kinds = {kind for text in _strings(value) for kind in personal_text(text)}
        if kinds:
            columns[str(name)] += 1
            found |= {f"{kind}_in_columns" for kind in kinds}
    return found


def personal_text(text: str) -> set[str]:
    """Which of email, home and credentials a text looks like."""
    found = set()
    if "@" in text:
        if _CREDENTIALS.search(text):
            found.add("credentials")
            text = _CREDENTIALS.sub("://", text)
        if holds_email(text.encode("utf-8", "replace")):
            found.add("email")
    if ("/" in text or "\\" in text) and _HOME.search(text):
        found.add("home")
    return found


def _strings(value: Any) -> Iterator[str]:
    """Every text in a column's value, which may be a list or a table."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]


def _models(library: Library) -> list[Dropped]:
    known = list(dict.fromkeys(library.known.values()))
    return [one for one in models_with_dropped(known, library.links) if one.kind in MODELS]


# ------------------------------------------------------------------------------------------------------------- findings


def _findings(check: SuiteCheck, held: Holdings, library: Library | None, models: Sequence[Dropped]) -> list[Finding]:
    if check.metric == "dropped_in_lineage":
        return _lineage_findings(check, library, models)
    where = held.described[0]["path"]
    return [
        replace(_measure(check, held, rows), group=group)
        for grouping in groupings(check.groups)
        for group, rows in members(held.rows, grouping, where)
    ]


def _measure(check: SuiteCheck, held: Holdings, rows: NDArray[np.int64]) -> Finding:
    kind = check.metric.removesuffix("_share")
    chosen = rows[_mask(held, kind)[rows]]
    value = len(chosen) / max(len(rows), 1) if check.metric.endswith("_share") else float(len(chosen))
    evidence: dict[str, Any] = {}
    if len(chosen):
        evidence["samples"] = [
            {"key": held.rows.key(row), "set": held.described[held.sets[row]]["path"]}
            for row in chosen[:SHOWN].tolist()
        ]
        if kind == "any":
            evidence["kinds"] = {name: count for name, count in _counts(held, rows).items() if count}
    return Finding(check.id, check.metric, value, len(rows), evidence=evidence)


def _mask(held: Holdings, kind: str) -> Mask:
    if kind == "dropped_in_set":
        return held.dropped
    return np.asarray(np.any(list(held.kinds.values()), axis=0)) if kind == "any" else held.kinds[kind]


def _lineage_findings(check: SuiteCheck, library: Library | None, models: Sequence[Dropped]) -> list[Finding]:
    if check.groups:
        raise UsageError(f"check '{check.id}': {check.metric} has no groups", "Leave out 'groups'")
    if library is None:
        reason = "no model, run or features were named (--artefact)"
        return [Finding(check.id, check.metric, float("nan"), 0, reason=reason)]
    known = list(dict.fromkeys(library.known.values()))
    return dropped_findings(check, [one for one in library.named if one.kind in MODELS], known, models)


# ----------------------------------------------------------------------------------------------------------- the report


def _counts(held: Holdings, rows: NDArray[np.int64]) -> dict[str, int]:
    return {kind: int(mask[rows].sum()) for kind, mask in held.kinds.items()}


def _kinds_table(held: Holdings) -> Table:
    sets = [np.flatnonzero(held.sets == number) for number in range(len(held.described))]
    rows: list[tuple[str | int | float | None, ...]] = []
    for kind, title in (
        *ALL_KINDS.items(),
        ("any", "personal data of any kind"),
        ("dropped_in_set", "a request to be dropped"),
    ):
        mask = _mask(held, kind)
        rows.append((title, *(int(mask[part].sum()) for part in sets), float(mask.mean()) if len(mask) else 0.0))
    columns = ("samples with", *(entry["path"] for entry in held.described), "share of all")
    return Table("Personal data in the sets", columns, tuple(rows))


def _columns_table(held: Holdings) -> Iterable[Table]:
    if held.columns:
        yield Table(
            "Columns that hold what looks personal", ("column", "samples"), tuple(held.columns.most_common(SHOWN))
        )


def _models_table(models: Sequence[Dropped]) -> Iterable[Table]:
    if models:
        rows = tuple((one.kind, one.model, one.count, "yes" if one.certain else "perhaps", one.set) for one in models)
        columns = ("kind", "artefact", "dropped samples", "all of them were in it", "set")
        yield Table("Made from samples that were dropped since", columns, rows)


def _chart(held: Holdings) -> tuple[Bars, ...]:
    counts = {kind: count for kind, count in _counts(held, np.arange(len(held.rows))).items() if count}
    if not counts:
        return ()
    values = tuple(count / len(held.rows) for count in counts.values())
    return (
        Bars("Samples with personal data", tuple(ALL_KINDS[kind] for kind in counts), values, axis="share of samples"),
    )
