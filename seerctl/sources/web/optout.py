"""What owners say about the use of their pictures: the X-Robots-Tag of an answer, and robots.txt of a host."""

from __future__ import annotations

import threading
import urllib.robotparser
from collections.abc import Callable, Iterable

from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.web.retry import TryAgain
from seerctl.sources.web.urls import Target

DIRECTIVES = frozenset(("noai", "noimageai", "noindex", "noimageindex", "noml", "none"))
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")  # directives with a colon
_KEPT_HOSTS = 4096


def opted_out(headers: Iterable[str], agent: str) -> str | None:
    """The directive by which an answer with these X-Robots-Tag `headers` opts out, or None.

    `agent: directive, directive` speaks to that agent alone: to us when it is our product's name (`agent`) or `*`.
    """
    for header in headers:
        ours = True
        for part in header.lower().split(","):
            before, colon, after = part.partition(":")
            if colon and before.strip() not in _VALUED:
                ours, part = before.strip() in ("*", agent.lower()), after
            if ours and part.strip() in DIRECTIVES:
                return part.strip()
    return None


class Robots:
    """robots.txt of each host, asked for once; `fetch` gives the text of a URL."""

    def __init__(self, agent: str, fetch: Callable[[Target], bytes]) -> None:
        self._agent, self._fetch = agent, fetch
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, int], _Rules] = {}

    def require(self, target: Target) -> None:
        """Nothing, if the host lets us fetch `target`.

        Raises:
            RejectedError: `robots-txt` where it does not.
            TryAgain: its robots.txt cannot be had now, which RFC 9309 (2.3.1.4) takes for a refusal.
        """
        with self._lock:
            if len(self._known) >= _KEPT_HOSTS:
                self._known.clear()
            rules = self._known.setdefault(target.place, _Rules())
        with rules.lock:
            if rules.parser is None:
                rules.parser = self._load(target)
        if not rules.parser.can_fetch(self._agent, target.url):
            raise RejectedError(Reason.ROBOTS_TXT, f"robots.txt of {target.authority} refuses {self._agent}")

    def _load(self, target: Target) -> urllib.robotparser.RobotFileParser:
        parser = urllib.robotparser.RobotFileParser()
        try:
            text = self._fetch(Target(*target.place, "/robots.txt"))
        except TryAgain as refusal:
            raise TryAgain(Reason.ROBOTS_TXT, f"no robots.txt: {refusal.reason} {refusal.detail}") from None
        except RejectedError as refusal:
            if not refusal.reason.startswith("http-4"):
                raise
            text = b""  # there is none: everything may be fetched
        parser.parse(text.decode("utf-8", "replace").splitlines())
        return parser


class _Rules:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parser: urllib.robotparser.RobotFileParser | None = None
