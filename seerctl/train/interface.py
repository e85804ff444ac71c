"""Which network interface leads to the other nodes: gloo by itself takes the one that the host's name resolves to.

On many Linux systems that is the loopback address, and no other node can reach it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface, netdevice(7)


def name_interface() -> None:
    """Set $GLOO_SOCKET_IFNAME for ranks on several nodes to the interface towards $MASTER_ADDR, unless it is set."""
    if _VARIABLE in os.environ or os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE"):
        return
    found = interface_to(os.environ["MASTER_ADDR"])
    if found is not None:
        os.environ[_VARIABLE] = found


def interface_to(host: str) -> str | None:
    """The name of the interface whose IPv4 address this machine talks to `host` from; None where that is not known."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing: it only chooses a route
        mine = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == mine:
                    return name
    return None
