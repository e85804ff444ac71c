"""The files of an audit directory, and what is written to a job's summary page."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from seerctl.audit.report.modelcard import card
from seerctl.audit.report.summary import markdown
from seerctl.audit.report.view import Report
from seerctl.audit.report.xunit import junit
from seerctl.files import atomic_write, blame, claim, write_json

if TYPE_CHECKING:
    from seerctl.audit.examples import Example

PAGE = "report.html"
FILES = ("report.json", "report.md", "card.md", "junit.xml")  # and PAGE, where the `report` extra is installed
NO_PAGE = f"{PAGE} is left out: it needs jinja2 and matplotlib (pip install 'seerctl[report]')"


def claim_directory(directory: Path, *, overwrite: bool = False) -> Path:
    """`directory` if reports may be written there: it is absent or empty, or `overwrite`.

    Raises:
        UsageError: something is there.
    """
    return claim(directory, overwrite=overwrite)


def can_draw() -> bool:
    """Whether the `report` extra is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("jinja2", "matplotlib"))


def save(report: Report, directory: Path, examples: Sequence[Example] = ()) -> list[str]:
    """Write all files into `directory`, each atomically, report.json last; append to GITHUB_STEP_SUMMARY when set.

    examples: pictures for report.html. Returns the names of the files: PAGE is among them where the `report` extra is
    installed; where it is not, one of an earlier audit is removed.
    """
    with blame(directory):
        directory.mkdir(parents=True, exist_ok=True)
    created = _now()
    stamped = {**report, "created": created.isoformat() + "Z"}
    summary = markdown(report)
    texts = {"report.md": summary, "card.md": card(stamped)}
    if can_draw():
        from seerctl.audit.report.page import html  # noqa: PLC0415 (half a second, and an extra)

        texts[PAGE] = html(stamped, examples)
    else:
        (directory / PAGE).unlink(missing_ok=True)
    for name, text in texts.items():
        with atomic_write(directory / name, "w") as file:
            file.write(text)
    with atomic_write(directory / "junit.xml") as file:
        file.write(junit(report, created))
    write_json(directory / "report.json", stamped)
    append_step_summary(summary)
    return [*texts, "junit.xml", "report.json"]


def append_step_summary(text: str) -> None:
    """Add `text` to the job's summary page on GitHub, where there is one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with blame(summary), Path(summary).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def _now() -> datetime:
    """UTC without zone, to the second; SOURCE_DATE_EPOCH makes it reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return moment.replace(tzinfo=None, microsecond=0)
