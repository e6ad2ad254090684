"""Questions and answers by lines: at a terminal, over ssh, from a pipe. Numbers and words, no arrow keys, no colours.

A key is read without echo at a terminal; from a pipe, where answers are repeated so that a transcript can be read, a
key is not.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from typing import TypeVar

from ccm.cli.arguments import did_you_mean

Answer = TypeVar("Answer")
TRIES = 3


class Impossible(Exception):
    """The wizard cannot go on; the text says why and what to do."""


class Ended(Exception):
    """There are no more answers (end of file, Ctrl-D)."""


class Questions:
    """Asks on standard output and reads lines of a stream; `terminal` where a person types."""

    def __init__(self, stream: object, terminal: bool | None = None) -> None:
        self._readline: Callable[[], str] = stream.readline  # type: ignore[attr-defined]
        self.terminal = bool(stream.isatty()) if terminal is None else terminal  # type: ignore[attr-defined]

    def line(self, question: str) -> str:
        """One answer, "" for the default. Raises Ended."""
        answer = self._next(question)
        if not self.terminal:
            print(answer)
        return answer

    def secret(self, question: str) -> str:
        """A key. It is shown nowhere. Raises Ended."""
        if not self.terminal:
            answer = self._next(question)
            print("(not shown)")
            return answer
        try:
            return getpass.getpass(question).strip()
        except EOFError:
            print()
            raise Ended from None

    def yes(self, question: str, default: bool) -> bool:
        """Yes or no. Raises Ended, Impossible."""

        def understand(answer: str) -> bool | str:
            if not answer:
                return default
            word = answer.lower()
            if word in ("y", "yes", "j", "ja", "o", "oui", "s", "si", "1"):
                return True
            return False if word in ("n", "no", "nein", "non", "0") else f"{answer!r}: y or n"

        return bool(self.until(f"{question} [{'Y/n' if default else 'y/N'}] ", understand))

    def pick(self, title: str, options: Sequence[tuple[str, str]]) -> str:
        """One of the options' names, by number or name; "" takes the first. Raises Ended, Impossible."""
        print(f"\n{title}")
        for line in numbered(options):
            print(line)
        names = [name for name, _ in options]

        def understand(answer: str) -> tuple[str] | str:
            name = chosen(answer or "1", names)
            return (
                (name,)
                if name
                else f"{answer!r}: a number from 1 to {len(names)}, or a name{did_you_mean(answer, names)}"
            )

        return self.until("[1] > ", understand)[0]

    def until(self, question: str, understand: Callable[[str], Answer | str], secret: bool = False) -> Answer:
        """Asks until the answer is understood: `understand` gives a text that says what is wrong with it. Raises Ended,
        and Impossible after three misses."""
        for _ in range(TRIES):
            found = understand(self.secret(question) if secret else self.line(question))
            if not isinstance(found, str):
                return found
            print(f"  {found}")
        raise Impossible("no answer that could be understood; nothing was written")

    def _next(self, question: str) -> str:
        print(question, end="", flush=True)
        answer = self._readline()
        if not answer:
            print()
            raise Ended
        return answer.strip()


def numbered(options: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of a list: number, name, words; at most 80 columns where the words allow it."""
    width = max((len(name) for name, _ in options), default=0)
    return [
        f" {number:>2}  {name:<{width}}  {words}".rstrip() for number, (name, words) in enumerate(options, 1)
    ]


def chosen(answer: str, names: Sequence[str]) -> str:
    """The name that an answer means, by number or name; "" for none."""
    word = answer.strip().lower()
    if word.isascii() and word.isdigit():
        number = int(word[:6])
        return names[number - 1] if 1 <= number <= len(names) else ""
    return word if word in names else ""
