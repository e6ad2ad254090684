"""The caller's side of the control socket: what `ccmctl` uses. Standard library only, and little of it: it starts fast."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ccm.errors import ControlError

TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024


class NotRunning(ControlError):
    """Nobody listens at the control socket. `path` is where we asked."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"ccm is not running (nobody answers at {path})", 503)


class Unanswered(ControlError):
    """Somebody listens, but no answer came in time, or none that can be read."""


def ask(
    path: str, method: str, target: str, args: Mapping[str, Any] | None = None, timeout_s: float = TIMEOUT_S
) -> Any:
    """One request to the ccm at this socket: the JSON answer, or the text where the answer is text.

    `args` go into the query (GET) or the JSON body (POST). Raises NotRunning, Unanswered, or ControlError with ccm's
    own words where it says no.
    """
    body = None
    if method == "GET" and args:
        target = f"{target}?{urlencode(args)}"
    elif method != "GET":
        body = json.dumps(dict(args or {}))
    try:
        status, content_type, data = _exchange(path, _request(method, target, body), timeout_s)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunning(path) from None
    except PermissionError:
        raise ControlError(f"no permission to use {path}: it belongs to another user's ccm", 403) from None
    except TimeoutError:
        raise Unanswered(f"ccm does not answer at {path} within {timeout_s:g} s", 504) from None
    except (OSError, ValueError) as error:
        raise Unanswered(f"no answer from {path}: {str(error) or type(error).__name__}", 502) from None
    is_json = content_type.startswith("application/json")
    try:
        value = json.loads(data) if is_json else data.decode("utf-8", "replace")
    except ValueError:
        raise Unanswered(f"{path} answers, but not as ccm does", 502) from None
    if status >= 400:
        message = value.get("error") if isinstance(value, dict) else None
        raise ControlError(str(message or f"ccm answered {status}"), status)
    return value


def _request(method: str, target: str, body: str | None) -> bytes:
    if any(character <= " " or character > "~" for character in target):
        raise ControlError(f"no such address: {target!r}", 400)
    lines = [f"{method} {target} HTTP/1.1", "Host: ccm", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + (body or "")).encode("ascii")


def _exchange(path: str, request: bytes, timeout_s: float) -> tuple[int, str, bytes]:
    """(status, content type, body) of the answer: ccm's own, which has a length and ends its connection. By hand, since
    `http.client` takes as long to import as the rest of ccmctl. Raises OSError and ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(path)
        try:
            sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # an early refusal may be there to be read
        pieces, size = [], 0
        while size < MAX_ANSWER_BYTES and (piece := sock.recv(65536)):
            pieces.append(piece)
            size += len(piece)
    head, ended, body = b"".join(pieces).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not ended or len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ValueError("it ends before it says anything" if not head else "it is not HTTP")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if fields.get("content-length", "").isdecimal() and len(body) < int(fields["content-length"]):
        raise ValueError("it is cut short")
    return int(words[1]), fields.get("content-type", ""), body
