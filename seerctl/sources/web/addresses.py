"""From names to addresses that may be asked: resolved once, judged, and connected to as judged.

A name may resolve to the machine's own network (metadata services, routers, databases), and to something else each
time it is asked for. Special ranges: https://www.iana.org/assignments/iana-ipv4-special-registry and its IPv6 sister.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from typing import Any

from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.web.retry import TryAgain

Address = tuple[socket.AddressFamily, Any]  # family and what `connect` takes

_KEPT_SECONDS = 120.0
_KEPT_NAMES = 4096
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address belongs to the public internet; one that carries an IPv4 address is judged by that."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if int(address) >> 32 == 0:  # IPv4-compatible, long deprecated
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class Resolver:
    """Addresses of hosts, each name looked up once in a while by one thread at a time."""

    def __init__(self, allow_private: bool, private_hosts: frozenset[str] = frozenset()) -> None:
        self._allow_private, self._private_hosts = allow_private, private_hosts
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, list[Address] | RejectedError]] = {}
        self._busy: dict[tuple[str, int], threading.Lock] = {}

    def addresses(self, host: str, port: int) -> list[Address]:
        """Where `host` may be asked.

        Raises:
            RejectedError: `dns` where it has no address, `private-address` where it has no public one.
            TryAgain: the resolver did not answer.
        """
        name = (host, port)
        with self._lock:
            busy = self._busy.setdefault(name, threading.Lock())
        with busy:
            kept = self._known.get(name)
            if kept is None or kept[0] < time.monotonic():
                kept = (time.monotonic() + _KEPT_SECONDS, self._look_up(host, port))
                with self._lock:
                    if len(self._known) >= _KEPT_NAMES:
                        self._known.clear()
                        self._busy = {name: busy}
                    self._known[name] = kept
        if isinstance(kept[1], RejectedError):
            raise RejectedError(kept[1].reason, kept[1].detail)
        return kept[1]

    def _look_up(self, host: str, port: int) -> list[Address] | RejectedError:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise TryAgain(Reason.DNS, f"{host}: {error.strerror}") from None
            return RejectedError(Reason.DNS, f"{host}: {error.strerror}")
        except (OSError, UnicodeError) as error:
            return RejectedError(Reason.DNS, f"{host}: {error}")
        anywhere = self._allow_private or host in self._private_hosts
        public: list[Address] = [
            (family, place) for family, _, _, _, place in found if anywhere or is_public(str(place[0]))
        ]
        return public or RejectedError(Reason.PRIVATE_ADDRESS, f"{host} is {found[0][4][0]} (see --allow-private)")
