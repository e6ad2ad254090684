"""The memory that request bodies may take together (RELIABILITY row 82): reserved before a body is read, given back when
its request has been answered or its stream has begun. What does not fit is refused, honestly and at once."""

from __future__ import annotations

import threading

from ccm.errors import Refusal

POOL_BYTES = 512 * 1024 * 1024


class Pool:
    """Counts bytes; keeps none. `free_bytes` of each body are not counted: connections are bounded, too."""

    def __init__(self, limit: int = POOL_BYTES, free_bytes: int = 16 * 1024) -> None:
        self.limit = limit
        self.free_bytes = free_bytes
        self._lock = threading.Lock()
        self._taken = 0

    @property
    def taken(self) -> int:
        """Bytes reserved now."""
        return self._taken

    def take(self, size: int) -> None:
        """Reserves so many bytes. Raises Refusal 503 where they are not there."""
        with self._lock:
            fits = self._taken + size <= self.limit
            self._taken += size * fits
        if not fits:
            raise Refusal(
                503,
                "api_error",
                "ccm holds as many request bodies as its memory allows.",
                {"retry-after": "1"},
            )

    def give(self, size: int) -> None:
        """Gives them back."""
        with self._lock:
            self._taken -= size
