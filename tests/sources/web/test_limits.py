"""Order, hosts, memory, opt-outs and private addresses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from seerctl.sources.item import Item
from seerctl.sources.locate import url_item
from seerctl.sources.reasons import RejectedError
from seerctl.sources.web.addresses import is_public
from seerctl.sources.web.client import Web
from seerctl.sources.web.options import WebOptions
from seerctl.sources.web.optout import opted_out
from seerctl.sources.web.retry import TryAgain, retry_after
from seerctl.sources.web.urls import parse_url
from seerctl.sources.web.window import fetched
from tests.webserver import Exchange, WebServer, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serving() as running:
        running.answers = {f"/{number}": PNG + str(number).encode() for number in range(300)}
        yield running


def fetch(*urls: str, **options: Any) -> list[Item]:
    with Web(WebOptions(**{"allow_private": True, "backoff": 0.01, **options})) as web:
        return list(web.fetched([url_item(url, {}) for url in urls]))


def test_order_is_that_of_the_list_at_any_number_of_threads(server: WebServer) -> None:
    urls = [server.url(f"/{number}") for number in range(300)]
    for threads in (1, 7, 64):
        items = fetch(*urls, threads=threads, per_host=threads)
        assert [item.data for item in items] == [PNG + str(number).encode() for number in range(300)]
        assert [item.source for item in items] == urls


def test_other_items_keep_their_place(server: WebServer) -> None:
    def mixed() -> Iterator[Item]:
        for number in range(20):
            yield url_item(server.url(f"/{number}"), {})
            yield Item(f"file {number}", data=b"x", size=1)
            yield url_item("nonsense", {})

    with Web(WebOptions(allow_private=True)) as web:
        items = list(web.fetched(mixed()))
    assert [item.source for item in items[1::3]] == [f"file {number}" for number in range(20)]
    assert [item.data for item in items[::3]] == [PNG + str(number).encode() for number in range(20)]
    assert {item.verdict and item.verdict[0] for item in items[2::3]} == {"bad-url"}


def test_a_host_is_asked_by_so_many_and_so_often(server: WebServer) -> None:
    def slow(exchange: Exchange) -> None:
        time.sleep(0.02)
        exchange.reply(PNG)

    server.answers["/slow"] = slow
    fetch(*[server.url("/slow")] * 30, threads=16, per_host=3)
    assert server.most_active == 3
    server.asked.clear()
    fetch(*[server.url("/1")] * 7, threads=8, rate=20.0)
    times = [when for when, _, _ in server.asked]
    assert times[-1] - times[0] >= 6 / 20.0 * 0.9


def test_one_busy_host_does_not_hold_up_another(server: WebServer) -> None:
    def hold(exchange: Exchange) -> None:
        time.sleep(0.5)
        exchange.reply(PNG)

    server.answers["/hold"] = hold
    other = [server.url(f"/{number}", "localhost") for number in range(50)]
    fetch(*[server.url("/hold")] * 4, *other, threads=4, per_host=1)
    ended = max(when for when, path, _ in server.asked if path != "/hold")
    assert ended < max(when for when, path, _ in server.asked if path == "/hold")


def options(**changed: Any) -> WebOptions:
    return WebOptions(**{"threads": 4, "per_host": 4, "backoff": 0.01, "window": 1000, **changed})


def test_what_is_held_keeps_to_the_window() -> None:
    """The first of the list comes last: what is read ahead of it stays within the window."""
    held, most, lock, first = [0], [0], threading.Lock(), threading.Event()

    def get(item: Item, claim: Any) -> bytes:
        if item.source == "http://h/0":
            first.wait(10)
        claim(300)
        with lock:
            held[0] += 300
            most[0] = max(most[0], held[0])
        return b"x" * 300

    results = fetched([url_item(f"http://h/{number}", {}) for number in range(50)], get, lambda item: "h", options())
    threading.Timer(0.3, first.set).start()
    for item in results:
        with lock:
            held[0] -= 300
        assert item.size == 300
    assert most[0] <= 1000 + 300


def test_a_full_window_lets_the_awaited_one_through() -> None:
    """The awaited picture is refused at first, and comes again when every other thread waits for room."""
    tries = []

    def get(item: Item, claim: Any) -> bytes:
        if item.source == "http://h/0":
            tries.append(1)
            if len(tries) < 3:
                raise TryAgain("http-503")
            claim(5000)  # more than the whole window
            return b"x" * 5000
        claim(900)
        return b"x" * 900

    items = [url_item(f"http://h/{number}", {}) for number in range(30)]
    for per_host in (4, 1):
        tries.clear()
        found = list(fetched(items, get, lambda item: "h", options(per_host=per_host, backoff=0.2)))
        assert [len(item.data or b"") for item in found] == [5000] + [900] * 29


def test_a_bug_is_told_and_an_early_end_leaves_nothing_running() -> None:
    def broken(item: Item, claim: Any) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(fetched([url_item("http://h/0", {})], broken, lambda item: "h", options()))
    before = threading.active_count()
    results = fetched(
        (url_item(f"http://h/{number}", {}) for number in range(10**9)), lambda *_: b"x", lambda item: "h", options()
    )
    assert next(results).data == b"x"
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        (["noai"], "noai"), (["all, NoImageAI"], "noimageai"), (["noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["noml"], "noml"), (["none"], "none"), (["nofollow", "noarchive, noml"], "noml"),
        (["seerctl: noindex"], "noindex"), (["*: noai"], "noai"), (["googlebot: noindex"], None),
        (["googlebot: nofollow, noindex"], None), (["googlebot: nofollow, seerctl: noindex"], "noindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"), (["max-snippet: 0"], None), ([""], None),
        ([], None),
    ],
)  # fmt: skip
def test_what_opts_out(headers: list[str], directive: str | None) -> None:
    assert opted_out(headers, "seerctl") == directive


def test_opt_outs_are_respected_before_the_body_is_read(server: WebServer) -> None:
    server.answers = {
        "/out": lambda exchange: exchange.reply(PNG, X_Robots_Tag=["nofollow", "noai"]),
        "/in": lambda exchange: exchange.reply(PNG, X_Robots_Tag="googlebot: noindex"),
    }
    urls = [server.url("/out"), server.url("/in")]
    assert [item.verdict for item in fetch(*urls)] == [("opt-out", "X-Robots-Tag: noai"), None]
    assert [item.verdict for item in fetch(*urls, opt_outs=False)] == [None, None]
    assert "/robots.txt" not in server.paths


def test_robots_txt_is_asked_once_where_it_is_wanted(server: WebServer) -> None:
    server.answers["/robots.txt"] = b"User-agent: seerctl\nDisallow: /1\n\nUser-agent: *\nDisallow: /\n"
    items = fetch(*[server.url(f"/{number}") for number in (1, 2, 3)], robots_txt=True)
    assert [item.verdict and item.verdict[0] for item in items] == ["robots-txt", None, None]
    assert server.paths.count("/robots.txt") == 1
    other = fetch(server.url("/2"), robots_txt=True, user_agent="Other/1")
    assert [item.verdict and item.verdict[0] for item in other] == ["robots-txt"]
    del server.answers["/robots.txt"]
    assert fetch(server.url("/1"), robots_txt=True)[0].verdict is None
    server.answers["/robots.txt"] = lambda exchange: exchange.reply(b"", "503 Busy")
    (item,) = fetch(server.url("/1"), robots_txt=True, retries=1)
    assert item.verdict
    assert item.verdict[0] == "robots-txt"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False), ("172.20.0.1", False),
        ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("239.1.1.1", False), ("255.255.255.255", False), ("240.0.0.1", False),
        ("198.18.0.1", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False), ("::127.0.0.1", False), ("2001:db8::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_refused_in_every_spelling(server: WebServer, host: str) -> None:
    (item,) = fetch(server.url("/1", host), allow_private=False)
    assert item.verdict
    assert item.verdict[0] == "private-address"
    assert server.asked == []


def test_names_are_judged_where_they_lead(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public host that redirects to a private one; a name that is public when judged, private when connected to."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: str, port: int, **hints: Any) -> list[Any]:
        asked.append(host)
        if host == "public.test":
            return real("127.0.0.1", port, type=socket.SOCK_STREAM)
        if host == "rebinding.test":
            return real("127.0.0.1" if asked.count(host) == 1 else "127.0.0.2", port, type=socket.SOCK_STREAM)
        return real(host, port, **hints)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("seerctl.sources.web.addresses.is_public", lambda text: text == "127.0.0.1")
    for place in ("127.0.0.2", "169.254.169.254", "[::1]"):
        server.answers[f"/{place}"] = lambda exchange, place=place: exchange.reply(
            b"", "302 Found", Location=f"http://{place}:{exchange.port}/1"
        )
        (item,) = fetch(server.url(f"/{place}", "public.test"), allow_private=False)
        assert item.verdict
        assert item.verdict[0] == "private-address"
    found = fetch(*[server.url("/1", "rebinding.test")] * 3, allow_private=False)
    assert [item.data for item in found] == [PNG + b"1"] * 3
    assert asked.count("rebinding.test") == 1
    assert server.asked[-1][2]["host"] == f"rebinding.test:{server.port}"


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(None) is None
    assert retry_after("17") == 17.0
    assert retry_after("soon") is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e9  # type: ignore[operator]


def test_urls_as_people_write_them() -> None:
    assert parse_url(" HTTP://Münch.de:80/ä b?q=ü&x=%20#top ").url == "http://xn--mnch-0ra.de/%C3%A4%20b?q=%C3%BC&x=%20"
    assert parse_url("https://h/a\r\nHost: evil").path == "/aHost:%20evil"
    assert parse_url("http://h\r\n.evil/").host == "h.evil"
    for text in ("http://h%0d%0a/", "http://h\x00/"):
        with pytest.raises(RejectedError, match="bad-url"):
            parse_url(text)
