"""Where the configuration comes from, how it is read again, and which files that means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ccm.config import load
from ccm.errors import ConfigError
from ccm.model import Snapshot
from ccm.process.watch import Seen, look


class Sources:
    """What `ccm start` was told, and its environment as it was (our own loses the keys)."""

    def __init__(
        self,
        config: str | None,
        listen: str | None,
        demo_urls: list[tuple[str, str]] | None,
        env: Mapping[str, str],
    ) -> None:
        self.config = config
        self.listen = listen
        self.demo_urls = demo_urls
        self.env: Mapping[str, str] = dict(env)
        self.seen = Seen((), (), "")  # the files as they were when they were last read

    def read(self, generation: int) -> Snapshot:
        """The snapshot. Raises ConfigError with all problems."""
        before = look(self._paths())
        try:
            snapshot = self.peek(generation)
        except ConfigError:
            self.seen = before
            raise
        after = look(load.files_of(snapshot, self.env))
        if before.marks[:1] == after.marks[:1]:
            self.seen = after
        else:  # changed while we read it: the watch will find that out
            self.seen = after._replace(marks=(*before.marks[:1], *after.marks[1:]), digest="")
        return snapshot

    def peek(self, generation: int) -> Snapshot:
        """The same without a trace: nobody takes the files for read."""
        return load.read(
            self.config, self.env, generation=generation, listen=self.listen, demo_urls=self.demo_urls
        )

    def valid(self) -> bool:
        """Whether the files, as they are now, make a configuration."""
        try:
            self.peek(0)
        except ConfigError:
            return False
        return True

    def _paths(self) -> tuple[Path, ...]:
        if self.seen.paths or self.demo_urls is not None:
            return self.seen.paths
        try:
            path = load.find_path(self.config, self.env, load.home_of(self.env))
        except ConfigError:
            return ()
        return (path,) if path is not None else ()
