"""Key path -> line number in a TOML text. tomli says where a file breaks, never where a valid key stands; this does.

A scanner, not a parser: it trusts that tomli has accepted the text and only finds keys. It knows comments, the four
kinds of strings, headers, arrays of tables, dotted and quoted keys, inline tables and arrays over several lines.
It must never raise: a text it does not understand just has fewer lines to offer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ccm.late import regex

Path = tuple[str, ...]

_STRING = r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_SKIP = regex(r"[ \t\r\n]+|#[^\n]*")
_BLANK = regex(r"[ \t]+")
_VALUE = regex(rf"{_STRING}|[^\s,\[\]{{}}#\"']+|.", re.DOTALL)
_KEY = regex(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+')
_ESCAPE = regex(r'\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|["\\bfnrte])')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "e": "\x1b", '"': '"', "\\": "\\"}


class Lines:
    """The lines of every key and table of one text, 1-based. Elements of arrays of tables carry their index: "0"."""

    def __init__(self, text: str) -> None:
        self._found: dict[Path, int] = {}
        try:
            _Scanner(text, self._found).scan()
        except (IndexError, ValueError):  # pragma: no cover - a text tomli would have refused
            pass

    def of(self, path: Path) -> int | None:
        """The line of `path`, or of the nearest table around it; None when even that is not in the text."""
        while path:
            line = self._found.get(path)
            if line is not None:
                return line
            path = path[:-1]
        return None

    def known(self) -> Mapping[Path, int]:
        """Every path found, with its line."""
        return self._found


class _Scanner:
    def __init__(self, text: str, found: dict[Path, int]) -> None:
        self.text = text
        self.at = 0
        self.found = found
        self.arrays: dict[Path, int] = {}
        self._counted_to = 0
        self._line = 1

    def line(self) -> int:
        """The line of the current position; positions only grow, so counting is linear over the whole text."""
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line

    def scan(self) -> None:
        table: Path = ()
        while True:
            self.skip()
            if self.at >= len(self.text):
                return
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)

    def skip(self) -> None:
        """Over white space, line ends and comments."""
        while match := _SKIP.match(self.text, self.at):
            self.at = match.end()

    def blank(self) -> None:
        if match := _BLANK.match(self.text, self.at):
            self.at = match.end()

    def header(self) -> Path:
        line = self.line()
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        path = self.key()
        # Below an array of tables a header means its latest element.
        for n in range(len(path), 0, -1):
            if path[:n] in self.arrays and (n < len(path) or not many):
                path = (*path[:n], str(self.arrays[path[:n]]), *path[n:])
                break
        if many:
            index = self.arrays[path] = self.arrays.get(path, -1) + 1
            self.found.setdefault(path, line)
            path = (*path, str(index))
        self.note(path, line)
        self.at = self.text.find("]", self.at)
        if self.at < 0:
            raise ValueError
        self.at += 2 if many else 1
        return path

    def key(self) -> Path:
        parts: list[str] = []
        while True:
            self.blank()
            match = _KEY.match(self.text, self.at)
            if not match:
                raise ValueError
            parts.append(_unquote(match[0]))
            self.at = match.end()
            self.blank()
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def pair(self, table: Path) -> None:
        line = self.line()
        path = (*table, *self.key())
        self.note(path, line, len(table))
        if not self.text.startswith("=", self.at):
            raise ValueError
        self.at += 1
        self.blank()
        self.value(path)

    def value(self, path: Path) -> None:
        start = self.text[self.at]
        if start == "{":
            self.at += 1
            while True:
                self.skip()
                if self.text.startswith("}", self.at):
                    break
                if self.text.startswith(",", self.at):
                    self.at += 1
                else:
                    self.pair(path)
            self.at += 1
        elif start == "[":
            self.at += 1
            index = 0
            while True:
                self.skip()
                if self.text.startswith("]", self.at):
                    break
                if self.text.startswith(",", self.at):
                    self.at += 1
                    continue
                self.note((*path, str(index)), self.line())
                self.value((*path, str(index)))
                index += 1
            self.at += 1
        else:
            match = _VALUE.match(self.text, self.at)
            if not match:
                raise ValueError
            self.at = match.end()
            # A local date and time may hold one blank: "1979-05-27 07:32:00".
            if rest := re.match(r" \d\d:\d\d[\d:.Z+-]*", self.text[self.at : self.at + 40]):
                self.at += rest.end()

    def note(self, path: Path, line: int, after: int = 0) -> None:
        for n in range(after + 1, len(path) + 1):
            self.found.setdefault(path[:n], line)


def _unquote(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"':
        return key
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1]) or chr(int(m[1][1:], 16)), key[1:-1])
