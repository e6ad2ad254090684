"""`ccm service install | remove | show` (also `ccmctl service`): lets systemd or launchd run ccm for this user.

The unit is a template with this installation's real path in it. Where no service manager answers, the file is written
all the same and it is said what is missing. Nothing outside this user's home is touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from ccm.cli.arguments import FAILED, OK
from ccm.cli.bundled import Missing, program, template
from ccm.control.state import write_atomically
from ccm.shape import dataclass

LABEL = "dev.claude-code-mux.ccm"
_TIMEOUT_S = 100.0  # stopping drains
_DESCRIPTION = """Lets the service manager of this user run ccm: from every login on, again after a crash.

  ccm service install     writes the unit and starts it (--no-start: only writes it)
  ccm service remove      stops it and removes the unit
  ccm service show        prints the unit that would be written"""
_EPILOG = """Keys: a service does not see what your shell exports. Keep them in files (api_key_file) or commands (api_key_command),
or for systemd in ~/.claude-code-mux/environment (NAME=value lines, chmod 600).

files:
  ~/.config/systemd/user/ccm.service                   Linux
  ~/Library/LaunchAgents/dev.claude-code-mux.ccm.plist   macOS"""


class Impossible(Exception):
    """The command cannot be done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Manager:
    """A service manager: its template, where its unit stands below the home directory, and its commands, in order.

    A command that fails ends the list, unless it begins with "-" (as in systemd's own units)."""

    template: str
    place: str
    tool: str
    check: tuple[str, ...]
    load: tuple[str, ...]
    start: tuple[str, ...]
    stop: tuple[str, ...]
    unload: tuple[str, ...]
    missing: str


SYSTEMD = Manager(
    template="ccm.service",
    place=".config/systemd/user/ccm.service",
    tool="systemctl",
    check=("systemctl --user show-environment",),
    load=("systemctl --user daemon-reload",),
    start=("systemctl --user enable ccm.service", "systemctl --user restart ccm.service"),
    stop=("-systemctl --user disable --now ccm.service",),
    unload=("systemctl --user daemon-reload", "-systemctl --user reset-failed ccm.service"),
    missing="no systemd answers for this user here (a container? a shell without a login session?). Where one does: "
    "systemctl --user daemon-reload && systemctl --user enable --now ccm",
)
LAUNCHD = Manager(
    template=f"{LABEL}.plist",
    place=f"Library/LaunchAgents/{LABEL}.plist",
    tool="launchctl",
    check=("launchctl print gui/@UID@",),
    load=(),
    start=(f"-launchctl bootout gui/@UID@/{LABEL}", "launchctl bootstrap gui/@UID@ @UNIT@"),
    stop=(f"-launchctl bootout gui/@UID@/{LABEL}",),
    unload=(),
    missing="no launchd session answers for this user here. At the next login it takes the unit by itself",
)


def manager_of(platform: str) -> Manager:
    """The service manager of this kind of system."""
    return LAUNCHD if platform == "darwin" else SYSTEMD


def unit_text(manager: Manager, text: str, ccm: str, env: Mapping[str, str]) -> str:
    """The unit with this installation's paths, written as its format wants them. Raises Impossible."""
    if any(sign in ccm for sign in "\n\r\0"):
        raise Impossible(f"a unit cannot name a path like {ccm!r}")
    if manager is LAUNCHD:
        values = {
            "CCM": escape(ccm),
            "HOME": escape(env.get("HOME", "")),
            "PATH": escape(env.get("PATH", "")),
        }
    else:  # in a quoted word backslash, quote, percent and dollar have a meaning
        word = ccm
        for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
            word = word.replace(sign, written)
        values = {"CCM": word}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `ccm service` takes on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("action", choices=("install", "remove", "show"), help="what to do")
    parser.add_argument(
        "--no-start", action="store_true", help="install: write the unit, and leave it at that"
    )


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ, platform: str = sys.platform) -> int:
    """Does it; returns the exit code."""
    manager = manager_of(platform)
    unit = Path(env.get("HOME") or os.path.expanduser("~"), manager.place)
    try:
        if args.action == "remove":
            return _remove(manager, unit)
        text = unit_text(manager, template(manager.template), _program(), env)
        if args.action == "show":
            print(text, end="")
            return OK
        return _install(manager, unit, text, start=not args.no_start)
    except (Impossible, Missing) as error:
        print(f"ccm service: {error}", file=sys.stderr)
    except OSError as error:
        print(f"ccm service: {error.filename or unit}: {error.strerror}", file=sys.stderr)
    return FAILED


def _program() -> str:
    found = program()
    if not found:
        raise Impossible(
            "there is no ccm command beside this Python that a unit could name: install ccm first"
        )
    return found


def _install(manager: Manager, unit: Path, text: str, start: bool) -> int:
    made = [folder for folder in unit.parents if not folder.exists()]
    comment = "".join(f"# made for it: {folder}\n" for folder in made) if manager is SYSTEMD else ""
    if comment == "" and unit.exists():  # what was made at the first time is still ours
        comment = "".join(f"# made for it: {folder}\n" for folder in _made(unit))
    for folder in reversed(made):
        folder.mkdir(mode=0o755)
    write_atomically(str(unit), (text + comment).encode("utf-8"), 0o644)
    print(f"{unit} is written.")
    if not _there(manager, unit):
        print(f"ccm service: {manager.missing}.", file=sys.stderr)
        return OK if not start else FAILED
    for command in (*manager.load, *(manager.start if start else ())):
        _do(command, unit)
    print("ccm runs, and will after every login." if start else "It is known, and not started.")
    return OK


def _remove(manager: Manager, unit: Path) -> int:
    if not unit.exists():
        print(f"There is no {unit}.")
        return OK
    made, there = _made(unit), _there(manager, unit)
    for command in manager.stop if there else ():
        _do(command, unit)
    unit.unlink()
    links = (
        unit.parent / "default.target.wants" / unit.name
    )  # what `enable` made, if nobody could `disable` it
    if links.is_symlink():
        links.unlink()
    for folder in (links.parent, *made):
        try:
            folder.rmdir()
        except OSError:
            pass  # it holds something else
    for command in manager.unload if there else ():
        _do(command, unit)
    print(f"{unit} is removed.")
    return OK


def _made(unit: Path) -> list[Path]:
    """The directories that were made for the unit, the deepest first, as its last lines say."""
    lines = unit.read_text("utf-8").splitlines()
    mark = "# made for it: "
    return [Path(line[len(mark) :]) for line in lines if line.startswith(mark)]


def _there(manager: Manager, unit: Path) -> bool:
    """Whether the service manager answers this user."""
    if shutil.which(manager.tool) is None:
        return False
    return all(_call(_words(command, unit)).returncode == 0 for command in manager.check)


def _do(command: str, unit: Path) -> None:
    """Runs one of a manager's commands. Raises Impossible when it fails and may not."""
    words = _words(command.lstrip("-"), unit)
    done = _call(words)
    if done.returncode and not command.startswith("-"):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Impossible(f"`{' '.join(words)}` failed: {said[-1] if said else done.returncode}")


def _words(command: str, unit: Path) -> list[str]:
    places = {"@UNIT@": str(unit), "@UID@": str(os.getuid())}
    words = command.split(" ")
    return [_filled(word, places) for word in words]


def _filled(word: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
