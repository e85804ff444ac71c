"""The lineage suite: from a report back to the source files, every hash computed again.

Each artefact names the hashes of what it was made from: report -> predictions -> features -> weights -> run -> shard
set -> streams -> source files. A link is looked up by its hash among the artefacts that were named, else at the place
where the other end was found at the time. It is ok, broken (something else is there, or what is there is damaged), or
cannot be checked: the other end is not there, or no hash of it was recorded. Broken links are counted; those that
cannot be checked are listed as not assessed.

A shard set from which samples were dropped on request keeps their hashes and the hash of the index they were in: models
that were trained on that index are named.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from seerctl.audit.artefacts import WEIGHTS_FILE, Artefact, Claim, read_artefacts
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.suite import Finding, MetricInfo, SuiteResult, Table
from seerctl.errors import InputError, SeerctlError, UsageError
from seerctl.files import read_json, sha256_file
from seerctl.shards.drop import dropped_records, history
from seerctl.shards.index import ShardSet
from seerctl.shards.setwriter import keys_of
from seerctl.shards.verify import verify
from seerctl.stream.reader import read_streams
from seerctl.stream.records import StreamEnd

METRICS: dict[str, MetricInfo] = {
    "broken": MetricInfo("Links whose hashes do not match", "count", False),
    "verified": MetricInfo("Links that could be checked and hold", "share", True),
    "dropped": MetricInfo("Samples a model learnt from that were dropped since", "count", False),
}
OK, BROKEN, UNKNOWN = "ok", "broken", "not checked"
SHOWN = 30

LIMITS = (
    "A hash proves that files are the same, not that the command that is named made one from the other.",
    "Hashes that stand in a file can be changed by whoever can change the file: they tell accidents from order, not "
    "honest people from others.",
    "What was dropped from a set is known where that set's index was named or could be found.",
)


@dataclass(frozen=True, slots=True)
class Link:
    """One step back: which artefact claims it, what it claims, how it ended and why."""

    source: str
    kind: str
    claim: Claim
    status: str
    found: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        """The link in words."""
        role = f" ({self.claim.role})" if self.claim.role else ""
        return f"{self.kind} {self.source} -> {self.claim.kind}{role}"

    def as_json(self) -> dict[str, str]:
        """The link as plain values."""
        return {"from": self.source, "from_kind": self.kind, "to_kind": self.claim.kind, "role": self.claim.role,
                "status": self.status, "sha256": self.claim.sha256, "found": self.found, "why": self.why}  # fmt: skip


LinkMaker = Callable[..., tuple[Link, Artefact | None]]


@dataclass(slots=True)
class Library:
    """The artefacts that are known, by place and by hash, and the links that were followed."""

    progress: Callable[[int], None] | None = None
    named: list[Artefact] = field(default_factory=list)
    known: dict[Path, Artefact] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    _cache: dict[Path, list[Artefact]] = field(default_factory=dict)
    _walked: set[Path] = field(default_factory=set)

    def name(self, path: Path) -> None:
        """Add an artefact that the user named."""
        for artefact in self._read(path):
            if artefact not in self.named:
                self.named.append(self._keep(artefact))

    def _read(self, path: Path) -> list[Artefact]:
        """What stands at `path`, hashed once."""
        place = path.resolve()
        if place not in self._cache:
            self._cache[place] = [self.known.get(one.path.resolve(), one) for one in read_artefacts(path)]
        return self._cache[place]

    def _keep(self, artefact: Artefact) -> Artefact:
        return self.known.setdefault(artefact.path.resolve(), artefact)

    def walk(self) -> None:
        """Follow every claim of everything named, and of everything found on the way.

        What could not be checked is tried again at the end: its other end may have been found by another way.
        """
        waiting = list(self.named)
        while waiting:
            while waiting:
                waiting += self._visit(waiting.pop())
            waiting = self._retry()

    def _visit(self, artefact: Artefact) -> list[Artefact]:
        """Follow the claims of one artefact, once; what they led to."""
        place = artefact.path.resolve()
        if place in self._walked:
            return []
        self._walked.add(place)
        self.links += _inside(artefact, self.progress)
        found = []
        for claim in artefact.claims:
            link, other = self._follow(artefact, claim)
            self.links.append(link)
            if other is not None:
                found.append(other)
                self.links += _same_keys(artefact, other)
        if artefact.kind == "set":
            self.links += self._sources(artefact)
        return found

    def _retry(self) -> list[Artefact]:
        """Look again for what was not there, now that more is known."""
        found = []
        owners = {(str(one.path), one.kind): one for one in self.known.values()}
        for number, old in enumerate(self.links):
            owner = owners.get((old.source, old.kind))
            if old.status != UNKNOWN or not old.claim.sha256 or old.found or owner is None:
                continue
            link, other = self._follow(owner, old.claim)
            if other is not None:
                self.links[number] = link
                self.links += _same_keys(owner, other)
                found.append(other)
        return found

    def _follow(self, artefact: Artefact, claim: Claim) -> tuple[Link, Artefact | None]:
        def link(status: str, found: Artefact | None = None, why: str = "") -> tuple[Link, Artefact | None]:
            place = "" if found is None else str(found.path)
            return Link(str(artefact.path), artefact.kind, claim, status, place, why), found

        if claim.kind == "self":
            same = claim.sha256 == artefact.sha256
            return link(OK if same else BROKEN, None, "" if same else "its bytes are not those that were written")
        if claim.kind == "run":
            return self._run_of(artefact, claim, link)
        for other in self.known.values():
            if claim.sha256 and _identity(other) == claim.sha256 and claim.kind in ("any", other.kind):
                return link(OK, other)
        if not claim.sha256:
            return link(UNKNOWN, None, claim.why or f"it names no hash of its {claim.kind}")
        return self._at_hint(artefact, claim, link)

    def _at_hint(self, artefact: Artefact, claim: Claim, link: LinkMaker) -> tuple[Link, Artefact | None]:
        """Look where the other end was found at the time: there now is the same, another, or nothing."""
        others: list[Artefact] = []
        unreadable = ""
        for path in _places(claim, artefact):
            try:
                others += [one for one in self._read(path) if one.kind != "sources" and claim.kind in ("any", one.kind)]
            except SeerctlError as error:
                unreadable = f"cannot be read: {error.message}"
        same = next((one for one in others if _identity(one) == claim.sha256), None)
        if same is not None:
            return link(OK, self._keep(same))
        others += [one for one in self.known.values() if one.kind == "set" and claim.sha256 in _history(one)]
        if others:
            return self._changed(claim, others, link)
        if unreadable:
            return link(BROKEN, None, unreadable)
        where = f" (it was {claim.hint})" if claim.hint else ""
        return link(UNKNOWN, None, claim.why or f"no {claim.kind} with this hash is there{where}")

    def _changed(self, claim: Claim, others: Sequence[Artefact], link: LinkMaker) -> tuple[Link, Artefact | None]:
        """Something else is there; a set whose history knows the hash was changed by seerctl itself."""
        for other in others:
            if claim.sha256 in _history(other):
                done = Counter(_since(other, claim.sha256))
                what = ", ".join(f"{count} {by}" for by, count in sorted(done.items()))
                why = f"the set was changed since ({what}): the index it had cannot be checked"
                return link(UNKNOWN, self._keep(other), why)
        now = _identity(others[0])
        return link(BROKEN, self._keep(others[0]), f"{others[0].path} has another hash, {now[:16] or 'of nothing'}")

    def _run_of(self, weights: Artefact, claim: Claim, link: LinkMaker) -> tuple[Link, Artefact | None]:
        """Weights that lie in a run have to be of its data and its recipe."""
        run = self._keep(next(one for one in self._read(Path(claim.hint)) if one.kind == "run"))
        metadata = weights.facts["metadata"]
        recipe = run.path / "recipe.toml"
        faults = []
        if metadata.get("index_sha256") != run.facts["run"].get("index_sha256"):
            faults.append("the weights are of other data than the run")
        if "recipe" in metadata and recipe.is_file() and recipe.read_text("utf-8", "replace") != metadata["recipe"]:
            faults.append("the weights are of another recipe than the run")
        return link(BROKEN if faults else OK, run, "; ".join(faults))

    def _sources(self, artefact: Artefact) -> list[Link]:
        """Compare a set with the source folders that were named, file by file."""
        return [_compare(artefact, folder.path) for folder in self.known.values() if folder.kind == "sources"]


def _places(claim: Claim, artefact: Artefact) -> list[Path]:
    """Where a claim's other end may lie: as recorded, from here and from beside the artefact."""
    if not claim.hint or "\0" in claim.hint:
        return []
    recorded = Path(claim.hint)
    beside = artefact.path if artefact.path.is_dir() else artefact.path.parent
    places = [recorded] if recorded.is_absolute() else [recorded, beside / recorded, beside.parent / recorded]
    if claim.kind == "weights":
        places = [option for place in places for option in (place / WEIGHTS_FILE, place)]
    return [place for place in places if _exists(place)]


