"""The process above several workers: it owns the doors, the state file and the account, and it answers no request.

`control` steers it as it steers an `App` (it satisfies `control.core.Core`), so `ccmctl` shows one ccm: finished requests
arrive from all workers and are counted, kept and stored here, once; what is running is asked for when somebody looks;
what people decide is done here and told to all, who have it before the answer goes out. The configuration is read here
alone, and every worker gets that snapshot. What one worker learns of a provider is passed on to the others at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import ccm
from ccm.catalog.models import ModelBook
from ccm.control import actions, api, gauges, unix
from ccm.control.core import Core
from ccm.control.state import State, home_directory
from ccm.errors import ConfigError, ControlError
from ccm.model import ModelFacts, Problem, Snapshot
from ccm.observe.bodies import Bodies
from ccm.observe.log import Log
from ccm.observe.metrics import Metrics
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.observe.telemetry import open_telemetry
from ccm.process import helm, keys, light, notify, parcel, shares
from ccm.process.books import open_store
from ccm.process.crew import Crew, Member, value_of
from ccm.process.drills import SharedDrills
from ccm.process.line import Message
from ccm.process.reloading import Reloading
from ccm.process.sources import Sources
from ccm.process.watch import Watch
from ccm.proxy import telling
from ccm.routing.shared import SharedRouter
from ccm.server.listener import open_socket
from ccm.usage.meter import Meter

RECENT = 1000
START_S = 20.0  # until the first worker must serve
LOOK_S = 0.5


class Supervisor:
    """A running ccm of several processes. Raises OSError where it cannot listen."""

    version = ccm.__version__

    def __init__(
        self,
        sources: Sources,
        snapshot: Snapshot,
        book: ModelBook,
        log: Log,
        redactor: Redactor,
    ) -> None:
        self._sources, self._snapshot, self._book = sources, snapshot, book
        self._door = door = open_socket(snapshot.host, snapshot.port)
        self.started_at = time.monotonic()
        self.log, self.redactor = log, redactor
        keys.register(redactor, snapshot)
        self.metrics = Metrics(redactor.clean)
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT)
        self.state = State(None)
        self._telemetry = open_telemetry(
            snapshot.otlp_endpoint, self.version, redactor.clean, self._type_of, log
        )
        self._known = SharedRouter()  # what all workers have learnt; no request passes here
        self._known.install(snapshot)
        self.crew = Crew(snapshot.workers, door, sources.env, log, self._greet, self._take, self._gone)
        self.bodies: Bodies = helm.HelmBodies(redactor.clean, log, self.crew.tell)
        self._meter = helm.HelmMeter(
            snapshot.usage, open_store(snapshot, log), self.crew.tell, lambda: self._seen("budgets")
        )
        self.meter: Meter = self._meter
        self._past: helm.Rows = []  # counters of workers that have ended
        self.router = helm.Helm(self._known, self.crew.tell, lambda: [*self._seen("board"), self._past])
        self._drills = SharedDrills()
        self._drilled: list[Message] = []
        self._reloading = Reloading(sources, lambda: self._snapshot, self.router.board, self._swap, log)
        self._watch = Watch(
            lambda: sources.seen, sources.valid, self.try_reload, lambda: self._snapshot.watch
        )
        self._control: unix.Server | None = None
        self._stop = threading.Event()
        self._drain = True
        host, port = door.getsockname()[:2]
        self.address = f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    # ---- what control sees

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def in_flight(self) -> int:
        return sum(self._seen("in_flight"))

    @property
    def log_level(self) -> str:
        return self.log.level

    @log_level.setter
    def log_level(self, level: str) -> None:
        self.log.level = level
        self.crew.tell(("log_level", level))

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def config_problem(self) -> str:
        return self._reloading.problem

    @property
    def workers(self) -> list[dict[str, Any]]:
        """One row per living worker."""
        return [
            {
                "number": member.number,
                "pid": member.process.pid,
                "ready": member.ready.is_set(),
                "uptime_s": round(time.monotonic() - member.born, 1),
                "in_flight": int(member.seen.get("in_flight", 0)),
                "connections": int(member.seen.get("connections", 0)),
                "generation": int(member.seen.get("generation", 0)),
                "log_dropped": int(member.seen.get("log_dropped", 0)),
                "faults": int(member.seen.get("faults", 0)),
                "lost_records": int(member.seen.get("line_dropped", 0)),
            }
            for member in self.crew.members
        ]

    def find_facts(self, model: str, type: str) -> ModelFacts:
        """What the model book knows of a model at a provider of this type."""
        return self._book.find(model, type)

    def explain(self, id: str) -> dict[str, Any]:
        """As the worker tells it that has answered the request. Raises ControlError."""
        known = list(self.recent)
        if id == "last" and known:
            id = known[-1].id
        for answer in self.crew.ask("explain", (id,)).values():
            if answer[0] == "ok":
                return dict(answer[1])
        return telling.told(known, id)

    def explain_request(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """Where this request would go now. Raises Refusal as a real one would, and ControlError."""
        for answer in self.crew.ask("explain_request", (body, headers)).values():
            return dict(value_of(answer))
        raise ControlError("no worker answers", 503)

    def drill(
        self,
        provider: str,
        fault: str,
        requests: int | None,
        seconds: float | None,
        after: int | None,
        delay_s: float | None,
    ) -> dict[str, Any]:
        """Begins a drill in all workers, who count together (`process.drills`). Raises ControlError."""
        row = self._drills.start(provider, fault, requests, seconds, after, delay_s)
        self.crew.tell(("drill", provider, fault, requests, seconds, after, delay_s))
        return row

    def end_drills(self, provider: str | None) -> list[dict[str, Any]]:
        """Ends the drill of a provider, or all."""
        ended = self._drills.stop(provider)
        self.crew.tell(("drill_end", provider))
        return ended

    def drills(self) -> list[dict[str, Any]]:
        """Drills that are on, and the last ones that are over."""
        return self._drills.rows()

    def hand_over(self) -> dict[str, Any]:
        """There is none between supervisors. Raises ControlError."""
        raise ControlError(
            f"no handover with [proxy] workers = {self._snapshot.workers}: `ccmctl restart` restarts ccm when the "
            "running requests have ended",
            409,
        )

    @property
    def handover(self) -> dict[str, Any]:
        return {"state": "none", "text": "no handover with several workers"}

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again, whole; all workers take it up. Raises ConfigError."""
        try:
            return self._reloading.reload()
        finally:
            self.crew.tell(("problem", self._reloading.problem))

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
        """SIGUSR2: tells the log why not."""
        try:
            self.hand_over()
        except ControlError as error:
            self.log.error("no handover", problem=str(error))

    def request_stop(self, drain: bool) -> None:
        """Begins to stop; `wait` does the rest."""
        self._drain = drain
        self._stop.set()

    def _call(self, core: Core, method: str, path: str, args: Mapping[str, Any]) -> api.Reply:
        """An answer of the control table. Everything that had ended before is counted in it, and what it has done is
        done in all workers."""
        self._look()
        reply = api.call(core, method, path, args)
        if method == "POST":
            self._look()
        return reply

    def _look(self) -> None:
        answers = self.crew.ask("look", (), LOOK_S)
        for member in self.crew.members:
            answer = answers.get(member.number)
            if answer is not None and answer[0] == "ok" and answer[1]["pid"] == member.process.pid:
                member.seen = answer[1]

    def _seen(self, name: str) -> list[Any]:
        return [member.seen[name] for member in self.crew.members if name in member.seen]

    def _swap(self, snapshot: Snapshot, book: ModelBook) -> None:
        shares.check(snapshot)
        keys.register(self.redactor, snapshot)
        level = snapshot.log_level if snapshot.log_level != self._snapshot.log_level else self.log.level
        self._known.install(snapshot)
        self.meter.install(snapshot.usage)
        self.meter.load()
        self._snapshot, self._book = snapshot, book
        for member in self.crew.members:
            member.line.put(("configuration", self._packed(member), level), urgent=True)
        self.crew.tell(("sums", self._meter.sums()))

    def _packed(self, member: Member) -> bytes:
        return parcel.pack(shares.of_worker(self._snapshot, member.number), self._book)

    # ---- the workers

    def _greet(self, member: Member) -> None:
        """Everything a new worker has to know; what happens meanwhile is on its line already, or comes after it."""
        hello = {
            "configuration": self._packed(member),
            "log_level": self.log.level,
            "router": self._known.tell(),
            "problem": self._reloading.problem,
            "number": member.number,
            "workers": self._snapshot.workers,
        }
        recorder = helm.Recorder(self._known)
        seen = SimpleNamespace(snapshot=self._snapshot, state=self.state, router=recorder)
        actions.restore(cast(Core, seen))
        said: list[Message] = [("hello", hello), *recorder.messages]
        said += [("news", news) for news in (*self._meter.lifted(), *self._meter.stopped())]
        said += [("sums", self._meter.sums())]
        now = self.bodies.status()
        if now["active"]:
            said += [("bodies", now["file"], now["left_s"])]
        for row in self._drills.rows():
            if row["on"]:
                said += [
                    (
                        "drill", row["provider"], row["fault"], row["left_requests"], row["left_s"],
                        row["after_events"], row["delay_s"],
                    )
                ]  # fmt: skip
        for message in said:
            member.line.put(message, urgent=True)

    def _take(self, member: Member, messages: list[Message]) -> None:
        sessions = set()
        for message in messages:
            if message[0] == "done":
                record = parcel.record_of(message[1])
                sessions.add(record.session)
                self._observe(record)
            elif message[0] == "news":
                news = message[1]
                _ = self._known.apply(news) or self._meter.apply(news) or self._drills.apply(news)
                self.crew.tell(message, but=member)
            elif message[0] == "call":
                # it looks at all workers, this one's line included, so it must not wait here
                name, asked = "ccm-figures", (member, message[1])
                with contextlib.suppress(
                    RuntimeError
                ):  # no thread to be had: the scrape finds nothing this time
                    threading.Thread(target=self._figures, args=asked, name=name, daemon=True).start()
        if sessions and self.meter.watches:
            self.crew.tell(("sums", self._meter.sums(sessions)))

    def _figures(self, member: Member, number: int) -> None:
        self._look()
        member.line.put(("answer", number, gauges.exposition(self)), urgent=True)

    def _gone(self, member: Member) -> None:
        rows = [helm.past(row) for row in member.seen.get("board", [])]
        self._past = [helm.past(row) for row in helm.summed(self._known.board(), [self._past, rows])]

    def _observe(self, record: RequestRecord) -> None:
        if not self._meter.keep(record):
            return
        self.metrics.observe(record)
        self.recent.append(record)
        if self._telemetry is not None:
            self._telemetry.observe(record)

    def _type_of(self, provider: str) -> str:
        found = self._snapshot.providers.get(provider)
        return found.type if found is not None else ""

    # ---- life

    def start(self, control_path: str) -> None:
        """Opens the control socket, then starts the workers. Raises ControlError where another ccm has the socket, or
        no worker serves."""
        self.state = State.load(home_directory() / "state.json")
        actions.restore(self)
        self._control = unix.serve(self, control_path, self._call)
        self._control.start()
        if self.meter.store is not None:
            self.meter.store.start()
            self.meter.load()
        if not self.crew.start(START_S):
            self._drain = False
            self.stop()
            raise ControlError(f"no worker serves after {START_S:g} s; the log has their words", 500)
        self._watch.start()
        self.log.info(
            "listening",
            address=self.address,
            generation=self._snapshot.generation,
            version=self.version,
            workers=self._snapshot.workers,
        )
        notify.tell(self._sources.env, "READY=1", f"STATUS=listening on {self.address}")

    def wait(self) -> None:
        """Until somebody asks to stop; then drains and stops."""
        light.settle()
        while not self._stop.wait(3600.0):
            pass
        self.stop()

    def stop(self) -> None:
        """No new requests; running ones finish within the drain time, in all workers."""
        self._stop.set()
        self.log.info("stopping", in_flight=self.in_flight)
        self._watch.stop()
        notify.tell(self._sources.env, "STOPPING=1")
        self._door.close()
        self.crew.stop(self._snapshot.drain_timeout_s if self._drain else 0.0)
        if self._control is not None:
            self._control.stop()
        if self._telemetry is not None:
            self._telemetry.stop()
        if self.meter.store is not None:
            self.meter.store.stop()
        self.bodies.stop("ccm stops")
        self.log.info("stopped")
        self.log.close()


def check(snapshot: Snapshot, inherited: bool) -> bool:
    """True. Raises ConfigError where this configuration cannot be run by several workers."""
    if inherited:
        text = f"several of them ({snapshot.workers}) cannot take over from a running ccm"
        raise ConfigError(
            [Problem(snapshot.path, None, "proxy.workers", text, "restart it: `ccmctl restart`")]
        )
    shares.check(snapshot)
    return True
