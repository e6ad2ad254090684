"""Drives the shared harness (stub provider, load generator, nginx): builds it, starts targets, measures in rounds."""

from __future__ import annotations

import compileall
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parents[2]
Sample = dict[str, Any]
Round = dict[tuple[str, str], Sample]  # (scenario, target) -> what was measured
CCM_PORT = 9400
# What the shared harness has no scenario for: (size, kind, clients, seconds, requests, pace in us, events, ramp in ms)
SCENARIOS: dict[str, tuple[Any, ...]] = {
    "hold5000": ("tiny", "s", 5000, 12.0, 5000, 1_000_000, 10, 5000),
    "turns-10": ("turns10", "j", 1, 1.0, 0, 0, 200, 0),
    "turns-100": ("turns100", "j", 1, 1.0, 0, 0, 200, 0),
    "turns-1000": ("turns1000", "j", 1, 1.5, 0, 0, 200, 0),
}
TURN_BYTES = 10_000


class Missing(Exception):
    """Something the bench needs is not here; says what."""


def shared_bench() -> Path:
    """The harness's directory. Raises Missing."""
    path = Path(os.environ.get("CCM_SHARED") or ROOT.parent / "shared").resolve() / "tools" / "bench"
    if not (path / "bench.py").is_file():
        raise Missing(f"no harness at {path} (set CCM_SHARED)")
    return path


