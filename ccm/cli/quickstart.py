"""`ccm-quickstart`: from keys in the environment to a commented configuration, in two questions.

It finds the provider keys that are there (and shows only the variables' names), asks which provider comes first and
how to choose, writes the configuration from the bundled template and says how Claude Code finds ccm. Nothing is
written before the last answer: Ctrl-C leaves everything as it was. Answers may come through a pipe; at its end, and
with --yes, the defaults hold.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli

import ccm
from ccm.catalog.rows import Row, bundled_rows
from ccm.cli.arguments import FAILED, OK, USAGE, Parser, refuse_secrets
from ccm.cli.template import Choice, compose
from ccm.config import secrets
from ccm.config.load import find_path, home_of
from ccm.config.schema import DEFAULT_LISTEN, DEFAULT_TOKEN
from ccm.control.state import write_atomically
from ccm.model import STRATEGIES

DEFAULT_FILE = Path("config", "ccm-config.toml")  # in the home directory
TEMPLATE = "ccm-config.toml.template"
_STRATEGY_WORDS = {
    "priority": "the first one, the others when it fails",
    "round-robin": "in turns",
    "weighted": "in turns, by weight",
    "latency": "whoever answers fastest",
    "cost": "whoever is cheapest for the request",
    "least-busy": "whoever has the least to do",
}
_EPILOG = """examples:
  ccm-quickstart                         ask, then write ~/config/ccm-config.toml
  ccm-quickstart --yes                   the same without questions
  printf '2\\n1\\n' | ccm-quickstart       the second provider first, the first strategy
  ccm-quickstart --keys                  only show which keys are there (exit code 1: none)"""

Ask = Callable[[str], str]  # question -> answer, "" for the default


class Impossible(Exception):
    """The wizard cannot go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """A provider that could be used now: its catalogue row and the variable that holds its key."""

    row: Row
    variable: str


def found_keys(environ: Mapping[str, str], rows: Mapping[str, Row] | None = None) -> list[Found]:
    """The providers whose key, and whatever else they need, is in the environment; in the catalogue's order.

    `ccm-proxy` is ccm's own token, set to reach ccm itself: no provider's key.
    """
    found = []
    for row in (bundled_rows() if rows is None else rows).values():
        key = secrets.from_environment(row.env, environ, DEFAULT_TOKEN)
        needs = all(
            not ways or any(way.startswith("=") or environ.get(way) for way in ways)
            for ways in row.options.values()
        )
        if key.secret is not None and needs and row.endpoints:
            found.append(Found(row, key.name))
    return found


