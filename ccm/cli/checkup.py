"""What `ccm doctor` looks at on this machine: configuration, keys, the running ccm, port, files, limits. Nothing here
asks a provider; key commands are run only where it is said so. Every function returns findings and never raises."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccm import __version__
from ccm.cli import door, health, render
from ccm.cli.findings import NOTE, OK, PROBLEM, WARNING, Finding
from ccm.config import commands, load
from ccm.control.state import DIRECTORY, socket_path
from ccm.errors import ConfigError, ControlError
from ccm.model import Problem, Provider, Snapshot
from ccm.shape import replace

_LOW_BYTES, _FULL_BYTES = 200 * 1024 * 1024, 10 * 1024 * 1024
_FEW_FILES, _VERY_FEW_FILES = 4096, 512
_BAD_STATES = ("open", "key rejected")


def configuration(
    config: str | None, env: Mapping[str, str], home: Path
) -> tuple[Snapshot | None, list[Finding]]:
    """The snapshot that `ccm start` would run with, None where it would not start."""
    topic = "configuration"
    try:
        path = load.find_path(config, env, home)
        snapshot = load.read(config, env)
        load.book(snapshot)
    except ConfigError as error:
        return None, [Finding(PROBLEM, topic, _told(problem), problem.fix) for problem in error.problems]
    usable = len({endpoint.provider.name for endpoint in snapshot.endpoints})
    providers = f"{len(snapshot.providers)} provider{_s(len(snapshot.providers))}, {usable} with a key"
    where = str(path) if path else "no file: the keys found in the environment"
    found = [Finding(OK, topic, f"{where}: {providers}, strategy {snapshot.strategy}")]
    for warning in snapshot.warnings:
        switched_off = warning.text == "is switched off"
        found.append(Finding(NOTE if switched_off else WARNING, topic, _told(warning), warning.fix))
    return snapshot, found


def keys(snapshot: Snapshot, env: Mapping[str, str], run_commands: bool) -> Iterator[Finding]:
    """Where the keys are, one finding for each enabled provider; never what they are."""
    faults = (
        {fault.key.split(".")[1]: fault for fault in commands.failing(snapshot, env)} if run_commands else {}
    )
    for provider in snapshot.providers.values():
        if not provider.enabled:
            continue
        fault = faults.get(provider.name)
        if fault is not None:
            yield Finding(PROBLEM, "keys", f"{provider.name}: {fault.text}", fault.fix)
            continue
        there = [_place(key.kind, key.name, run_commands) for key in provider.keys if not key.problem]
        missing = [key.problem for key in provider.keys if key.problem]
        if there:
            lacks = f"; {len(missing)} of {len(provider.keys)} missing" if missing else ""
            yield Finding(OK, "keys", f"{provider.name}: {', '.join(there)}{lacks}")
        else:
            yield Finding(
                WARNING, "keys", f"{provider.name}: no key ({'; '.join(missing)})", "see configuration"
            )


def _place(kind: str, name: str, ran: bool) -> str:
    if kind == "command":
        return f"command {name}" + (", gives a key" if ran else ", not run (--online runs it)")
    if kind == "none":
        return name or "needs none"
    return f"{'file' if kind == 'file' else 'variable'} {name}"


def gateway(path: str, snapshot: Snapshot | None) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The running ccm's own account of itself (None where none runs), with what is wrong with it; else whether its
    socket and port are free for it."""
    topic = "gateway"
    try:
        status = door.running(path)
    except ControlError as error:
        return None, [Finding(PROBLEM, topic, str(error), "ccmctl logs; kill that process if it hangs")]
    if status is not None:
        found = list(_running(status))
        path, mine = str(status.get("config") or ""), snapshot.path if snapshot is not None else ""
        if path and mine and os.path.realpath(path) != os.path.realpath(mine):
            told = f"it runs with {path}; from here `ccm start` would take {mine}"
            found.append(Finding(NOTE, topic, told, "edit the one that runs, or restart it with the other"))
        return status, found
    found = []
    if os.path.exists(path):
        told = f"{path} is left over from a ccm that is gone"
        found.append(Finding(NOTE, topic, told, "nothing: the next `ccm start` replaces it"))
    found.append(Finding(NOTE, topic, "ccm is not running", "ccmctl start, or ccm start"))
    if snapshot is not None:
        found.append(_port(snapshot))
    return None, found


