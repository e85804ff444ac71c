"""What a source hands to the workers: where bytes lie, what they are called, what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Item:
    """One candidate: bytes in hand (`data`), or `size` bytes at `offset` of the file `path`.

    With `url` its bytes are still to be fetched.
    `named`: its name or the user says it is an image, so being none is a reject; else it is ignored.
    `verdict`: (reason, detail) when the source itself knows that nothing can come of it.
    """

    source: str
    path: str = ""
    size: int = 0
    offset: int = -1  # -1: the whole file
    data: bytes | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    named: bool = True
    verdict: tuple[str, str] | None = None
    url: str = ""
