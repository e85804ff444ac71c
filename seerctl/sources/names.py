"""Sources as text that survives JSON, terminals and copying, and labels from directory names."""

from __future__ import annotations

import os


def clean(text: str) -> str:
    """`text` with every byte that is not printable UTF-8 percent-encoded (and '%', so that it can be undone)."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text
    return "".join(
        symbol if symbol.isprintable() and symbol != "%" else "".join(f"%{byte:02X}" for byte in os.fsencode(symbol))
        for symbol in text
    )


def normal(path: str) -> str:
    """A path with '/' between its parts and without empty or '.' parts; '..' stays."""
    if path and path[0] not in "./" and "//" not in path and "/." not in path and path[-1] != "/":
        return path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def label_of(source: str) -> str | None:
    """The last directory in `source`, or None where there is none."""
    parent = source.rpartition("/")[0].rpartition("/")[2]
    return parent if parent not in ("", "..") else None
