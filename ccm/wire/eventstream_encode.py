"""AWS event-stream framing, the way out: what `eventstream` reads, written for clients that speak Bedrock.

message = total length u32, headers length u32, CRC-32 of those eight bytes, headers, payload, CRC-32 of all before it;
big-endian; every header here is a string (type 7). Source: smithy.io "Amazon Event Stream Specification".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

_PRELUDE = struct.Struct(">II")
_CRC = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_STRING = b"\x07"
_OVERHEAD = 16  # prelude 8, its checksum 4, the message's checksum 4


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message. Names have at most 255 bytes, values at most 65535: ValueError beyond."""
    block = b"".join(_header(name, value) for name, value in headers.items())
    prelude = _PRELUDE.pack(_OVERHEAD + len(block) + len(payload), len(block))
    head = prelude + _CRC.pack(zlib.crc32(prelude)) + block + payload
    return head + _CRC.pack(zlib.crc32(head))


def _header(name: str, value: str) -> bytes:
    raw_name, raw = name.encode(), value.encode()
    if not 0 < len(raw_name) < 256 or len(raw) > 0xFFFF:
        raise ValueError(f"an event-stream header of {len(raw_name)} and {len(raw)} bytes")
    return bytes((len(raw_name),)) + raw_name + _STRING + _LENGTH.pack(len(raw)) + raw
