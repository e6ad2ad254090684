"""`ccm-quickstart`: from the keys that are here to a commented configuration, in a few questions.

It finds keys in the environment, in files where people keep them, and servers on this machine (and shows only names),
asks which providers in which order, tests them if wanted, writes the configuration from the bundled template and says
how Claude Code finds ccm. Nothing is written before the last answer: Ctrl-C, or an end of the answers, leaves
everything as it was. Answers may come through a pipe, or as flags; with --yes the defaults hold.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli

from ccm.cli.arguments import FAILED, OK, USAGE, Parser, refuse_secrets
from ccm.cli.clashes import folder_here
from ccm.cli.wizard import sources
from ccm.cli.wizard.ask import Ended, Impossible, Questions
from ccm.cli.wizard.sources import Probe, local_servers, missing_options, tilde
from ccm.cli.wizard.talk import STRATEGY_WORDS, WISHES, Given, Plan, Talk
from ccm.cli.wizard.writing import Written, composed, rehearsed, template_text, write
from ccm.config.load import find_path, home_of
from ccm.config.schema import DEFAULT_LISTEN, DEFAULT_TOKEN
from ccm.control.client import ask as ask_ccm
from ccm.control.state import DIRECTORY, socket_path
from ccm.errors import ConfigError, ControlError

DEFAULT_FILE = Path("config", "ccm-config.toml")  # in the home directory
_TEST_S = 30.0
_EPILOG = """examples:
  ccm-quickstart                         ask, then write ~/config/ccm-config.toml
  ccm-quickstart --yes                   the same without questions
  printf '2 1\\nfailover\\n' | ccm-quickstart            answers from a pipe: the second provider, then the first
  ccm-quickstart --yes --provider openai --provider groq --strategy cheapest
  ccm-quickstart --yes --provider openai --key-command openai='pass show openai'
  ccm-quickstart --keys                  only show which keys are there (exit code 1: none)

exit codes:
  0   written (with --start: and running)
  1   nothing was written, or ccm did not start; standard error says why
  2   wrong usage
  130 Ctrl-C: nothing was written"""


def found_keys(environ: Mapping[str, str]) -> list[sources.Source]:
    """The providers whose key, and whatever else they need, is in the environment; in the catalogue's order."""
    return [s for s in sources.from_environment(environ) if not missing_options(s, environ)]


def run(
    argv: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    questions: Questions | None = None,
    probe: Probe = local_servers,
) -> int:
    """Runs one command line; returns its exit code."""
    if refuse_secrets("ccm-quickstart", argv):
        return USAGE
    parser = _parser()
    args = parser.parse_args(argv)
    if args.keys:
        found = found_keys(environ)
        for item in found:
            print(f"{item.row.name} {item.name}")
        return OK if found else FAILED
    given = Given(tuple(args.provider), args.strategy, _keys(parser, args, environ), args.use_files)
    ask = None if args.yes else questions or Questions(sys.stdin)
    try:
        return _configure(args, given, ask, environ, probe)
    except Ended:
        print("ccm-quickstart: the answers ended; nothing was written", file=sys.stderr)
        return FAILED
    except Impossible as error:
        print(f"ccm-quickstart: {error}", file=sys.stderr)
        return FAILED
    except ConfigError as error:  # what was composed must be right: a flag named something impossible
        print(f"ccm-quickstart: {error}; nothing was written", file=sys.stderr)
        return FAILED


