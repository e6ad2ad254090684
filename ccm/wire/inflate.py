"""Compressed answers, bounded. ccm asks for identity; a provider that compresses all the same is still understood.

gzip and deflate only, one coding, with a limit on what comes out: no chain, no bomb (RELIABILITY S21).
"""

from __future__ import annotations

import zlib

from ccm.errors import BadUpstream
from ccm.wire.http1 import Chunks, Sized, UntilClose

MAX_INFLATED_BYTES = 64 * 1024 * 1024
_CODINGS = {"gzip": 47, "x-gzip": 47, "deflate": 47}  # zlib's "gzip or zlib header" window


class Inflated:
    """A body decoder around another one: the same interface, payload decompressed."""

    __slots__ = ("_inner", "_left", "_zlib")

    def __init__(self, inner: Chunks | Sized | UntilClose, coding: str) -> None:
        window = _CODINGS.get(coding)
        if window is None:
            raise BadUpstream(f"a body in the coding {coding[:40]!r}, which was not asked for")
        self._inner = inner
        self._zlib = zlib.decompressobj(window)
        self._left = MAX_INFLATED_BYTES

    @property
    def done(self) -> bool:
        return self._inner.done

    @property
    def rest(self) -> bytes:
        return self._inner.rest

    @property
    def until_close(self) -> bool:
        return self._inner.until_close

    def close(self) -> None:
        """The connection ended; see `UntilClose.close`."""
        self._inner.close()

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes, decompressed. Raises BadUpstream."""
        packed = self._inner.feed(data)
        if not packed:
            return b""
        try:
            out = self._zlib.decompress(packed, self._left)
        except zlib.error as error:
            raise BadUpstream(f"a compressed body that cannot be read: {error}") from None
        if self._zlib.unconsumed_tail:
            raise BadUpstream(f"a compressed body of more than {MAX_INFLATED_BYTES} bytes")
        self._left -= len(out)
        return out
