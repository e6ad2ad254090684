"""Taking up a changed configuration while requests run: whole or not at all, and told in words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ccm.config import load
from ccm.config.difference import difference, later
from ccm.errors import ConfigError
from ccm.model import Snapshot
from ccm.observe.log import Log
from ccm.process.sources import Sources
from ccm.proxy.engine import Engine
from ccm.shape import replace

# Read once, at the start: a reload keeps what is in use, also in what the next one is compared with.
AT_START = ("host", "port", "workers", "log_format", "log_file")


class Reloading:
    """`prepare` gets the new snapshot before anybody uses it (its keys must be known to the redactor by then)."""

    def __init__(
        self, sources: Sources, engine: Engine, log: Log, prepare: Callable[[Snapshot], None]
    ) -> None:
        self._sources, self._engine, self._log = sources, engine, log
        self._prepare = prepare
        self._lock = threading.Lock()
        self.problem = ""  # what is wrong with the files since they were last read

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again and swaps it in; running requests keep theirs. Raises ConfigError."""
        with self._lock:
            engine, old = self._engine, self._engine.snapshot
            try:
                new = self._sources.read(old.generation + 1)
                book = load.book(new)
            except ConfigError as error:
                self.problem = str(error)
                raise
            self.problem = ""
            told = self._changes(old, new)
            snapshot = replace(new, **{name: getattr(old, name) for name in AT_START})
            self._prepare(snapshot)
            engine.router.install(snapshot)
            engine.meter.install(snapshot.usage)
            engine.meter.load()
            engine.snapshot, engine.book = snapshot, book
            engine.auth.own_token = snapshot.auth_token
            engine.sessions.keep(snapshot.providers.values())
            engine.repairs.clear()  # a provider may be another one now, under the same name
            if old.log_level != snapshot.log_level:
                self._log.level = snapshot.log_level
            self._log.info(
                "configuration reloaded",
                generation=snapshot.generation,
                path=snapshot.path,
                changes="; ".join(told["changes"]),
            )
            return {"generation": snapshot.generation, **told}

    def preview(self) -> dict[str, Any]:
        """What `reload` would change: {"changes": [...], "warnings": [...]}. Raises ConfigError."""
        old = self._engine.snapshot
        return self._changes(old, self._sources.peek(old.generation + 1))

    def _changes(self, old: Snapshot, new: Snapshot) -> dict[str, Any]:
        running: dict[str, int] = {}
        for row in self._engine.router.board():
            running[row["provider"]] = running.get(row["provider"], 0) + int(row["in_flight"])
        return {
            "changes": difference(old, new, running),
            "warnings": [*map(str, new.warnings), *later(old, new)],
        }
