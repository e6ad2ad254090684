"""`ccmctl`: asks and steers a running ccm over its control socket. Starts fast: standard library only, imported late."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ccm import __version__
from ccm.cli import figures, handover, inquiry, manual, overview, render, views
from ccm.cli.arguments import EXIT_CODES, FAILED, NOT_RUNNING, OK, USAGE, Parser, refuse_secrets
from ccm.cli.command import Command, say_text
from ccm.control.client import NotRunning, ask
from ccm.control.state import socket_path
from ccm.errors import ControlError
from ccm.settings import CLASSES

SLOW_S = 30.0  # a reload may run the user's key commands
_SCRIPT_ONLY = ("start", "restart", "logs")

_DESCRIPTION = """Asks and steers the ccm that runs on this machine, over its control socket
(--socket, else $CCM_SOCKET, else ~/.claude-code-mux/ccm.sock). Every command takes --json; those that only read
also --watch SECONDS. `ccmctl COMMAND --help` has examples."""
_EPILOG = f"""examples:
  ccmctl status                      everything at a glance
  ccmctl switch openai               openai first, from the next request on, also after a restart
  ccmctl switch openai --for 30m     ... and back to the strategy after half an hour
  ccmctl switch --auto               the strategy decides again
  ccmctl requests -f                 where requests go, a line for each
  ccmctl explain last                why the last one went there
  ccmctl top                         everything, live
  ccmctl drill anthropic 529         what would happen if anthropic were overloaded
  ccmctl costs --by day --since 30d  what was spent, day by day (also where no ccm runs)
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
    parser.add_argument("--class", dest="request_class", metavar="CLASS", choices=CLASSES,
                        help=f"only for requests of one class: {', '.join(CLASSES)}")  # fmt: skip


def _switch_args(given: argparse.Namespace) -> dict[str, Any]:
    if given.auto == bool(given.name) or (given.auto and given.seconds):
        given.parser.error("say either a provider's NAME (and --for, if only for a while) or --auto")
    more = {"class": given.request_class} if given.request_class else {}
    if given.auto:
        return {"auto": True, **more}
    return {"name": given.name, **({"for": given.seconds} if given.seconds else {}), **more}


def _all_or_one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one provider only")


def _maybe_one(given: argparse.Namespace) -> dict[str, Any]:
    return {"name": given.name} if given.name else {}


def _prometheus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prometheus", action="store_true", help="Prometheus' text format")


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (20; at most 1000)")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with a line for each one as it ends"
    )


def _level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("level", metavar="LEVEL", help="debug, info, warning or error")


def _bodies_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE | off", nargs="?", help="where to; off ends it; nothing says what is on"
    )
    parser.add_argument(
        "--for", dest="seconds", metavar="DURATION", help="how long: 90s, 10m (default), at most 1h"
    )


def _bodies_args(given: argparse.Namespace) -> dict[str, Any]:
    if given.file in (None, "off"):
        return {"off": True} if given.file else {}
    path = os.path.abspath(os.path.expanduser(given.file))
    return {"path": path, **({"for": given.seconds} if given.seconds else {})}


def _now(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="do not wait for running requests")


COMMANDS = (
    Command("status", "everything at a glance", "GET", "/status", overview.status),
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
    Command("reload", "read the configuration again", "POST", "/reload", say_text, handover.reload_arguments,
            lambda given: {"dry_run": True} if given.dry_run else {}, timeout_s=SLOW_S),
    Command("handover", "let a new process take over, without losing a stream", "POST", "/handover", say_text,
            follow=handover.follow),
    Command("debug-bodies", "write prompts and answers into a file, for a while", "POST", "/debug-bodies", say_text,
            _bodies_arguments, _bodies_args),
    Command("log-level", "set the log level until the next start", "POST", "/log-level", say_text, _level,
            lambda given: {"level": given.level}),
    Command("health", "one word for a watchdog: ok, degraded or stopping", "GET", "/health",
            lambda answer, on: str(answer["status"])),
    Command("stop", "stop ccm, after the running requests", "POST", "/stop", say_text, _now,
            lambda given: {"drain": not given.now}),
    *inquiry.COMMANDS,
    *figures.COMMANDS,
)  # fmt: skip


