"""The command lines' manners: usage errors that name what was meant, and no key on any command line."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

from ccm.late import regex

OK, FAILED, USAGE, NOT_RUNNING, PORT_IN_USE = 0, 1, 2, 3, 98
EXIT_CODES = """exit codes:
  0   done
  1   failed; standard error says why
  2   wrong usage, or a configuration that must not run
  3   ccm is not running
  98  the port is in use"""
# A command line is readable for everybody on the machine (/proc/PID/cmdline).
_SECRET_OPTION = regex(r"--?(?:api[-_]?key|key|token|auth[-_]?token|secret|password)(?:=.*)?\Z")
_CHOICE = regex(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """argparse, with did-you-mean and without abbreviated options (`--sock` today, ambiguous tomorrow)."""

    def __init__(self, **keywords: object) -> None:
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        keywords.setdefault("allow_abbrev", False)
        super().__init__(**keywords)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, what is near, where help is; exits with 2."""
        choice = _CHOICE.search(message)
        if choice:
            names = [name.strip(" '\"") for name in choice[2].split(",")]
            message = f"unknown: {choice[1]!r}{did_you_mean(choice[1], names)}; known: {', '.join(names)}"
        self.exit(USAGE, f"{self.prog}: {message}\n(`{self.prog} --help` shows everything)\n")


def did_you_mean(word: str, names: Sequence[str]) -> str:
    """` (did you mean status?)`, or nothing where nothing is near."""
    close = difflib.get_close_matches(word, names, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def refuse_secrets(prog: str, argv: Sequence[str]) -> bool:
    """Whether the command line holds an option for a key; then it has been said why that cannot be."""
    for word in argv:
        if _SECRET_OPTION.match(word):
            print(
                f"{prog}: {word.partition('=')[0]} is not taken: everybody on this machine can read a command line. "
                "Put keys into environment variables (api_key_env) or files (api_key_file).",
                file=sys.stderr,
            )
            return True
    return False
