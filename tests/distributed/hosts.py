"""Two hosts on one machine: network namespaces with addresses and names of their own, joined by a cable (veth)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_NEWNET, _NEWUTS = 0x40000000, 0x04000000  # Linux: namespaces of the network and of the host name


@dataclass(frozen=True)
class Hosts:
    """The namespaces of the two, and their addresses; `names` are also their host names."""

    names: tuple[str, str]
    addresses: tuple[str, str] = ("10.77.0.1", "10.77.0.2")

    def on(self, host: int, command: Sequence[str]) -> list[str]:
        """`command` as run on one of the two, under its host name."""
        rename = 'hostname "$0" && exec "$@"'
        name = self.names[host]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", rename, name, *command]

    def enter(self, host: int) -> None:
        """Move this process (and what it starts) to one of the two, for ever."""
        libc = ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare came with Python 3.12
        with Path(f"/run/netns/{self.names[host]}").open() as place:
            assert libc.setns(place.fileno(), _NEWNET) == 0, os.strerror(ctypes.get_errno())
        assert libc.unshare(_NEWUTS) == 0, os.strerror(ctypes.get_errno())
        socket.sethostname(self.names[host])

    def cut(self) -> None:
        """Pull the cable out."""
        _ip("-n", self.names[1], "link", "set", "cable", "down")

    def mend(self) -> None:
        """Put it in again."""
        _ip("-n", self.names[1], "link", "set", "cable", "up")


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """The two, until the block ends however it does; the test is skipped where namespaces are not allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    hosts = Hosts((f"seer-a{os.getpid()}", f"seer-b{os.getpid()}"))
    try:
        try:
            for name in hosts.names:
                _ip("netns", "add", name)
            _ip("-n", hosts.names[0], "link", "add", "cable", "type", "veth", "peer", "cable", "netns", hosts.names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        for name, address in zip(hosts.names, hosts.addresses, strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        yield hosts
    finally:
        for name in hosts.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
