"""The worker threads: leader/follower around one `Door`, as few as the work needs.

Two workers wait at the door; whoever is woken serves that connection to its end. A worker that finds itself waiting for
a provider calls `relieve`, which makes sure that somebody else minds the door: so threads grow only with requests that
are blocked, and the number of *runnable* threads stays small (hand-overs of the interpreter lock cost more than the
work itself: 8.7-12k requests/s with 2 workers, 7.3k with 32).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ccm.upstream.poller import Door

AT_DOOR = 2
SPARE_LIMIT_S = 30.0


class Workers:
    """`serve(fd)` is called for each ready descriptor, by one thread at a time per descriptor."""

    def __init__(self, serve: Callable[[int], None], cap: int) -> None:
        self.door = Door()
        self._serve = serve
        self._cap = cap
        self._lock = threading.Lock()
        self._at_door = 0
        self._total = 0
        self._made = 0
        self._spares: list[threading.Event] = []
        self._threads: set[threading.Thread] = set()
        self._stopping = False

    @property
    def total(self) -> int:
        """Threads alive."""
        return self._total

    def start(self) -> None:
        """The first workers."""
        for _ in range(AT_DOOR):
            with self._lock:
                self._at_door += 1
            self._spawn()

    def relieve(self) -> None:
        """Called by a worker that will be blocked: someone else is at the door afterwards, unless the cap is reached."""
        with self._lock:
            if self._at_door or self._stopping:
                return
            if self._spares:
                self._at_door += 1
                self._spares.pop().set()
                return
            if self._total >= self._cap:
                return
            self._at_door += 1
        self._spawn()

    def _spawn(self) -> None:
        with self._lock:
            self._total += 1
            self._made += 1
            thread = threading.Thread(target=self._run, name=f"ccm-worker-{self._made}", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had: those that run go on (RELIABILITY row 81)
            with self._lock:
                self._total -= 1
                self._at_door -= 1
                self._threads.discard(thread)

    def _run(self) -> None:
        try:
            while self._wait_at_door():
                pass
        finally:
            with self._lock:
                self._total -= 1
                self._threads.discard(threading.current_thread())

    def _wait_at_door(self) -> bool:
        """One turn; counted in `_at_door` when it begins and, if True is returned, when it ends."""
        fd = self.door.wait(1.0)
        if self._stopping:
            return False
        if fd < 0:
            return True
        with self._lock:
            self._at_door -= 1
        self._serve(fd)
        with self._lock:
            if self._at_door < AT_DOOR:
                self._at_door += 1
                return True
            turn = threading.Event()
            self._spares.append(turn)
        if turn.wait(SPARE_LIMIT_S):
            return not self._stopping
        with self._lock:
            if turn in self._spares:  # nobody called: this thread is not needed any more
                self._spares.remove(turn)
                return False
        return not self._stopping

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends all workers; those that serve finish first, within `timeout_s`."""
        with self._lock:
            self._stopping = True
            spares, self._spares = self._spares, []
            threads = list(self._threads)
        for turn in spares:
            turn.set()
        self.door.open_for_all()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        self.door.close()