def _exists(path: Path) -> bool:
    try:
        return path.exists() and not (path.is_dir() and path.name == WEIGHTS_FILE)
    except (OSError, ValueError):
        return False


def _identity(artefact: Artefact) -> str:
    """The hash by which others name an artefact; a stream's is read from it when first asked."""
    if artefact.kind == "stream":
        return _stream_hash(artefact.path)
    return artefact.sha256


_STREAMS: dict[tuple[Path, int, int], str] = {}


def _stream_hash(path: Path) -> str:
    """The hash that closes a stream file, read and proved; "" where it is damaged or holds several."""
    status = path.stat()
    key = path.resolve(), status.st_size, status.st_mtime_ns
    if key not in _STREAMS:
        ends: list[str] = []
        try:
            with path.open("rb") as file:
                ends = [item.sha256 for item in read_streams(file, str(path)) if isinstance(item, StreamEnd)]
        except InputError:
            ends = []
        _STREAMS[key] = ends[0] if len(ends) == 1 else ""
    return _STREAMS[key]


def _history(artefact: Artefact) -> dict[str, str]:
    """The hashes of the indexes that a set had before, and what was done to each."""
    return history(artefact.facts["index"]) if artefact.kind == "set" else {}


def _since(artefact: Artefact, sha256: str) -> list[str]:
    """What was done to a set from the index `sha256` on."""
    hashes = list(_history(artefact).items())
    start = [name for name, _ in hashes].index(sha256)
    return [by for _, by in hashes[start:]]


