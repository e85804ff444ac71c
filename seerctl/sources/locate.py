"""From what a list or a table names to a candidate: a file, or a URL to be fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

from seerctl.sources.item import Item
from seerctl.sources.names import clean, normal
from seerctl.sources.places import is_url
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.web.urls import SCHEMES, is_web, masked, named, parse_url, scheme_of

Locate = Callable[[str, dict[str, Any]], Item]  # (what is named, its columns) -> the candidate


def locator(base: str) -> Locate:
    """Names as they are meant beside `base`, a directory or a URL that ends in '/'."""

    def locate(name: str, columns: dict[str, Any]) -> Item:
        if is_url(name):
            return url_item(name, columns)
        if is_web(base):
            return url_item(urljoin(base, name), columns)
        if is_url(base):
            return url_item(base + normal(name), columns)
        return path_item(clean(normal(name)), os.path.join(base, name), columns)  # noqa: PTH118

    return locate


def web_only(name: str, columns: dict[str, Any]) -> Item:
    """What a column of URLs names."""
    return url_item(name, columns)


def path_item(source: str, path: str, columns: dict[str, Any]) -> Item:
    """A file that somebody named: not being there is its verdict."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116
    except FileNotFoundError:
        return Item(source, verdict=(Reason.MISSING, "no such file"))
    except (OSError, ValueError) as error:  # ValueError: a NUL inside
        detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        return Item(source, verdict=(Reason.UNREADABLE, detail))
    return Item(source, path, size, columns=columns)


def url_item(url: str, columns: dict[str, Any]) -> Item:
    """A picture to be fetched; its source is the URL without what is secret in it."""
    if is_url(url) and scheme_of(url) in SCHEMES:
        return Item(clean(masked(url)), columns=columns, url=url)
    try:
        parse_url(url)
    except RejectedError as refusal:
        return Item(named(url), columns=columns, url=url, verdict=(refusal.reason, refusal.detail))
    return Item(named(url), columns=columns, url=url)
