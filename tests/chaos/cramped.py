"""Runs a program in cramped conditions: python cramped.py CONDITION[=VALUE] ... -- ARGUMENTS OF PYTHON

    descriptors=64     at most so many open files
    file-size=BYTES    no file may grow beyond (what a full disk looks like without rights to mount one)
    full=DIR           DIR is a disk of 32 MB of the program's own (needs the rights to mount)
    read-only=DIR      DIR can only be read (the same)
    pipe=closed|full   standard output and error go to a pipe that nobody reads any more, or yet

Exits with 77 where the condition cannot be made here.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

NO_RIGHTS = 77
_CLONE_NEWNS, _MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _own_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def _descriptors(value: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(value), int(value)))


def _file_size(value: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))


def _full(directory: str) -> None:
    _own_mounts()
    _mount("none", directory, "tmpfs", 0, "size=32m,mode=0700")


def _read_only(directory: str) -> None:
    _own_mounts()
    _mount(directory, directory, "", _MS_BIND)
    _mount("none", directory, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _pipe(state: str) -> None:
    reading, writing = os.pipe()
    if state == "full":
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writing, True)
        os.set_inheritable(reading, True)  # open, and never read
    else:
        os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)


CONDITIONS = {
    "descriptors": _descriptors, "file-size": _file_size, "full": _full, "read-only": _read_only, "pipe": _pipe,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Makes the conditions, and becomes the program."""
    at = arguments.index("--")
    for condition in arguments[:at]:
        name, _, value = condition.partition("=")
        try:
            CONDITIONS[name](value)
        except OSError as error:
            sys.stderr.write(f"cramped: {condition}: {error}\n")
            sys.exit(NO_RIGHTS)
    os.execv(sys.executable, [sys.executable, *arguments[at + 1 :]])


if __name__ == "__main__":
    main(sys.argv[1:])
