"""Servers that nobody here wrote, as upstreams: llama.cpp's, aimock, and the AWS event-stream encoder of Smithy."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fidelity import places
from tests.gateway import free_port

HERE = Path(__file__).resolve().parent
_START_S = 30.0


@contextlib.contextmanager
def llama() -> Iterator[str]:
    """llama.cpp's server with a model of 2 MB made on the spot: its base URL. The model says the same every time."""
    tools, python = places.shared() / "tools", places.llama_python()
    with tempfile.TemporaryDirectory(prefix="ccm-llama-") as scratch:
        model, template = Path(scratch) / "tiny.gguf", HERE / "tool_template.jinja"
        made = subprocess.run(
            [str(python), str(tools / "mk_tiny_gguf.py"), str(model), str(template)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if made.returncode:
            raise places.Unavailable(f"the tiny model cannot be made: {made.stderr[-400:]}")
        port = free_port()
        command = [str(python), str(tools / "llama_upstream.py"), str(model), str(port), "8192"]
        with _process(command, Path(scratch) / "log", f"http://127.0.0.1:{port}/health") as url:
            yield url


@contextlib.contextmanager
def aimock(fixtures: Sequence[dict[str, Any]]) -> Iterator[str]:
    """aimock with these fixtures, refusing every question that none of them answers: its base URL."""
    modules = places.node_modules()
    with tempfile.TemporaryDirectory(prefix="ccm-aimock-") as scratch:
        path = Path(scratch) / "fixtures.json"
        path.write_text(json.dumps({"fixtures": list(fixtures)}))
        port = free_port()
        command = ["node", str(modules / "@copilotkit/aimock/dist/cli.js"), "--port", str(port)]
        command += ["--fixtures", str(path), "--strict", "--chunk-size", "5", "--log-level", "warn"]
        with _process(command, Path(scratch) / "log", f"http://127.0.0.1:{port}/health") as url:
            yield url


@contextlib.contextmanager
def _process(command: Sequence[str], log_path: Path, health: str) -> Iterator[str]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _START_S
        while not _answers(health):
            if process.poll() is not None or time.monotonic() > end:
                said = log_path.read_text(errors="replace")[-600:]
                raise places.Unavailable(f"{os.path.basename(command[1])} does not start: {said}")
            time.sleep(0.05)
        yield health.rpartition("/")[0]
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # 503: still loading its model
    except OSError:
        return False


def event_stream(events: Sequence[dict[str, Any]]) -> bytes:
    """AWS event-stream messages as Smithy's codec writes them. Each: {"event" | "exception": type, "payload": {...}}."""
    directory = places.node_modules().parent
    script = directory / "es_encode.mjs"
    with contextlib.suppress(FileExistsError):  # a link: node then finds Smithy beside it
        script.symlink_to(places.shared() / "tools/es_encode.mjs")
    lines = "".join(json.dumps(event) + "\n" for event in events)
    done = subprocess.run(
        ["node", "--preserve-symlinks", "--preserve-symlinks-main", str(script)],
        input=lines.encode(), capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    if done.returncode:
        raise places.Unavailable(f"Smithy's encoder: {done.stderr.decode(errors='replace')[-400:]}")
    return done.stdout