# -------------------------------------------------------------------------------------------------- inside an artefact


def _inside(artefact: Artefact, progress: Callable[[int], None] | None) -> list[Link]:
    """What an artefact says of its own parts: the shards of a set, the checkpoints of a run, its weights."""
    if artefact.kind == "set":
        with ShardSet.open(artefact.path) as shards:
            faults = [str(fault) for fault in verify(shards, progress)]
        return [_part(artefact, "shards", artefact.sha256, "; ".join(faults[:5]))]
    if artefact.kind == "run":
        return _checkpoints(artefact)
    if artefact.kind == "stream":
        sound = _stream_hash(artefact.path)
        return [_part(artefact, "end mark", sound, "" if sound else "the stream is damaged, cut, or several in one")]
    return []


def _part(artefact: Artefact, kind: str, sha256: str, fault: str) -> Link:
    return Link(str(artefact.path), artefact.kind, Claim(kind, sha256), BROKEN if fault else OK, "", fault)


def _same_keys(artefact: Artefact, found: Artefact) -> list[Link]:
    """Features of a set that is there have its keys, in its order."""
    if artefact.kind != "features" or found.kind != "set" or found.sha256 not in [c.sha256 for c in artefact.claims]:
        return []
    with ShardSet.open(found.path) as shards:
        keys = [packed.hex() for packed in keys_of(shards)]
    held = [key.decode("ascii", "replace").replace("-", "") for key in np.asarray(artefact.facts["keys"]).tolist()]
    fault = "" if keys == held else "its keys are not those of the set"
    claim = Claim("set", found.sha256, role="keys")
    return [Link(str(artefact.path), artefact.kind, claim, BROKEN if fault else OK, str(found.path), fault)]


