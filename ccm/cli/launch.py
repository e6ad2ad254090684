"""A ccm that another command starts: as a process of its own, from the same files, in the background or for a while.

The child gets its program by path, never by name, so that a checkout, an installed package and the single file all
start themselves. One started for a while (`ccm run`) holds a pipe to its starter and ends when that is gone, however
it went; it runs in a session of its own, so that Ctrl-C reaches the client and not the gateway below it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ccm
from ccm.control.client import ask
from ccm.errors import CcmError, ControlError

READY_S = 20.0  # what a start may take
STOP_S = 8.0  # what an end may take before it is enforced
_POLL_S = 0.02
_TAIL_BYTES = 4000
# What the child runs: sys.path[0] first, since it is the directory one stands in, whose files must not be taken for
# modules. A lifeline that is none here (a successor's, after a handover) ends nothing.
_PROGRAM = """
import sys
root = sys.path[0] = sys.argv[1]
import os, runpy, signal, threading
line = int(sys.argv[2])
sys.argv[:3] = ["ccm"]
def watch():
    try:
        while os.read(line, 16):
            pass
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
if line >= 0:
    threading.Thread(target=watch, name="ccm-lifeline", daemon=True).start()
if os.path.isfile(root):
    runpy.run_path(root, run_name="__main__")
else:
    runpy.run_module("ccm", run_name="__main__", alter_sys=True)
"""


class NotStarted(CcmError):
    """It ended before it answered, or does not answer. `code` is its exit code (1 where it still runs)."""

    def __init__(self, message: str, code: int) -> None:
        self.code = code
        super().__init__(message)


class Launched:
    """A child `ccm start`. `health` is what it answered when it was ready."""

    def __init__(
        self, process: subprocess.Popen[bytes], socket: str, log: Path, lifeline: int | None
    ) -> None:
        self.process = process
        self.socket = socket
        self.log = log
        self.health: dict[str, Any] = {}
        self._lifeline = lifeline

    def wait_ready(self, seconds: float = READY_S) -> dict[str, Any]:
        """Its health, as soon as it answers on its control socket. Raises NotStarted with its own last words."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            code = self.process.poll()
            if code is not None:
                raise NotStarted(
                    self.last_words() or f"ccm ended with exit code {code}", code if code > 0 else 1
                )
            try:
                self.health = dict(ask(self.socket, "GET", "/health", timeout_s=1.0))
                return self.health
            except ControlError:
                time.sleep(_POLL_S)
        raise NotStarted(f"ccm does not answer after {seconds:g} s\n{self.last_words()}".rstrip(), 1)

    def last_words(self) -> str:
        """The end of what it wrote."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def stop(self) -> int:
        """Ends it (SIGTERM, then SIGKILL) and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        return code


def launch(
    options: Sequence[str], env: Mapping[str, str], socket: str, log: Path, for_a_while: bool = False
) -> Launched:
    """Starts `ccm start <options>` with this control socket; what it writes goes behind the end of `log`.

    `for_a_while`: it ends with this process. Raises OSError where it can't be started or the log not be opened.
    """
    reading, writing = os.pipe() if for_a_while else (-1, -1)
    words = [sys.executable, "-c", _PROGRAM, _root(), str(reading), "start", "--socket", socket, *options]
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                words,
                env={**env, "CCM_LOG_FILE": env.get("CCM_LOG_FILE") or str(log)},
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                pass_fds=(reading,) if for_a_while else (),
            )
        finally:
            os.close(descriptor)
    except BaseException:
        if for_a_while:
            os.close(writing)
        raise
    finally:
        if for_a_while:
            os.close(reading)
    return Launched(process, socket, log, writing if for_a_while else None)


def _root() -> str:
    """Where the package is imported from: a directory, or the single file, by its own name and not a link's."""
    return os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(ccm.__file__))))
