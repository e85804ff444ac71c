"""How the web is asked: as whom, how often, how long, and what is not asked for."""

from __future__ import annotations

from dataclasses import dataclass

from seerctl import __version__

# It says what is done and how to refuse it; whoever collects puts an address of theirs here: --user-agent.
USER_AGENT = f"seerctl/{__version__} (collects images for training; X-Robots-Tag: noai is heeded)"


@dataclass(frozen=True, slots=True)
class WebOptions:
    """`threads` fetch at once, `per_host` of them from one host, at most `rate` requests a second to each (0: any).

    A request may take `connect` seconds to connect, be silent for `silence` seconds, and take `total` seconds; after a
    timeout, 429 or 5xx it is repeated `retries` times. `max_bytes` of an answer are read, and `window` bytes of all
    answers are held. `private_hosts` may be on a private network all the same: those that the user named himself.
    """

    threads: int = 32
    per_host: int = 16
    rate: float = 0.0
    connect: float = 10.0
    silence: float = 15.0
    total: float = 60.0
    retries: int = 2
    user_agent: str = USER_AGENT
    opt_outs: bool = True
    robots_txt: bool = False
    allow_private: bool = False
    private_hosts: frozenset[str] = frozenset()
    max_bytes: int = 1 << 28
    window: int = 1 << 27
    backoff: float = 1.0  # seconds before the first repetition, doubled each time
    max_wait: float = 120.0  # the longest Retry-After that is honoured
    max_redirects: int = 10
