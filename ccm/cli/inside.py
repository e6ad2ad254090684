"""A whole ccm inside this process: its own door on a free port, the engine of real traffic behind it.

For `ccm test`: what it asks goes through guard, flow, routing, attempt and pump like any client's request, so that what
it finds is what a client would find. No control socket, no state, no log; failover is off, because a test that is
answered by somebody else tells nothing.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping

from ccm.catalog.models import ModelBook
from ccm.model import FailureKind, ProviderError, Snapshot
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.proxy.engine import Engine
from ccm.proxy.pump import Pump
from ccm.routing.router import Router
from ccm.server import routes
from ccm.server.listener import Listener
from ccm.settings import FailoverSettings
from ccm.shape import replace
from ccm.upstream.auth import Authorizer
from ccm.upstream.sessions import Sessions
from ccm.usage.meter import Meter


class Inside:
    """Use it as a context manager. `port` and `token` are what a client needs."""

    def __init__(self, snapshot: Snapshot, book: ModelBook, env: Mapping[str, str]) -> None:
        self.token = secrets.token_urlsafe(24)
        self.redactor = Redactor()
        for provider in snapshot.providers.values():
            for key in provider.keys:
                if key.secret is not None:
                    self.redactor.register(key.secret)
        mine = replace(
            snapshot,
            host="127.0.0.1",
            port=0,
            auth_token=self.token,
            failover=FailoverSettings(enabled=False, max_retries=0, deadline_s=snapshot.failover.deadline_s),
        )
        self._finished = threading.Condition()
        self._records: dict[str, RequestRecord] = {}
        self.faults: list[str] = []
        router = Router()
        router.install(mine)
        auth = Authorizer(env, snapshot.auth_token, self.redactor.register)
        self._engine = Engine(
            mine, router, Sessions(), auth, book, Meter(mine.usage, None), self._observe, self._fault
        )
        self._listener = Listener(
            mine.host,
            mine.port,
            lambda request, down: routes.handle(self._engine, request, down),
            lambda head, local: routes.admit(self._engine, head, local),
        )
        self._engine.pump = self._pump = Pump(
            self._listener.sweep, lambda fault: self._fault(fault, "stream")
        )
        self._accept = threading.Thread(
            target=self._listener.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="ccm-accept",
            daemon=True,
        )
        self.port = int(self._listener.server_address[1])

    def __enter__(self) -> Inside:
        self._pump.start()
        self._listener.workers.start()
        self._accept.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._engine.stopping.set()
        self._listener.shutdown()
        self._listener.drain()
        self._pump.end_all(ProviderError(0, "api_error", "ccm is stopping", kind=FailureKind.BROKEN))
        self._listener.stop()
        self._pump.stop()
        self._engine.sessions.close()

    def record(self, id: str, timeout_s: float = 2.0) -> RequestRecord | None:
        """What the engine noted of a request (by its `request-id`), which is a moment after the client has its answer."""
        deadline = time.monotonic() + timeout_s
        with self._finished:
            while id not in self._records:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._finished.wait(left)
            return self._records.pop(id)

    def _observe(self, record: RequestRecord) -> None:
        with self._finished:
            self._records[record.id] = record
            self._finished.notify_all()

    def _fault(self, fault: BaseException, where: str) -> None:
        self.faults.append(f"{where}: {type(fault).__name__}: {fault}")
