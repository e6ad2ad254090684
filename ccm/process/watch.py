"""The watch over the configuration and the key files: a change is taken up when it is whole, a bad one is told once.

Editors replace a file by renaming over it, swap a symbolic link, or empty and rewrite it. All of these show in (device,
inode, size, mtime) of what the path leads to; nothing is read before that has been still for DEBOUNCE_S, and nothing is
done if the content is what it was. A file that is invalid then may be half of one whose writer is slow: it gets
SECOND_LOOK_S more before anybody hears of it. Polling, because the standard library has nothing else and five `stat` a
second cost nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ccm.wire.digest import sha256

POLL_S = 0.25
DEBOUNCE_S = 0.2
SECOND_LOOK_S = 0.8
_MOST_BYTES = 4 * 1024 * 1024  # no file that matters is longer


class Mark(NamedTuple):
    """What can be seen of a file without reading it; None in its place for one that is not there."""

    device: int
    inode: int
    size: int
    mtime_ns: int


Marks = tuple[Mark | None, ...]


def marks(paths: Iterable[Path]) -> Marks:
    """The marks of these files, links followed."""
    return tuple(_mark(path) for path in paths)


def _mark(path: Path) -> Mark | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return Mark(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def digest(paths: Iterable[Path]) -> str:
    """A hash of what the files hold; one that can't be read counts by its error."""
    found = sha256()
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                found.update(sha256(file.read(_MOST_BYTES)).digest())
        except OSError as error:
            found.update(f"error {error.errno}".encode())
    return found.hexdigest()


class Seen(NamedTuple):
    """What the files were like when they were last read; taken before the reading."""

    paths: tuple[Path, ...]
    marks: Marks
    digest: str


def look(paths: Iterable[Path]) -> Seen:
    """The files as they are now."""
    paths = tuple(paths)
    return Seen(paths, marks(paths), digest(paths))


class Watch:
    """One thread. `seen` says what was read last, well or not (somebody else may reload, too), `valid` reads without
    consequences, `apply` takes the files up, or tells what is wrong with them; neither may raise. `on` switches it."""

    def __init__(
        self,
        seen: Callable[[], Seen],
        valid: Callable[[], bool],
        apply: Callable[[], None],
        on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._seen, self._valid, self._apply, self._on = seen, valid, apply, on
        self._touched: tuple[Seen, Marks] | None = None  # other marks than those seen, on the same content
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ccm-watch", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a reload under way is finished first."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            if self._on():
                self.check()

    def check(self) -> None:
        """One look; waits as long as the files move."""
        seen = self._seen()
        before = marks(seen.paths)
        if before == seen.marks or (seen, before) == self._touched:
            return
        now = self._still(seen.paths, DEBOUNCE_S)
        if now is None:
            return
        if digest(seen.paths) == seen.digest:
            self._touched = (seen, now)
            return
        while not self._valid():
            later = self._still(seen.paths, SECOND_LOOK_S)
            if later is None:
                return
            if later == now:
                break
            now = later
        if self._seen() is seen:  # nobody has read them meanwhile
            self._apply()

    def _still(self, paths: tuple[Path, ...], seconds: float) -> Marks | None:
        """The marks, once they have been the same for so long; None when ccm stops meanwhile."""
        last, since = marks(paths), time.monotonic()
        while time.monotonic() - since < seconds:
            if self._stop.wait(min(0.05, seconds)):
                return None
            now = marks(paths)
            if now != last:
                last, since = now, time.monotonic()
        return last
