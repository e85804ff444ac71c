"""What a report looks like: text for a terminal, report.json, report.md, card.md, junit.xml and report.html.

All are made from the same JSON, and show the checks and sections of any suite alike. There is no SARIF: its results are
alerts at a line of a source file, which a gap between groups does not have; pinned to the policy's lines they would
blame the wrong file, and code scanning would call them fixed or new as the policy is edited. JUnit and the Markdown
summary are what a CI shows for a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seerctl.audit.report.files import FILES, NO_PAGE, PAGE, append_step_summary, can_draw, claim_directory, save
from seerctl.audit.report.modelcard import card
from seerctl.audit.report.summary import MAX_MARKDOWN, SHOWN, markdown
from seerctl.audit.report.terminal import text
from seerctl.audit.report.xunit import junit
from seerctl.errors import UsageError

if TYPE_CHECKING:
    from seerctl.audit.examples import Example

__all__ = [
    "FILES", "MAX_MARKDOWN", "NO_PAGE", "PAGE", "SHOWN", "append_step_summary", "can_draw", "card", "claim_directory",
    "html", "junit", "markdown", "save", "text",
]  # fmt: skip


def html(report: Mapping[str, Any], examples: Sequence[Example] = ()) -> str:
    """The report as one self-contained page, from the values of report.json alone.

    Raises:
        UsageError: the `report` extra is not installed.
    """
    if not can_draw():
        raise UsageError(f"{PAGE} needs jinja2 and matplotlib", "pip install 'seerctl[report]'")
    from seerctl.audit.report import page  # noqa: PLC0415 (an extra, and half a second)

    return page.html(report, examples)
