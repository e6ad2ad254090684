"""A process that holds keys shows nothing of its memory: no core, no debugger, and everything else goes on as before."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import REPO, Gateway, provider
from tests.http1 import message, post
from tests.upstream import Upstream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")

# what a process of another user's finds of itself after harden(); it is forked, for that user cannot read this Python
INSIDE = """
import ctypes, os, resource, sys
from ccm.observe.sink import _open_again
from ccm.process import limits
if os.getuid() == 0:
    os.setuid(65534)
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE; a setuid may have ended it already
limits.harden()
fds = len(os.listdir("/proc/self/fd"))
again = _open_again(os.pipe()[1])
print(before, libc.prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE), fds > 2, again > 2, flush=True)
print("VmRSS" in open("/proc/self/status").read(), bool(open("/proc/self/stat").read()), flush=True)
sys.stdin.read()
"""


def test_nobody_but_root_gets_at_the_process_and_it_gets_at_itself() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INSIDE], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        dumpable = process.stdout.readline().split()
        assert dumpable[1:] == ["0", "(0,", "0)", "True", "True"]
        assert process.stdout.readline().split() == ["True", "True"]
        proc = Path(f"/proc/{process.pid}")
        assert (proc / "environ").stat().st_uid == (proc / "mem").stat().st_uid == 0, (
            "the kernel's sign of it"
        )
        assert "VmRSS" in (proc / "status").read_text() and (proc / "limits").read_text(), (
            "figures stay public"
        )
        if os.getuid() != 0:
            with pytest.raises(PermissionError):
                (proc / "environ").read_bytes()
        elif (pid := os.fork()) == 0:  # a neighbour of the same user
            os.setuid(65534)
            refused = 0
            for name in ("environ", "mem", "maps", "fd"):
                try:
                    os.listdir(proc / name) if name == "fd" else (proc / name).read_bytes()
                except OSError:
                    refused += 1
            libc = ctypes.CDLL(None)
            libc.ptrace.restype = ctypes.c_long
            os._exit(refused if libc.ptrace(16, process.pid, 0, 0) == -1 else 99)  # PTRACE_ATTACH
        else:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
        process.stdin.close()
        assert process.wait(10) == 0


def test_it_is_in_force_before_the_port_answers(
    tmp_path: Path, up: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that users start, with a look at itself on its way out of harden()."""
    program = tmp_path / "looking.py"
    program.write_text(
        "import ctypes, sys\n"
        "from ccm.cli.main import main\n"
        "from ccm.process import limits\n"
        "harden = limits.harden\n"
        "def looked():\n"
        "    harden()\n"
        "    print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), file=sys.stderr)\n"
        "limits.harden = looked\n"
        "sys.exit(main())\n"
    )
    gateway = Gateway(tmp_path / "ccm", provider(up, "a"))
    gateway.program = [str(program)]
    gateway.start()
    try:
        assert "dumpable 0\n" in gateway.log()
        assert post(gateway.base_url, message()).status == 200
        assert gateway.ctl("status").returncode == 0
    finally:
        assert gateway.stop() == 0
