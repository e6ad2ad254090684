"""Taking up a changed configuration while requests run: whole or not at all, and told in words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.config import load
from ccm.config.difference import difference, later
from ccm.errors import ConfigError
from ccm.model import Snapshot
from ccm.observe.log import Log, redirect
from ccm.process.sources import Sources
from ccm.proxy.engine import Engine
from ccm.shape import replace

# Read once, at the start: a reload keeps what is in use, also in what the next one is compared with.
AT_START = ("host", "port", "workers")
_LINE_S = 5.0  # nobody is in the middle of a log line for so long


def take_up(engine: Engine, snapshot: Snapshot, book: ModelBook) -> None:
    """Swaps a configuration in; running requests keep theirs."""
    engine.router.install(snapshot)
    engine.meter.install(snapshot.usage)
    engine.meter.load()
    engine.snapshot, engine.book = snapshot, book
    engine.auth.own_token = snapshot.auth_token
    engine.sessions.keep(snapshot.providers.values())
    engine.repairs.clear()  # a provider may be another one now, under the same name


def follow_log(log: Log, old: Snapshot, new: Snapshot) -> None:
    """The log goes where the new configuration says, if it says something else. A file that cannot be opened is told in
    the old one, which stays."""
    if (old.log_file, old.log_format) == (new.log_file, new.log_format):
        return
    try:
        close = redirect(log, new.log_format, new.log_file)
    except OSError as error:
        log.warning("log file not usable, the log stays where it is", file=new.log_file, error=error.strerror)
        return
    timer = threading.Timer(_LINE_S, close)
    timer.daemon = True
    timer.start()


class Reloading:
    """`snapshot` says what is in use, `board` what runs; `swap` takes the new one up (the
    redactor must know its keys before anybody uses it). It may raise ConfigError, and then nothing has changed."""

    def __init__(
        self,
        sources: Sources,
        snapshot: Callable[[], Snapshot],
        board: Callable[[], list[dict[str, Any]]],
        swap: Callable[[Snapshot, ModelBook], None],
        log: Log,
    ) -> None:
        self._sources, self._snapshot, self._board, self._log = sources, snapshot, board, log
        self._swap = swap
        self._lock = threading.Lock()
        self.problem = ""  # what is wrong with the files since they were last read

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again and swaps it in; running requests keep theirs. Raises ConfigError."""
        with self._lock:
            old = self._snapshot()
            try:
                new = self._sources.read(old.generation + 1)
                book = load.book(new)
                told = self._changes(old, new)
                snapshot = replace(new, **{name: getattr(old, name) for name in AT_START})
                self._swap(snapshot, book)
            except ConfigError as error:
                self.problem = str(error)
                raise
            self.problem = ""
            if old.log_level != snapshot.log_level:
                self._log.level = snapshot.log_level
            follow_log(self._log, old, snapshot)
            self._log.info(
                "configuration reloaded",
                generation=snapshot.generation,
                path=snapshot.path,
                changes="; ".join(told["changes"]),
            )
            return {"generation": snapshot.generation, **told}

    def preview(self) -> dict[str, Any]:
        """What `reload` would change: {"changes": [...], "warnings": [...]}. Raises ConfigError."""
        old = self._snapshot()
        return self._changes(old, self._sources.peek(old.generation + 1))

    def _changes(self, old: Snapshot, new: Snapshot) -> dict[str, Any]:
        running: dict[str, int] = {}
        for row in self._board():
            running[row["provider"]] = running.get(row["provider"], 0) + int(row["in_flight"])
        return {
            "changes": difference(old, new, running),
            "warnings": [*map(str, new.warnings), *later(old, new)],
        }
