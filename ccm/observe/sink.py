"""Where log lines go: a descriptor that is never waited for, or a file that rotates.

A sink takes one whole line (at most PIPE_BUF bytes, so that the system keeps it in one piece) and says whether it went
out. It must never block, never raise, and never write into a descriptor that has become somebody else's.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import threading
from typing import Protocol

LINE_BYTES = 4096  # PIPE_BUF on Linux: a write of up to this many bytes to a pipe is whole or not at all
FILE_BYTES = 10 * 1024 * 1024
FILES_KEPT = 5


class Sink(Protocol):
    """Takes lines. `write` returns False for a line that is lost."""

    def write(self, line: bytes) -> bool:
        """Writes one line that ends in a newline."""
        ...

    def close(self) -> None:
        """Gives the descriptor back; later lines are lost."""
        ...


class DescriptorSink:
    """Standard error as the process got it: a terminal, a pipe, a file, a socket of the journal, or nothing at all.

    The descriptor's own file description may be shared with a shell, so O_NONBLOCK is never set on it: pipes and
    terminals are opened anew (Linux), sockets are written with MSG_DONTWAIT, and what refuses both is asked with poll
    first. A file is written through the shared description, since the position in it is shared as well: with one of
    our own, whoever writes next (the interpreter's last words, a shell) would write over our lines.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = -1
        self._socket: socket.socket | None = None
        self._poll: select.poll | None = None
        self._torn = False
        if fd == 2 and sys.__stderr__ is None:  # closed before we began: the number may be anything by now
            return
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(fd))
                return
            if stat.S_ISREG(mode):
                self._fd = os.dup(fd)
                return
            self._fd = _open_again(fd)
            if self._fd < 0:
                self._fd = os.dup(fd)
                self._poll = select.poll()
                self._poll.register(self._fd, select.POLLOUT)
        except OSError:
            self._fd = -1

    def write(self, line: bytes) -> bool:
        """One system call (two where poll is needed). A line written in part is ended before the next one."""
        if self._torn:
            line = b"\n" + line
        try:
            if self._socket is not None:
                sent = self._socket.send(line, socket.MSG_DONTWAIT)
            elif self._fd < 0 or (self._poll is not None and not self._poll.poll(0)):
                return False
            else:
                sent = os.write(self._fd, line)
        except OSError:  # closed, full, would block: the line is lost, the request is not
            return False
        self._torn = sent < len(line)
        return not self._torn

    def close(self) -> None:
        """Gives the descriptor back; later lines are lost."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open_again(fd: int) -> int:
    """A file description of our own for what `fd` points to, non-blocking; -1 where the system has no such thing."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return -1


class FileSink:
    """A file of at most `limit` bytes, with `keep - 1` older ones beside it (`ccm.log.1` is the youngest).

    One thread at a time rotates, outside of any lock; the others go on writing to the old file meanwhile. The
    descriptor's number stays the same for life (dup2), so that no thread can write into a closed one.
    Raises OSError where the file cannot be opened at the start.
    """

    def __init__(self, path: str, limit: int = FILE_BYTES, keep: int = FILES_KEPT) -> None:
        self.path = path
        self._limit, self._keep = limit, keep
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._lock = threading.Lock()
        self._rotating = False

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)

    def write(self, line: bytes) -> bool:
        """Appends the line, then rotates if the file is full."""
        try:
            sent = os.write(self._fd, line)
        except OSError:
            return False
        with self._lock:
            self._size += sent
            turn = self._size >= self._limit and not self._rotating
            self._rotating = self._rotating or turn
        if turn:
            self._rotate()
        return sent == len(line)

    def _rotate(self) -> None:
        try:
            for number in range(self._keep - 1, 0, -1):
                older = self.path if number == 1 else f"{self.path}.{number - 1}"
                if os.path.exists(older):
                    os.replace(older, f"{self.path}.{number}")
            old = os.fstat(self._fd)
            fd = self._open()
            # what the interpreter itself says at a crash goes to standard error: it follows the file
            for other in (1, 2):
                if _same(other, old):
                    os.dup2(fd, other)
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
            size = os.fstat(self._fd).st_size
        except (
            OSError
        ):  # a directory that became read-only: go on in the old file, try again after another `limit`
            size = 0
        with self._lock:
            self._size = size
            self._rotating = False

    def close(self) -> None:
        """Closes the file; later lines are lost."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _same(fd: int, other: os.stat_result) -> bool:
    try:
        mine = os.fstat(fd)
    except OSError:
        return False
    return (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino)
