"""The composition root: builds ccm from its parts, starts, reloads, drains and stops it. The only place that decides
which threads there are: accept, pump, control, the workers, and the demo's own."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import ccm
from ccm.catalog.models import ModelBook
from ccm.config import load, secrets
from ccm.control import actions, unix
from ccm.control.state import State, home_directory, socket_path
from ccm.errors import ConfigError, ControlError, UpstreamError
from ccm.model import FailureKind, ProviderError, Secret, Snapshot
from ccm.observe.log import Log, open_log
from ccm.observe.metrics import Metrics
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.proxy.engine import Engine
from ccm.proxy.pump import Pump
from ccm.routing.router import Router
from ccm.server import routes
from ccm.server.listener import Listener
from ccm.upstream.auth import Authorizer
from ccm.upstream.demo import PROVIDERS as DEMO_PROVIDERS
from ccm.upstream.demo import DemoUpstream
from ccm.upstream.sessions import Sessions

EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_PORT_IN_USE = 0, 1, 2, 98
RECENT = 1000


class App:
    """A running ccm; what `control` steers (it satisfies `control.core.Core`)."""

    version = ccm.__version__

    def __init__(
        self, sources: Sources, snapshot: Snapshot, book: ModelBook, log: Log, redactor: Redactor
    ) -> None:
        self._sources = sources
        self.started_at = time.monotonic()
        self.log = log
        self.redactor = redactor
        self.metrics = Metrics()
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT)
        self.state = State.load(home_directory() / "state.json")
        self.router = Router()
        self._register_keys(snapshot)
        self.router.install(snapshot)
        auth = Authorizer(sources.env, snapshot.auth_token, redactor.register)
        self.engine = Engine(snapshot, self.router, Sessions(), auth, book, self._observe, self._fault)
        self.engine.clean = redactor.clean
        self.listener = Listener(
            snapshot.host,
            snapshot.port,
            lambda request, down: routes.handle(self.engine, request, down),
            lambda head, local: routes.admit(self.engine, head, local),
        )
        self.engine.pump = self._pump = Pump(self.listener.sweep, lambda fault: self._fault(fault, "stream"))
        self._accept = threading.Thread(target=self.listener.serve_forever, name="ccm-accept", daemon=True)
        self._control: unix.Server | None = None
        self._reload_lock = threading.Lock()
        self._stop = threading.Event()
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

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again, whole, and swaps it in; running requests keep theirs. Raises ConfigError."""
        with self._reload_lock:
            snapshot = self._sources.read(self.snapshot.generation + 1)
            self._register_keys(snapshot)
            self.router.install(snapshot)
            self.engine.snapshot = snapshot
            self.engine.auth.own_token = snapshot.auth_token
            self.engine.sessions.keep(snapshot.providers.values())
            self.engine.repairs.clear()  # a provider may be another one now, under the same name
            self.log.info("configuration reloaded", generation=snapshot.generation, path=snapshot.path)
            return {"generation": snapshot.generation, "warnings": [str(w) for w in snapshot.warnings]}

    def request_stop(self, drain: bool) -> None:
        """Begins to stop; `wait` does the rest."""
        self._drain = drain
        self._stop.set()

    # ---- life

    def start(self, control_path: str) -> None:
        """Opens both doors. Raises ControlError when another ccm holds the control socket."""
        actions.restore(self)
        self._control = unix.serve(self, control_path)
        self._control.start()
        self._pump.start()
        self.listener.workers.start()
        self._accept.start()
        threading.Thread(target=self._try_key_commands, name="ccm-keys", daemon=True).start()
        self.log.info(
            "listening", address=self.address, generation=self.snapshot.generation, version=self.version
        )

    def wait(self) -> None:
        """Until somebody asks to stop; then drains and stops."""
        while not self._stop.wait(3600.0):
            pass
        self.stop()

    def stop(self) -> None:
        """No new requests; running ones finish within the drain time, the rest end honestly."""
        self.log.info("stopping", in_flight=self.in_flight)
        self.engine.stopping.set()
        self.listener.shutdown()
        self.listener.drain()
        deadline = time.monotonic() + (self.snapshot.drain_timeout_s if self._drain else 0.0)
        pause = threading.Event()
        while self.in_flight and self._drain and time.monotonic() < deadline:
            pause.wait(0.02)
        self._pump.end_all(ProviderError(0, "api_error", "ccm is stopping", kind=FailureKind.BROKEN))
        self.listener.stop()
        self._pump.stop()
        if self._control is not None:
            self._control.stop()
        self.engine.sessions.close()
        self.log.info("stopped")
        self.log.close()

    # ---- observers

    def _observe(self, record: RequestRecord) -> None:
        self.metrics.observe(record)
        self.recent.append(record)
        self.log.request(record)

    def _try_key_commands(self) -> None:
        """Key commands that fail are told at start, not at the third request; the first request finds its key ready."""
        for endpoint in self.snapshot.endpoints:
            if endpoint.key is not None and endpoint.key.kind == "command":
                try:
                    self.engine.auth.headers(endpoint, endpoint.provider.base_url, {}, b"")
                except UpstreamError as error:
                    self.log.warning("key command", endpoint=endpoint.id, problem=error.error.message)

    def _fault(self, fault: BaseException, where: str) -> None:
        self.log.fault("internal error", fault, where=where)

    def _register_keys(self, snapshot: Snapshot) -> None:
        for provider in snapshot.providers.values():
            for key in provider.keys:
                if key.secret is not None:
                    self.redactor.register(key.secret)
            proxy_auth = provider.options.get("proxy_auth")
            if isinstance(proxy_auth, Secret):
                self.redactor.register(proxy_auth)
                self.redactor.register(proxy_auth.reveal().partition(":")[2])


