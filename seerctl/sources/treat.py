"""A worker's side of a treatment: conditions, filters, resizing, stripping, on one picture after the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from seerctl.sources.decoders import Picture
from seerctl.sources.item import Item
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.resize import resized
from seerctl.sources.strip import stripped
from seerctl.sources.transform import Treatment
from seerctl.sources.userfilter import Candidate, load_filter


@dataclass(frozen=True, slots=True)
class Treated:
    """What will be stored: `data` is `picture`; `origin` says in its json what it was made from, if it was changed."""

    data: bytes
    picture: Picture
    origin: dict[str, Any] = field(default_factory=dict)


class Treater:
    """Applies one `Treatment`.

    Raises:
        UsageError: a filter cannot be loaded.
    """

    def __init__(self, treatment: Treatment) -> None:
        self._treatment = treatment
        self._filters = [load_filter(name) for name in treatment.filters]

    def __call__(self, item: Item, data: bytes, picture: Picture) -> Treated:
        """The picture as it is to be stored.

        Raises:
            RejectedError: it is left out.
            UsageError: a filter failed.
        """
        self._judge(item, data, picture)
        stored, found = data, picture
        if self._treatment.resize is not None:
            stored, found = resized(stored, found, self._treatment.resize)
        if self._treatment.strip:
            stored, found = stripped(stored, found)
        return Treated(stored, found, _origin(data, picture, found) if stored != data else {})

    def _judge(self, item: Item, data: bytes, picture: Picture) -> None:
        facts: dict[str, Any] = {
            "width": picture.width, "height": picture.height, "format": picture.format.name, "mode": picture.mode,
            "orientation": picture.orientation,
        }  # fmt: skip
        for condition in self._treatment.where:
            if not condition.holds(len(data) if condition.name == "bytes" else facts[condition.name]):
                raise RejectedError(Reason.WHERE, condition.text)
        if self._filters:
            candidate = Candidate(source=item.source, columns=MappingProxyType(item.columns), data=data, **facts)
            for keep in self._filters:
                keep(candidate)


def _origin(data: bytes, before: Picture, after: Picture) -> dict[str, Any]:
    """What the json of a changed picture says of its original; facts only where they differ."""
    facts = {f"orig_{name}": getattr(before, name) for name in ("width", "height", "mode", "orientation")
             if getattr(before, name) != getattr(after, name)}  # fmt: skip
    if before.format.name != after.format.name:
        facts["orig_format"] = before.format.name
    return {"orig_sha256": hashlib.sha256(data).hexdigest(), "orig_bytes": len(data), **facts}
