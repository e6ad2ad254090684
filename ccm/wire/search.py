"""Searching long bytes for short needles, without searching the same text twice.

libc's memmem where there is one (3 to 10 times faster than `bytes.find` on 146 KB: 79 -> 24 us for `"thinking"`), else
`bytes.find`. And a memory of the last texts: a turn of a conversation repeats the turns before it at its beginning and
the tools at its end, so what was not there a turn ago can only be in between (`remember`). Same answers as `bytes.find`,
always; tests hold them against each other.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

_SHORT = 8192  # below this the call costs more than it saves
_KEPT = 6
_KEPT_BYTES = 2 * 1024 * 1024  # of all kept texts together
_TRIED = 3
_STEP = 512  # how exactly the common beginning and end are found


class _Text:
    """A long text and what is known not to be in it: needle -> from which index on."""

    __slots__ = ("absent", "begin", "data", "end", "known", "other_end")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.absent: dict[bytes, int] = {}
        self.known: dict[bytes, int] = {}  # what is absent from the text this one is nearly equal to
        self.begin, self.end = 0, len(data)  # where they differ: before and behind they are the same
        self.other_end = 0  # `end`, as an index of the other one


class _Current(threading.local):
    text: _Text | None = None


_current = _Current()
_kept: tuple[_Text, ...] = ()  # the latest first; swapped whole: a lost update costs one search


def _plain(data: bytes, needle: bytes, start: int, end: int) -> int:
    return data.find(needle, start, end)


def _slices_equal(a: bytes, at: int, b: bytes, other: int, size: int) -> bool:
    return a[at : at + size] == b[other : other + size]


def _load() -> tuple[Callable[[bytes, bytes, int, int], int], Callable[[bytes, int, bytes, int, int], bool]]:
    try:
        # PyDLL: the interpreter lock is kept, for the search is shorter than giving it away and getting it back.
        libc = ctypes.PyDLL(None)
        memmem, memcmp = libc.memmem, libc.memcmp
    except (OSError, AttributeError):
        return _plain, _slices_equal
    memmem.restype = ctypes.c_void_p
    memmem.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    memcmp.restype = ctypes.c_int
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    pointer, cast, void = ctypes.c_char_p, ctypes.cast, ctypes.c_void_p

    def fast(data: bytes, needle: bytes, start: int, end: int) -> int:
        if end - start < _SHORT or not needle:
            return data.find(needle, start, end)
        base = cast(pointer(data), void).value or 0
        hit = memmem(base + start, end - start, needle, len(needle))
        return -1 if hit is None else int(hit) - base

    def equal(a: bytes, at: int, b: bytes, other: int, size: int) -> bool:
        one, two = cast(pointer(a), void).value or 0, cast(pointer(b), void).value or 0
        return bool(memcmp(one + at, two + other, size) == 0)

    return fast, equal


_find, _equal = _load()


def remember(data: bytes) -> None:
    """From now on, until `forget`, searches of this very text in this thread use what is known of one like it, and
    what they find out is kept for the next. Short and very long texts are just searched."""
    global _kept  # noqa: PLW0603 - one tuple, swapped whole
    size = len(data)
    if not _SHORT <= size <= _KEPT_BYTES:
        _current.text = None
        return
    text = _Text(data)
    kept = _kept
    older = next((each for each in kept[:_TRIED] if _overlaps(text, each)), None)
    room = _KEPT_BYTES - size
    rest: list[_Text] = []
    for each in kept:
        room -= len(each.data)
        if each is not older and room >= 0 and len(rest) < _KEPT - 1:
            rest.append(each)
    _kept = (text, *rest)
    _current.text = text


def forget() -> None:
    """The text given to `remember` is done with."""
    _current.text = None


def _overlaps(text: _Text, older: _Text) -> bool:
    """Whether the two have three quarters in common; then `text` takes over what is known."""
    a, b = text.data, older.data
    most = min(len(a), len(b))
    if len(a) == len(b) and _equal(a, 0, b, 0, most):
        text.begin = text.end = text.other_end = len(a)
    else:
        begin = _common(most, lambda at, size: _equal(a, at, b, at, size))
        to, other = len(a), len(b)
        left = most - begin
        end = _common(left, lambda at, size: _equal(a, to - at - size, b, other - at - size, size))
        if begin + end < 3 * len(a) // 4:
            return False
        text.begin, text.end, text.other_end = begin, to - end, other - end
    text.known = older.absent
    return True


def _common(most: int, same: Callable[[int, int], bool]) -> int:
    """How many bytes, of `most`, are the same, to within `_STEP`."""
    found, size = 0, most
    while size >= _STEP:
        if found + size <= most and same(found, size):
            found += size
        size //= 2
    return found


def find(data: bytes, needle: bytes, start: int = 0) -> int:
    """The lowest index >= `start` where `needle` occurs in `data`, or -1: `data.find(needle, start)`, faster."""
    size = len(data)
    if size - start < _SHORT:
        return data.find(needle, start)
    text = _current.text
    if text is None or text.data is not data:
        return _find(data, needle, start, size)
    if text.absent.get(needle, size) <= start:
        return -1
    known = text.known.get(needle)
    if (
        known is not None and known <= start and known <= text.other_end
    ):  # every occurrence touches what is new
        begin = max(start, text.begin - len(needle) + 1)
        hit = _find(data, needle, begin, max(begin, min(size, text.end + len(needle) - 1)))
    else:
        hit = _find(data, needle, start, size)
    if hit < 0:
        text.absent[needle] = min(start, text.absent.get(needle, size))
    return hit


def contains(data: bytes, needle: bytes) -> bool:
    """Whether `needle` occurs in `data`."""
    return find(data, needle) >= 0
