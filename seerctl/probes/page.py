"""The report of a probe as one HTML page without scripts, below 2 MB. Needs the `report` extra."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from seerctl import figures
from seerctl.audit.report.view import facts
from seerctl.pages import render
from seerctl.probes.pictures import Album, Picture
from seerctl.probes.report import headline, limits_text, value_text

TEMPLATE = Path(__file__).with_name("templates") / "probe.html.j2"
MAX_BYTES = 1_900_000
_LONGEST = 60_000  # characters of the JSON in the page
_PROTOCOL = ("protocol", "target", "settings", "interval", "versions", "suite", "predictions")


def html(album: Album) -> str:
    """The page of an album; pictures that would make it too large are left out, the largest first."""
    report, left_out = album.report, list(album.left_out)
    drawn = [_drawn(picture, number) for number, picture in enumerate(album.pictures)]
    while sum(len(one["body"]) for one in drawn) > MAX_BYTES - 2 * _LONGEST:
        largest = max(drawn, key=lambda one: len(one["body"]))
        drawn.remove(largest)
        left_out.append(f"{largest['name']}: too large for a page, pass --figures DIR")
    return render(
        TEMPLATE, kind="Probe", title=headline(report).partition(":")[0], about=headline(report).partition(": ")[2],
        metrics=[_metric(name, entry) for name, entry in report["metrics"].items()],
        warnings=report.get("warnings") or [], pictures=drawn, left_out=left_out, facts=_facts(report),
        source=_source(report),
    )  # fmt: skip


def _metric(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    unit = f" {entry['unit']}" if entry.get("unit") else ""
    return {"name": name, "value": value_text(entry) + unit, "limits": limits_text(entry), "n": f"{entry['n']:,}"}


def _drawn(picture: Picture, number: int) -> dict[str, Any]:
    if "svg" in picture.draw:
        body = Markup(figures.inline(picture.draw["svg"](), f"p{number}"))  # noqa: S704 (matplotlib escapes the names)
    else:
        uri = "data:image/png;base64," + base64.b64encode(picture.draw["png"]()).decode("ascii")
        body = Markup('<img alt="" style="max-width: 100%; height: auto" src="{}">').format(uri)
    return {"name": picture.name, "caption": picture.caption, "body": body, "wide": "svg" not in picture.draw}


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The protocol and the inputs, one line a number."""
    named = [key for key in report if key in _PROTOCOL or isinstance(report[key], dict)]
    chosen = {key: report[key] for key in named if key != "metrics"}
    return [(name, value) for name, value in facts(chosen) if value]


def _source(report: Mapping[str, Any]) -> str:
    text = json.dumps(report, indent=1, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "\n... the rest is in the JSON itself"
