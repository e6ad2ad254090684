"""What a request needs of the running program, in one object: configuration, router, connections, pump, observers.

`app` builds it; `flow` reads it. The snapshot is read once per request.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from ccm.catalog.models import ModelBook
from ccm.dialects.base import Loss
from ccm.model import ProviderError, Snapshot
from ccm.observe.bodies import Bodies
from ccm.observe.record import RequestRecord
from ccm.proxy.drill import Drills
from ccm.proxy.projects import Projects
from ccm.proxy.pump import Pump
from ccm.proxy.repairs import Repairs
from ccm.routing.router import Router
from ccm.shape import replace
from ccm.upstream.auth import Authorizer
from ccm.upstream.sessions import Sessions
from ccm.usage.meter import Meter

_RANDOM_BLOCK = 8 * 256
_random: deque[str] = deque()  # read from the kernel by the block: a system call less for every request
os.register_at_fork(after_in_child=_random.clear)


def new_id(prefix: str) -> str:
    """A unique id: prefix, 8 hexadecimal digits that grow with time, 16 of real randomness. Ids of a moment are
    neighbours: in the index of the usage database random ones would cost a page each."""
    try:
        return prefix + _random.popleft()
    except IndexError:
        begin = f"{time.time_ns() >> 26 & 0xFFFFFFFF:08x}"
        digits = os.urandom(_RANDOM_BLOCK).hex()
        _random.extend([begin + digits[at : at + 16] for at in range(16, 2 * _RANDOM_BLOCK, 16)])
        return prefix + begin + digits[:16]


class Engine:
    """The shared parts. `snapshot` is swapped whole; everything else lives as long as the process."""

    def __init__(
        self,
        snapshot: Snapshot,
        router: Router,
        sessions: Sessions,
        auth: Authorizer,
        book: ModelBook,
        meter: Meter,
        observe: Callable[[RequestRecord], None],
        on_fault: Callable[[BaseException, str], None],
    ) -> None:
        self.snapshot = snapshot
        self.router = router
        self.sessions = sessions
        self.auth = auth
        self.book = book
        self.meter = meter
        self.bodies: Bodies | None = None  # where prompts and answers are written to for a while
        self.observe = observe
        self.repairs = Repairs()
        self.projects = Projects()
        self.heard: dict[
            str, float
        ] = {}  # target id -> until when what it says of its limits need not be read
        self.drills = Drills()
        self.clean: Callable[[str], str] = (
            str  # takes keys out of what providers say; `app` sets the redactor's
        )
        self.exposition: Callable[[], str] = str  # ccm's figures for Prometheus; `app` sets it
        self.on_fault = on_fault  # a bug of ours: the traceback goes to the log, with the request's id
        self.degraded: Callable[[], bool] = lambda: (
            False
        )  # something needs the user, though requests are served
        self.pump: Pump
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._waiting = 0
        self._uncounted: dict[str, float] = {}  # target id -> until when it is known to have no count_tokens

    @property
    def in_flight(self) -> int:
        """Requests being answered: those before their first content, and streams."""
        return self._waiting + self.pump.streams

    def counts(self, target_id: str) -> bool:
        """Whether this target may have a count_tokens endpoint: no 404 in the last ten minutes."""
        return self._uncounted.get(target_id, 0.0) <= time.monotonic()

    def cannot_count(self, target_id: str) -> None:
        """The target answered that it has no such endpoint (R45)."""
        with self._lock:
            if len(self._uncounted) >= 1024:
                self._uncounted.clear()
            self._uncounted[target_id] = time.monotonic() + 600.0

    def enter(self, limit: int) -> bool:
        """Counts a request in; False at the limit of requests that still wait for their answer."""
        with self._lock:
            if self._waiting >= limit:
                return False
            self._waiting += 1
            return True

    def leave(self) -> None:
        """The request was answered, or its stream went to the pump."""
        with self._lock:
            self._waiting -= 1


def without_keys(error: ProviderError, clean: Callable[[str], str]) -> ProviderError:
    """A provider's error as it may be shown: providers echo keys, in texts, codes, bodies and headers (S24, S25)."""
    body = error.body
    text = body.decode("utf-8", "surrogateescape")
    cleaned = clean(text)
    return replace(
        error,
        type=clean(error.type),
        code=clean(error.code),
        message=clean(error.message),
        body=body if cleaned is text else cleaned.encode("utf-8", "surrogateescape"),
        headers={name: clean(value) for name, value in error.headers.items()},
    )


def loss_names(losses: list[Loss]) -> list[str]:
    """Losses as header and metrics name them: `feature=dropped`."""
    return [f"{loss.feature}={loss.how}" for loss in losses]
