"""What clients and providers said, in a file, for a limited time: the one place where prompts are written down.

Off unless somebody asks (`ccm start --debug-bodies FILE`, `ccmctl debug-bodies FILE --for 10m`). It ends by itself, at
its time or its size; keys are taken out; the file is 0600 and never one that holds anything else. A disk that is full
ends it and nothing but it. Where it is off, asking costs one attribute read: `if bodies.active: bodies.write(...)`.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

from ccm.observe.access import stamp
from ccm.observe.log import Log

DEFAULT_S = 600.0
MAX_S = 3600.0
FILE_BYTES = 256 * 1024 * 1024
BODY_CHARACTERS = 8 * 1024 * 1024
_HEADER = b'{"ccm": "debug-bodies"'


class Bodies:
    """The file, while there is one. Any thread may call `write`; `start` and `stop` belong to the control thread."""

    def __init__(
        self,
        clean: Callable[[str], str],
        log: Log,
        limit: int = FILE_BYTES,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.active = False
        self._clean, self._log = clean, log
        self._limit, self._clock, self._wall = limit, clock, wall
        self._lock = threading.Lock()  # guards the fields, never held while the disk works
        self._fd = -1
        self._path = ""
        self._until = 0.0
        self._size = self._lost = 0

    def start(self, path: str, seconds: float = DEFAULT_S) -> None:
        """Begins to write into `path` (made, or continued if it is of this kind), for so many seconds.

        Raises ValueError for a time or a path that is not allowed, OSError where the file cannot be had.
        """
        if not 0 < seconds <= MAX_S:
            raise ValueError(f"bodies are written for at most {MAX_S / 60:.0f} minutes at a time")
        if not os.path.isabs(path):
            raise ValueError("the file's path must be absolute")
        fd = _open(path)
        self.stop("another file was named")
        with self._lock:
            self._fd, self._path, self._until = fd, path, self._clock() + seconds
            self._size, self._lost = os.fstat(fd).st_size, 0
            self.active = True
        self._log.warning(
            "debug bodies on: prompts and answers are written", file=path, seconds=round(seconds)
        )

    def write(self, record_id: str, what: str, data: bytes | str) -> None:
        """One body, or one whole event of a stream (a key cut in two would not be found), as one JSON line:
        `{"at", "id", "what", "text"}`. Never raises."""
        if not self.active:
            return
        if self._clock() >= self._until:
            self.stop("its time is over")
            return
        try:
            text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
            cut = len(text) > BODY_CHARACTERS
            row: dict[str, Any] = {"at": stamp(self._wall()), "id": record_id, "what": what}
            if cut:
                row["cut_from"] = len(text)
            row["text"] = self._clean(text)[:BODY_CHARACTERS]
            self._put(json.dumps(row).encode("ascii") + b"\n")
        except Exception as error:  # whatever it is: the request goes on
            self.stop(f"{type(error).__name__}: {error}")

    def _put(self, line: bytes) -> None:
        with self._lock:
            if not self.active:
                return
            room = self._size + len(line) <= self._limit
            self._size += len(line) if room else 0
            fd = os.dup(self._fd) if room else -1  # ours alone: `stop` may close the other one meanwhile
        if not room:
            self.stop("the file is as big as it may be")
            return
        try:
            if os.write(fd, line) < len(line):
                self.stop("the disk is full")
        except OSError as error:
            self.stop(error.strerror or "the file cannot be written")
        finally:
            os.close(fd)

    def stop(self, why: str = "asked to") -> bool:
        """Ends it; False where it was off already."""
        with self._lock:
            was, self.active = self.active, False
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if was:
            self._log.warning("debug bodies off", file=self._path, why=why)
        return was

    def status(self) -> dict[str, Any]:
        """`active`, and while it is: `file`, `left_s`, `bytes`."""
        if self.active and self._clock() >= self._until:
            self.stop("its time is over")
        if not self.active:
            return {"active": False}
        left = max(0.0, self._until - self._clock())
        return {"active": True, "file": self._path, "left_s": round(left, 1), "bytes": self._size}


def _open(path: str) -> int:
    """A descriptor to append with. Raises OSError; ValueError for a file that holds something else."""
    fd = os.open(
        path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
    )
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise ValueError(f"{path} is no file of ours")
        if found.st_size and os.pread(fd, len(_HEADER), 0) != _HEADER:
            raise ValueError(f"{path} holds something else: name a new file")
        os.fchmod(fd, 0o600)
        if not found.st_size:
            os.write(fd, _HEADER + b', "warning": "prompts and answers; keys are taken out"}\n')
    except BaseException:
        os.close(fd)
        raise
    return fd
