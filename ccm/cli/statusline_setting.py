"""Writes the status line into Claude Code's settings, and takes it out again: after asking, with a backup, and without
touching anything else in that file."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ccm.cli import statusline
from ccm.control.state import socket_path, write_atomically

OK, FAILED, USAGE = 0, 1, 2
NAME = "statusLine"


def main(argv: Sequence[str]) -> int:
    """`ccm statusline --install | --uninstall [--yes] [--settings FILE]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ccm statusline", usage=statusline.HELP, add_help=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--install", action="store_true")
    which.add_argument("--uninstall", action="store_true")
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--settings", default="")
    parser.add_argument("--socket", default="")
    given = parser.parse_args(list(argv))
    path = os.path.realpath(given.settings or settings_path())
    try:
        settings, mode = _read(path)
    except (OSError, ValueError) as error:
        print(f"ccm: {path}: {error}; nothing was changed", file=sys.stderr)
        return FAILED
    before = settings.get(NAME)
    wanted = setting(given.socket) if given.install else None
    if given.uninstall and not is_ours(before):
        print(f"ccm's status line is not in {path}" + ("; another one is, and stays" if before else ""))
        return OK
    if before == wanted:
        print(f"{path} has it already: nothing to do")
        return OK
    print(f"{path}:")
    for sign, value in (("-", before), ("+", wanted)):
        if value is not None:
            print(f"  {sign} {json.dumps({NAME: value}, ensure_ascii=False)[1:-1]}")
    if before is not None and not is_ours(before):
        print("  (that is a status line of your own: it is replaced, and kept in the backup)")
    if not given.yes and not _agreed():
        print("nothing was changed (--yes does it without asking)")
        return FAILED
    if wanted is None:
        del settings[NAME]
    else:
        settings[NAME] = wanted
    try:
        backup = _backup(path)
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode("utf-8", "surrogateescape"), mode)
    except OSError as error:
        print(f"ccm: {path}: {error.strerror}; nothing was changed", file=sys.stderr)
        return FAILED
    print("done" + (f"; the file as it was: {backup}" if backup else ""))
    return OK


def settings_path(environ: Mapping[str, str] = os.environ) -> str:
    """Claude Code's user settings: settings.json in $CLAUDE_CONFIG_DIR, else in ~/.claude."""
    directory = environ.get("CLAUDE_CONFIG_DIR") or os.path.expanduser("~/.claude")
    return os.path.join(directory, "settings.json")


def setting(socket: str = "", environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The setting: the status line as a script of this very interpreter, without its site module; from an archive,
    where there is no such file, `ccm statusline`. A socket elsewhere is written into it: Claude Code's environment is
    not this one."""
    script = os.path.abspath(statusline.__file__)
    if os.path.isfile(script):
        words = [sys.executable, "-I", "-S", script]
    else:
        words = [os.path.abspath(sys.argv[0]), "statusline"]
    if socket or environ.get("CCM_SOCKET"):
        words += ["--socket", socket_path(socket or None, environ)]
    return {"type": "command", "command": shlex.join(words), "padding": 0}


def is_ours(value: object) -> bool:
    """Whether a `statusLine` setting runs this program."""
    command = value.get("command") if isinstance(value, dict) else None
    if not isinstance(command, str):
        return False
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    named = [word.replace(os.sep, "/") for word in words]
    return any(word.endswith("ccm/cli/statusline.py") for word in named) or (
        len(named) > 1 and named[1] == "statusline" and os.path.basename(named[0]).startswith("ccm")
    )


def _read(path: str) -> tuple[dict[str, Any], int]:
    """(the settings, the file's mode). ValueError for what is no JSON object; a missing file is an empty one."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except FileNotFoundError:
        return {}, 0o600
    try:
        settings = json.loads(data.decode("utf-8-sig")) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ValueError("not a JSON object")
    return settings, mode


def _backup(path: str) -> str:
    """Copies the file beside itself; "" where there is none. Raises OSError."""
    try:
        with open(path, "rb") as file:
            data, mode = file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError:
        return ""
    name = f"{path}.before-ccm-{time.strftime('%Y%m%d-%H%M%S')}"
    write_atomically(name, data, mode)
    return name


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("Change it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
