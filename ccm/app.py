"""The composition root: builds ccm from its parts, starts, reloads, drains and stops it. The only place that decides
which threads there are: accept, pump, control, the workers, and the demo's own."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ccm
from ccm.catalog.models import ModelBook
from ccm.config import load, secrets
from ccm.control import actions, unix
from ccm.control.state import State, home_directory, socket_path
from ccm.errors import ConfigError, ControlError
from ccm.late import Late
from ccm.model import FailureKind, ModelFacts, ProviderError, Snapshot
from ccm.observe.bodies import Bodies
from ccm.observe.log import LEVELS, Log, open_log
from ccm.observe.metrics import Metrics
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.process import ending, heir, keys, light, limits, notify, signals, warming
from ccm.process.belongings import Belongings
from ccm.process.books import open_store
from ccm.process.channel import Broken
from ccm.process.heir import Inheritance, Predecessors
from ccm.process.reloading import Reloading, take_up
from ccm.process.sources import Sources
from ccm.process.succession import Succession
from ccm.process.successor import Successor, this_program
from ccm.process.watch import Watch
from ccm.proxy import telling
from ccm.proxy.engine import Engine
from ccm.proxy.pump import Pump
from ccm.routing.router import Router
from ccm.server import routes
from ccm.server.listener import Listener
from ccm.upstream.auth import Authorizer
from ccm.upstream.sessions import Sessions
from ccm.usage.meter import Meter

if TYPE_CHECKING:
    from ccm.control import gauges
    from ccm.observe import telemetry
    from ccm.process import supervisor
    from ccm.upstream import demo as scripted
else:  # most have one process, no collector, and providers that are real
    supervisor, telemetry = Late("ccm.process.supervisor"), Late("ccm.observe.telemetry")
    scripted, gauges = Late("ccm.upstream.demo"), Late("ccm.control.gauges")

EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_PORT_IN_USE = 0, 1, 2, 98
RECENT = 1000


class App:
    """A running ccm; what `control` steers (it satisfies `control.core.Core`)."""

    version = ccm.__version__
    workers: Sequence[dict[str, Any]] = ()  # this one serves alone

    def __init__(
        self,
        sources: Sources,
        snapshot: Snapshot,
        book: ModelBook,
        log: Log,
        redactor: Redactor,
        inherited: Inheritance | None = None,
    ) -> None:
        self._sources = sources
        self.started_at = time.monotonic()
        self.log = log
        self.redactor = redactor
        self.metrics = Metrics(redactor.clean)
        self.bodies = Bodies(redactor.clean, log)
        self._telemetry: telemetry.Telemetry | None = None
        if snapshot.otlp_endpoint:
            self._telemetry = telemetry.open_telemetry(
                snapshot.otlp_endpoint, self.version, redactor.clean, self._type_of, log
            )
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT)
        self.state = State(None)  # read at the start: until then a predecessor may write it
        self.router = Router()
        keys.register(redactor, snapshot)
        self.router.install(snapshot)
        auth = Authorizer(sources.env, snapshot.auth_token, redactor.register)
        self.meter = Meter(snapshot.usage, open_store(snapshot, log), on_warning=self._warn_budget)
        self.engine = Engine(
            snapshot, self.router, Sessions(), auth, book, self.meter, self._observe, self._fault
        )
        self.engine.clean, self.engine.bodies = redactor.clean, self.bodies
        self.router.on_reset = self.engine.repairs.clear
        self.engine.exposition = lambda: gauges.exposition(self)
        self.listener = Listener(
            snapshot.host,
            snapshot.port,
            lambda request, down: routes.handle(self.engine, request, down),
            lambda head, local: routes.admit(self.engine, head, local),
            sock=inherited.listener(snapshot.host, snapshot.port) if inherited is not None else None,
        )
        self.listener.on_fault = lambda fault: self._fault(fault, "connection")
        self.engine.pump = self._pump = Pump(self.listener.sweep, lambda fault: self._fault(fault, "stream"))
        self._accept = threading.Thread(target=self.listener.serve_forever, name="ccm-accept", daemon=True)
        self._control: unix.Server | None = None
        self._reloading = Reloading(sources, lambda: self.snapshot, self.router.board, self._take_up, log)
        self.engine.degraded = lambda: bool(self._reloading.problem)
        self._watch = Watch(lambda: sources.seen, sources.valid, self.try_reload, lambda: self.snapshot.watch)
        self._inherited = inherited
        self._predecessors = Predecessors(self.listener.adopt)
        self._succession: Succession | None = None
        self._successor: Successor | None = None
        self._stop, self._asked = threading.Event(), threading.Event()
        self._drain = True

    # ---- what control sees

    @property
    def snapshot(self) -> Snapshot:
        return self.engine.snapshot

    @property
    def address(self) -> str:
        host, port = self.listener.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    @property
    def in_flight(self) -> int:
        return self.engine.in_flight

    @property
    def log_level(self) -> str:
        return self.log.level

    @log_level.setter
    def log_level(self, level: str) -> None:
        self.log.level = level

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def config_problem(self) -> str:
        return self._reloading.problem

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again, whole, and swaps it in; running requests keep theirs. Raises ConfigError."""
        return self._reloading.reload()

    def _take_up(self, snapshot: Snapshot, book: ModelBook) -> None:
        keys.register(self.redactor, snapshot)
        take_up(self.engine, snapshot, book)

    def preview(self) -> dict[str, Any]:
        """What a reload would change, in words; nothing is changed. Raises ConfigError."""
        return self._reloading.preview()

    def try_reload(self) -> None:
        """Reloads, and tells the log where that cannot be (the old configuration stays)."""
        try:
            actions.reload(self)
        except ControlError as error:
            self.log.error("configuration not reloaded", problem=str(error))

    def try_hand_over(self) -> None:
        """SIGUSR2: the same as `hand_over`, with the log for an answer."""
        try:
            self.hand_over()
        except ControlError as error:
            self.log.error("no handover", problem=str(error))

    def hand_over(self) -> dict[str, Any]:
        """Begins to start a successor from the program on disk; `handover` tells how it goes. Raises ControlError."""
        if self._succession is None or self.stopping:
            raise ControlError("no handover: this ccm is stopping", 409)
        return self._succession.begin()

    @property
    def handover(self) -> dict[str, Any]:
        """The last handover: state (none, running, done, failed), text, pid."""
        return self._succession.state if self._succession is not None else {"state": "none", "text": ""}

    def find_facts(self, model: str, type: str) -> ModelFacts:
        """What the model book knows of a model at a provider of this type."""
        return self.engine.book.find(model, type)

    def explain(self, id: str) -> dict[str, Any]:
        """How a finished request was decided, and what became of it (`proxy.telling`). Raises ControlError."""
        return telling.told(list(self.recent), id)

    def explain_request(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """Where this request would go now. Raises Refusal as a real one would."""
        return telling.dry_run(self.engine, body, headers)

    def drill(
        self,
        provider: str,
        fault: str,
        requests: int | None,
        seconds: float | None,
        after: int | None,
        delay_s: float | None,
    ) -> dict[str, Any]:
        """Begins a drill (`proxy.drill`). Raises ControlError."""
        return self.engine.drills.start(provider, fault, requests, seconds, after, delay_s)

    def end_drills(self, provider: str | None) -> list[dict[str, Any]]:
        """Ends the drill of a provider, or all."""
        return self.engine.drills.stop(provider)

    def drills(self) -> list[dict[str, Any]]:
        """Drills that are on, and the last ones that are over."""
        return self.engine.drills.rows()

    def request_stop(self, drain: bool) -> None:
        """Begins to stop; `wait` does the rest. Where a successor serves already, it ends the patience of the drain."""
        self._drain = drain
        self._asked.set()
        self._stop.set()

    # ---- life

    def start(self, control_path: str) -> None:
        """Opens both doors. Raises ControlError when another ccm holds the control socket, and Broken when the ccm
        before us goes on after all."""
        inherited = self._inherited
        memory, lines = inherited.ready(self.version) if inherited is not None else ({}, [])
        self.router.take(memory.get("router") or {})
        if memory.get("log_level") in LEVELS:
            self.log_level = memory["log_level"]
        self.state = State.load(home_directory() / "state.json")
        actions.restore(self)
        self._control = unix.serve(self, control_path)
        self._succession = self._make_succession(self._control)
        self._control.start(inherited.control() if inherited is not None else None)
        if self.meter.store is not None:
            self.meter.store.start()
            self.meter.load()
        self._pump.start()
        self.listener.workers.start()
        self._accept.start()
        if inherited is not None:
            inherited.serving()
            self._predecessors.add(inherited.channel.sock, *lines)
        self._watch.start()
        warming.begin(self.engine, self.log)
        self.log.info(
            "listening",
            address=self.address,
            generation=self.snapshot.generation,
            version=self.version,
            pid=os.getpid(),
        )
        notify.tell(
            self._sources.env, "READY=1", f"MAINPID={os.getpid()}", f"STATUS=listening on {self.address}"
        )

    def _make_succession(self, control: unix.Server) -> Succession:
        configured = (self.snapshot.host, self.snapshot.port)
        mine = Belongings(
            self.version, configured, self.listener, control, self.router, self._predecessors, self.log,
            self._stop.is_set,
        )  # fmt: skip
        found = Succession(self.version, this_program(self._sources.env), mine, self.log, self._succeeded)
        if self._inherited is not None:
            hello = self._inherited.hello
            found.inherited(str(hello.get("version")), int(hello.get("pid") or 0))
        return found

    def _succeeded(self, successor: Successor) -> None:
        """Another process serves now: this one lets go of both doors, finishes what it has, and ends."""
        if (
            self._stop.is_set()
        ):  # somebody asked for the end in the last moment: that holds for the successor, too
            successor.process.terminate()
            return
        self._successor = successor
        if self._control is not None:
            self._control.leave()
        self._stop.set()

    def wait(self) -> None:
        """Until somebody asks to stop, or a successor serves; then drains and stops."""
        light.settle()
        while not self._stop.wait(3600.0):
            pass
        self.stop()

    def stop(self) -> None:
        """No new requests; running ones finish within the drain time, the rest end honestly."""
        successor = self._successor
        self.log.info("stopping", in_flight=self.in_flight, handed_over=successor is not None)
        self._watch.stop()
        if successor is not None:
            ending.drain_behind(
                self.listener, lambda: self.in_flight, successor, self._asked.is_set, self._drain_s
            )
        else:
            if self._succession is not None:
                self._succession.cancel()
            notify.tell(self._sources.env, "STOPPING=1")
            self._predecessors.stop()
            self.engine.stopping.set()
            ending.drain_alone(self.listener, lambda: self.in_flight, self._drain_s())
        self.engine.stopping.set()
        self._pump.end_all(ProviderError(0, "api_error", "ccm is stopping", kind=FailureKind.BROKEN))
        self.listener.stop()
        self._pump.stop()
        if self._control is not None:
            self._control.stop()
        if successor is not None:
            self._predecessors.stop()
            successor.channel.close()
        self.engine.sessions.close()
        if self._telemetry is not None:
            self._telemetry.stop()
        if self.meter.store is not None:
            self.meter.store.stop()
        self.bodies.stop("ccm stops")
        self.log.info("stopped")
        self.log.close()

    def _drain_s(self) -> float:
        return self.snapshot.drain_timeout_s if self._drain else 0.0

    # ---- observers

    def _warn_budget(self, text: str) -> None:
        self.log.warning("budget", problem=text)

    def _observe(self, record: RequestRecord) -> None:
        self.meter.settle(record)
        self.metrics.observe(record)
        self.recent.append(record)
        self.log.request(record)
        if self._telemetry is not None:
            self._telemetry.observe(record)

    def _type_of(self, provider: str) -> str:
        found = self.snapshot.providers.get(provider)
        return found.type if found is not None else ""

    def _fault(self, fault: BaseException, where: str) -> None:
        self.log.fault("internal error", fault, where=where)


def run(
    config: str | None,
    listen: str | None,
    demo: bool,
    log_level: str | None,
    control: str | None,
    bodies: str = "",
) -> int:
    """`ccm start`: runs until a signal or `ccmctl stop`, or a successor has taken over; returns the exit status.
    `bodies`: a file that prompts and answers are written to for a while ("" = none)."""
    inherited = heir.find(os.environ)
    demo_upstream = scripted.DemoUpstream() if demo else None
    demo_urls = None
    if demo_upstream is not None and (base := demo_upstream.start()):
        demo_urls = [(p.name, base + p.path) for p in scripted.PROVIDERS]
    try:
        return _run(Sources(config, listen, demo_urls, os.environ), inherited, log_level, control, bodies)
    finally:
        if demo_upstream is not None:
            demo_upstream.stop()


def _run(
    sources: Sources, inherited: Inheritance | None, log_level: str | None, control: str | None, bodies: str
) -> int:
    def refuse(code: int, *lines: str) -> int:
        for line in lines:
            sys.stderr.write(line + "\n")
        if inherited is not None:
            inherited.refuse("; ".join(lines))
        return code

    try:
        snapshot = sources.read(1)
        several = snapshot.workers > 1 and supervisor.check(snapshot, inherited is not None)
    except ConfigError as error:
        return refuse(EXIT_CONFIG, *map(str, error.problems))
    limits.harden()
    redactor = Redactor()
    log = open_log(redactor, log_level or snapshot.log_level, snapshot.log_format, snapshot.log_file)
    limits.log_faults(log)
    for warning in snapshot.warnings:
        log.warning("configuration", problem=str(warning))
    app: App | supervisor.Supervisor
    parts = sources, snapshot, load.book(snapshot), log, redactor
    try:
        app = supervisor.Supervisor(*parts) if several else App(*parts, inherited)
    except OSError as error:
        code = EXIT_PORT_IN_USE if error.errno == errno.EADDRINUSE else EXIT_FAILED
        return refuse(code, limits.cannot_listen(snapshot.host, snapshot.port, error))
    if bodies and inherited is None:  # a successor does not begin the time anew
        try:
            app.bodies.start(os.path.abspath(bodies))
        except (OSError, ValueError) as error:
            return refuse(EXIT_FAILED, f"ccm: --debug-bodies: {error}")
    for name in secrets.variables_used(snapshot):
        os.environ.pop(name, None)  # children and core files get no keys (RELIABILITY S35)
    signals.install(lambda: app.request_stop(drain=True), app.try_reload, app.try_hand_over)
    try:
        app.start(socket_path(control))
    except (ControlError, Broken) as error:
        return refuse(EXIT_FAILED, f"ccm: {error}")
    app.wait()
    return EXIT_OK
