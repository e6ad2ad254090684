"""What a service manager is told (sd_notify): one datagram per change, where $NOTIFY_SOCKET names an address."""

from __future__ import annotations

import socket
from collections.abc import Mapping

VARIABLE = "NOTIFY_SOCKET"


def tell(env: Mapping[str, str], *lines: str) -> bool:
    """Sends `READY=1`, `STOPPING=1`, `MAINPID=...`, `STATUS=...`; True when somebody took it. Never raises or waits."""
    address = env.get(VARIABLE, "")
    if address[:1] not in ("/", "@"):
        return False
    if address[0] == "@":  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True
