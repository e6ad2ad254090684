"""The hashes of `hashlib`, and the comparison of `hmac`, from the modules that these are made of: `hashlib` imports
OpenSSL, which takes 2 ms and 3 MB, and is not needed where no provider is reached by TLS."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any


def _of(module: str, name: str, official: str) -> Any:
    """CPython's inner module, where this Python has it; else the official one."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return getattr(importlib.import_module(official), name.lstrip("_"))


if TYPE_CHECKING:
    from hashlib import blake2b as blake2b
    from hashlib import sha256 as sha256
    from hmac import compare_digest as compare_digest
else:
    sha256 = _of("_sha2" if sys.version_info >= (3, 12) else "_sha256", "sha256", "hashlib")
    blake2b = _of("_blake2", "blake2b", "hashlib")
    compare_digest = _of("_operator", "_compare_digest", "hmac")
