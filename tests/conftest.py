"""Fixtures for every kind of test: the recorded material, a stand-in for a running ccm, and ccm itself as a process."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from ccm.control.state import State
from ccm.model import Endpoint, KeySource, ModelFacts, Price, Provider, Secret, Snapshot
from ccm.observe.bodies import Bodies
from ccm.observe.log import Log
from ccm.observe.metrics import Metrics
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.proxy import telling
from ccm.proxy.drill import Drills
from ccm.settings import FailoverSettings
from ccm.usage.meter import Meter

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The recorded material outside the repository: `$CCM_SHARED`, else `../shared` beside the checkout."""
    path = Path(os.environ.get("CCM_SHARED") or ROOT.parent / "shared").resolve()
    if not path.is_dir():
        reason = f"no recorded material at {path} (set CCM_SHARED)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def find_free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return find_free_port()


class CcmProcess:
    """ccm as its users run it. `log()` is everything it wrote, `ctl(...)` runs ccmctl against it."""

    def __init__(
        self, directory: Path, config: str | None, options: Sequence[str], env: Mapping[str, str]
    ) -> None:
        self.directory = directory
        self.port = find_free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._private = Path(tempfile.mkdtemp(prefix="ccm-"))  # short: a socket's path has 100 bytes at most
        self.socket = str(self._private / "ccm.sock")
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        command = [sys.executable, "-m", "ccm", "start"]
        if config is not None:
            self.config = directory / "ccm-config.toml"
            self.write_config(config)
            command += ["--config", str(self.config)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--socket", self.socket, *options]
        self._log_path = directory / f"ccm-{self.port}.log"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def write_config(self, text: str) -> None:
        """Replaces the configuration file (0600)."""
        self.config.touch(0o600)
        self.config.write_text(text)

    def log(self) -> str:
        return self._log_path.read_text("utf-8", "replace")

    def ctl(self, *args: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """`ccmctl <args>` as a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "ccm.cli.ctl", "--socket", self.socket, *args],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def wait(self, seconds: float = 20.0) -> CcmProcess:
        """Returns when the port answers HTTP; fails with the log when ccm ends or the time does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                pytest.fail(f"ccm ended with {self.process.returncode} before it answered:\n{self.log()}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            try:
                connection.request("GET", "/health")
                connection.getresponse().read()
                return self
            except OSError:
                time.sleep(0.02)
            finally:
                connection.close()
        pytest.fail(f"ccm did not answer within {seconds} s:\n{self.log()}")

    def stop(self, sign: int = signal.SIGTERM, seconds: float = 45.0) -> int:
        """Sends the signal if ccm still runs, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"ccm did not stop within {seconds} s:\n{self.log()}")

    def forget(self) -> None:
        """Leaves nothing behind, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._private, ignore_errors=True)


@pytest.fixture
def ccm_process(tmp_path: Path) -> Iterator[Callable[..., CcmProcess]]:
    """Starts ccm: `ccm_process(config_text, "--log-level", "debug", env={...}, wait=True)`; None as text for no file.

    What still runs at the end of the test is stopped with SIGTERM and must then end with 0.
    """
    started: list[CcmProcess] = []

    def start(
        config: str | None, *options: str, env: Mapping[str, str] = MappingProxyType({}), wait: bool = True
    ) -> CcmProcess:
        directory = tmp_path / f"home{len(started) or ''}"
        directory.mkdir(mode=0o700)
        process = CcmProcess(directory, config, options, env)
        started.append(process)
        return process.wait() if wait else process

    try:
        yield start
        for process in started:
            if process.process.poll() is None:
                assert process.stop() == 0, process.log()
    finally:
        for process in started:
            process.forget()


class FakeRouter:
    """Remembers what it was told; its board is what the test puts there."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.primary: str | None = None
        self.until: float | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.classes: dict[str, tuple[str | None, float | None]] = {}

    def board(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.rows]

    def set_primary(self, name: str | None, until: float | None = None, request_class: str = "") -> None:
        if request_class:
            self.classes[request_class] = (name, until)
        else:
            self.primary, self.until = name, until

    def set_enabled(self, name: str, enabled: bool) -> None:
        self.calls.append(("enabled", name, enabled))

    def drain(self, name: str, draining: bool = True) -> None:
        self.calls.append(("drain", name, draining))

    def reset(self, name: str | None = None) -> None:
        self.calls.append(("reset", name))


class MemorySink:
    """Log lines in a list."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> bool:
        self.lines.append(line)
        return True

    def close(self) -> None:
        self.lines.clear()


class FakeCore:
    """A running ccm with three providers: openai and anthropic with keys, groq without, old switched off in the file."""

    def __init__(self, state: State | None = None) -> None:
        secret = KeySource("env", "OPENAI_API_KEY", Secret("sk-canary-0123456789abcdef", "environment"))
        missing = KeySource("env", "GROQ_API_KEY", None, "environment variable GROQ_API_KEY is not set")
        providers = {
            "anthropic": Provider(
                "anthropic", "anthropic", "anthropic", "https://a", keys=(secret,), priority=1
            ),
            "openai": Provider("openai", "openai", "openai_chat", "https://o", keys=(secret,), priority=2),
            "groq": Provider("groq", "groq", "openai_chat", "https://g", keys=(missing,), priority=3),
            "old": Provider("old", "openai", "openai_chat", "https://x", keys=(secret,), enabled=False),
        }
        self.snapshot = Snapshot(
            generation=3,
            path="/home/u/ccm-config.toml",
            host="127.0.0.1",
            port=13456,
            auth_token="ccm-proxy",
            allowed_hosts=(),
            endpoints=tuple(Endpoint(name, providers[name], secret) for name in ("anthropic", "openai")),
            providers=providers,
            failover=FailoverSettings(),
            strategy="priority",
            models={},
        )
        self.router = FakeRouter(
            [
                {"id": "anthropic", "provider": "anthropic", "state": "closed", "in_flight": 1},
                {"id": "openai", "provider": "openai", "state": "closed", "in_flight": 0},
            ]
        )
        self.version = "1.0.0"
        self.started_at = 100.0
        self.metrics = Metrics()
        self.recent: deque[RequestRecord] = deque(maxlen=100)
        self.state = State(None) if state is None else state
        self.redactor = Redactor()
        self.redactor.register("sk-canary-0123456789abcdef")
        self.sink = MemorySink()
        self.log = Log(self.sink, self.redactor)
        self.bodies = Bodies(self.redactor.clean, self.log)
        self.meter = Meter(self.snapshot.usage, None)
        self.address = "127.0.0.1:13456"
        self.in_flight = 1
        self.stopping = False
        self.workers: list[dict[str, Any]] = []
        self.stops: list[bool] = []
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.fake_drills = Drills()
        self.reloads: Callable[[], dict[str, Any]] = dict
        self.config_problem = ""
        self.previews: Callable[[], dict[str, Any]] = lambda: {"changes": [], "warnings": []}
        self.handover: dict[str, Any] = {"state": "none", "text": ""}

    @property
    def log_level(self) -> str:
        return self.log.level

    @log_level.setter
    def log_level(self, level: str) -> None:
        self.log.level = level

    def find_facts(self, model: str, type: str) -> ModelFacts:
        return ModelFacts(model, True, 200_000, 64_000, Price(3.0, 15.0, 0.3, 3.75))

    def explain(self, id: str) -> dict[str, Any]:
        return telling.told(list(self.recent), id)

    def explain_request(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        self.asked.append((body, headers))
        return {
            "model": body["model"],
            "order": [f"anthropic/{body['model']}"],
            "candidates": [],
            "reason": "first",
        }

    def drill(self, *given: Any) -> dict[str, Any]:
        return self.fake_drills.start(*given)

    def end_drills(self, provider: str | None) -> list[dict[str, Any]]:
        return self.fake_drills.stop(provider)

    def drills(self) -> list[dict[str, Any]]:
        return self.fake_drills.rows()

    def reload(self) -> dict[str, Any]:
        return self.reloads()

    def preview(self) -> dict[str, Any]:
        return self.previews()

    def hand_over(self) -> dict[str, Any]:
        self.handover = {"state": "done", "text": "process 4711 serves", "pid": 4711}
        return self.handover

    def request_stop(self, drain: bool) -> None:
        self.stops.append(drain)


@pytest.fixture
def fake_core() -> FakeCore:
    return FakeCore()
