"""Where the control socket stands: a private directory, a lock held for life, a socket that is 0600 from its first moment.

A stale socket is replaced without a race, because the lock is held; a live one never is.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat

from ccm.errors import ControlError

MAX_PATH_BYTES = 100  # sun_path holds 104 (macOS) or 108 (Linux) bytes with its end


def check_path(path: str) -> None:
    """Raises ControlError for a path that the system would not take as a socket's."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ControlError(
            f"the control socket's path has {size} bytes, {MAX_PATH_BYTES} is the limit: {path} "
            "(choose a shorter one with --socket or $CCM_SOCKET)"
        )


def private_directory(directory: str) -> None:
    """Makes the directory (0700), or makes sure that nobody else can put files there. Raises ControlError."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.stat(directory)
    except OSError as error:
        raise ControlError(
            f"the directory of the control socket cannot be used: {directory}: {error.strerror}"
        ) from None
    if found.st_uid not in (os.geteuid(), 0):
        raise ControlError(f"the directory of the control socket belongs to another user: {directory}")
    if found.st_mode & 0o022:
        raise ControlError(
            f"others can write to the directory of the control socket: {directory} "
            f"(mode {stat.S_IMODE(found.st_mode):04o}; do: chmod 700 {directory})"
        )


def lock(path: str) -> int:
    """The lock beside the socket, held until the descriptor is closed. Raises ControlError while another ccm has it."""
    try:
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ControlError(
            f"the control socket's lock cannot be made: {path}.lock: {error.strerror}"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise _running(path) from None
    return fd


def _running(path: str) -> ControlError:
    return ControlError(
        f"another ccm is running with the control socket {path} (`ccmctl status` asks it)", 409
    )


def bind(path: str) -> socket.socket:
    """The listening socket, 0600 from its first moment on. A stale one is removed only after a failed connect."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ControlError(f"the control socket cannot be opened: {path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlError(f"{path} is there already and is no socket: move it away")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1.0)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError as error:  # alive but busy, or not ours to judge
        raise ControlError(f"{path} is in use: {error.strerror or 'it does not answer'}", 409) from None
    else:
        raise _running(path)
    finally:
        probe.close()
