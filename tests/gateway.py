"""ccm as a process of its own, with a configuration made for one test: what contract and e2e tests drive.

gw = Gateway(tmp_path, providers(up, "a", "b", dialect="gemini"))
gw.start() ... gw.base_url, gw.ctl("status"), gw.log() ... gw.stop()
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.upstream import Upstream

REPO = Path(__file__).resolve().parent.parent
SUFFIX = {
    "anthropic": "",
    "openai_chat": "/v1",
    "openai_responses": "/v1",
    "gemini": "/v1beta",
    "bedrock": "",
}
KEY = "sk-upstream-0123456789abcdefghij"
TIMEOUTS = {"connect_s": 2.0, "header_s": 5.0, "first_content_s": 5.0, "idle_s": 5.0}
FAILOVER = {"enabled": True, "max_retries": 2, "backoff_ms": 20}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def toml(value: Any) -> str:
    """A TOML value of a Python one (strings without control characters, numbers, lists, dicts)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {toml(v)}' for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def provider(up: Upstream | str, name: str, dialect: str = "anthropic", **keys: Any) -> str:
    """One `[providers.<name>]` table; its requests arrive at the upstream below `/<name>`."""
    base = up if isinstance(up, str) else f"{up.url}/{name}{SUFFIX[dialect]}"
    timeouts = TIMEOUTS | keys.pop("timeouts", {})
    fields = {
        "enabled": True,
        "type": "custom",
        "dialect": dialect,
        "base_url": base,
        "api_key_env": "CCM_TEST_KEY",
        **keys,
    }
    lines = [f"[providers.{name}]"] + [f"{k} = {toml(v)}" for k, v in fields.items()]
    lines += [f"[providers.{name}.timeouts]"] + [f"{k} = {toml(v)}" for k, v in timeouts.items()]
    return "\n".join(lines) + "\n"


def providers(up: Upstream | str, *names: str, dialect: str = "anthropic", **keys: Any) -> str:
    """Several of them, alike but for their priority: 1, 2, ... in the order given."""
    return "\n".join(provider(up, n, dialect, priority=i + 1, **keys) for i, n in enumerate(names))


class Gateway:
    """A `ccm start` in the foreground. `config` is TOML without `[proxy]` and `[failover]`, which are made here."""

    def __init__(
        self,
        home: Path,
        config: str,
        *,
        proxy: dict[str, Any] | None = None,
        failover: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.home = home
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.config_path = home / "ccm-config.toml"
        self.log_path = home / "ccm-process.log"
        self.proxy = {"listen": f"127.0.0.1:{self.port}", "auth_token": "ccm-proxy", **(proxy or {})}
        self.failover = FAILOVER | (failover or {})
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPO),
            "CCM_SOCKET": str(home / "ccm.sock"),
            "CCM_TEST_KEY": KEY,
            **(env or {}),
        }
        self.program = ["-m", "ccm"]  # what the interpreter runs; a test may put a build of its own here
        self.process: subprocess.Popen[bytes] | None = None
        self._asked = False
        home.mkdir(parents=True, exist_ok=True)
        (home / "run").mkdir(mode=0o700, exist_ok=True)
        self.write(config)

    def write(self, config: str) -> None:
        """The configuration file, anew."""
        tables = {"proxy": self.proxy, "failover": self.failover}
        head = "".join(
            f"[{name}]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in keys.items()) + "\n"
            for name, keys in tables.items()
        )
        self.config_path.write_text(head + config)
        self.config_path.chmod(0o600)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *more: str) -> Gateway:
        """Starts the process and waits until it answers. AssertionError with the log when it does not."""
        command = [sys.executable, *self.program, "start", "--config", str(self.config_path), *more]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.home
            )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            try:  # an open port is not enough: the control socket comes after it
                asked.request("GET", "/health")
                asked.getresponse().read()
                return self
            except OSError:
                time.sleep(0.02)
            finally:
                asked.close()
            if self.process.poll() is not None:
                break
        raise AssertionError(f"ccm does not answer at port {self.port}:\n{self.log()[-3000:]}")

    def ask_to_stop(self) -> None:
        """SIGTERM, once: a second one would end what it still does."""
        if self.process is not None and not self._asked:
            self._asked = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after 10 s. Returns the exit status."""
        self.ask_to_stop()
        process, self.process, self._asked = self.process, None, False
        if process is None:
            return 0
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("ccm did not stop within 10 s of SIGTERM") from None

    def ctl(self, *args: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs ccmctl against this ccm."""
        done = subprocess.run(
            [sys.executable, "-m", "ccm.cli.ctl", *args],
            capture_output=True, text=True, env=self.env, cwd=self.home, timeout=20, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"ccmctl {args}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def reset(self) -> None:
        """Forgets every cool-down and opened breaker (`ccmctl reset`, without the start of a process)."""
        connection = http.client.HTTPConnection("ccm", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        connection.sock.connect(self.env["CCM_SOCKET"])
        connection.request("POST", "/reset", "{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()

    def log(self) -> str:
        """Everything the process wrote so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
