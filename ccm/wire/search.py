"""Searching long bytes for short needles: libc's memmem where there is one (3 to 10 times faster than `bytes.find` on
146 KB: 79 -> 24 us for `"thinking"`), else `bytes.find`. Same answers, for tests hold both against each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_SHORT = 8192  # below this the call costs more than it saves


def _plain(data: bytes, needle: bytes, start: int = 0) -> int:
    return data.find(needle, start)


def _load() -> Callable[[bytes, bytes, int], int]:
    try:
        # PyDLL: the interpreter lock is kept, for the search is shorter than giving it away and getting it back.
        memmem = ctypes.PyDLL(None).memmem
    except (OSError, AttributeError):
        return _plain
    memmem.restype = ctypes.c_void_p
    memmem.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    address_of = ctypes.c_char_p

    def fast(data: bytes, needle: bytes, start: int = 0) -> int:
        size = len(data)
        if size - start < _SHORT or not needle:
            return data.find(needle, start)
        base = ctypes.cast(address_of(data), ctypes.c_void_p).value or 0
        hit = memmem(base + start, size - start, needle, len(needle))
        return -1 if hit is None else int(hit) - base

    return fast


_find = _load()


def find(data: bytes, needle: bytes, start: int = 0) -> int:
    """The lowest index >= `start` where `needle` occurs in `data`, or -1: `data.find(needle, start)`, faster."""
    return _find(data, needle, start)


def contains(data: bytes, needle: bytes) -> bool:
    """Whether `needle` occurs in `data`."""
    return _find(data, needle, 0) >= 0
