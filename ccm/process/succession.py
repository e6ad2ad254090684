"""Who serves: us, or a successor that was asked for by SIGUSR2 or `ccmctl restart --handover`. One attempt at a time."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from ccm.errors import ControlError
from ccm.observe.log import Log
from ccm.process import notify, successor
from ccm.process.successor import Estate, Failed, Program, Successor


class Succession:
    """`state` is what `GET /handover` tells; `on_success` runs in the attempt's thread, once, when another one serves."""

    def __init__(
        self,
        version: str,
        program: Program,
        estate: Estate,
        log: Log,
        on_success: Callable[[Successor], None],
    ) -> None:
        self._version = version
        self._program = program
        self._estate = estate
        self._log = log
        self._on_success = on_success
        self._lock = threading.Lock()
        self._busy = self._cancelled = False
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.state: dict[str, Any] = {"state": "none", "text": "no handover since this ccm was started"}

    def inherited(self, from_version: str, from_pid: int) -> None:
        """This process is the successor: what its state says to those who asked the old one."""
        text = f"ccm {self._version} (process {os.getpid()}) has taken over from ccm {from_version} (process {from_pid})"
        self.state = {
            "state": "done",
            "text": text,
            "pid": os.getpid(),
            "from_pid": from_pid,
            "version": self._version,
            "from_version": from_version,
        }

    @property
    def failure(self) -> str:
        """Why the last attempt came to nothing; "" if it did not."""
        return str(self.state["text"]) if self.state["state"] == "failed" else ""

    def begin(self) -> dict[str, Any]:
        """Starts an attempt and returns at once. Raises ControlError when there can be none."""
        if obstacle := self._program.obstacle():
            raise ControlError(f"no handover: {obstacle}", 409)
        with self._lock:
            if self._busy:
                raise ControlError("a handover is under way already", 409)
            self._busy = True
            self.state = {
                "state": "running",
                "text": f"a new process is being started to take over from ccm {self._version} (process {os.getpid()})",
                "pid": os.getpid(),
            }
        self._log.info("handover", program=" ".join(self._program.argv[:3]))
        thread = threading.Thread(target=self._attempt, name="ccm-handover", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._busy = False
            self.state = {
                "state": "failed",
                "text": f"no thread can be started for it; ccm {self._version} goes on",
            }
            raise ControlError(f"no handover: {error}", 503) from None
        self._thread = thread
        return self.state

    def cancel(self) -> None:
        """We stop: a successor that does not serve yet shall not begin to, nor hold our sockets."""
        self._cancelled = True
        process, thread = self._process, self._thread
        if process is not None:
            process.kill()
        if thread is not None:
            thread.join(2.0)

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self._cancelled:
            process.kill()

    def _attempt(self) -> None:
        try:
            heir = successor.install(self._program, self._estate, self._started)
        except Failed as error:
            self._log.error("handover failed, this process goes on", problem=str(error))
            self.state = {
                "state": "failed",
                "text": f"{error}; ccm {self._version} (process {os.getpid()}) goes on",
            }
        except Exception as fault:  # a bug of ours must not end what serves
            self._log.fault("handover failed inside", fault)
            self.state = {"state": "failed", "text": f"handover failed inside ccm: {type(fault).__name__}"}
        else:
            notify.tell(self._program.env, f"MAINPID={heir.process.pid}")
            self._log.info("handed over", pid=heir.process.pid, version=heir.version)
            self.state = {
                "state": "done",
                "text": f"process {heir.process.pid} serves",
                "pid": heir.process.pid,
            }
            self._on_success(heir)
            return
        with self._lock:
            self._busy = False
