"""The one redactor: no key leaves ccm through a log line, an error text, a status answer or a metric.

It knows two things: the values that were registered (in plain, base64, URL-encoded and JSON-escaped form, also when
broken over lines) and the shapes that keys have. It must never raise and never show more of a key than its first six
and last four characters, and those only of keys of twenty characters and more.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from typing import Any

from ccm.late import regex
from ccm.model import Secret

MASK = "[redacted]"
_SHORTEST = 4  # shorter values are words of any text; masking them would only destroy it
_SHORT = 8  # below this a value is masked only where it stands alone
_SHOWN_FROM = 20  # from this length on the ends are shown, to tell two keys apart

# Where one of these does not stand in the (lower-case) text, none of the patterns below can match.
_HINTS = (
    "sk-", "bearer", "basic ", "aiza", "akia", "asia", "ya29.", "gsk_", "xai-", "ghp_", "hf_", "r8_", "pplx-", "nvapi-",
    "api-key", "api_key", "apikey", "authorization", "key=", "token=", "secret",
)  # fmt: skip
_B = r"(?<![A-Za-z0-9])"
_SHAPES = regex(
    r"(?:"
    rf"{_B}sk-[A-Za-z0-9_\-]{{8,}}"  # OpenAI, Anthropic, OpenRouter, DeepSeek
    rf"|{_B}AIza[A-Za-z0-9_\-]{{16,}}"  # Google
    rf"|{_B}(?:AKIA|ASIA)[A-Z0-9]{{12,}}"  # AWS access key ids
    rf"|{_B}ya29\.[A-Za-z0-9_\-]{{8,}}"  # Google OAuth
    rf"|{_B}(?:gsk_|ghp_|hf_|r8_|xai-|pplx-|nvapi-)[A-Za-z0-9_\-]{{8,}}"
    r")"
)
# A word that announces a key, then the key: the word stays, the value goes.
_NAMED = regex(
    r"(?i)((?:\b(?:x-|x-goog-)?api[-_]?key|\bauthorization|\baws_secret_access_key|\bclient_secret|\baccess_token)"
    r"[\\\"']{0,3}\s{0,4}[:=]\s{0,4}[\\\"']{0,3}(?:(?:bearer|basic)\s+)?|\b(?:bearer|basic)\s+|[?&](?:key|token)=)"
    r"([A-Za-z0-9._~+/=\-%]{6,})"
)
_ODD = regex(r"[^A-Za-z0-9._\-]")  # what could end a JSON text or a header must not come out of a mask
_BREAKS = regex(r"[\r\n]+[ \t]*")


def mask(value: str) -> str:
    """What may be shown of a key: `sk-ant...9f2c` from twenty characters on, else nothing of it."""
    if len(value) < _SHOWN_FROM:
        return MASK
    return _ODD.sub("*", value[:6]) + "..." + _ODD.sub("*", value[-4:])


class Redactor:
    """Cleans texts. `register` may be called from any thread at any time; `clean` takes no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: frozenset[str] = frozenset()
        self._forms: tuple[tuple[str, str], ...] = ()  # (what to look for, what to put there), longest first
        self._probes: tuple[
            str, ...
        ] = ()  # the forms that hold no other one: without any of these, there is none
        self._words: tuple[tuple[re.Pattern[str], str], ...] = ()
        self.generation = 0  # grows when a key becomes known: what was clean before may not be so now

    def register(self, value: str | Secret) -> None:
        """Makes a key known. Registering it again is free; keys are never forgotten (an old key is still a key)."""
        text = value.reveal() if isinstance(value, Secret) else value
        text = text.strip()
        if len(text) < _SHORTEST or text in self._values:
            return
        with self._lock:
            self._values = self._values | {text}
            if len(text) < _SHORT:
                word = regex(rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])")
                self._words = (*self._words, (word, MASK))
            else:
                known = dict(self._forms)
                mine = forms(text)
                known.update((form, mask(text)) for form in mine)
                self._forms = tuple(sorted(known.items(), key=lambda item: -len(item[0])))
                self._probes += tuple(form for form in mine if not any(o in form for o in mine if o != form))
            self.generation += 1

    def clean(self, text: str) -> str:
        """The text without keys. A text that holds none comes back as the same object."""
        for probe in self._probes:
            if probe in text:
                text = self._clean_forms(text)
                break
        for word, shown in self._words:
            text = word.sub(shown, text)
        if self._forms and ("\n" in text or "\r" in text):
            text = self._clean_broken(text)
        lower = text.lower()
        for hint in _HINTS:
            if hint in lower:
                text = _SHAPES.sub(_mask_match, text)
                return _NAMED.sub(_mask_named, text)
        return text

    def clean_json(self, value: Any) -> Any:
        """A JSON value whose texts are clean; names of members are left alone."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, dict):
            return {name: self.clean_json(member) for name, member in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clean_json(item) for item in value]
        return value

    def _clean_forms(self, text: str) -> str:
        for form, shown in self._forms:
            if form in text:
                text = text.replace(form, shown)
        return text

    def _clean_broken(self, text: str) -> str:
        """Finds forms with line breaks inside them: the text is read without its breaks, and cut where one matches."""
        joined = _BREAKS.sub("", text)
        for probe in self._probes:
            if probe in joined:
                break
        else:
            return text
        breaks = [(m.start(), m.end()) for m in _BREAKS.finditer(text)]
        for form, shown in self._forms:
            at = joined.find(form)
            while at >= 0:
                start, end = _place(breaks, at, False), _place(breaks, at + len(form), True)
                text = text[:start] + shown + text[end:]
                breaks = [(m.start(), m.end()) for m in _BREAKS.finditer(text)]
                joined = _BREAKS.sub("", text)
                at = joined.find(form)
        return text


def forms(value: str) -> set[str]:
    """Every spelling of a key that a text may hold: plain, JSON-escaped, URL-encoded, base64 at all three alignments
    (a key inside `user:key` or a JSON document that was encoded as a whole is still found)."""
    found = {
        value,
        urllib.parse.quote(value, safe=""),
        urllib.parse.quote(value),
        urllib.parse.quote_plus(value),
    }
    escaped = json.dumps(value)[1:-1]
    found |= {escaped, json.dumps(value, ensure_ascii=False)[1:-1], escaped.replace("/", "\\/")}
    raw = value.encode("utf-8", "surrogatepass")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found |= {encode(raw).decode("ascii"), encode(raw).decode("ascii").rstrip("=")}
        for lead in (0, 1, 2):
            text = encode(b"\0" * lead + raw).decode("ascii").rstrip("=")
            # the characters that hold bits of a neighbour are not ours: those of the lead, and the last, partial one
            first = (0, 2, 3)[lead]
            last = len(text) if (lead + len(raw)) % 3 == 0 else len(text) - 1
            found.add(text[first:last])
    return {form for form in found if len(form) >= _SHORT}


def _place(breaks: list[tuple[int, int]], at: int, ending: bool) -> int:
    """The index in the text with breaks of index `at` in the text without them."""
    for start, end in breaks:
        if start > at or (ending and start == at):
            break
        at += end - start
    return at


def _mask_match(match: re.Match[str]) -> str:
    return mask(match[0])


def _mask_named(match: re.Match[str]) -> str:
    value = match[2]
    # already masked ("sk-abc...wxyz", written by the line before), or a word of prose: "bearer token"
    if "..." in value or (value.isalpha() and value.islower() and len(value) < _SHOWN_FROM):
        return match[0]
    return match[1] + mask(value)
