"""https: the certificate is that of the name in the URL, although the connection goes to an address."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from seerctl.sources.locate import url_item
from seerctl.sources.web import connect
from seerctl.sources.web.client import Web
from seerctl.sources.web.options import WebOptions
from tests.webserver import WebServer, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(300_000)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `localhost` that signed itself, with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[WebServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as running:
        running.answers = {"/a": PNG, "/far": lambda exchange: exchange.reply(b"", "302 Found", Location="/a")}
        yield running


def fetch(*urls: str) -> list[object]:
    with Web(WebOptions(allow_private=True, retries=0)) as web:
        return [item.verdict or item.data for item in web.fetched([url_item(url, {}) for url in urls])]


def test_a_certificate_nobody_vouches_for_is_refused(server: WebServer) -> None:
    (verdict,) = fetch(f"https://localhost:{server.port}/a")
    assert verdict == ("connection", "TLS: self-signed certificate")
    assert server.asked == []


def test_a_trusted_one_has_to_be_for_the_name_in_the_url(
    server: WebServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = functools.partial(ssl.create_default_context, cafile=str(certificate))
    monkeypatch.setattr(connect, "_tls", functools.cache(trusting))
    root = f"https://localhost:{server.port}"
    assert fetch(f"{root}/a", f"{root}/far") == [PNG, PNG]
    (verdict,) = fetch(f"https://127.0.0.1:{server.port}/a")
    assert isinstance(verdict, tuple)
    assert verdict[0] == "connection"
    assert "TLS: IP address mismatch" in verdict[1]
    (plain,) = fetch(f"http://localhost:{server.port}/a")
    assert isinstance(plain, tuple)
    assert plain[0] in ("connection", "http-protocol")