def _checkpoints(run: Artefact) -> list[Link]:
    """Each checkpoint's sums computed again, and the data that its state names."""
    links = []
    for folder in sorted((run.path / "checkpoints").glob("step-*")):
        if not folder.is_dir() or folder.suffix:
            continue
        try:
            sums = read_json(folder / "sums.json")
            wrong = [name for name, digest in sums.items() if sha256_file(folder / Path(name).name) != digest]
            data = read_json(folder / "state.json").get("index_sha256")
        except (SeerctlError, OSError, AttributeError, TypeError) as error:
            wrong, data = [str(error)], None
        fault = f"{', '.join(wrong[:3])} is not what was written" if wrong else ""
        if not fault and data != run.facts["run"].get("index_sha256"):
            fault = "it is of other data than the run"
        links.append(_part(run, f"checkpoint {folder.name}", "", fault))
    return links


def _compare(artefact: Artefact, folder: Path) -> Link:
    """The samples of a set against the files that they say they came from."""
    same = missing = 0
    wrong: list[str] = []
    with ShardSet.open(artefact.path) as shards:
        for sample in shards:
            source = sample.meta["source"]
            digest = _source_hash(folder, source)
            if digest is None:
                missing += 1
            elif digest in (sample.meta["sha256"], sample.meta.get("orig_sha256")):
                same += 1
            else:
                wrong.append(source)
    claim = Claim("sources", "", str(folder), f"{same} of {same + missing + len(wrong)} files")
    source, kind = str(artefact.path), artefact.kind
    if wrong:
        return Link(source, kind, claim, BROKEN, str(folder), f"{len(wrong)} files differ, first {wrong[0]}")
    if missing:
        return Link(source, kind, claim, UNKNOWN, str(folder), f"{missing} of its files are not there")
    return Link(source, kind, claim, OK, str(folder))


def _source_hash(folder: Path, source: str) -> str | None:
    """SHA-256 of a source file below `folder` (or beside it, as `ingest FOLDER` names it); None where there is none."""
    parts = Path(source).parts
    if not parts or ".." in parts or Path(source).is_absolute():
        return None
    for place in (folder / source, folder.parent / source):
        try:
            if place.is_file():
                return hashlib.sha256(place.read_bytes()).hexdigest()
        except (OSError, ValueError):
            return None
    return None