def elsewhere(found: Sequence[Finding], status: Mapping[str, Any] | None) -> list[Finding]:
    """Findings on the configuration, given the running ccm's account: keys that are missing in this environment are no
    problem while one runs that has them in its own (a service)."""
    if status is None or status.get("health") != "ok":
        return list(found)
    return [
        replace(f, level=WARNING, fix="nothing while ccm runs: it has its keys; else " + f.fix)
        if f.level == PROBLEM and f.text.endswith((" is set", " is not set"))
        else f
        for f in found
    ]


def left_over(home: Path, status: Mapping[str, Any] | None) -> Iterator[Finding]:
    """A pid file whose process is gone, or is somebody else by now."""
    path = home / DIRECTORY / "ccm.pid"
    try:
        pid = int(path.read_text("ascii").split()[0])
        os.kill(max(1, pid), 0)
        what = "" if status is not None else "is not a ccm that answers"
    except ProcessLookupError:
        what = "is gone"
    except PermissionError:
        what = "belongs to another user"
    except (OSError, ValueError, IndexError, OverflowError):
        return
    if what:
        fix = "nothing: `ccmctl start` writes it anew; look at the process if ccm should be running"
        yield Finding(NOTE, "gateway", f"{path} names process {pid}, which {what}", fix)


def _running(status: Mapping[str, Any]) -> Iterator[Finding]:
    topic = "gateway"
    word = str(status.get("health", ""))
    up = render.duration(float(status.get("uptime_s") or 0))
    told = f"ccm {status.get('version')} answers at {status.get('address')}, up {up}: {word}"
    if word == "ok":
        yield Finding(OK, topic, told)
    elif word == "stopping":
        yield Finding(WARNING, topic, told, "wait until it has stopped, then ccmctl start")
    else:
        yield Finding(
            PROBLEM, topic, f"{told}: no provider can be asked now", "see below; `ccm test` tries them all"
        )
    if status.get("version") != __version__:
        told = f"ccm {status.get('version')} runs, this is ccm {__version__}"
        yield Finding(WARNING, topic, told, "ccmctl restart")
    for row in status.get("providers") or ():
        state = str(row.get("state", ""))
        reason = f" ({row['reason']})" if row.get("reason") else ""
        if state in _BAD_STATES:
            fix = f"ccm test {row['name']}, then ccmctl reset {row['name']}"
            yield Finding(WARNING, topic, f"{row['name']} is {state}{reason}", fix)
        elif state not in ("ready", "recovering", "disabled"):
            yield Finding(NOTE, topic, f"{row['name']}: {state}{reason}")
    for failure in status.get("failures") or ():
        when = render.clock(float(failure.get("at") or 0))
        yield Finding(NOTE, "last errors", f"{when} {failure.get('status', '')} {failure.get('text', '')}")


def _port(snapshot: Snapshot) -> Finding:
    """Whether the port that ccm would listen on is free."""
    address = f"{snapshot.host}:{snapshot.port}"
    if snapshot.port == 0:
        return Finding(OK, "port", "a free one is taken (port 0)")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(snapshot.host, snapshot.host)  # noqa: S104 - compared only
    try:
        with socket.create_connection((host, snapshot.port), timeout=0.5):
            pass
    except ConnectionRefusedError:
        return Finding(OK, "port", f"{address} is free")
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return Finding(
                PROBLEM, "port", f"{snapshot.host} is no address of this machine", "correct [proxy] listen"
            )
        return Finding(NOTE, "port", f"{address}: {error.strerror or error}")
    try:
        word = health.over_http(f"http://{host}:{snapshot.port}")
    except (OSError, ValueError, ArithmeticError):
        word = ""
    who = "another ccm (of another user, or with another socket)" if word else "another program"
    fix = "stop that one, or choose another port with [proxy] listen (and `ccm env` again)"
    return Finding(PROBLEM, "port", f"{address} is taken by {who}", fix)


