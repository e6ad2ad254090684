"""What people decided at runtime and must survive a restart: the primary, what is disabled, what is drained.

A small JSON file, replaced atomically: a crash leaves the old file or the new one, never half of one (RELIABILITY 73).
A corrupt file is set aside and a directory that cannot be written costs only the persistence; both are warnings in
`ccmctl status`, never a reason not to run. Also where the files of a user's ccm live.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DIRECTORY = ".claude-code-mux"
MAX_STATE_BYTES = 256 * 1024
_LEFTOVER_S = 60.0  # a younger temporary file may be another process's, at this moment


def home_directory() -> Path:
    """`~/.claude-code-mux`: socket, state, log and pid file of this user's ccm. It need not exist."""
    return Path(os.path.expanduser("~")) / DIRECTORY


def socket_path(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The control socket: as given, else `$CCM_SOCKET`, else `ccm.sock` in the home directory."""
    chosen = explicit or environ.get("CCM_SOCKET") or str(home_directory() / "ccm.sock")
    return os.path.abspath(os.path.expanduser(chosen))


class State:
    """The decisions, in memory and on disk. `warnings` says what went wrong with the file, for people.

    Every change is written before its method returns, unless another thread is writing at that moment: then that one
    writes this change too. No lock is held while the disk works.
    """

    def __init__(self, path: str | os.PathLike[str] | None, clock: Callable[[], float] = time.time) -> None:
        self._path = None if path is None else os.fspath(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._saving = self._dirty = False
        self._primary: str | None = None
        self._until: float | None = None  # wall clock, since it must mean the same after a restart
        self._disabled: frozenset[str] = frozenset()
        self._drained: frozenset[str] = frozenset()
        self._classes: dict[str, tuple[str, float | None]] = {}  # request class -> (provider, until)
        self._load_problem = self._save_problem = ""

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None, clock: Callable[[], float] = time.time) -> State:
        """The state of the last run; an empty one where there is none or it cannot be read. `path` None: memory only."""
        state = cls(path, clock)
        state._read()
        if path is not None:
            remove_leftovers(os.fspath(path), clock())
        return state

    @property
    def primary(self) -> str | None:
        """The provider switched to, while its time has not run out."""
        with self._lock:
            if self._until is not None and self._clock() >= self._until:
                return None
            return self._primary

    @property
    def primary_left_s(self) -> float | None:
        """Seconds for which the primary still holds; None without a primary or without an end."""
        with self._lock:
            if self._primary is None or self._until is None:
                return None
            return max(0.0, self._until - self._clock())

    @property
    def class_primaries(self) -> dict[str, tuple[str, float | None]]:
        """The switches of single request classes: class -> (provider, seconds left or None for no end)."""
        with self._lock:
            now = self._clock()
            return {
                name: (provider, None if until is None else until - now)
                for name, (provider, until) in self._classes.items()
                if until is None or until > now
            }

    @property
    def disabled(self) -> frozenset[str]:
        return self._disabled

    @property
    def drained(self) -> frozenset[str]:
        return self._drained

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(text for text in (self._load_problem, self._save_problem) if text)

    def set_primary(self, name: str | None, seconds: float | None = None) -> None:
        """Remembers the primary, for so many seconds or (None) for good; name None forgets it."""
        with self._lock:
            self._primary = name
            self._until = None if name is None or seconds is None else self._clock() + seconds
        self._save()

    def set_class_primary(self, request_class: str, name: str | None, seconds: float | None = None) -> None:
        """Remembers who is first for one request class; name None forgets it."""
        with self._lock:
            self._classes.pop(request_class, None)
            if name is not None:
                self._classes[request_class] = (name, None if seconds is None else self._clock() + seconds)
        self._save()

    def set_disabled(self, name: str, disabled: bool) -> None:
        """Remembers that a provider is switched off, or no longer."""
        with self._lock:
            self._disabled = self._disabled | {name} if disabled else self._disabled - {name}
        self._save()

    def set_drained(self, name: str, drained: bool) -> None:
        """Remembers that a provider is drained, or no longer."""
        with self._lock:
            self._drained = self._drained | {name} if drained else self._drained - {name}
        self._save()

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                data = file.read(MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            self._load_problem = f"state file {self._path} cannot be read: {error.strerror}"
            return
        try:
            self._take(json.loads(data))
        except (ValueError, TypeError, RecursionError):
            aside = f"{self._path}.corrupt-{int(self._clock())}"
            try:
                os.replace(self._path, aside)
                self._load_problem = (
                    f"state file was corrupt and is set aside as {aside}; switches were forgotten"
                )
            except OSError as error:
                self._load_problem = (
                    f"state file {self._path} is corrupt ({error.strerror}); switches were forgotten"
                )

    def _take(self, value: Any) -> None:
        """Raises TypeError for what is not our shape."""
        if not isinstance(value, dict):
            raise TypeError("not an object")
        primary, until = value.get("primary"), value.get("primary_until")
        lists = [value.get("disabled", []), value.get("drained", [])]
        if not (primary is None or isinstance(primary, str)):
            raise TypeError("primary")
        if isinstance(until, bool) or not (until is None or isinstance(until, (int, float))):
            raise TypeError("primary_until")
        for names in lists:
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("names")
        self._classes = _classes(value.get("classes", {}), self._clock())
        if until is None or until > self._clock():
            self._primary, self._until = primary, until
        self._disabled, self._drained = frozenset(lists[0]), frozenset(lists[1])

    def _save(self) -> None:
        if self._path is None:
            return
        with self._lock:
            self._dirty = True
            if self._saving:  # the writer looks again before it stops
                return
            self._saving = True
        while True:
            with self._lock:
                if not self._dirty:
                    self._saving = False
                    return
                self._dirty = False
                value = {
                    "primary": self._primary,
                    "primary_until": self._until,
                    "disabled": sorted(self._disabled),
                    "drained": sorted(self._drained),
                    "classes": {name: list(entry) for name, entry in sorted(self._classes.items())},
                }
            try:
                write_atomically(self._path, json.dumps(value, indent=1).encode("ascii") + b"\n")
                self._save_problem = ""
            except OSError as error:
                self._save_problem = (
                    f"state cannot be saved in {self._path}: {error.strerror}; switches last until ccm stops"
                )


def _classes(value: Any, now: float) -> dict[str, tuple[str, float | None]]:
    """The switches of request classes that still hold. Raises TypeError for what is not our shape."""
    if not isinstance(value, dict):
        raise TypeError("classes")
    found: dict[str, tuple[str, float | None]] = {}
    for name, entry in value.items():
        if not isinstance(entry, list) or len(entry) != 2:
            raise TypeError("classes")
        provider, until = entry
        if not isinstance(provider, str) or isinstance(until, bool):
            raise TypeError("classes")
        if not (until is None or isinstance(until, (int, float))):
            raise TypeError("classes")
        if until is None or until > now:
            found[name] = (provider, until)
    return found


def write_atomically(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file so that every reader, also after a crash, sees the old or the new content whole.

    The directory is made (0700) where it is missing. Raises OSError; then the old file is untouched.
    """
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    temporary = os.path.join(directory, f".{os.path.basename(path)}.{os.urandom(8).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(path: str, now: float) -> None:
    """Removes the temporary files that a kill -9 inside `write_atomically` left beside a file."""
    directory, name = os.path.split(os.path.abspath(path))
    try:
        for entry in os.scandir(directory):
            ours = entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp")
            if ours and abs(now - entry.stat(follow_symlinks=False).st_mtime) > _LEFTOVER_S:
                os.unlink(entry.path)
    except OSError:
        pass  # they only take room
