"""Looking after processes that tests start."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Every child of `pid`, their children, and so on."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child, *descendants(child)}
    return found
