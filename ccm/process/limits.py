"""What the system allows this process, and what it is told when it does not."""

from __future__ import annotations

import errno
import resource


def harden() -> None:
    """No core dumps with keys in them; as many descriptors as we may have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard)
        )
    except (ValueError, OSError):
        pass  # what we have must do: the connection cap follows it


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why there is no listening socket, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"ccm: {host}:{port} is in use. Another ccm? `ccmctl status` tells; or choose another with "
            "--listen HOST:PORT."
        )
    return f"ccm: cannot listen on {host}:{port}: {error.strerror}. Check [proxy] listen."