def parser(only: str = "") -> Parser:
    """ccmctl's parser; `command` is set to the Command, or to None for `version` and `completions`. With the name of a
    command only that one gets its arguments: the others are just known by name."""
    top = Parser(prog="ccmctl", description=_DESCRIPTION, epilog=_EPILOG)
    top.add_argument("--socket", metavar="PATH", help="the control socket")
    top.add_argument("--version", action="version", version=f"ccmctl {__version__}")
    below = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, dest="word")
    for command in COMMANDS:
        if only not in ("", command.name):
            below.add_parser(command.name, help=command.help, add_help=False)
            continue
        one = _below(below, command.name, command.help, command.examples)
        command.arguments(one)
        one.set_defaults(command=command, parser=one)
        _common(one, watched=command.method == "GET" and command.runner is None)
    _common(_below(below, "version", "the versions of ccmctl and of the running ccm"))
    completions = _below(below, "completions", "what your shell offers after a Tab: bash, zsh or fish")
    if only in ("", "completions"):
        from ccm.cli.completions import arguments

        arguments(completions)
    completions.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the control socket")
    for name in ("version", "completions"):
        below.choices[name].set_defaults(command=None)
    return top


def _below(below: Any, name: str, help: str, examples: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    epilog = manual.examples(name, examples) + EXIT_CODES
    told = manual.description(name, help)
    one: argparse.ArgumentParser = below.add_parser(name, help=help, description=told, epilog=epilog)
    return one


def _common(one: argparse.ArgumentParser, watched: bool = False) -> None:
    one.add_argument("--json", action="store_true", help="the answer as JSON")
    one.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the control socket")
    if watched:
        one.add_argument("--watch", type=_interval, metavar="SECONDS", help="again every so many seconds")


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is out of range: from 0.1 to 86400 seconds")
    return seconds


def run(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit code. SystemExit where argparse ends it (help, usage)."""
    if list(argv) == ["--version"]:  # answered before any parser is built
        print(f"ccmctl {__version__}")
        return OK
    if refuse_secrets("ccmctl", argv):
        return USAGE
    if argv[:1] == ["restart"] and "--handover" in argv:  # what the script makes of it, too
        argv = ["handover", *(word for word in argv[1:] if word != "--handover")]
    if argv and argv[0] in _SCRIPT_ONLY:
        print(
            f"ccmctl: `{argv[0]}` belongs to the control script (templates/ccmctl.sh, installed as ~/bin/ccmctl); "
            "`ccm start` starts ccm in this terminal",
            file=sys.stderr,
        )
        return USAGE
    first = next((word for word in argv if not word.startswith("-")), "")
    known = {"version", "completions", *(command.name for command in COMMANDS)}
    given = parser(first if first in known and "--socket" not in argv else "").parse_args(argv)
    path = socket_path(given.socket)
    if given.word == "completions":
        from ccm.cli import completions

        return completions.run(given, path, ask, parser())
    if given.command is None:
        return _version(path, given.json)
    if getattr(given, "watch", None):
        from ccm.cli.follow import watch

        return watch(given.watch, lambda: _once(given, path))
    return _once(given, path)


def _once(given: argparse.Namespace, path: str) -> int:
    """Asks, and shows the answer."""
    command: Command = given.command
    try:
        if command.runner is not None:
            return command.runner(given, path, ask)
        if getattr(given, "follow", False):
            from ccm.cli.follow import requests

            return requests(given, path, ask)
        args = command.args(given)
        target, raw = command.path, given.json
        if getattr(given, "prometheus", False):
            target, raw = "/metrics.prom", False
        answer = _answer(command, path, target, given, args)
        if command.follow is not None:
            answer = command.follow(path, answer)
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
        print(json.dumps(answer, indent=None if getattr(given, "watch", None) else 2, ensure_ascii=False))
    else:
        print(command.show(answer, render.screen()))
    return OK


def _answer(
    command: Command, path: str, target: str, given: argparse.Namespace, args: Mapping[str, Any]
) -> Any:
    """What ccm answers; where none runs, the same from what it left on disk, if the command can do that."""
    if command.offline is not None and given.database:
        return command.offline(given, args)
    try:
        method = "POST" if "request" in args else command.method  # `explain --dry-run` brings one along
        return ask(path, method, target, args, command.timeout_s)
    except NotRunning as not_running:
        if command.offline is None:
            raise
        try:
            return command.offline(given, args)
        except ControlError as error:
            raise not_running if error.status == 404 else error from None


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
    words = sys.argv[1:] if argv is None else argv
    try:
        if argv is None and words[:1] and words[0] in (*_SCRIPT_ONLY, "service"):  # called as `ccmctl`
            from ccm.cli import bundled

            bundled.run_control_script(words)
        code = run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