class Sources:
    """Where the configuration comes from, and how it is read again."""

    def __init__(
        self, config: str | None, listen: str | None, demo_urls: list[tuple[str, str]] | None
    ) -> None:
        self.config = config
        self.listen = listen
        self.demo_urls = demo_urls
        self.env: Mapping[str, str] = dict(os.environ)

    def read(self, generation: int) -> Snapshot:
        """The snapshot. Raises ConfigError with all problems."""
        return load.read(
            self.config, self.env, generation=generation, listen=self.listen, demo_urls=self.demo_urls
        )


def run(config: str | None, listen: str | None, demo: bool, log_level: str | None, socket: str | None) -> int:
    """`ccm start`: runs until a signal or `ccmctl stop`; returns the exit status."""
    demo_upstream = DemoUpstream() if demo else None
    demo_urls = None
    if demo_upstream is not None:
        base = demo_upstream.start()
        demo_urls = [(p.name, base + p.path) for p in DEMO_PROVIDERS]
    try:
        return _run(Sources(config, listen, demo_urls), log_level, socket)
    finally:
        if demo_upstream is not None:
            demo_upstream.stop()


def _run(sources: Sources, log_level: str | None, control: str | None) -> int:
    try:
        snapshot = sources.read(1)
    except ConfigError as error:
        for problem in error.problems:
            _say(str(problem))
        return EXIT_CONFIG
    _harden()
    redactor = Redactor()
    log = open_log(redactor, log_level or snapshot.log_level, snapshot.log_format, snapshot.log_file)
    for warning in snapshot.warnings:
        log.warning("configuration", problem=str(warning))
    try:
        app = App(sources, snapshot, load.book(snapshot), log, redactor)
    except OSError as error:
        _say(_no_listen(snapshot, error))
        return EXIT_PORT_IN_USE if error.errno == errno.EADDRINUSE else EXIT_FAILED
    for name in secrets.variables_used(snapshot):
        os.environ.pop(name, None)  # children and core files get no keys (RELIABILITY S35)
    _handle_signals(app)
    try:
        app.start(socket_path(control))
    except ControlError as error:
        _say(f"ccm: {error}")
        return EXIT_FAILED
    app.wait()
    return EXIT_OK


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _no_listen(snapshot: Snapshot, error: OSError) -> str:
    address = f"{snapshot.host}:{snapshot.port}"
    if error.errno == errno.EADDRINUSE:
        return f"ccm: {address} is in use. Another ccm? `ccmctl status` tells; or choose another with --listen HOST:PORT."
    return f"ccm: cannot listen on {address}: {error.strerror}. Check [proxy] listen."


def _harden() -> None:
    """No core dumps with keys in them; as many descriptors as we may have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard)
        )
    except (ValueError, OSError):
        pass  # what we have must do: the connection cap follows it


def _handle_signals(app: App) -> None:
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if asked:
            os._exit(128 + number)  # a second signal means now
        asked.append(number)
        app.request_stop(drain=True)

    def reload(_number: int, _frame: object) -> None:
        threading.Thread(target=_reload, args=(app,), name="ccm-reload", daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _reload(app: App) -> None:
    try:
        actions.reload(app)
    except ControlError as error:  # the old configuration stays
        app.log.error("configuration not reloaded", problem=str(error))