def _parser() -> Parser:
    parser = Parser(prog="ccm-quickstart", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--yes", "-y", action="store_true", help="no questions: the flags, and the defaults")
    parser.add_argument(
        "--config", metavar="FILE", help="where to write it (default: where `ccm start` looks)"
    )
    parser.add_argument(
        "--provider", metavar="NAME", action="append", default=[], help="use this one; in order of preference"
    )
    parser.add_argument(
        "--strategy", metavar="S", default="", choices=(*WISHES, *STRATEGY_WORDS),
        help=f"{', '.join(WISHES)}, or {', '.join(STRATEGY_WORDS)}",
    )  # fmt: skip
    for way, what in (("env", "variable"), ("file", "file"), ("command", "command")):
        parser.add_argument(
            f"--key-{way}", metavar=f"NAME={what.upper()}", action="append", default=[],
            help=f"the {what} that holds a provider's key" if way != "command" else "the command that prints it",
        )  # fmt: skip
    parser.add_argument(
        "--use-files", action="store_true", help="copy keys from .env and Claude Code's settings"
    )
    parser.add_argument(
        "--test", action=argparse.BooleanOptionalAction, help="ask each provider one small question"
    )
    parser.add_argument("--start", action=argparse.BooleanOptionalAction, help="start ccm in the background")
    parser.add_argument(
        "--keys", action="store_true", help="only show which provider keys are in the environment"
    )
    return parser


def _keys(
    parser: Parser, args: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    """(provider, kind, value) of the --key-... flags; ends with usage where one is no NAME=VALUE."""
    found = []
    for option, kind in (
        ("key_env", sources.ENV),
        ("key_file", sources.FILE),
        ("key_command", sources.COMMAND),
    ):
        for text in getattr(args, option):
            name, _, value = text.partition("=")
            if not name or not value:
                parser.error(f"--{option.replace('_', '-')} {text!r}: NAME=... is wanted")
            absent = kind == sources.ENV and value not in environ
            found.append((name, sources.RC if absent else kind, value))
    return tuple(found)


def _configure(
    args: argparse.Namespace, given: Given, ask: Questions | None, environ: Mapping[str, str], probe: Probe
) -> int:
    home = home_of(environ)
    # a file that `ccm start` would take first must not stay in front of the new one
    named = args.config or environ.get("CCM_CONFIG")
    target = Path(named).expanduser() if named else find_path(None, environ, home) or home / DEFAULT_FILE
    if ask is not None and ask.terminal:
        print("ccm-quickstart: a configuration for ccm in a few questions.")
        print("Nothing is written before the last one; Ctrl-C leaves everything as it is.\n")
    template = template_text()
    plan = Talk(environ, home, folder_here(), ask, given, probe).plan()
    text = composed(plan, template)
    document = tomli.loads(text)
    at_terminal = ask is not None and ask.terminal
    test = args.test if args.test is not None else None if at_terminal else False
    if not _tested(plan, template, test, ask, environ):
        return FAILED
    if at_terminal and ask is not None and not _confirmed(plan, target, home, ask):
        print("nothing was written", file=sys.stderr)
        return FAILED
    path = socket_path(None, environ)
    start = _wants_start(
        args.start, path, ask if at_terminal else None
    )  # the last question: then nothing can interrupt
    try:
        written = write(plan, text, target, home)
    except OSError as error:
        print(f"ccm-quickstart: {target} cannot be written: {error.strerror}; nothing was", file=sys.stderr)
        return FAILED
    _say(written, plan, home)
    try:
        running = _start(Path(args.config) if args.config else None, path, environ, home) if start else None
    except KeyboardInterrupt:  # what is written is written
        running = None
    print(next_steps(document, args.config or "", running))
    if any(s.name == "ANTHROPIC_API_KEY" for s in plan.sources):
        print(_TRAP)
    return FAILED if running is False else OK


_TRAP = """
ANTHROPIC_API_KEY is your real key here: Claude Code would send it to ccm as
well. `ccm run` and `eval "$(ccm env)"` take it out there; or rename it to
CCM_ANTHROPIC_API_KEY, which only ccm reads."""


def _tested(
    plan: Plan, template: str, wanted: bool | None, ask: Questions | None, environ: Mapping[str, str]
) -> bool:
    """Whether to go on, after a test if it is wanted (None: asked for)."""
    count = sum(1 for source in plan.sources if source.testable)
    if count == 0 or wanted is False:
        return True
    one = "Ask it" if count == 1 else f"Ask each of the {count}"
    if (
        wanted is None
        and ask is not None
        and not ask.yes(f"\n{one} one small question, to see that it works?", True)
    ):
        return True
    from ccm.cli import try_out

    print()
    with rehearsed(plan, template) as config:
        asked = argparse.Namespace(
            config=str(config),
            names=[],
            tier=["sonnet"],
            demo=False,
            dry_run=False,
            timeout=_TEST_S,
            json=False,
        )
        good = try_out.run(asked, environ) == OK
    if good or ask is None or not ask.terminal:
        if not good:
            print("ccm-quickstart: not all of them work; nothing was written", file=sys.stderr)
        return good
    return ask.yes("\nNot all of them work. Go on all the same?", True)


def _confirmed(plan: Plan, target: Path, home: Path, ask: Questions) -> bool:
    names = ", ".join(source.row.name for source in plan.sources)
    print()
    print(textwrap.fill(f"{tilde(str(target), home)} gets: {names}; strategy {plan.strategy}.", 80))
    if target.exists():
        print("The file that is there is kept beside it.")
    for name in plan.kept:
        print(f"~/{sources.KEYS}/{name} gets the key, readable by you alone.")
    return ask.yes("Write it?", True)


def _say(written: Written, plan: Plan, home: Path) -> None:
    names = ", ".join(source.row.name for source in plan.sources)
    print(f"\n{written.config} is written:")
    print(
        textwrap.fill(f"{names}; strategy {plan.strategy}.", 78, initial_indent="  ", subsequent_indent="  ")
    )
    if written.backup:
        print(f"The old one is kept as {written.backup}.")
    for path in written.keys:
        print(f"{tilde(str(path), home)} holds a key, readable by you alone.")
    for source in plan.sources:
        if source.kind == sources.RC:
            print(f"{source.name} is not set in this shell: export it before ccm starts.")


def _runs(path: str) -> bool:
    try:
        ask_ccm(path, "GET", "/health")
    except ControlError:
        return False
    return True


def _wants_start(wanted: bool | None, path: str, ask: Questions | None) -> bool:
    """Whether ccm is to run with the new configuration: as the flag says, else asked for."""
    if wanted is not None or ask is None:
        return bool(wanted)
    if _runs(path):
        return ask.yes("A ccm is running. Let it take this configuration over?", True)
    return ask.yes("Start ccm then, in the background?", True)


def _start(config: Path | None, path: str, environ: Mapping[str, str], home: Path) -> bool:
    """Makes the running ccm read its configuration again, or starts one in the background; whether it went well."""
    from ccm.cli.launch import NotStarted, launch

    try:
        if _runs(path):
            print(ask_ccm(path, "POST", "/reload", timeout_s=_TEST_S)["text"])
            return True
        folder = home / DIRECTORY
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        started = launch(["--config", str(config)] if config else [], environ, path, folder / "ccm.log")
        health = started.wait_ready()
    except (NotStarted, ControlError, OSError) as error:
        print(f"ccm-quickstart: ccm does not start: {error}", file=sys.stderr)
        return False
    print(f"ccm runs at {health['address']}; `ccmctl status` shows it, `ccmctl stop` stops it.")
    return True


def next_steps(document: Mapping[str, Any], config: str, running: bool | None = None) -> str:
    """How to start ccm (where it does not run yet) and how Claude Code finds it."""
    proxy = document.get("proxy", {})
    listen, token = proxy.get("listen", DEFAULT_LISTEN), proxy.get("auth_token", DEFAULT_TOKEN)
    start = f"ccm start --config {shlex.quote(config)}" if config else "ccm start"
    first = "" if running else f"\nStart ccm:\n  {start}\n"
    return (
        f"{first}\nThen, where Claude Code runs:\n"
        f"  export ANTHROPIC_BASE_URL=http://{listen}\n  export ANTHROPIC_AUTH_TOKEN={token}\n  claude"
        "\n\n(or all of it in one: ccm run)"
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