def nginx() -> str | None:
    """nginx's program, None where there is none."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def installed(venv: Path) -> Path:
    """The program `ccm` of an environment that has this checkout as pip would install it: copied and compiled. The
    editable one has a finder before every import, 18 ms in all. The dependencies are those of our own environment."""
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    program = venv / "bin" / "ccm"
    if not site.is_dir():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        (site / "dependencies.pth").write_text(str(Path(requests.__file__).parents[1]) + "\n")
    shutil.rmtree(site / "ccm", ignore_errors=True)
    shutil.copytree(ROOT / "ccm", site / "ccm", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(site / "ccm", quiet=1)
    program.write_text(f"#!{venv}/bin/python\nimport sys\nfrom ccm.cli.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return program


class Harness:
    """The shared harness as a module, with our own targets and scenarios added; `rounds` measures.

    Everything it starts runs until `stop`; the stub provider it starts is stopped too.
    """

    def __init__(self, peers: bool = False, command: Sequence[str] = ()) -> None:
        source = shared_bench()
        if nginx() is None:
            raise Missing("nginx is not installed (on Debian: apt-get install nginx-light)")
        self.directory = Path(os.environ.get("BENCH_DIR") or ROOT / ".cache" / "bench").resolve()
        os.environ["BENCH_DIR"] = str(self.directory)
        os.environ.pop(
            "PYTHONDONTWRITEBYTECODE", None
        )  # nobody starts ccm so: it would be compiled every time
        self._build(source, peers)
        os.environ.setdefault("CCM", str(installed(self.directory / "installed")))
        spec = importlib.util.spec_from_file_location("shared_bench", source / "bench.py")
        assert spec is not None and spec.loader is not None
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the shared directory is read only
        here = Path.cwd()
        try:
            self.bench: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self.bench)
        finally:
            sys.dont_write_bytecode = writes
            os.chdir(here)
        self.bench.S.update(SCENARIOS)
        if command:
            self.bench.T["ccm"]["cmd"] = list(command)
        self._two_workers()
        self._conversations()

    def _build(self, source: Path, peers: bool) -> None:
        done = self.directory / ("litellm/bin/litellm" if peers else "lg")
        if done.exists() and (self.directory / "bodies").is_dir():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["bash", str(source / "setup.sh"), *(["peers"] if peers else [])]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise Missing(f"the harness could not be built: {(made.stderr or made.stdout)[-400:]}")

    def _two_workers(self) -> None:
        """The target `ccm-2w`: the same configuration with two processes."""
        text = (self.directory / "cfg" / "ccm.toml").read_text()
        two = self.directory / "cfg" / "ccm-2w.toml"
        two.write_text(text.replace("[proxy]", "[proxy]\nworkers = 2", 1).replace(":9400", ":9401"))
        two.chmod(0o600)
        home = self.directory / "home-ccm-2w"
        home.mkdir(exist_ok=True)
        one = self.bench.T["ccm"]
        command = [one["cmd"][0], "start", "--config", str(two)]
        self.bench.t("ccm-2w", 9401, command, env={**one["env"], "HOME": str(home)})

    def one_file(self) -> list[str]:
        """The target `ccm-file`: the one file that install.sh installs, compiled as it does it. Its name, or none where
        it cannot be built."""
        one, path = self.bench.T["ccm"], self.directory / "one-file" / "ccm"
        python = getattr(sys, "_base_executable", sys.executable)
        build = [sys.executable, str(ROOT / "scripts" / "build-pyz"), "--output", str(path)]
        if subprocess.run(build, capture_output=True, check=False).returncode:
            return []
        env = {**os.environ, **one["env"]}
        Path(env["HOME"]).mkdir(parents=True, exist_ok=True)
        subprocess.run([python, str(path), "--pyz-compile"], env=env, check=True)
        self.bench.t("ccm-file", CCM_PORT, [python, str(path), *one["cmd"][1:]], env=one["env"])
        return ["ccm-file"]

    def _conversations(self) -> None:
        """Bodies of 0.1, 1 and 10 MB: the same conversation after 10, 100 and 1,000 turns."""
        for turns in (10, 100, 1000):
            path = self.directory / "bodies" / f"ant-turns{turns}-j.json"
            if path.exists():
                continue
            line = "    42\tdef relay(stream, request): return value  # \u201cquoted\u201d\n"
            messages = [
                {
                    "role": ("user", "assistant")[n % 2],
                    "content": [{"type": "text", "text": line * (TURN_BYTES // len(line.encode()))}],
                }
                for n in range(turns + 1 - turns % 2)
            ]
            body = {"model": "claude-sonnet-4-5", "messages": messages, "max_tokens": 1000, "stream": False}
            path.write_bytes(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())

    @contextmanager
    def _in_directory(self) -> Iterator[None]:
        here = Path.cwd()
        os.chdir(self.directory)
        try:
            yield
        finally:
            os.chdir(here)

    def start(self, targets: Sequence[str]) -> dict[str, Sample]:
        """Starts what does not run yet; name -> port_ms, ready_ms, rss, pss. Raises Missing where one does not answer."""
        if "ccm" in targets and self.bench.rpid("ccm") is None and _listens(CCM_PORT):
            raise Missing(f"port {CCM_PORT} is taken: another bench is running")
        found = {}
        with self._in_directory():
            for name in targets:
                result = self.bench.start(name)
                own = self.bench.T[name]["cmd"] is not None and not self.bench.T[name]["share"]
                if result is None and own and self.bench.rpid(name) is None:
                    raise Missing(f"{name} did not start: see {self.directory}/run/{name}.log")
                if result is not None:
                    found[name] = result
        return found

    def stop(self, targets: Sequence[str]) -> None:
        """Ends what `start` started."""
        with self._in_directory():
            for name in targets:
                self.bench.stop(name)

    def stop_stub(self) -> None:
        """Ends the stub provider, where this harness started it."""
        pid = self.directory / "run" / "stub.pid"
        try:
            os.kill(int(pid.read_text()), 15)
            pid.unlink()
        except (OSError, ValueError):
            pass  # it was not ours, or is gone

    def rounds(
        self,
        count: int,
        scenarios: Sequence[str],
        targets_of: Callable[[str], Sequence[str]],
        say: bool = True,
    ) -> list[Round]:
        """`count` interleaved rounds: within one, every scenario runs through all of its targets in turn."""
        out: list[Round] = []
        with self._in_directory():
            self.bench.ensure_stub()
            for number in range(count):
                measured: Round = {}
                for scenario in scenarios:
                    for target in targets_of(scenario):
                        began = time.monotonic()
                        sample = self.bench.measure(target, scenario)
                        if sample.get("n"):
                            measured[scenario, target] = sample
                        if say:
                            took = time.monotonic() - began
                            print(
                                f"round {number + 1}/{count} {self.bench.fmt(sample)} ({took:.0f} s)",
                                file=sys.stderr,
                            )
                out.append(measured)
            self.bench.ctl(events=200, pace_us=0)
        return out

    def load(self, target: str, size: str, clients: int, requests: int) -> Sample:
        """So many plain requests, without a measurement of the proxy (soaking, warming)."""
        with self._in_directory():
            sample: Sample = self.bench.lg(
                self.bench.T[target], size, "j", c=clients, d=600, n=requests, tmo=60
            )
            return sample

    def memory_mb(self, target: str) -> float:
        """RSS of the target's processes, summed."""
        pid = self.bench.rpid(target)
        return float(self.bench.rss(self.bench.tree(pid))[0]) if pid else 0.0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
