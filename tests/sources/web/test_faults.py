"""Servers that misbehave: each URL is a sample or a named reject, in time, and in the order asked for."""

from __future__ import annotations

import gzip
import io
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from seerctl.sources.item import Item
from seerctl.sources.locate import url_item
from seerctl.sources.web.client import Web
from seerctl.sources.web.options import WebOptions
from tests.pictures import draw
from tests.webserver import Exchange, WebServer, serving

QUICK = {"connect": 0.5, "silence": 0.3, "total": 0.8, "retries": 0, "backoff": 0.01, "allow_private": True}


@pytest.fixture(scope="module")
def picture_bytes() -> bytes:
    file = io.BytesIO()
    draw(1, 200, 150).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serving() as running:
        yield running


def fetch(*urls: str, **options: Any) -> list[Item]:
    with Web(WebOptions(**{**QUICK, **options})) as web:
        return list(web.fetched([url_item(url, {}) for url in urls]))


def verdict(url: str, **options: Any) -> tuple[str, str]:
    (item,) = fetch(url, **options)
    assert item.data is None
    assert item.verdict is not None
    return item.verdict


def answer(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


def raw(data: bytes) -> Any:
    def send(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.close = True

    return send


def test_good_answers_of_every_shape(server: WebServer, picture_bytes: bytes) -> None:
    data = picture_bytes
    chunks = b"".join(
        b"%x;ext=1\r\n%b\r\n" % (len(data[at : at + 999]), data[at : at + 999]) for at in range(0, len(data), 999)
    )
    server.answers = {
        "/length": data,
        "/chunked": raw(answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", chunks + b"0\r\n\r\n")),
        "/until-closed": raw(answer("HTTP/1.0 200 OK\nContent-Type: text/html", data)),  # the type lies, bytes decide
        "/gzip": lambda exchange: exchange.reply(gzip.compress(data), Content_Encoding="gzip"),
        "/deflate": lambda exchange: exchange.reply(zlib.compress(data), Content_Encoding="deflate"),
        "/a%20b%C3%A9.jpg": data,
        "/moved": lambda exchange: exchange.reply(b"", "301 Moved", Location="/length"),
        "/moved-far": lambda exchange: exchange.reply(b"", "307 Moved", Location=f"//localhost:{exchange.port}/moved"),
    }
    paths = [*list(server.answers)[:5], "/a bé.jpg#part", "/moved", "/moved-far", "/length?q=a b"]
    items = fetch(*map(server.url, paths))
    assert [item.verdict for item in items] == [None] * len(paths)
    assert {item.data for item in items} == {data}
    assert items[5].source == server.url("/a%20b%C3%A9.jpg")
    assert server.asked[0][2]["user-agent"].startswith("seerctl/")
    assert server.asked[0][2]["accept-encoding"] == "identity"


def test_faults_have_names(server: WebServer, picture_bytes: bytes) -> None:
    data = picture_bytes
    server.answers = {
        "/404": lambda exchange: exchange.reply(b"", "404 Not Found"),
        "/503": lambda exchange: exchange.reply(b"", "503 Busy"),
        "/204": raw(answer("HTTP/1.1 204 No Content")),
        "/html": lambda exchange: exchange.reply(b"<!doctype html>" * 20, Content_Type="text/html; charset=utf-8"),
        "/cut": raw(answer(f"HTTP/1.1 200 OK\nContent-Length: {len(data)}", data[:500])),
        "/cut-chunk": raw(answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"ffff\r\n" + data[:500])),
        "/reset": Exchange.reset,
        "/mute": lambda exchange: setattr(exchange, "close", True),
        "/no-http": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        "/headers": raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n"),
        "/long-header": raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"),
        "/bad-length": raw(answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"xyz\r\n")),
        "/br": lambda exchange: exchange.reply(data, Content_Encoding="br"),
        "/broken-gzip": lambda exchange: exchange.reply(data, Content_Encoding="gzip"),
        "/loop": lambda exchange: exchange.reply(b"", "302 Found", Location="/loop"),
        "/nowhere": lambda exchange: exchange.reply(b"", "302 Found"),
        "/file": lambda exchange: exchange.reply(b"", "302 Found", Location="file:///etc/passwd"),
        "/hang": Exchange.hang,
        "/hang-later": lambda exchange: exchange.hang(answer("HTTP/1.1 200 OK\nContent-Length: 99")),
        "/drip": lambda exchange: exchange.drip(answer("HTTP/1.1 200 OK\nContent-Length: 9999", data), 0.05),
        "/drip-head": lambda exchange: exchange.drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 999, 0.05),
        "/empty": b"",
    }  # fmt: skip
    started = time.monotonic()
    found = {item.source: item for item in fetch(*map(server.url, server.answers))}
    assert time.monotonic() - started < 20
    reasons = {path: (found[server.url(path)].verdict or ("",))[0] for path in server.answers}
    assert reasons == {
        "/404": "http-404", "/503": "http-503", "/204": "http-204", "/html": "not-image", "/cut": "connection",
        "/cut-chunk": "connection", "/reset": "connection", "/mute": "connection", "/no-http": "http-protocol",
        "/headers": "http-protocol", "/long-header": "http-protocol", "/bad-length": "connection",
        "/br": "http-protocol", "/broken-gzip": "http-protocol", "/loop": "redirects", "/nowhere": "http-protocol",
        "/file": "bad-url", "/hang": "net-timeout", "/hang-later": "net-timeout", "/drip": "net-timeout",
        "/drip-head": "net-timeout", "/empty": "",
    }  # fmt: skip
    assert found[server.url("/html")].verdict == (
        "not-image",
        "text/html; charset=utf-8, begins with b'<!doctype html><'",
    )
    assert found[server.url("/cut")].verdict == ("connection", f"it ended after 500 of {len(data)} bytes")


