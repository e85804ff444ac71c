"""The options of `ingest` about the web."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seerctl.commands.ingestoptions import group

if TYPE_CHECKING:
    from seerctl.sources.web.options import WebOptions


def _web(
    fetch_threads: int, per_host: int, host_rate: float, connect_timeout: float, silence_timeout: float,
    fetch_timeout: float, fetch_retries: int, user_agent: str | None, opt_outs: bool, robots_txt: bool,
    allow_private: bool,
) -> WebOptions:  # fmt: skip
    from seerctl.sources.web.options import USER_AGENT, WebOptions

    return WebOptions(
        threads=fetch_threads, per_host=per_host, rate=host_rate, connect=connect_timeout, silence=silence_timeout,
        total=fetch_timeout, retries=fetch_retries, user_agent=checked_agent(user_agent or USER_AGENT),
        opt_outs=opt_outs, robots_txt=robots_txt, allow_private=allow_private,
    )  # fmt: skip


def checked_agent(text: str) -> str:
    """A User-Agent that a header can hold.

    Raises:
        UsageError: it cannot.
    """
    from seerctl.errors import UsageError

    if not (text.isascii() and text.isprintable() and text.strip()):
        raise UsageError("--user-agent: not printable ASCII text", "Write NAME/VERSION (+https://about.it)")
    return text


_SECONDS = click.FloatRange(0, 86400, min_open=True)

web = group(
    "web",
    _web,
    click.option("--fetch-threads", type=click.IntRange(1, 1024), default=32, help="URLs fetched at once."),
    click.option("--per-host", type=click.IntRange(min=1), default=16, help="URLs of one host fetched at once."),
    click.option(
        "--host-rate",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default="no limit",
        metavar="N",
        help="Requests a second to one host.",
    ),
    click.option("--connect-timeout", type=_SECONDS, default=10.0, help="Seconds to connect."),
    click.option("--silence-timeout", type=_SECONDS, default=15.0, help="Seconds a server may be silent."),
    click.option("--fetch-timeout", type=_SECONDS, default=60.0, help="Seconds one picture may take altogether."),
    click.option(
        "--fetch-retries",
        type=click.IntRange(0, 100),
        default=2,
        help="Repetitions after a timeout, 429 or 5xx, each later than the last (Retry-After up to two minutes).",
    ),
    click.option(
        "--user-agent",
        default=None,
        metavar="TEXT",
        show_default="seerctl/VERSION (+URL)",
        help="Who servers are told is asking: name yourself in a large crawl.",
    ),
    click.option(
        "--opt-outs/--no-opt-outs",
        default=True,
        help="Leave out pictures whose X-Robots-Tag says noai, noimageai, noindex, noimageindex, noml or none. "
        "Without it, pictures are taken that their owners asked not to take.",
    ),
    click.option("--robots-txt", is_flag=True, help="Also ask robots.txt of each host."),
    click.option(
        "--allow-private",
        is_flag=True,
        help="Fetch from this machine and private networks too; lists of strangers could reach your own servers.",
    ),
)  # fmt: skip

retry = click.option(
    "--retry",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="Only what this ledger of an earlier --rejects lists as not fetched (dns, connection, net-timeout, http-...).",
)

url_column: Callable[[click.decorators.FC], click.decorators.FC] = click.option(
    "--url-column", default=None, metavar="NAME", help="The column of a table that names the URLs."
)
