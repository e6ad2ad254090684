"""What the system allows this process and others with it, and what it is told when it does not."""

from __future__ import annotations

import contextlib
import ctypes  # wire.search has it loaded anyway: the call below costs 0.07 ms
import errno
import resource
import sys
import threading

from ccm.observe.log import Log

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core dumps with keys in them, no debugger of another process; as many descriptors as we may have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _close_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard)
        )
    except (ValueError, OSError):
        pass  # what we have must do: the connection cap follows it


def _close_memory() -> None:
    """Nobody but root attaches to this process, or reads its memory, environment and descriptors, and no core goes to a
    pipe either (`kernel.core_pattern = |...` heeds no limit). An exec ends it: each of our programs does it anew."""
    with contextlib.suppress(OSError, AttributeError):  # a system without it, or one that forbids it
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def log_faults(log: Log) -> Log:
    """The same log. What nobody caught, in whatever thread of this process, is a line of it: the interpreter would write
    the trace to standard error, past the redactor and past the file."""

    def tell(fault: threading.ExceptHookArgs) -> None:
        if fault.exc_value is not None:
            name = fault.thread.name if fault.thread is not None else "a thread"
            log.fault("internal error", fault.exc_value, where=name)

    threading.excepthook = tell
    return log


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why there is no listening socket, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"ccm: {host}:{port} is in use. Another ccm? `ccmctl status` tells; or choose another with "
            "--listen HOST:PORT."
        )
    return f"ccm: cannot listen on {host}:{port}: {error.strerror}. Check [proxy] listen."
