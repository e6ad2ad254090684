"""The parent's half of a handover: starts the program that is on disk now and gives it everything, or changes nothing.

    old  starts the new one with one end of a channel        new  reads its configuration, opens nothing of its own
    old  hello: listening socket, control socket and lock    new  ready
    old  keeps control clients waiting, tells what it knows  new  accepts, takes control clients: serving
    old  accepts no more, passes idle connections on, drains and ends

Until `serving` the old one serves as if nothing happened; a new one that dies, hangs or refuses is killed and forgotten.
Both accept for a moment: the listening socket is one, and whoever accepts answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ccm.errors import CcmError
from ccm.process.channel import Broken, Channel, pair
from ccm.shape import dataclass, field

VARIABLE = "CCM_HANDOVER"  # the number of the inherited descriptor
READY_S = 10.0
SERVING_S = 5.0


class Failed(CcmError):
    """There is no successor, and nothing has changed. The text says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """How this process was started: what a successor is started with. `env` still has the keys that ours lost."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)

    def obstacle(self) -> str:
        """Why this process must not end while another one takes its place; "" when it may."""
        if os.getpid() == 1:
            return "this ccm is process 1, and its container would end with it: replace the container"
        if self.env.get("SYSTEMD_EXEC_PID") == str(os.getpid()) and not self.env.get("NOTIFY_SOCKET"):
            return "systemd would end the service with this process: set Type=notify in its unit"
        # `cli.launch`: the word behind the program's root is a pipe to the starter, or -1 where there is none
        if self.argv[1:2] == ("-c",) and self.argv[4:5] != ("-1",):
            return "this ccm belongs to the command that started it, and ends with it"
        return ""


def this_program(env: Mapping[str, str]) -> Program:
    """The interpreter by its path, then the words as they were given: `-m ccm start`, `/home/u/bin/ccm start`."""
    return Program((sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]), dict(env))


class Estate(Protocol):
    """What the old process has to give."""

    def things(self) -> dict[str, int]:
        """Descriptors by name: listen, control, lock."""
        ...

    def hello(self) -> dict[str, Any]:
        """What the new one must know before it can begin."""
        ...

    def hold(self) -> None:
        """From here on nothing may change what `memory` tells. Raises Broken when there is to be no successor."""
        ...

    def memory(self) -> dict[str, Any]:
        """What the new one should know of health and conversations."""
        ...

    def lines(self) -> list[int]:
        """Descriptors of the channels to those before us that still drain."""
        ...

    def resume(self) -> None:
        """Ends `hold`: there is no successor."""
        ...


@dataclass(frozen=True, slots=True)
class Successor:
    """The process that serves now, and the line to it."""

    channel: Channel
    process: subprocess.Popen[bytes]
    version: str


def install(
    program: Program,
    estate: Estate,
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> Successor:
    """Starts the successor and returns when it serves; `started` gets the process before that. Raises Failed."""
    channel, theirs = pair()
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            program.argv,
            env={**program.env, VARIABLE: str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        channel.close()
        raise Failed(f"{program.argv[0]} cannot be started: {error.strerror}") from None
    finally:
        theirs.close()
    started(process)
    try:
        version = _negotiate(channel, estate, began)
    except Broken as broken:
        channel.close()
        raise Failed(_why(process, broken)) from None
    except BaseException:
        channel.close()
        _end(process)
        raise
    channel.hush()
    return Successor(channel, process, version)


def _negotiate(channel: Channel, estate: Estate, began: float) -> str:
    things = estate.things()
    channel.send({"hello": estate.hello(), "fds": list(things)}, list(things.values()))
    ready = _expect(channel, "ready", READY_S - (time.monotonic() - began))
    estate.hold()
    try:
        channel.send({"memory": estate.memory(), "lines": len(estate.lines())}, estate.lines())
        _expect(channel, "serving", SERVING_S)
    except BaseException:
        estate.resume()
        raise
    return str(ready.get("version", "?"))


def _expect(channel: Channel, word: str, timeout_s: float) -> dict[str, Any]:
    message, fds = channel.receive(max(0.01, timeout_s))
    for fd in fds:
        os.close(fd)
    if "failed" in message:
        raise Broken(str(message["failed"]), told=True)
    if word not in message:
        raise Broken(f"it did not say {word!r}")
    return message


def _why(process: subprocess.Popen[bytes], broken: Broken) -> str:
    """What went wrong, in words; the process is gone afterwards."""
    try:
        code: int | None = process.wait(0.2)  # a process that ends closes its line a moment earlier
    except subprocess.TimeoutExpired:
        code = None
    _end(process)
    if code is None or broken.told:
        return f"the new process {process.pid} did not take over: {broken}"
    return f"the new process {process.pid} ended with exit status {code} before it served; the log has its last words"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10.0)


def names_with(fds: Sequence[int], names: Sequence[Any]) -> dict[str, int]:
    """Descriptors under the names they were sent with."""
    return {str(name): fd for name, fd in zip(names, fds, strict=False)}
