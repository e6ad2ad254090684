"""`ccm run`: Claude Code, or another client, through ccm, in one command.

The ccm that runs is used where there is one; else one is started on a free port for as long as the client runs, with
its own control socket and log in a private directory that is gone afterwards. The client gets the environment of
`ccm env`, our terminal, our signals; its exit status is ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ccm.cli import clashes, client, door
from ccm.cli.arguments import FAILED, USAGE
from ccm.cli.client import Wish
from ccm.cli.door import Door
from ccm.cli.env import add_wishes, refusal
from ccm.cli.findings import PROBLEM
from ccm.cli.launch import Launched, NotStarted, launch
from ccm.config.load import home_of
from ccm.control.state import socket_path
from ccm.errors import ConfigError, ControlError
from ccm.observe.log import escape

NOT_FOUND, NOT_EXECUTABLE = 127, 126
CLAUDE = "claude"
# Where its installers put it, which is not always on the PATH.
_CLAUDE_PLACES = (".local/bin/claude", ".claude/local/claude", ".npm-global/bin/claude")
_INSTALL = """ccm: Claude Code is not installed here (there is no `claude` on the PATH). Install it:
  npm install -g @anthropic-ai/claude-code
or name another client: ccm run --command NAME"""
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_DESCRIPTION = """Runs Claude Code (or --command) with the environment that leads it through ccm. Uses the ccm that runs;
starts one on a free port, for as long as the client runs, where none does. Its exit status is the client's."""
_EPILOG = """examples:
  ccm run                                      Claude Code, interactive
  ccm run -- -p "what is in this folder?"      what stands behind -- is the client's
  ccm run --provider deepseek                  only this provider is asked
  ccm run --model openai/gpt-5.6               only this model
  ccm run --strategy cost                      whoever is cheapest for each request
  ccm run --command aider -- --model sonnet    another client: it gets OPENAI_BASE_URL and the like as well
  ccm run --demo -- -p hi                      with scripted providers; needs no key

exit codes: the client's own (128 + N where signal N ended it); 2 for wrong usage or a configuration that must not
run, 1 where ccm can't be started, 126 and 127 where the client can't be run or is not there"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ccm run` on its subparser; the client's own words come as `args.after`."""
    parser.usage = "ccm run [options] [-- words for the client]"
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "--command", metavar="NAME", dest="client", default=CLAUDE, help="what to run (default: claude)"
    )
    add_wishes(parser)
    parser.add_argument(
        "--project", metavar="NAME", help="count these requests under this name (default: this directory's)"
    )
    parser.add_argument("--own", action="store_true", help="start a ccm of its own, also where one runs")
    parser.add_argument("--demo", action="store_true", help="one of its own, with scripted providers")


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Runs the client; returns its exit status."""
    path = find_client(args.client, env)
    if path is None:
        print(
            _INSTALL if args.client == CLAUDE else f"ccm: there is no {args.client!r} on the PATH",
            file=sys.stderr,
        )
        return NOT_FOUND
    project = clashes.folder_here().name if args.project is None else args.project
    wish = Wish(args.provider, args.model, args.strategy, project, os.path.basename(args.client) != CLAUDE)
    words = [args.client, *args.after]
    own = args.own or args.demo or bool(args.config)
    try:
        status = None if own else door.running(socket_path(args.socket, env))
        if status is not None:
            return _with_running(door.of_running(status, env), path, words, wish, env)
        return _with_own(args, path, words, wish, env)
    except NotStarted as error:
        print(
            f"{escape_lines(str(error))}\nccm: it could not be started; `ccm doctor` may know why",
            file=sys.stderr,
        )
        return error.code
    except ConfigError as error:
        print(escape(str(error)), file=sys.stderr)
        return USAGE
    except ControlError as error:
        print(f"ccm: {escape(str(error))}", file=sys.stderr)
        return FAILED


def find_client(name: str, env: Mapping[str, str]) -> str | None:
    """The client's path: on the PATH, and for claude where its installers put it. None where it is not."""
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None and name == CLAUDE:
        places = (str(home_of(env) / place) for place in _CLAUDE_PLACES)
        found = next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), None)
    return found


def escape_lines(text: str) -> str:
    """A text of several lines, fit for a terminal."""
    return "\n".join(escape(line) for line in text.splitlines())


