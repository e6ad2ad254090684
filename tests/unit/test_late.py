"""What is made late: modules, patterns, values of tables. Late is the same as at once, seen by who uses it."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ccm
from ccm.cli import main as cli
from ccm.late import LateMap, LatePattern, postpone, regex  # type: ignore[attr-defined]

ROOT = Path(__file__).resolve().parents[2]


def test_a_late_pattern_is_the_pattern() -> None:
    late, plain = regex(r"(?P<n>a+)(b)?", re.IGNORECASE), re.compile(r"(?P<n>a+)(b)?", re.IGNORECASE)
    text = "xAab aab"
    for method in ("search", "match", "fullmatch"):
        assert str(getattr(late, method)(text)) == str(getattr(plain, method)(text))
    assert late.findall(text) == plain.findall(text) and late.split(text) == plain.split(text)
    assert late.sub("-", text) == plain.sub("-", text) and late.subn("-", text) == plain.subn("-", text)
    assert [m.span() for m in late.finditer(text)] == [m.span() for m in plain.finditer(text)]
    assert (late.pattern, late.flags, late.groupindex) == (plain.pattern, plain.flags, plain.groupindex)


def test_it_is_compiled_once_and_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    compiled = re.compile
    monkeypatch.setattr(re, "compile", lambda *args: made.append(args) or compiled(*args))
    late = regex(rb"a")
    assert not made
    assert late.search(b"xa") and late.search(b"ya") and not late.match(b"xa")
    assert made == [(rb"a", 0)]


def test_all_late_patterns_are_right() -> None:
    """A wrong one would be found by the first request that needs it."""
    found = []

    def look(value: Any, depth: int = 0) -> None:
        if isinstance(value, LatePattern):
            found.append(value.pattern)
        elif isinstance(value, (tuple, list)) and depth < 3:
            for one in value:
                look(one, depth + 1)
        elif isinstance(value, dict) and depth < 3:
            look(list(value.values()), depth + 1)

    for module in pkgutil.walk_packages(ccm.__path__, "ccm."):
        if module.name != "ccm.__main__":
            look(list(vars(importlib.import_module(module.name)).values()), 1)
    assert len(found) > 100


def test_a_late_map_makes_what_is_asked_for_once() -> None:
    made: list[str] = []
    late = LateMap({"a": 1, "b": 2}, lambda name, raw: made.append(name) or [raw])  # type: ignore[func-returns-value]
    assert list(late) == ["a", "b"] and len(late) == 2 and "a" in late and "c" not in late and not made
    assert late["b"] == [2] and late["b"] is late["b"] and made == ["b"]
    assert late.get("c") is None and dict(late) == {"a": [1], "b": [2]}
    assert pickle.loads(pickle.dumps(late)) == {"a": [1], "b": [2]}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a module, neither imported; their names are given back."""
    (tmp_path / "postponed_room").mkdir()
    (tmp_path / "postponed_room" / "__init__.py").write_text("")
    (tmp_path / "postponed_room" / "chair.py").write_text("import time\ntime.sleep(0.01)\nlegs = 4\n")
    (tmp_path / "postponed_room" / "broken.py").write_text("raise ImportError('no wood')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "postponed_room"
    for name in [name for name in sys.modules if name.startswith("postponed_room")]:
        del sys.modules[name]


def test_a_postponed_module_is_imported_when_it_is_used(module: str) -> None:
    postpone([f"{module}.chair"])
    proxy = sys.modules[f"{module}.chair"]
    exec(f"import {module}.chair as chair", own := {})
    assert own["chair"] is proxy and isinstance(proxy, ModuleType) and "legs" not in vars(proxy)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(proxy.legs)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [4] * 8, "any number of threads may want it at once"
    real = sys.modules[f"{module}.chair"]
    assert real is not proxy and real.legs == 4 and sys.modules[module].chair is real
    postpone([f"{module}.chair"])
    assert sys.modules[f"{module}.chair"] is real, "what is there is left alone"


def test_a_postponed_module_that_cannot_be_imported_says_so(module: str) -> None:
    postpone([f"{module}.broken"])
    for _ in range(2):
        with pytest.raises(ImportError, match="no wood"):
            exec(f"from {module}.broken import wood", {})


# What each command must not import, in a process of its own; all of `ccmctl` in one.
_HTTP = {"requests", "urllib3", "ssl", "asyncio"}
_CTL = """
import io, contextlib
from ccm.cli import ctl
known = [command.name for command in ctl.COMMANDS]
assert len(known) > 20
for name in known:
    for words in ([name], [name, "x"]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                ctl.run(["--socket", "/nonexistent/s", *words])
            except SystemExit:
                pass
"""
LIGHT = {
    "version": ("from ccm.cli.main import main; main(['--version'])", {"tomli", "argparse", "json", "re", "http.client"}),
    "statusline": ("from ccm.cli.main import main; main(['statusline'])", {"argparse", "re", "http.client"}),
    "ccmctl": ("import ccm.cli.ctl", {"tomli", "logging", "sqlite3", "http.client"}),
    "ccmctl, every command": (_CTL, {"logging", "http.client"}),  # `costs` without a ccm reads the configuration
    "providers": ("from ccm.cli.main import main; main(['providers', '--json'])", {"http.client", "ccm.proxy"}),
    "models": ("from ccm.cli.main import main; main(['models', '--json'])", {"http.client", "ccm.proxy"}),
    "check": (
        "import argparse; from ccm.cli import check\n"
        "check.run(argparse.Namespace(config=None, listen=None, json=True), {'GROQ_API_KEY': 'g', 'HOME': '/x'})",
        {"http.client"},
    ),
    "start": (
        "from ccm.process import light; light.prepare(); import ccm.app",
        {"argparse", "hashlib", "logging", "sqlite3", "subprocess", "ccm.upstream.session", "ccm.control.api"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", LIGHT)
def test_nothing_heavy_is_imported(command: str) -> None:
    code, more = LIGHT[command]
    script = (
        f"import sys\n{code}\n"
        "there = {name for name, module in sys.modules.items() if type(module).__name__ != '_Postponed'}\n"
        f"sys.exit(', '.join(sorted(there & {_HTTP | more!r})) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {[str(ROOT), *_site()]!r}\n{script}"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def _site() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("start", (None, None, False, None, None, "")),
        ("start --config f --listen 127.0.0.1:1 --demo --log-level debug --socket s --debug-bodies b",
         ("f", "127.0.0.1:1", True, "debug", "s", "b")),
        ("start --config=f=g --log-level=info", ("f=g", None, False, "info", None, "")),
        *[(words, None) for words in (
            "", "check", "start --help", "start --confi f", "start --config", "start --config --demo", "start --config=",
            "start --log-level loud", "start x", "start --demo=1", "start --token x", "--version start",
        )],
    ],
)  # fmt: skip
def test_a_plain_start_needs_no_argparse(words: str, found: Any) -> None:
    """What it takes, argparse takes likewise; everything else is left to argparse and its words."""
    assert cli._plain_start(words.split()) == found