def test_no_more_than_the_cap_is_read(server: WebServer, picture_bytes: bytes) -> None:
    sent = []

    def endless(exchange: Exchange) -> None:
        exchange.send(answer("HTTP/1.1 200 OK", picture_bytes))
        exchange.close = True
        for _ in range(1000):
            exchange.send(bytes(1 << 16))
            sent.append(1)

    bomb = gzip.compress(picture_bytes + bytes(50_000_000))
    server.answers = {
        "/endless": endless,
        "/said": raw(answer("HTTP/1.1 200 OK\nContent-Length: 99999999999", picture_bytes)),
        "/bomb": lambda exchange: exchange.reply(bomb, Content_Encoding="gzip"),
    }
    assert verdict(server.url("/said"), max_bytes=1 << 20) == ("too-large", "99999999999 bytes, more than 1048576")
    for path in ("/endless", "/bomb"):
        assert verdict(server.url(path), max_bytes=1 << 20) == ("too-large", "more than 1048576 bytes")
    assert len(sent) < 900


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/a.jpg", "bad-url"),
        ("file:///etc/passwd", "bad-url"),
        ("example.org/a.jpg", "bad-url"),
        ("http://", "bad-url"),
        ("http:///a.jpg", "bad-url"),
        ("http://a b/c", "bad-url"),
        ("http://[::1/a", "bad-url"),
        ("http://h:99999/", "bad-url"),
        ("http://" + "ä" * 80 + ".org/", "bad-url"),
        ("http://host.invalid/a.jpg", "dns"),
        ("http://münchen.invalid/a.jpg", "dns"),
        ("http://127.0.0.1:1/a.jpg", "connection"),
    ],
)
def test_urls_that_lead_nowhere(url: str, reason: str) -> None:
    assert verdict(url)[0] == reason


def test_what_may_pass_is_tried_again(server: WebServer, picture_bytes: bytes) -> None:
    def failing(times: int, status: str, **headers: object) -> Any:
        left = [times]

        def reply(exchange: Exchange) -> None:
            left[0] -= 1
            if left[0] >= 0:
                exchange.reply(b"later", status, **headers)
            else:
                exchange.reply(picture_bytes)

        return reply

    server.answers = {
        "/429": failing(1, "429 Too Many", Retry_After="0.4"),  # no number of RFC 9110: our own back-off
        "/429-seconds": failing(1, "429 Too Many", Retry_After="1"),
        "/503": failing(2, "503 Busy"),
        "/503-for-ever": failing(99, "503 Busy"),
        "/long": failing(1, "429 Too Many", Retry_After="9999"),
        "/404": failing(1, "404 Not Found"),
        "/last": picture_bytes,
    }
    items = fetch(*map(server.url, server.answers), retries=2)
    assert [item.verdict for item in items] == [
        None,
        None,
        None,
        ("http-503", "503 Busy (tries: 3)"),
        ("http-429", "429 Too Many, asks to wait 9999 s (tries: 1)"),
        ("http-404", "404 Not Found"),
        None,
    ]
    assert server.paths.count("/503-for-ever") == 3
    first, second = (when for when, path, _ in server.asked if path == "/429-seconds")
    assert second - first >= 1.0


def test_connections_are_used_again_also_when_they_went_stale(server: WebServer, picture_bytes: bytes) -> None:
    def leaving(exchange: Exchange) -> None:
        exchange.reply(picture_bytes)
        exchange.close = True  # although nothing said so

    server.answers = {"/stay": picture_bytes, "/leave": leaving, "/404": lambda e: e.reply(b"short", "404 Not Found")}
    items = fetch(*[server.url(("/stay", "/404")[number % 2]) for number in range(40)], threads=1)
    assert server.connections == 1
    assert [item.data for item in items[::2]] == [picture_bytes] * 20
    items = fetch(*[server.url("/leave")] * 5, threads=1)
    assert [item.data for item in items] == [picture_bytes] * 5
    closing = raw(answer(f"HTTP/1.1 200 OK\nConnection: close\nContent-Length: {len(picture_bytes)}", picture_bytes))
    server.answers["/close"] = closing
    assert [item.data for item in fetch(*[server.url("/close")] * 5, threads=1)] == [picture_bytes] * 5


def test_a_login_is_sent_but_never_written_down(server: WebServer, picture_bytes: bytes) -> None:
    server.answers = {
        "/a": picture_bytes,
        "/away": lambda exchange: exchange.reply(b"", "302 Found", Location=f"http://localhost:{exchange.port}/a"),
    }
    url = f"http://us%40er:pa%3Ass@127.0.0.1:{server.port}/away?X-Amz-Signature=abc&v=1&token=s"
    (item,) = fetch(url)
    assert item.data == picture_bytes
    assert item.source == server.url("/away?v=1")
    assert [headers.get("authorization") for _, _, headers in server.asked] == ["Basic dXNAZXI6cGE6c3M=", None]
    assert "pass" not in url_item("ftp://user:pass@host/a", {}).source