def _with_running(found: Door, path: str, words: list[str], wish: Wish, env: Mapping[str, str]) -> int:
    """The client in our place: nothing of ours is left that signals or the terminal could miss."""
    told = refusal(found, wish)
    if told:
        print(f"ccm run: {told}", file=sys.stderr)
        return USAGE
    _warn(found, wish, env)
    sys.stdout.flush()
    try:
        os.execve(path, words, client.applied(client.environment(found, wish, env), env))  # noqa: S606 - what was asked
    except OSError as error:
        return _not_run(path, error)


def _with_own(
    args: argparse.Namespace, path: str, words: list[str], wish: Wish, env: Mapping[str, str]
) -> int:
    try:
        with _own(args, env) as ours:
            address = str(ours.health["address"])
            status = {"address": address, "config": "", "demo": True}
            if args.demo:
                found = door.of_running(status, env)
            else:  # just read by our child; the door is the child's, not the file's
                asked = door.running(ours.socket) or status
                found = door.of_running(asked, env)
            told = refusal(found, wish)
            if told:
                print(f"ccm run: {told}", file=sys.stderr)
                return USAGE
            _warn(found, wish, env)
            code = _run_client(path, words, client.applied(client.environment(found, wish, env), env))
            if ours.process.poll() is not None:
                print(
                    f"ccm: the gateway ended before the client did:\n{escape_lines(ours.last_words())}",
                    file=sys.stderr,
                )
            return code
    except OSError as error:
        print(f"ccm: {error.filename or 'ccm'}: {error.strerror}", file=sys.stderr)
        return FAILED


_PLACE_CHARS = 70  # a longer TMPDIR leaves no room for a socket's name in the 100 bytes it may have


@contextmanager
def _own(args: argparse.Namespace, env: Mapping[str, str]) -> Iterator[Launched]:
    """A ccm for as long as this lasts. Raises NotStarted, OSError."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that nothing is left behind
        signal.signal(number, _leave)
    # ours alone (0700), and so short that a socket may have its path
    place = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="ccm-run-", dir=place if len(place) < _PLACE_CHARS else "/tmp"))  # noqa: S108
    options = ["--listen", "127.0.0.1:0"]
    options += ["--demo"] if args.demo else []
    options += ["--config", args.config] if args.config else []
    try:
        environment = {name: value for name, value in env.items() if name != "CCM_LOG_FILE"}
        ours = launch(options, environment, str(folder / "ccm.sock"), folder / "ccm.log", for_a_while=True)
        try:
            ours.wait_ready()
            yield ours
        finally:
            ours.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_client(path: str, words: list[str], env: Mapping[str, str]) -> int:
    """Runs it in our process group, so that the terminal's own signals reach it; those sent to us alone are handed on.
    Returns its exit status, 128 + N where signal N ended it."""
    waiting: list[int] = []  # signals that come before there is a client
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _frame: FrameType | None) -> None:
        if process is None:
            waiting.append(number)
        elif process.poll() is None:
            process.send_signal(number)

    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    before = {number: signal.signal(number, hand_on) for number in _PASSED_ON}
    for key in (signal.SIGINT, signal.SIGQUIT):  # a terminal sends these to the client as well
        before[key] = signal.signal(key, _nothing if at_terminal else hand_on)
    try:
        try:
            process = subprocess.Popen(words, executable=path, env=env)
        except OSError as error:
            return _not_run(path, error)
        for early in waiting:
            process.send_signal(early)
        code = process.wait()
        return 128 - code if code < 0 else code
    finally:
        for key, handler in before.items():
            signal.signal(key, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler, unlike SIG_IGN, is not inherited by the client."""


def _not_run(path: str, error: OSError) -> int:
    print(f"ccm: {path} can't be run: {error.strerror}", file=sys.stderr)
    return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def _warn(found: Door, wish: Wish, env: Mapping[str, str]) -> None:
    """Claude Code's settings overrule the environment: what would lead it past ccm is said before it covers the screen."""
    if found.problem:
        print(f"ccm: windows and caps are left out: {escape(found.problem)}", file=sys.stderr)
    if wish.other:
        return
    files = clashes.settings(env, home_of(env), clashes.folder_here())
    for finding in clashes.in_settings(files, found.url, found.token):
        if finding.level == PROBLEM:
            print(f"ccm: {escape(finding.text)}\n     {escape(finding.fix)}", file=sys.stderr)