def files(env: Mapping[str, str], home: Path, snapshot: Snapshot | None) -> Iterator[Finding]:
    """Modes and owners of what ccm keeps, and the room there is for it."""
    folder = home / DIRECTORY
    checked = [folder, *(folder / name for name in ("state.json", "usage.db", "ccm.log", "ccm.pid"))]
    checked += sorted((folder / "keys").glob("*")) if (folder / "keys").is_dir() else []
    checked += [Path(snapshot.path)] if snapshot is not None and snapshot.path else []
    bad = [finding for path in checked if (finding := _mode(path)) is not None]
    yield from bad
    if not bad:
        yield Finding(
            OK, "files", f"{folder}: {'nobody else can read it' if folder.is_dir() else 'not there yet'}"
        )
    room = folder if folder.is_dir() else home
    if not os.access(room, os.W_OK):
        told = f"{room} can't be written: switches, usage and the control socket need it"
        yield Finding(
            PROBLEM, "files", told, f"make it writable, or set CCM_SOCKET (now {socket_path(None, env)})"
        )
    try:
        free = shutil.disk_usage(room).free
    except OSError as error:
        yield Finding(PROBLEM, "disk", f"{room}: {error.strerror}", "set HOME to a directory that exists")
        return
    told = f"{render.count(free)}B free at {room}"
    if free < _FULL_BYTES:
        yield Finding(PROBLEM, "disk", told, "make room: nothing can be remembered")
    else:
        yield Finding(
            WARNING if free < _LOW_BYTES else OK, "disk", told, "make room" if free < _LOW_BYTES else ""
        )


def _mode(path: Path) -> Finding | None:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISLNK(info.st_mode):
        return None
    mine = info.st_uid in (os.geteuid(), 0)
    if not mine:
        return Finding(WARNING, "files", f"{path} belongs to another user", f"chown it to yourself: {path}")
    secret = path.parent.name == "keys"
    wide = stat.S_IMODE(info.st_mode) & (0o077 if secret else 0o022)
    if not wide:
        return None
    mode = "700" if stat.S_ISDIR(info.st_mode) else "600"
    what = "read" if secret else "changed"
    return Finding(
        PROBLEM if secret else WARNING, "files", f"{path} can be {what} by others", f"chmod {mode} {path}"
    )


def limits() -> Finding:
    """How many files ccm may have open: two for each stream. It raises the soft limit to the hard one by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    told = f"{'unlimited' if hard == resource.RLIM_INFINITY else hard} open files allowed (now {soft})"
    fix = "raise it: ulimit -Hn, LimitNOFILE= of the service, --ulimit of the container"
    if limit < _VERY_FEW_FILES:
        return Finding(PROBLEM, "limits", f"{told}: enough for {limit // 2} streams at most", fix)
    if limit < _FEW_FILES:
        return Finding(WARNING, "limits", f"{told}: enough for {limit // 2} streams at most", fix)
    return Finding(OK, "limits", told)


def proxies(env: Mapping[str, str], providers: Mapping[str, Provider]) -> Iterator[Finding]:
    """Proxy variables that ccm passes over, because no provider asks for them."""
    named = [n for n in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if env.get(n, "").strip()]
    without = [p.name for p in providers.values() if p.enabled and not p.options.get("proxy")]
    if named and without:
        told = f"{', '.join(named)} is set, but ccm goes to {', '.join(without)} directly"
        yield Finding(NOTE, "proxy", told, 'set proxy = "env" in a provider\'s table where it is needed')


def _told(problem: Problem) -> str:
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return f"{place} {problem.key}: {problem.text}" if problem.key else f"{place} {problem.text}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
