"""`ccmctl`: asks and steers a running ccm over its control socket. Starts fast: standard library only, imported late."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ccm import __version__
from ccm.cli import figures, render, views
from ccm.cli.arguments import EXIT_CODES, FAILED, NOT_RUNNING, OK, USAGE, Parser, refuse_secrets
from ccm.cli.command import Command, say_text
from ccm.control.client import NotRunning, ask
from ccm.control.state import socket_path
from ccm.errors import ControlError

SLOW_S = 30.0  # a reload may run the user's key commands
_SCRIPT_ONLY = ("start", "restart", "logs")

_DESCRIPTION = """Asks and steers the ccm that runs on this machine, over its control socket
(--socket, else $CCM_SOCKET, else ~/.claude-code-mux/ccm.sock). Every command takes --json."""
_EPILOG = f"""examples:
  ccmctl status                      everything at a glance
  ccmctl switch openai               openai first, from the next request on, also after a restart
  ccmctl switch openai --for 30m     ... and back to the strategy after half an hour
  ccmctl switch --auto               the strategy decides again
  ccmctl requests --limit 5          where the last requests went, and why
  ccmctl metrics --prometheus        for a scraper
  curl --unix-socket ~/.claude-code-mux/ccm.sock http://ccm/status      the same without ccmctl

{EXIT_CODES}"""


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a provider's name, as `ccmctl providers` shows it")


def _one(given: argparse.Namespace) -> dict[str, Any]:
    return {"name": given.name}


def _switch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the provider to put first")
    parser.add_argument("--auto", action="store_true", help="end a switch: the strategy decides again")
    parser.add_argument("--for", dest="seconds", metavar="DURATION", help="only so long: 90s, 30m, 2h, 1d")


def _switch_args(given: argparse.Namespace) -> dict[str, Any]:
    if given.auto == bool(given.name) or (given.auto and given.seconds):
        given.parser.error("say either a provider's NAME (and --for, if only for a while) or --auto")
    if given.auto:
        return {"auto": True}
    return {"name": given.name, **({"for": given.seconds} if given.seconds else {})}


def _all_or_one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one provider only")


def _maybe_one(given: argparse.Namespace) -> dict[str, Any]:
    return {"name": given.name} if given.name else {}


def _prometheus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prometheus", action="store_true", help="Prometheus' text format")


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (20; at most 200)")


def _level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("level", metavar="LEVEL", help="debug, info, warning or error")


def _now(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="do not wait for running requests")


COMMANDS = (
    Command("status", "everything at a glance", "GET", "/status", views.status),
    Command("providers", "the providers and their health", "GET", "/providers",
            lambda answer, on: views.providers(answer["providers"], on)),
    Command("switch", "put a provider first, or let the strategy decide", "POST", "/switch", say_text,
            _switch_arguments, _switch_args),
    Command("metrics", "figures since the start", "GET", "/metrics", views.metrics, _prometheus),
    Command("requests", "the last finished requests", "GET", "/requests",
            lambda answer, on: views.requests(answer["requests"], on), _limit, lambda given: {"limit": given.limit}),
    Command("enable", "use a provider again (ends disable and drain)", "POST", "/enable", say_text, _name, _one),
    Command("disable", "use a provider no more", "POST", "/disable", say_text, _name, _one),
    Command("drain", "send a provider no new requests", "POST", "/drain", say_text, _name, _one),
    Command("reset", "forget failures and cool-downs, of one provider or all", "POST", "/reset", say_text,
            _all_or_one, _maybe_one),
    Command("reload", "read the configuration again", "POST", "/reload", say_text, timeout_s=SLOW_S),
    Command("log-level", "set the log level until the next start", "POST", "/log-level", say_text, _level,
            lambda given: {"level": given.level}),
    Command("health", "one word for a watchdog: ok, degraded or stopping", "GET", "/health",
            lambda answer, on: str(answer["status"])),
    Command("stop", "stop ccm, after the running requests", "POST", "/stop", say_text, _now,
            lambda given: {"drain": not given.now}),
    *figures.COMMANDS,
)  # fmt: skip


def parser() -> Parser:
    """ccmctl's parser; `command` is set to the Command, or to None for `version`."""
    top = Parser(prog="ccmctl", description=_DESCRIPTION, epilog=_EPILOG)
    top.add_argument("--socket", metavar="PATH", help="the control socket")
    top.add_argument("--version", action="version", version=f"ccmctl {__version__}")
    below = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, dest="word")
    for command in COMMANDS:
        one = below.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(one)
        one.set_defaults(command=command, parser=one)
        _common(one)
    version = below.add_parser("version", help="the versions of ccmctl and of the running ccm")
    version.set_defaults(command=None)
    _common(version)
    return top


def _common(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="the answer as JSON")
    one.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the control socket")


def run(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit code. SystemExit where argparse ends it (help, usage)."""
    if refuse_secrets("ccmctl", argv):
        return USAGE
    if argv and argv[0] in _SCRIPT_ONLY:
        print(
            f"ccmctl: `{argv[0]}` belongs to the control script (templates/ccmctl.sh, installed as ~/bin/ccmctl); "
            "`ccm start` starts ccm in this terminal",
            file=sys.stderr,
        )
        return USAGE
    given = parser().parse_args(argv)
    path = socket_path(given.socket)
    if given.command is None:
        return _version(path, given.json)
    command: Command = given.command
    try:
        args = command.args(given)
        target, raw = command.path, given.json
        if getattr(given, "prometheus", False):
            target, raw = "/metrics.prom", False
        answer = ask(path, command.method, target, args, command.timeout_s)
    except NotRunning as error:
        print(
            f"ccmctl: {error}\nstart it with `ccm start`, or in the background with `ccmctl start`",
            file=sys.stderr,
        )
        return NOT_RUNNING
    except ControlError as error:
        print(f"ccmctl: {error}", file=sys.stderr)
        return FAILED
    if isinstance(answer, str):
        sys.stdout.write(answer)
    elif raw:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print(command.show(answer, render.screen()))
    return OK


def _version(path: str, as_json: bool) -> int:
    """Both versions; that no ccm runs is an answer, not a failure."""
    try:
        running: str | None = str(ask(path, "GET", "/health")["version"])
    except ControlError:
        running = None
    if as_json:
        print(json.dumps({"ccmctl": __version__, "ccm": running}))
    else:
        print(f"ccmctl {__version__}, " + (f"ccm {running} is running" if running else "no ccm is running"))
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point. A reader that stops reading (`| head`) and Ctrl-C are no faults."""
    try:
        code = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
