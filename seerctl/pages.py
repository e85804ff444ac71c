"""HTML pages that need nothing else: no scripts, no resources from elsewhere, one style. Needs the `report` extra.

Templates extend `page.html.j2`; what comes from data is escaped, and a content policy in the page forbids scripts on
top.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from seerctl import __version__
from seerctl.figures import DARK, LIGHT

HERE = Path(__file__).parent
FOLDERS = (HERE / "templates", HERE / "audit" / "templates")  # the style is the audit's


def render(template: Path, *, kind: str, title: str, **context: Any) -> str:
    """The page that the template file makes of `context`."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FileSystemLoader([template.parent, *FOLDERS]),
    )  # fmt: skip
    return environment.get_template(template.name).render(
        light=LIGHT, dark=DARK, version=__version__, kind=kind, title=title, **context
    )