def template_text() -> str:
    """The bundled template: beside the package in a checkout or a zipapp, else among the installed data files.
    Raises Impossible."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(ccm.__file__)))
    loader: Any = ccm.__loader__
    try:
        return str(loader.get_data(os.path.join(root, "templates", TEMPLATE)).decode("utf-8"))
    except OSError:
        pass
    try:
        for file in metadata.files("claude-code-mux") or ():
            if file.name == TEMPLATE:
                return Path(str(file.locate())).read_text("utf-8")
    except (metadata.PackageNotFoundError, OSError):
        pass
    raise Impossible(f"{TEMPLATE} is not where this installation should have it: install ccm again")


def reader(stream: Any) -> Ask:
    """Asks on standard output, reads a line of the stream; "" at its end."""

    def ask(question: str) -> str:
        print(question, end="", flush=True)
        line = stream.readline()
        if not stream.isatty():
            print(line.strip())  # so that the transcript of a piped run can be read
        return str(line).strip()

    return ask


def pick(ask: Ask | None, title: str, options: Sequence[tuple[str, str]]) -> str:
    """One of the options' names, chosen by number or name; "" takes the first, and so does nobody to
    ask (None) or nothing to choose from. Raises Impossible after three misses."""
    if ask is None or len(options) == 1:
        return options[0][0]
    print(title)
    for number, (name, words) in enumerate(options, 1):
        print(f"  {number}  {name:<14} {words}")
    names = [name for name, _ in options]
    for _ in range(3):
        answer = ask("[1] > ").lower()
        if not answer:
            return names[0]
        if answer in names:
            return answer
        if answer.isascii() and answer.isdigit() and 1 <= int(answer[:6]) <= len(names):
            return names[int(answer[:6]) - 1]
        print(f"  {answer!r}: a number from 1 to {len(names)}, or a name")
    raise Impossible("no answer that could be understood; nothing was written")


def wizard(environ: Mapping[str, str], ask: Ask | None) -> Choice:
    """The questions. Raises Impossible where no key is there."""
    found = found_keys(environ)
    if not found:
        known = [row.env[0] for row in bundled_rows().values() if row.env and row.auto][:6]
        raise Impossible(
            "no provider key is in the environment. Set one and come back, for example\n"
            f"  export {known[0]}=...\n"
            f"(ccm also knows {', '.join(known[1:])} and more), or see ccm work without one: ccm start --demo"
        )
    words = {item.row.name: f"{item.row.display}, key in {item.variable}" for item in found}
    # a key that commonly serves other tools comes last in the list, and is used only if it is asked for
    ranked = sorted(found, key=lambda item: not item.row.auto)
    first = pick(ask, "Which provider first?", [(item.row.name, words[item.row.name]) for item in ranked])
    used = [item for item in ranked if item.row.auto or item.row.name == first]
    strategy = STRATEGIES[0]
    if len(used) > 1:
        strategy = pick(ask, "How to choose?", [(name, _STRATEGY_WORDS[name]) for name in STRATEGIES])
    used.sort(key=lambda item: item.row.name != first)
    return Choice(tuple((item.row.name, item.variable) for item in used), strategy)


def write(target: Path, text: str) -> Path | None:
    """Writes the configuration (0600) and returns where the old one was kept, None where there was none."""
    backup = None
    if target.exists():
        old = target.read_bytes()
        if old == text.encode("utf-8"):
            return None
        backup = target.with_name(f"{target.name}.bak-{time.strftime('%Y%m%d-%H%M%S')}")
        write_atomically(str(backup), old)
    write_atomically(str(target), text.encode("utf-8"))
    return backup


def run(argv: Sequence[str], environ: Mapping[str, str] = os.environ, ask: Ask | None = None) -> int:
    """Runs one command line; returns its exit code."""
    if refuse_secrets("ccm-quickstart", argv):
        return USAGE
    parser = Parser(prog="ccm-quickstart", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--yes", "-y", action="store_true", help="no questions: the defaults")
    parser.add_argument(
        "--config", metavar="FILE", help="where to write it (default: where `ccm start` looks)"
    )
    parser.add_argument(
        "--keys", action="store_true", help="only show which provider keys are in the environment"
    )
    given = parser.parse_args(argv)
    if given.keys:
        found = found_keys(environ)
        for item in found:
            print(f"{item.row.name} {item.variable}")
        return OK if found else FAILED
    home = home_of(environ)
    # a file that `ccm start` would take first must not stay in front of the new one
    named = given.config or environ.get("CCM_CONFIG")
    target = Path(named).expanduser() if named else find_path(None, environ, home) or home / DEFAULT_FILE
    try:
        choice = wizard(environ, None if given.yes else ask or reader(sys.stdin))
        text = compose(template_text(), choice)
        document = tomli.loads(text)
        backup = write(target, text)
    except Impossible as error:
        print(f"ccm-quickstart: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"ccm-quickstart: {target} cannot be written: {error.strerror}", file=sys.stderr)
        return FAILED
    print(
        f"\n{target} is written: {', '.join(name for name, _ in choice.providers)}; strategy {choice.strategy}."
    )
    if backup:
        print(f"The old one is kept as {backup}.")
    print(next_steps(document, given.config or ""))
    return OK


def next_steps(document: Mapping[str, Any], config: str) -> str:
    """How to start ccm and how Claude Code finds it."""
    proxy = document.get("proxy", {})
    listen, token = proxy.get("listen", DEFAULT_LISTEN), proxy.get("auth_token", DEFAULT_TOKEN)
    start = f"ccm start --config {shlex.quote(config)}" if config else "ccm start"
    return (
        f"\nStart ccm:\n  {start}\n\nThen, where Claude Code runs:\n"
        f"  export ANTHROPIC_BASE_URL=http://{listen}\n  export ANTHROPIC_AUTH_TOKEN={token}\n  claude"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("\nnothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
