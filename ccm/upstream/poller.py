"""Waiting for sockets: one-shot readiness for many threads (`Door`), and a plain wait for one (`wait_for`).

`Door` is the leader/follower half of the server: idle workers all wait in it, the kernel wakes exactly one of them per
ready connection, and that worker reads and answers it itself. No hand-over between threads lies on the hot path.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque

READ = select.POLLIN
WRITE = select.POLLOUT
BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
# The peer will send nothing more (FIN). Linux tells it apart from data; elsewhere reading b"" does.
HANGUP = getattr(select, "POLLRDHUP", 0)


class EpollDoor:
    """One-shot readiness over epoll: `arm(fd)` once per wait; `wait` hands each ready fd to one thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_r, self._wake_w = _pipe()
        self._epoll.register(self._wake_r.fileno(), select.EPOLLIN)
        self._flags = select.EPOLLIN | select.EPOLLONESHOT | select.EPOLLRDHUP

    def add(self, fd: int) -> None:
        """A new descriptor, armed."""
        self._epoll.register(fd, self._flags)

    def arm(self, fd: int) -> None:
        """Waits for this descriptor again."""
        self._epoll.modify(fd, self._flags)

    def rouse(self, fd: int) -> None:
        """Hands this descriptor out at once (a writable socket is always ready): its next request was read already."""
        self._epoll.modify(fd, self._flags | select.EPOLLOUT)

    def drop(self, fd: int) -> None:
        """Forgets a descriptor (before it is closed)."""
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # closed already: the kernel forgot it

    def wait(self, timeout_s: float) -> int:
        """A ready descriptor, or -1 after `timeout_s`."""
        try:
            ready = self._epoll.poll(timeout_s, 1)
        except (InterruptedError, ValueError):
            return -1
        fd = ready[0][0] if ready else -1
        return -1 if fd == self._wake_r.fileno() else fd

    def open_for_all(self) -> None:
        """Every wait returns -1 at once from now on: the end."""
        self._wake_w.send(b"x")

    def close(self) -> None:
        """Frees the kernel's side."""
        self._epoll.close()
        self._wake_r.close()
        self._wake_w.close()


class PollDoor:
    """The same over poll(2), for systems without epoll: one thread polls at a time, the others queue behind it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._armed: set[int] = set()
        self._ready: deque[int] = deque()
        self._wake_r, self._wake_w = _pipe()

    def add(self, fd: int) -> None:
        """A new descriptor, armed."""
        with self._lock:
            self._armed.add(fd)
        self._wake_w.send(b"x")

    arm = add

    def rouse(self, fd: int) -> None:
        """Hands this descriptor out at once."""
        self._ready.append(fd)
        self._wake_w.send(b"x")

    def drop(self, fd: int) -> None:
        """Forgets a descriptor."""
        with self._lock:
            self._armed.discard(fd)

    def wait(self, timeout_s: float) -> int:
        """A ready descriptor, or -1."""
        if not self._turn.acquire(timeout=timeout_s):
            return -1
        try:
            if not self._ready:
                self._poll(timeout_s)
            return self._ready.popleft() if self._ready else -1
        finally:
            self._turn.release()

    def _poll(self, timeout_s: float) -> None:
        poll = select.poll()
        wake = self._wake_r.fileno()
        poll.register(wake, READ)
        with self._lock:
            for fd in self._armed:
                poll.register(fd, READ)
        for fd, _ in poll.poll(timeout_s * 1000):
            if fd == wake:
                try:
                    self._wake_r.recv(4096)
                except BlockingIOError:
                    pass
                continue
            with self._lock:
                if fd not in self._armed:
                    continue
                self._armed.discard(fd)
            self._ready.append(fd)

    def open_for_all(self) -> None:
        """Every wait returns soon from now on: the end."""
        self._wake_w.send(b"x")

    def close(self) -> None:
        """Closes the wake-up pair."""
        self._wake_r.close()
        self._wake_w.close()


def _pipe() -> tuple[socket.socket, socket.socket]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    return reader, writer


Door = EpollDoor if hasattr(select, "epoll") else PollDoor


class EpollPoller:
    """Level-triggered readiness for one polling thread; other threads may add and drop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fd: int, events: int) -> None:
        """Watches a descriptor; breaks are always reported."""
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Watches it for something else. What stands behind a descriptor may have been exchanged (`proxy.faulty`)."""
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def drop(self, fd: int) -> None:
        """Forgets a descriptor (before it is closed)."""
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # closed already: the kernel forgot it

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        """Ready descriptors with their events."""
        try:
            return self._epoll.poll(timeout_s)
        except InterruptedError:
            return []

    def close(self) -> None:
        """Frees the kernel's side."""
        self._epoll.close()


class PollPoller:
    """The same over poll(2)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, int] = {}
        self._wake_r, self._wake_w = _pipe()

    def add(self, fd: int, events: int) -> None:
        """Watches a descriptor; breaks are always reported."""
        with self._lock:
            self._watched[fd] = events
        self._wake_w.send(b"x")

    change = add

    def drop(self, fd: int) -> None:
        """Forgets a descriptor."""
        with self._lock:
            self._watched.pop(fd, None)

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        """Ready descriptors with their events."""
        poll = select.poll()
        wake = self._wake_r.fileno()
        poll.register(wake, READ)
        with self._lock:
            for fd, events in self._watched.items():
                poll.register(fd, events)
        ready = []
        for fd, what in poll.poll(timeout_s * 1000):
            if fd != wake:
                ready.append((fd, what))
                continue
            try:
                self._wake_r.recv(4096)
            except BlockingIOError:
                pass
        return ready

    def close(self) -> None:
        """Closes the wake-up pair."""
        self._wake_r.close()
        self._wake_w.close()


Poller = EpollPoller if hasattr(select, "epoll") else PollPoller


def wait_for(fd: int, events: int, timeout_s: float, watch_fd: int = -1, watch: int = 0) -> tuple[int, int]:
    """Waits for `events` on `fd`, or for `watch` events (and breaks) of `watch_fd`; -1: none.

    Returns the events of both, (0, 0) after `timeout_s`. One system call, no registration.
    """
    poll = select.poll()
    poll.register(fd, events)
    if watch_fd >= 0:
        poll.register(watch_fd, watch)
    mine = theirs = 0
    for ready, what in poll.poll(max(0, int(timeout_s * 1000 + 0.999))):
        if ready == fd:
            mine = what
        else:
            theirs = what
    return mine, theirs
