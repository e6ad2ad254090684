"""The access line: what the log says of one finished request, made in a few microseconds.

Most of a line is texts that come again and again (names, route, ending): they are redacted, escaped and quoted once and
kept, until a new key becomes known; only the figures are written anew. A line with text of its own (an error) is not
made here but by the log, from `fields_of`, which gives the same fields in the same order.
"""

from __future__ import annotations

import json
import re
import time

from ccm.late import regex
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor

MAX_KNOWN = 512
# C0, DEL and C1, line separators, direction overrides, lone surrogates: whatever could break or forge a line
_UNSAFE = regex("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BARE = regex(r"[^\s\"'=\\]+\Z")
_ID = regex(r"[A-Za-z0-9_\-]{1,64}\Z")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SEPARATOR = "\x00"
# Who ended a request that ended so; the phase is told by how far it had come.
_ENDED_BY = {
    "complete": "provider",
    "failed": "provider",
    "broken": "provider",
    "client_gone": "client",
    "refused": "ccm",
    "stopped": "ccm",
}


def escape(text: str) -> str:
    """The text with every control character written out (`\\x1b`, `\\n`, `\\u202e`): safe for a line and a terminal."""
    if text.isprintable() or _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return _ESCAPES.get(char) or (f"\\x{ord(char):02x}" if char < "\x80" else f"\\u{ord(char):04x}")


def quoted(text: str) -> str:
    """Bare where nothing could be misread, else in double quotes with quotes and backslashes escaped."""
    if _BARE.match(text) is not None:
        return escape(text)
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def clean_texts(redactor: Redactor, values: list[object]) -> list[str]:
    """The values as texts without keys. One pass of the redactor over all of them: the separator is in no pattern, so
    that they come apart again; where they do not, each is cleaned by itself."""
    texts = [str(value).replace(_SEPARATOR, "\\x00") for value in values]
    cleaned = redactor.clean(_SEPARATOR.join(texts)).split(_SEPARATOR)
    if len(cleaned) != len(texts):
        cleaned = [redactor.clean(text) for text in texts]
    return cleaned


_stamp_cache: tuple[int, str] = (-1, "")


def stamp(at: float) -> str:
    """UTC with milliseconds: `2026-11-22T14:31:56.123Z`. The part down to the second is made once a second."""
    global _stamp_cache  # noqa: PLW0603 - one tuple, swapped whole
    millis = int(at * 1000)
    second = millis // 1000
    known, text = _stamp_cache
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _stamp_cache = (second, text)
    return f"{text}{millis % 1000:03d}Z"


def fields_of(record: RequestRecord) -> dict[str, object]:
    """What the access line says of a request, in its order; empty things are left out. Times in ms."""
    fields: dict[str, object] = {"id": record.id, **_names_of(record)}
    fields |= _figures_of(record)
    if record.warned:
        fields["budget"] = "; ".join(record.warned)
    if record.error:
        fields["error"] = record.error
    return fields


def phase_of(record: RequestRecord) -> str:
    """How far a request had come when it ended: request (nothing was asked yet) | waiting (for the first content) |
    stream or answer (that had begun) | end."""
    if record.ending == "complete":
        return "end"
    if record.first_content_s is not None:
        return "stream" if record.stream else "answer"
    return "waiting" if record.attempts else "request"


def _attempts_text(record: RequestRecord) -> str:
    return ",".join([f"{attempt.endpoint}={attempt.result}" for attempt in record.attempts])


def _names_of(record: RequestRecord) -> dict[str, object]:
    every: dict[str, object] = {
        "status": record.status,
        "ending": record.ending,
        "by": _ENDED_BY.get(record.ending, ""),
        "phase": phase_of(record),
        "surface": record.surface,
        "stream": "yes" if record.stream else "no",
        "class": "" if record.request_class == "default" else record.request_class,
        "project": record.project,
        "asked": record.asked_model,
        "provider": record.endpoint or record.provider,
        "model": record.model,
        "route": record.route,
        "attempts": _attempts_text(record),
        "stop": record.stop_reason or "",
        "lost": ",".join(record.losses),
    }
    return {name: value for name, value in every.items() if value != ""}


def _figures_of(record: RequestRecord) -> dict[str, object]:
    """Numbers, and texts of digits only: nothing in here has to be cleaned."""
    figures: dict[str, object] = {}
    if len(record.attempts) > 1:
        figures["attempts_ms"] = ",".join([str(round(attempt.seconds * 1000)) for attempt in record.attempts])
    if record.first_content_s is not None:
        figures["first_ms"] = round(record.first_content_s * 1000)
    if record.longest_gap_s is not None:
        figures["gap_ms"] = round(record.longest_gap_s * 1000)
    figures["total_ms"] = round(record.total_s * 1000)
    usage = record.usage
    if usage.input:
        figures["in"] = usage.input
    if usage.cache_read:
        figures["cached"] = usage.cache_read
    if written := usage.cache_write_5m + usage.cache_write_1h:
        figures["written"] = written
    if usage.output:
        figures["out"] = usage.output
    if usage.estimated:
        figures["estimated"] = "yes"
    if record.cost_usd is not None:
        figures["usd"] = round(record.cost_usd, 6)
    elif figures.get("out") or figures.get("in"):
        figures["usd"] = "unknown"
    return figures


def _figures_text(record: RequestRecord) -> str:
    """` name=value` of `_figures_of`, without a dictionary on the way: this is written for every request."""
    first, gap, cost, usage = record.first_content_s, record.longest_gap_s, record.cost_usd, record.usage
    text = "" if first is None else f" first_ms={round(first * 1000)}"
    if len(record.attempts) > 1:
        text = f" attempts_ms={','.join([str(round(a.seconds * 1000)) for a in record.attempts])}{text}"
    if gap is not None:
        text = f"{text} gap_ms={round(gap * 1000)}"
    sent, got, cached = usage.input, usage.output, usage.cache_read
    written = usage.cache_write_5m + usage.cache_write_1h
    if sent and got and cost is not None and not cached and not written and not usage.estimated:
        return f"{text} total_ms={round(record.total_s * 1000)} in={sent} out={got} usd={_usd(cost)}"
    text = f"{text} total_ms={round(record.total_s * 1000)}"
    if sent:
        text += f" in={sent}"
    if cached:
        text += f" cached={cached}"
    if written:
        text += f" written={written}"
    if got:
        text += f" out={got}"
    if usage.estimated:
        text += " estimated=yes"
    if cost is not None:
        return f"{text} usd={_usd(cost)}"
    return text + " usd=unknown" if sent or got else text


def _usd(cost: float) -> str:
    """`str(round(cost, 6))`, for three times less where that has no exponent."""
    if not 0.0001 <= cost < 1e6:
        return str(round(cost, 6))
    text = f"{cost:.6f}"
    if text[-1] != "0":
        return text
    text = text.rstrip("0")
    return text + "0" if text[-1] == "." else text


class AccessLine:
    """Makes access lines in one form ("text" | "json"). Any thread may call `line` at any time."""

    def __init__(self, redactor: Redactor, form: str) -> None:
        self._redactor = redactor
        self._json = form == "json"
        self._generation = -1
        self._known: dict[tuple[object, ...], str] = {}

    def line(self, at: float, level: str, record: RequestRecord) -> str | None:
        """The line with its newline; None for one that has to be made the long way."""
        id = record.id
        if (
            record.error
            or record.warned
            or not ((id.isascii() and id.isidentifier() and len(id) <= 64) or _ID.match(id))
        ):
            return None
        attempts, losses = record.attempts, record.losses
        if len(attempts) == 1:
            tried: object = (attempts[0].endpoint, attempts[0].result)
        else:
            tried = _attempts_text(record)
        key = (
            record.status, record.ending, record.surface, record.stream, record.request_class, record.project,
            record.asked_model, record.endpoint, record.provider, record.model, record.route, tried,
            record.stop_reason, ",".join(losses) if losses else "", record.first_content_s is None,
        )  # fmt: skip
        if self._generation != (generation := self._redactor.generation):
            self._known = {}  # a key became known: what was kept may show it
            self._generation = generation
        names = self._known.get(key)
        if names is None:
            known = self._known
            names = self._names(_names_of(record))
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[key] = names
        if self._json:
            figures = "".join(
                [
                    f', "{name}": {value}' if type(value) is not str else f', "{name}": "{value}"'
                    for name, value in _figures_of(record).items()
                ]
            )
            return (
                f'{{"at": "{stamp(at)}", "level": "{level}", "event": "request", '
                f'"id": "{id}", {names}{figures}}}\n'
            )
        return f"{stamp(at)} {level} request id={id} {names}{_figures_text(record)}\n"

    def _names(self, fields: dict[str, object]) -> str:
        texts = clean_texts(self._redactor, list(fields.values()))
        if self._json:
            return json.dumps({"status": fields.pop("status"), **dict(zip(fields, texts[1:], strict=True))})[
                1:-1
            ]
        return " ".join([f"{name}={quoted(text)}" for name, text in zip(fields, texts, strict=True)])
