"""What `seerctl inspect` tells people, one line a fact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seerctl.errors import one_line

_SHOWN = 12  # values of a column
_PAIRS = 20
_SIDES = {"short": "short side", "long": "long side"}
_RANGES = (("p25", "p75"), ("p5", "p95"), ("min", "max"))


def in_words(result: Mapping[str, Any]) -> str:
    """A description of a shard set, a stream, features or weights."""
    rows: list[tuple[str, str]] = []
    for name, value in result.items():
        if name == "columns":
            rows += [(f"column {column}", _column(entry)) for column, entry in value.items()]
        elif name == "sides":
            rows += [
                (side if side in ("width", "height") else f"{side} side", _spread(of)) for side, of in value.items()
            ]
        elif name == "damage":
            rows += [("damage", fault if isinstance(fault, str) else _damage(fault)) for fault in value]
        elif name == "repairs":
            rows += [("repaired", _repair(record)) for record in value]
        elif name == "lineage":
            rows += [("made from", _made_from(value))]
        else:
            rows.append((name.replace("_", " "), _plain(value)))
    width = max(len(one_line(name)) for name, _ in rows)
    return "\n".join(f"{one_line(name):<{width}}  {one_line(value)}".rstrip() for name, value in rows)


def pairs_in_words(result: Mapping[str, Any]) -> str:
    """The pairs found by `inspect --duplicates`."""
    within = result["set"] == result["other"]
    where = f"within {result['set']}" if within else f"between {result['set']} and {result['other']}"
    lines = [
        f"{result['pairs']:,} pairs {where} differ in at most {result['distance']} of 64 bits; in them are "
        f"{result['other_pictures_in_pairs']:,} of the {result['other_pictures']:,} pictures of {result['other']}",
    ]
    for row in result["listed"][:_PAIRS]:
        same = "same bytes" if row["same_bytes"] else f"distance {row['distance']}"
        lines.append(f"{row['source']} ({row['key']}) and {row['other_source']} ({row['other']}): {same}")
    if result["pairs"] > _PAIRS:
        lines.append(f"and {result['pairs'] - _PAIRS:,} more; -o FILE takes all")
    return "\n".join(map(one_line, lines))


def _spread(of: Mapping[str, int]) -> str:
    half, most, every = (
        f"{of[low]:,} to {of[high]:,}" for low, high in (("p25", "p75"), ("p5", "p95"), ("min", "max"))
    )
    return f"median {of['median']:,}, half in {half}, 90 % in {most}, all in {every} px"


def _column(entry: Mapping[str, Any]) -> str:
    values = entry.get("values") or {}
    common = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:_SHOWN]
    shown = ", ".join(f"{value} {count:,}" for value, count in common) + (", ..." if len(values) > _SHOWN else "")
    span = f", {entry['min']:g} to {entry['max']:g}" if "min" in entry else ""
    distinct = f", {len(values):,} values: {shown}" if values else ""
    counted = f", {entry['count']:,} of them set" if "count" in entry else ""
    told = entry.get("missing", 0) or ("missing" in entry and "count" not in entry)
    missing = f", {entry['missing']:,} missing" if told else ""
    return f"{entry['type']}{counted}{missing}{span}{distinct}"


def _damage(fault: Mapping[str, Any]) -> str:
    if fault["sample"] is None:
        return f"{fault['file']}: {fault['fault']}"
    key = f" ({fault['key']})" if fault["key"] else ""
    return f"{fault['file']} sample {fault['sample']} at byte {fault['offset']}{key}: {fault['fault']}"


def _repair(record: Mapping[str, Any]) -> str:
    lost, missing = record.get("lost", []), record.get("missing", {})
    return f"{len(lost) + sum(missing.values()):,} samples left out, {len(record.get('rebuilt', [])):,} files rebuilt"


def _made_from(lineage: Mapping[str, Any]) -> str:
    streams = [f"stream {one['sha256'][:12]} ({one['samples']:,} samples)" for one in lineage.get("streams", ())]
    sets = [f"set {one['index_sha256'][:12]} ({one['samples']:,} samples)" for one in lineage.get("resharded", ())]
    return ", ".join(sets or streams) or _plain(lineage)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_plain, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
