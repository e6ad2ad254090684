"""A program in a terminal of its own: a pseudo terminal to type into, or tmux, whose screen can be read as text."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.gateway import REPO

CTRL_C, CTRL_D = "\x03", "\x04"


def ccm(*words: str) -> list[str]:
    """The command line of `ccm <words>` from this checkout."""
    return [sys.executable, "-m", "ccm", *words]


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """An environment without any key in which ccm keeps to `home`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "PYTHONPATH": str(REPO),
        "CCM_SOCKET": str(home / "c.sock"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_GCE_CHECK": "true",
        **more,
    }


class Terminal:
    """A process behind a pseudo terminal. `shown` is everything that appeared so far."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.shown = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(command[0], list(command), dict(env))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, words: str, seconds: float = 15.0, after: int = 0) -> int:
        """Returns the place behind `words` once they appear behind place `after`; fails with what is there instead."""
        end = time.monotonic() + seconds
        while words not in self.shown[after:]:
            if time.monotonic() > end or not self._read(end):
                pytest.fail(f"no {words!r} in:\n{self.shown}")
        return self.shown.index(words, after) + len(words)

    def end(self, seconds: float = 15.0) -> int:
        """The exit status, once the process has ended; 128 + N where a signal ended it."""
        end = time.monotonic() + seconds
        while self._read(end):
            pass
        if time.monotonic() > end:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        assert time.monotonic() <= end, f"it did not end:\n{self.shown}"
        return 128 - status if status < 0 else status

    def _read(self, end: float) -> bool:
        """Takes what is there; False at the end of the process or of the time."""
        ready, _, _ = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError as error:
            assert error.errno == errno.EIO
            return False
        self.shown += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)


class Tmux:
    """A tmux server of one window, `width` columns wide, in which a shell runs. Skips where tmux is missing."""

    def __init__(self, width: int, env: Mapping[str, str], cwd: Path, height: int = 60) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._folder = tempfile.mkdtemp(prefix="tmux-")
        self._tmux = ["tmux", "-f", "/dev/null", "-S", os.path.join(self._folder, "s")]
        self._env = {**env, "PS1": "$ "}
        words = ["new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(cwd)]
        self._run(*words, "env", "-u", "TMUX", "sh", "-i")
        self._run("set-option", "-g", "status", "off")
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def type(self, text: str) -> None:
        """Types a line and Enter."""
        self._run("send-keys", "-l", text)
        self._run("send-keys", "Enter")

    def run(self, command: Sequence[str]) -> None:
        self.type(f"clear; {shlex.join(command)}; echo 'ended' with $?")

    def screen(self) -> str:
        """What is to be seen, without trailing blanks."""
        text = self._run("capture-pane", "-p", "-J")
        return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()

    def wait_for(self, words: str, seconds: float = 15.0) -> str:
        """The screen, once it holds the words."""
        end = time.monotonic() + seconds
        while True:
            shown = self.screen()
            if words in shown:
                return shown
            if time.monotonic() > end:
                pytest.fail(f"no {words!r} on the screen:\n{shown}")
            time.sleep(0.05)

    def coloured(self) -> bool:
        return bool(re.search(r"\x1b\[[0-9;]*m", self._run("capture-pane", "-p", "-e")))

    def close(self) -> None:
        self._run("kill-server")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=self._env, capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0 or words == ("kill-server",), done.stderr
        return done.stdout
