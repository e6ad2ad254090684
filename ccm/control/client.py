"""The caller's side of the control socket: what `ccmctl` uses. Standard library only, and little of it: it starts fast."""

from __future__ import annotations

import http.client
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


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("ccm", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


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
    connection = _Connection(path, timeout_s)
    try:
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunning(path) from None
    except PermissionError:
        raise ControlError(f"no permission to use {path}: it belongs to another user's ccm", 403) from None
    except TimeoutError:
        raise Unanswered(f"ccm does not answer at {path} within {timeout_s:g} s", 504) from None
    except (OSError, http.client.HTTPException) as error:
        raise Unanswered(f"no answer from {path}: {str(error) or type(error).__name__}", 502) from None
    finally:
        connection.close()
    is_json = (response.getheader("content-type") or "").startswith("application/json")
    try:
        value = json.loads(data) if is_json else data.decode("utf-8", "replace")
    except ValueError:
        raise Unanswered(f"{path} answers, but not as ccm does", 502) from None
    if response.status >= 400:
        message = value.get("error") if isinstance(value, dict) else None
        raise ControlError(str(message or f"ccm answered {response.status}"), response.status)
    return value
