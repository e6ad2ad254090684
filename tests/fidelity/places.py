"""Where the gates find what is not in the repository: the shared tools, and packages installed into `.cache` on demand.

Installing happens once, under a lock, through pip and npm; a package that cannot be had is an error that says so, never
a gate left out in silence.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE = REPO / ".cache"
NODE_PACKAGES = (
    "@copilotkit/aimock@1",
    "@ai-sdk/anthropic@3",
    "@smithy/eventstream-codec@4",
    "@smithy/util-utf8@4",
)
LLAMA_PACKAGES = ("xllamacpp", "gguf", "numpy")
INSTALL_S = 300


class Unavailable(Exception):
    """Something that a gate needs cannot be had here; the message says what and why."""


def shared() -> Path:
    """`$CCM_SHARED`, else `../shared` beside the checkout. Raises Unavailable when it is not there."""
    path = Path(os.environ.get("CCM_SHARED") or REPO.parent / "shared").resolve()
    if not (path / "tools/gate.py").is_file():
        raise Unavailable(f"no recorded material at {path} (set CCM_SHARED)")
    return path


def corpus() -> Path:
    """The recorded traffic: `$CCM_CORPUS` (a directory of the same make), else the one in `shared()`."""
    return Path(os.environ.get("CCM_CORPUS") or shared() / "corpus").resolve()


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(what: str, command: Sequence[str | Path], **env: str) -> None:
    try:
        done = subprocess.run(
            list(map(str, command)), env={**os.environ, **env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=INSTALL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what}: {error}") from None
    if done.returncode:
        raise Unavailable(f"{what}: {(done.stderr or done.stdout).strip()[-400:]}")


def _made(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


def node_modules() -> Path:
    """The directory `node_modules` with the readers and servers from npm."""
    path, wanted = CACHE / "fidelity-npm", "\n".join(NODE_PACKAGES)
    with _locked("fidelity-npm"):
        if not _made(path / "made", wanted):
            for command in ("node", "npm"):
                if shutil.which(command) is None:
                    raise Unavailable(f"{command} is not installed: no reader or server from npm can be run")
            path.mkdir(exist_ok=True)
            options = ["--no-fund", "--no-audit", "--ignore-scripts"]
            _run("npm install", ["npm", "install", "--prefix", path, *options, *NODE_PACKAGES])
            (path / "made").write_text(wanted)
    return path / "node_modules"


def llama_python() -> Path:
    """The Python that has llama.cpp's server, in an environment of its own."""
    path, wanted = CACHE / "fidelity-venv", " ".join(LLAMA_PACKAGES)
    python = path / "bin/python"
    with _locked("fidelity-venv"):
        if not _made(path / "made", wanted):
            _run("venv", [sys.executable, "-m", "venv", path])
            quiet = ["--quiet", "--disable-pip-version-check"]
            _run(
                "pip install",
                [python, "-m", "pip", "install", *quiet, "--only-binary=:all:", *LLAMA_PACKAGES],
            )
            (path / "made").write_text(wanted)
    return python


def claude_code(version: str = "latest") -> Path:
    """The directory with that Claude Code, as the shared script installs it."""
    name = f"cc-{version}"
    path = Path(os.environ.get("CCM_CLAUDE_LATEST", "")) if version == "latest" else CACHE / name
    if (path / "node_modules/.bin/claude").exists():
        return path
    path = CACHE / name
    with _locked(name):
        if not (path / "node_modules/.bin/claude").exists():
            script = shared() / "tools/claude_e2e.sh"
            _run(f"Claude Code {version}", ["bash", script, "install"], CC_DIR=str(path), CC_VERSION=version)
    return path
