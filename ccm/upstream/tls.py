"""What TLS adds to the errors of a socket that does not wait, without importing `ssl` (5 ms at start, 3 MB): as long as
no provider is reached by TLS there is only BlockingIOError. `session.py` imports `ssl` and tells this module.

Use it by its name (`except tls.NOT_NOW`): an imported copy would not learn.
"""

from __future__ import annotations

import socket

NOT_NOW: tuple[type[OSError], ...] = (
    BlockingIOError,
)  # nothing to read, or no room to write, at this moment
WANTS_READ: tuple[type[OSError], ...] = ()  # a write that needs the peer's next bytes first
WANTS_WRITE: tuple[type[OSError], ...] = ()  # a read that has to write first
FAILED: tuple[type[OSError], ...] = ()  # the handshake, or what came after it
UNTRUSTED: tuple[type[OSError], ...] = ()  # the provider's certificate


def learn(
    wants_read: type[OSError], wants_write: type[OSError], failed: type[OSError], untrusted: type[OSError]
) -> None:
    """The classes of `ssl`, once it is there. Before the first TLS socket is made."""
    global NOT_NOW, WANTS_READ, WANTS_WRITE, FAILED, UNTRUSTED  # noqa: PLW0603 - one fact, learnt once
    NOT_NOW = (BlockingIOError, wants_read, wants_write)
    WANTS_READ, WANTS_WRITE, FAILED, UNTRUSTED = (wants_read,), (wants_write,), (failed,), (untrusted,)


def has_more(sock: socket.socket) -> bool:
    """Whether decrypted bytes are waiting that no selector would tell of."""
    pending = getattr(sock, "pending", None)
    return pending is not None and bool(pending())
