"""A place of its own for a test: a loopback nobody else is on, an ordinary user, a root file system nobody can write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

USER = 1001
_LOOP = 'ip link set lo up 2>/dev/null; exec "$@"'


def unshared(*kinds: str) -> list[str]:
    """The words before a command that runs in namespaces of these kinds (`-n`, `-m`). Skips where none can be made."""
    for words in (["unshare", *kinds], ["unshare", "-r", *kinds]):
        try:
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
        except OSError:
            break
    pytest.skip(f"no namespace ({' '.join(kinds)}) can be made here")


def alone() -> list[str]:
    """As we are, on a loopback of its own."""
    return [*unshared("-n"), "sh", "-c", _LOOP, "sh"]


def as_user() -> list[str]:
    """An ordinary user, on a loopback of its own."""
    return [*alone(), *ordinary()]


def ordinary() -> list[str]:
    """An ordinary user; nothing to do where we are one."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv: a root's process cannot become an ordinary user's")
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]


def user_python(prefix: list[str]) -> str:
    """A Python 3.10 or newer that this user can run, outside any environment."""
    check = "import sys; sys.exit(sys.version_info < (3, 10))"
    for candidate in ("/usr/local/bin/python3", "/usr/bin/python3", sys.executable):
        done = subprocess.run([*prefix, candidate, "-c", check], cwd="/", capture_output=True, check=False)
        if done.returncode == 0:
            return candidate
    pytest.skip("an ordinary user has no Python 3.10 here")
