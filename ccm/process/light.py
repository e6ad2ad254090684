"""What a process of ccm does before it imports itself, so that it starts fast and stays small. It must import nothing
that it postpones."""

from __future__ import annotations

import gc

from ccm.late import postpone

# Modules of the standard library that are imported by what ccm needs, above all by `http.server`, and hardly ever used:
# together 15 ms and 5 MB. `ssl` is imported with `requests`, as soon as a provider is reached by TLS.
SELDOM = (
    "ssl", "html", "mimetypes", "email.parser", "email.header", "email.quoprimime", "email.base64mime", "quopri", "calendar",
    "shutil", "copy", "string", "difflib", "platform", "logging", "statistics", "csv", "traceback", "linecache", "textwrap",
    "uuid", "subprocess", "shlex", "hmac", "hashlib", "secrets", "sqlite3",
)  # fmt: skip


def prepare() -> None:
    """Once, first of all."""
    postpone(SELDOM)
    gc.disable()  # importing makes much and drops nothing; `settle` puts it on again


def settle() -> None:
    """Once everything is there: what lives for good is not looked at again."""
    gc.freeze()
    gc.enable()
