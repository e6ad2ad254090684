"""One of several processes that serve: everything a request needs, without the doors that ccm has only once.

It accepts from the listening socket that all share and reports to its supervisor over one line: finished requests, and
what its router, meter and drills have learnt. From there come the configuration, what people decided, and what the
others have learnt. A request never waits for the line. When the line ends, the worker does too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ccm.config import secrets
from ccm.errors import ControlError, Refusal
from ccm.model import FailureKind, ProviderError
from ccm.observe.bodies import Bodies
from ccm.observe.log import open_log
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.process import ending, keys, light, limits, parcel, warming
from ccm.process.drills import SharedDrills
from ccm.process.line import Line, Message, receive
from ccm.process.reloading import follow_log, take_up
from ccm.process.scales import Scales
from ccm.proxy import telling
from ccm.proxy.engine import Engine
from ccm.proxy.pump import Pump
from ccm.routing.shared import SharedRouter
from ccm.server import routes
from ccm.server.listener import Listener
from ccm.upstream.auth import Authorizer
from ccm.upstream.sessions import Sessions
from ccm.usage.shared import SharedMeter

RECENT = 1000
FIGURES_S = 2.0  # how long a scrape of /metrics waits for the supervisor
FLUSH_S = 5.0


class Worker:
    """A worker process. `hello` is the supervisor's first message, `sock` the line, `door` the listening socket."""

    def __init__(self, sock: socket.socket, door: socket.socket, hello: dict[str, Any]) -> None:
        self._env = dict(os.environ)
        self._number = int(hello["number"])
        snapshot, book = parcel.unpack(hello["configuration"])
        self.redactor = Redactor()
        self.log = open_log(self.redactor, hello["log_level"], snapshot.log_format, snapshot.log_file)
        limits.log_faults(self.log)
        self.line = Line(sock, self._take, self._orphaned, self._fault, "crew")
        self.router = SharedRouter(self._tell)
        keys.register(self.redactor, snapshot)
        self.router.install(snapshot)
        self.router.take(hello["router"])
        self.meter = SharedMeter(snapshot.usage, None, on_warning=self._warn_budget, tell=self._tell)
        self.bodies = Bodies(self.redactor.clean, self.log)
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT)
        auth = Authorizer(self._env, snapshot.auth_token, self.redactor.register)
        self.engine = Engine(
            snapshot, self.router, Sessions(), auth, book, self.meter, self._observe, self._fault
        )
        self.engine.clean, self.engine.bodies = self.redactor.clean, self.bodies
        self.router.on_reset = self.engine.repairs.clear
        self.engine.drills = self._drills = SharedDrills(self._tell)
        self.engine.exposition = self._exposition
        self._problem = str(hello["problem"])
        self.engine.degraded = lambda: bool(self._problem)
        self.listener = Listener(
            snapshot.host,
            snapshot.port,
            lambda request, down: routes.handle(self.engine, request, down),
            lambda head, local: routes.admit(self.engine, head, local),
            sock=door,
            others_first=self._others_first,
        )
        self.listener.on_fault = lambda fault: self._fault(fault, "connection")
        self._scales = Scales(hello["scales"], hello["workers"], self._number)
        self.engine.pump = self._pump = Pump(self._sweep, lambda fault: self._fault(fault, "stream"))
        self._accept = threading.Thread(target=self.listener.serve_forever, name="ccm-accept", daemon=True)
        self._stop = threading.Event()
        self._finishing = False
        self._drain_s = snapshot.drain_timeout_s
        self._calls: dict[int, tuple[threading.Event, list[str]]] = {}
        self._called = 0
        for name in secrets.variables_used(snapshot):
            os.environ.pop(name, None)

    # ---- life

    def run(self, waiting: list[Message]) -> int:
        """Serves until the supervisor, or a signal, says stop. `waiting` came with the hello."""
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._stop.set())
        self._take(waiting)
        self.line.start()
        self._pump.start()
        self.listener.workers.start()
        self._scales.put(0)
        self._accept.start()
        self.line.put(("ready", os.getpid()), urgent=True)
        warming.begin(self.engine, self.log)
        light.settle()
        while not self._stop.wait(3600.0):
            pass
        self._end()
        return 0

    def _end(self) -> None:
        self.engine.stopping.set()
        self._scales.leave(self._number)
        ending.drain_alone(self.listener, lambda: self.engine.in_flight, self._drain_s)
        self._pump.end_all(ProviderError(0, "api_error", "ccm is stopping", kind=FailureKind.BROKEN))
        self.listener.stop()
        self._pump.stop()
        self.engine.sessions.close()
        self.bodies.stop("ccm stops")
        self._finishing = True
        self.line.finish(FLUSH_S)
        self.log.close()

    def _orphaned(self) -> None:
        """The supervisor is gone. A stop that is under way is enforced, since somebody wanted it to end now."""
        if self._finishing:
            return
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()

    def _others_first(self, connections: int) -> bool:
        self._scales.put(connections)
        return self._scales.heavy()

    def _sweep(self) -> None:
        self.listener.sweep()
        if not self._stop.is_set():
            self._scales.put(self.listener.connections)

    # ---- to the supervisor

    def _tell(self, news: Message) -> None:
        self.line.put(("news", news), urgent=True)

    def _observe(self, record: RequestRecord) -> None:
        self.meter.settle(record)
        self.recent.append(record)
        self.log.request(record)
        self.line.put(("done", parcel.row_of(record)))

    def _warn_budget(self, text: str) -> None:
        self.log.warning("budget", problem=text)

    def _fault(self, fault: BaseException, where: str) -> None:
        self.log.fault("internal error", fault, where=where)

    def _exposition(self) -> str:
        """All of ccm's figures: the supervisor has them."""
        self._called += 1
        number, done, answer = self._called, threading.Event(), list[str]()
        self._calls[number] = (done, answer)
        self.line.put(("call", number), urgent=True)
        done.wait(FIGURES_S)
        del self._calls[number]
        return answer[0] if answer else ""

    # ---- from the supervisor

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            try:
                _TAKES[message[0]](self, *message[1:])
            except Exception as fault:  # one that cannot be taken must not keep the others out
                self._fault(fault, f"crew {message[0]}")

    def _take_news(self, news: Message) -> None:
        _ = self.router.apply(news) or self.meter.apply(news) or self._drills.apply(news)

    def _take_configuration(self, data: bytes, log_level: str) -> None:
        snapshot, book = parcel.unpack(data)
        keys.register(self.redactor, snapshot)
        follow_log(self.log, self.engine.snapshot, snapshot)
        take_up(self.engine, snapshot, book)
        self._drain_s = snapshot.drain_timeout_s
        self.log.level = log_level

    def _take_steering(self, what: str, *args: Any) -> None:
        if what == "primary":
            name, left_s, request_class = args
            until = None if left_s is None else self.router.clock() + left_s
            self.router.set_primary(name, until, request_class)
        else:
            _STEERS[what](self.router, *args)

    def _take_problem(self, text: str) -> None:
        self._problem = text

    def _take_log_level(self, level: str) -> None:
        self.log.level = level

    def _take_bodies(self, path: str, seconds: float) -> None:
        if path:
            self.bodies.start(path, seconds)
        else:
            self.bodies.stop()

    def _take_drill(self, *args: Any) -> None:
        self._drills.start(*args)

    def _take_drill_end(self, provider: str | None) -> None:
        self._drills.stop(provider)

    def _take_sums(self, told: dict[str, Any]) -> None:
        self.meter.take_sums(told)

    def _take_answer(self, number: int, text: str) -> None:
        call = self._calls.get(number)
        if call is not None:
            call[1].append(text)
            call[0].set()

    def _take_ask(self, number: int, what: str, args: tuple[Any, ...]) -> None:
        try:
            answer: tuple[Any, ...] = ("ok", _ASKS[what](self, *args))
        except ControlError as error:
            answer = ("error", str(error), error.status)
        except Refusal as refusal:
            answer = ("refused", refusal.status, refusal.type, refusal.message)
        except Exception as fault:
            self._fault(fault, f"crew ask {what}")
            answer = ("error", f"{what} failed inside a worker: {type(fault).__name__}", 500)
        self.line.put(("reply", number, answer), urgent=True)

    def _take_stop(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._stop.set()

    def _look(self) -> dict[str, Any]:
        """What is going on here: the supervisor adds it up."""
        return {
            "pid": os.getpid(),
            "board": self.router.board(),
            "in_flight": self.engine.in_flight,
            "connections": self.listener.connections,
            "log_dropped": self.log.dropped,
            "faults": self.log.faults,
            "line_dropped": self.line.dropped,
            "budgets": self.meter.status()["budgets"] if self.meter.watches else [],
            "generation": self.engine.snapshot.generation,
        }

    def _explain(self, id: str) -> dict[str, Any]:
        return telling.told(list(self.recent), id)

    def _explain_request(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        return telling.dry_run(self.engine, body, headers)


_TAKES: dict[str, Callable[..., None]] = {
    "news": Worker._take_news,
    "configuration": Worker._take_configuration,
    "steer": Worker._take_steering,
    "sums": Worker._take_sums,
    "problem": Worker._take_problem,
    "log_level": Worker._take_log_level,
    "bodies": Worker._take_bodies,
    "drill": Worker._take_drill,
    "drill_end": Worker._take_drill_end,
    "answer": Worker._take_answer,
    "ask": Worker._take_ask,
    "stop": Worker._take_stop,
}
_STEERS: dict[str, Callable[..., None]] = {
    "enabled": SharedRouter.set_enabled,
    "drain": SharedRouter.drain,
    "reset": SharedRouter.reset,
}
_ASKS: dict[str, Callable[..., Any]] = {
    "look": Worker._look,
    "explain": Worker._explain,
    "explain_request": Worker._explain_request,
}


def main(line_fd: int, door_fd: int, scales_fd: int) -> int:
    """The program of a worker: the numbers of its inherited descriptors. Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # the supervisor gets them too, and tells us
    limits.harden()
    os.set_inheritable(line_fd, False)
    os.set_inheritable(door_fd, False)
    os.set_inheritable(scales_fd, False)
    line, door = socket.socket(fileno=line_fd), socket.socket(fileno=door_fd)
    waiting: list[Message] = []
    deadline = time.monotonic() + 30.0
    while not any(message[0] == "hello" for message in waiting):
        messages = receive(line)
        if messages is None or time.monotonic() > deadline:
            return 1
        waiting += messages
    hello = next(message[1] for message in waiting if message[0] == "hello")
    hello["scales"] = scales_fd
    waiting = [message for message in waiting if message[0] != "hello"]
    try:
        worker = Worker(line, door, hello)
    except OSError as error:
        sys.stderr.write(f"ccm: a worker cannot begin: {error}\n")
        return 1
    return worker.run(waiting)
