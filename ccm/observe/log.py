"""The log: one event, one line, as `key=value` text or JSON; one line per finished request.

It must never block or raise (a full pipe or a closed terminal costs lines, which are counted and told), never carry a
key (every line passes the redactor) and never let a stranger's text forge a line or steer a terminal (control
characters are escaped). Prompts and answers are not logged. No `logging`: its handlers lock, block and raise.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from ccm.observe.access import AccessLine, clean_texts, escape, fields_of, quoted, stamp
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.observe.sink import LINE_BYTES, DescriptorSink, FileSink, Sink

__all__ = ["FORMS", "LEVELS", "Log", "escape", "fields_of", "open_log", "stamp"]

LEVELS = ("debug", "info", "warning", "error")
FORMS = ("text", "json")
# How a request ended, if not well: worth a warning.
_WARNED = frozenset({"failed", "broken"})


class Log:
    """Writes lines. `level` is one of LEVELS and can be set at any time; `dropped` counts lost lines."""

    def __init__(
        self,
        sink: Sink,
        redactor: Redactor,
        level: str = "info",
        form: str = "text",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._redactor = redactor
        self._form = form if form in FORMS else "text"
        self._access = AccessLine(redactor, self._form)
        self._clock = clock
        self._lock = threading.Lock()  # guards the counters
        self._untold = 0
        self.dropped = 0
        self.faults = 0  # bugs of ccm itself that were told
        self._level = 1
        self.level = level

    @property
    def level(self) -> str:
        return LEVELS[self._level]

    @level.setter
    def level(self, name: str) -> None:
        """Raises ValueError for a name that is no level."""
        self._level = LEVELS.index(name)

    def debug(self, event: str, **fields: object) -> None:
        """For those who look for a fault."""
        if self._level == 0:
            self._emit(0, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What happens in a healthy ccm."""
        if self._level <= 1:
            self._emit(1, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What the user should know, though ccm goes on."""
        if self._level <= 2:
            self._emit(2, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What needs the user; always written."""
        self._emit(3, event, fields)

    def fault(self, event: str, error: BaseException, **fields: object) -> None:
        """A fault of ccm itself, with its traceback in the one line; counted."""
        with self._lock:
            self.faults += 1
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._emit(3, event, {**fields, "error": f"{type(error).__name__}: {error}", "traceback": trace})

    def request(self, record: RequestRecord) -> None:
        """The access line of one finished request: a warning where it failed, else info."""
        level = 2 if record.ending in _WARNED else 1
        if self._level > level:
            return
        line = self._access.line(self._clock(), LEVELS[level], record)
        if line is None or len(data := line.encode("utf-8", "replace")) > LINE_BYTES:
            self._emit(level, "request", fields_of(record))
        else:
            self._write(data)

    def _emit(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        try:
            line = self._line(self._clock(), level, event, fields)
        except (
            Exception
        ) as error:  # a str() that raises, a lone surrogate: the log must never fail its caller
            line = self._line(self._clock(), 3, "log", {"error": f"unwritable line: {type(error).__name__}"})
        self._write(line)

    def _write(self, line: bytes) -> None:
        if not self._sink.write(line):
            with self._lock:
                self.dropped += 1
                self._untold += 1
        elif self._untold:
            with self._lock:
                count, self._untold = self._untold, 0
            if not self._sink.write(self._line(self._clock(), 2, "log lines dropped", {"count": count})):
                with self._lock:
                    self._untold += count

    def _line(self, at: float, level: int, event: str, fields: Mapping[str, object]) -> bytes:
        names = list(fields)
        cleaned = clean_texts(self._redactor, list(fields.values()))
        if self._form == "json":
            return _json_line(at, level, event, dict(zip(names, cleaned, strict=True)), fields)
        parts = [stamp(at), LEVELS[level], event]
        parts += [f"{name}={quoted(text)}" for name, text in zip(names, cleaned, strict=True)]
        return _cut(" ".join(parts).encode("utf-8", "replace"))

    def go_on(self, sink: Sink, form: str) -> Callable[[], None]:
        """Writes there from now on. Returns what closes the sink that was used until now."""
        old = self._sink
        self._form = form if form in FORMS else "text"
        self._access = AccessLine(self._redactor, self._form)
        self._sink = sink
        return old.close

    def close(self) -> None:
        """Closes the sink; later lines are lost."""
        self._sink.close()


def redirect(log: Log, form: str, path: str, environ: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """The same log goes on in another file or form, as `open_log` would begin it. Returns what closes the old place: to
    be called when no thread can be in the middle of a line there. Raises OSError where the file cannot be opened; then
    nothing has changed."""
    place = _place(path, environ)
    sink: Sink = FileSink(place) if place else DescriptorSink()
    return log.go_on(sink, form or environ.get("CCM_LOG_FORMAT", "text"))


def open_log(
    redactor: Redactor,
    level: str = "info",
    form: str = "",
    path: str = "",
    environ: Mapping[str, str] = os.environ,
) -> Log:
    """The log of a process: into a rotating file (5 x 10 MB) or to standard error, as text or JSON.

    `form` and `path` are the configuration's; where it says nothing ("") $CCM_LOG_FORMAT and $CCM_LOG_FILE do. A file
    that cannot be opened is no reason not to run: the lines go to standard error, the first of them says why.
    """
    form = form or environ.get("CCM_LOG_FORMAT", "text")
    if path := _place(path, environ):
        try:
            return Log(FileSink(path), redactor, level, form)
        except OSError as error:
            log = Log(DescriptorSink(), redactor, level, form)
            log.warning("log file not usable, logging to standard error", file=path, error=error.strerror)
            return log
    return Log(DescriptorSink(), redactor, level, form)


def _place(path: str, environ: Mapping[str, str]) -> str:
    return os.path.expanduser(path or environ.get("CCM_LOG_FILE", ""))


def _json_line(
    at: float, level: int, event: str, cleaned: dict[str, str], fields: Mapping[str, object]
) -> bytes:
    """Numbers stay numbers; all other values are text. A line that is too long loses the ends of its longest texts."""
    values: dict[str, object] = {"at": stamp(at), "level": LEVELS[level], "event": event}
    for name, text in cleaned.items():
        raw = fields[name]
        values[name] = raw if isinstance(raw, (int, float)) and str(raw) == text else text
    limit = LINE_BYTES
    while True:
        data = json.dumps(values).encode("ascii")  # ASCII: every control and separator is escaped
        if len(data) < LINE_BYTES:
            return data + b"\n"
        limit //= 2
        values = {k: v[:limit] if isinstance(v, str) else v for k, v in values.items()}


def _cut(line: bytes) -> bytes:
    """One line within LINE_BYTES: the middle goes, since both ends of a traceback matter."""
    if len(line) < LINE_BYTES:
        return line + b"\n"
    half = LINE_BYTES // 2 - 20
    head = line[:half].decode("utf-8", "ignore").encode("utf-8")
    tail = line[-half:].decode("utf-8", "ignore").encode("utf-8")
    return head + b" [...cut...] " + tail + b"\n"