# ------------------------------------------------------------------------------------------------------ dropped samples


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a model learnt from that was dropped since. certain: no sample was added to the set in between."""

    model: str
    kind: str
    set: str
    count: int
    certain: bool
    keys: tuple[str, ...]


def dropped_since(index_sha256: str, sets: Iterable[Artefact]) -> list[tuple[Artefact, list[dict[str, Any]], bool]]:
    """Per set whose earlier index `index_sha256` was: the records of what was dropped from it on, and whether all of it
    was surely in that index."""
    found = []
    for artefact in sets:
        steps = list(_history(artefact).items())
        hashes = [name for name, _ in steps]
        if index_sha256 not in hashes:
            continue
        later = set(hashes[hashes.index(index_sha256) :])
        gone = [one for one in dropped_records(artefact.facts["index"]) if one.get("index_sha256") in later]
        certain = all(by == "drop" for _, by in steps[hashes.index(index_sha256) :]) or all(
            one.get("index_sha256") == index_sha256 for one in gone
        )
        found.append((artefact, gone, certain))
    return found


def models_with_dropped(artefacts: Sequence[Artefact], links: Sequence[Link]) -> list[Dropped]:
    """Every artefact that learnt from, or was computed on, samples that were dropped since; through `links` also what
    was made from such weights."""
    sets = [artefact for artefact in artefacts if artefact.kind == "set"]
    direct: dict[str, list[Dropped]] = {}
    for artefact in artefacts:
        for claim in artefact.claims:
            if claim.kind != "set" or not claim.sha256:
                continue
            for where, gone, certain in dropped_since(claim.sha256, sets):
                keys = [str(one.get("key")) for one in gone]
                if artefact.kind == "features" and "keys" in artefact.facts:
                    held = {key.decode("ascii", "replace") for key in np.asarray(artefact.facts["keys"]).tolist()}
                    keys, certain = [key for key in keys if key in held], True
                if keys:
                    direct.setdefault(str(artefact.path), []).append(
                        Dropped(
                            str(artefact.path), artefact.kind, str(where.path), len(keys), certain, tuple(keys[:SHOWN])
                        )
                    )
    return _inherited(direct, artefacts, links)


def _inherited(
    direct: Mapping[str, list[Dropped]], artefacts: Sequence[Artefact], links: Sequence[Link]
) -> list[Dropped]:
    """`direct`, and the same for everything that was made from it, step by step."""
    kinds = {str(artefact.path): artefact.kind for artefact in artefacts}
    found: dict[tuple[str, str], Dropped] = {(path, one.set): one for path, all_ in direct.items() for one in all_}
    changed = True
    while changed:
        changed = False
        for link in links:
            if link.found not in kinds or kinds[link.found] in ("set", "stream", "sources"):
                continue
            for one in [one for (path, _), one in found.items() if path == link.found]:
                if (link.source, one.set) not in found:
                    found[link.source, one.set] = Dropped(
                        link.source, link.kind, one.set, one.count, one.certain, one.keys
                    )
                    changed = True
    return sorted(found.values(), key=lambda one: (one.model, one.set))


# ----------------------------------------------------------------------------------------------------------- the suite


def trace(paths: Iterable[Path], progress: Callable[[int], None] | None = None) -> Library:
    """Everything that can be found out from the artefacts at `paths`.

    Raises:
        UsageError: none, or a file that is no artefact.
        InputError: one is missing or cannot be read at all.
    """
    library = Library(progress)
    for path in paths:
        library.name(path)
    if not library.named:
        raise UsageError("audit --lineage: nothing to trace", "Name a report, features, weights, a run or a set")
    library.walk()
    return library


def audit_lineage(
    artefacts: Sequence[Path],
    checks: Sequence[SuiteCheck],
    *,
    data: Sequence[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> SuiteResult:
    """Walk back from `artefacts` (and shard sets `data`) and check every hash on the way.

    Artefacts: reports, predictions, features, weights, runs, shard sets, stream files, folders of source files. The
    more are named the more links can be checked.

    Raises:
        UsageError: nothing was named, or a file that is no artefact.
        InputError: a named artefact is missing or cannot be read at all.
    """
    library = trace([*artefacts, *data], progress)
    links, known = library.links, list(dict.fromkeys(library.known.values()))
    dropped = models_with_dropped(known, links)
    return SuiteResult(
        suite="lineage",
        findings=tuple(finding for check in checks for finding in _findings(check, known, links, dropped)),
        tables=(_links_table(links), *_dropped_table(dropped)),
        inputs={"artefacts": [{"path": str(a.path), "kind": a.kind, "sha256": a.sha256} for a in library.named]},
        limits=LIMITS,
        data={
            "links": [link.as_json() for link in links],
            "dropped": [
                {"model": one.model, "kind": one.kind, "set": one.set, "count": one.count, "certain": one.certain,
                 "keys": list(one.keys)} for one in dropped
            ],
        },
    )  # fmt: skip


def _findings(
    check: SuiteCheck, known: Sequence[Artefact], links: Sequence[Link], dropped: Sequence[Dropped]
) -> list[Finding]:
    if check.groups:
        raise UsageError(f"check '{check.id}': lineage has no groups", "Leave out 'groups'")
    if check.metric == "broken":
        return [_link_finding(check, link) for link in links] or [
            Finding(check.id, check.metric, float("nan"), 0, reason="no artefact names anything that it was made from")
        ]
    if check.metric == "verified":
        good = sum(link.status == OK for link in links)
        reason = None if links else "there is no link to check"
        evidence = {"not_checked": [link.name for link in links if link.status != OK][:SHOWN]}
        return [
            Finding(check.id, check.metric, good / max(len(links), 1), len(links), reason=reason, evidence=evidence)
        ]
    return dropped_findings(check, [one for one in known if one.kind in ("weights", "run")], known, dropped)


def _link_finding(check: SuiteCheck, link: Link) -> Finding:
    group = {
        "from": f"{link.kind} {link.source}",
        "to": link.claim.kind + (f" ({link.claim.role})" * bool(link.claim.role)),
    }
    if link.status == UNKNOWN:
        return Finding(check.id, check.metric, float("nan"), 1, group, reason=link.why, evidence=link.as_json())
    return Finding(check.id, check.metric, float(link.status == BROKEN), 1, group, evidence=link.as_json())


def dropped_findings(
    check: SuiteCheck, models: Sequence[Artefact], known: Sequence[Artefact], dropped: Sequence[Dropped]
) -> list[Finding]:
    """One finding a model: what it learnt from that was dropped since; without its set nothing is known."""
    empty = Finding(check.id, check.metric, float("nan"), 0)
    found = []
    histories = {sha for one in known if one.kind == "set" for sha in (one.sha256, *_history(one))}
    for model in models:
        mine = [one for one in dropped if one.model == str(model.path)]
        group = {"model": f"{model.kind} {model.path}"}
        data = [claim.sha256 for claim in model.claims if claim.kind == "set"]
        if not mine and not any(sha and sha in histories for sha in data):
            reason = "the shard set that it learnt from was not found"
            found.append(replace(empty, group=group, reason=reason))
            continue
        sets = [{"set": one.set, "count": one.count, "certain": one.certain, "keys": list(one.keys)} for one in mine]
        value = float(sum(one.count for one in mine))
        found.append(replace(empty, value=value, n=1, group=group, evidence={"sets": sets} if sets else {}))
    if not models:
        found.append(replace(empty, reason="no weights and no run were named or found"))
    return found


def _links_table(links: Sequence[Link]) -> Table:
    order = {BROKEN: 0, UNKNOWN: 1, OK: 2}
    rows = tuple(
        (link.status, link.kind, link.source, link.claim.kind + (f" ({link.claim.role})" if link.claim.role else ""),
         link.claim.sha256[:16], link.found, link.why)
        for link in sorted(links, key=lambda link: order[link.status])
    )  # fmt: skip
    counted = Counter(link.status for link in links)
    note = ", ".join(f"{counted[status]} {status}" for status in (OK, BROKEN, UNKNOWN) if counted[status])
    return Table("Links", ("status", "kind", "artefact", "made from", "hash", "found at", "why"), rows, note)


def _dropped_table(dropped: Sequence[Dropped]) -> tuple[Table, ...]:
    if not dropped:
        return ()
    rows = tuple(
        (one.kind, one.model, one.count, "yes" if one.certain else "perhaps: the set also grew in between", one.set)
        for one in dropped
    )
    columns = ("kind", "artefact", "dropped samples", "all of them were in it", "set")
    return (Table("Made from samples that were dropped since", columns, rows),)
