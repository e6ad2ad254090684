"""How many connections each worker has, in memory that all see: who has more than another lets that one accept first.

Whoever is woken first by a shared listening socket would else take most of what comes (all 64 of 64, measured on a busy
machine). Each worker writes its own number only; a torn or old figure costs a little fairness, nothing else.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

_FIGURE = struct.Struct("=q")
_ABSENT = 2**62  # nobody there: nobody waits for it


class Scales:
    """`fd` is a file of one figure per worker; `number` counts from 1, 0 is the supervisor, who has none."""

    def __init__(self, fd: int, size: int, number: int = 0) -> None:
        self.fd = fd
        self._size, self._number = size, number
        self._memory = mmap.mmap(fd, size * _FIGURE.size)

    def put(self, connections: int) -> None:
        """So many connections are open here."""
        self._set(self._number, connections)

    def leave(self, number: int) -> None:
        """That worker accepts nothing."""
        self._set(number, _ABSENT)

    def heavy(self) -> bool:
        """Whether somebody else has fewer."""
        mine = self._get(self._number)
        return any(self._get(number) < mine for number in range(1, self._size + 1))

    def _set(self, number: int, figure: int) -> None:
        _FIGURE.pack_into(self._memory, (number - 1) * _FIGURE.size, figure)

    def _get(self, number: int) -> int:
        figure: int = _FIGURE.unpack_from(self._memory, (number - 1) * _FIGURE.size)[0]
        return figure


def make(size: int) -> Scales:
    """New ones, with nobody there."""
    with tempfile.TemporaryFile() as file:
        file.truncate(size * _FIGURE.size)
        scales = Scales(os.dup(file.fileno()), size)
    for number in range(1, size + 1):
        scales.leave(number)
    return scales
