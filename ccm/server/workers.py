"""The worker threads: leader/follower around one `Door`, as few as the work needs.

One worker waits at the door; whoever is woken serves that connection to its end. A worker that finds itself waiting, for
a provider or for anything else, calls `relieve`, which makes sure that somebody else minds the door: so threads grow only
with requests that are blocked, and one thread is *runnable* (hand-overs of the interpreter lock cost more than the work
itself: 64 clients, small requests: 600 us of CPU each with one at the door, 730 with two). Should somebody forget to call
it, the sweep does within a second (`mind`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ccm.errors import Refusal
from ccm.upstream.poller import Door

AT_DOOR = 1
SPARE_LIMIT_S = 30.0
KEPT = 4  # threads that stay: where no other can be had, they are what ccm serves with


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
            if not self._spawn() and not self._total:
                raise RuntimeError("not one thread can be started")

    def relieve(self) -> None:
        """Called by a worker that will be blocked: someone else is at the door afterwards, unless the cap is reached.
        Raises Refusal where there is nobody: the caller has to go there itself, for a door without anybody is a dead ccm
        (RELIABILITY row 81)."""
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
        if not self._spawn():
            text = "ccm can start no further thread to wait for a provider: the system's limit is reached."
            raise Refusal(503, "api_error", text, {"retry-after": "1"})

    def mind(self) -> None:
        """Called now and then: nobody at the door for a while means that its worker is stuck somewhere."""
        if not self._at_door:
            try:
                self.relieve()
            except Refusal:
                pass  # the next time, perhaps

    def _spawn(self) -> bool:
        with self._lock:
            self._total += 1
            self._made += 1
            thread = threading.Thread(target=self._run, name=f"ccm-worker-{self._made}", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had: those that run go on
            with self._lock:
                self._total -= 1
                self._at_door -= 1
                self._threads.discard(thread)
            return False
        return True

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
            if self._ending():  # nobody would call a spare any more
                return False
            if self._at_door < AT_DOOR:
                self._at_door += 1
                return True
            turn = threading.Event()
            self._spares.append(turn)
        while not turn.wait(SPARE_LIMIT_S):
            with self._lock:
                if turn in self._spares and self._total > KEPT:  # nobody called, and there are others
                    self._spares.remove(turn)
                    return False
        return not self._stopping

    def _ending(self) -> bool:
        return self._stopping

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
