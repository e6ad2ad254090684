"""Credentials that expire: kept while they are good, renewed by one thread while the others wait, and fetched from
small HTTP services (cloud metadata, token endpoints) over sessions that take nothing from the environment.

What goes wrong here is a `KeyUnavailable` (somebody has to do something) or its sort `KeyDelayed` (a service is away
for the moment). Neither text ever holds an answer or a secret.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ccm.config.secrets import FAILURE_TTL_S, KeyUnavailable, child_environment
from ccm.late import Late

if TYPE_CHECKING:
    import requests
    from urllib3 import exceptions
else:  # whoever calls `fetch` has imported them with the session
    requests, exceptions = Late("requests"), Late("urllib3.exceptions")

T = TypeVar("T")

EARLY_S = 300.0  # renewed so long before the end
FOREVER = float("inf")
METADATA_TIMEOUT_S = 2.0
_WAIT_S = 30.0  # of one thread for another's renewal; every step of a renewal has a shorter limit
_MAX_ANSWER_BYTES = 64 * 1024
_STEP_BYTES = 8192


class KeyDelayed(KeyUnavailable):
    """The service that gives out the credentials does not answer, or not now: trying later may help."""


class Renewed(Generic[T]):
    """One credential and its end. `fetch` gives (credential, end in epoch seconds) and may block or raise
    KeyUnavailable; any number of threads may ask, one of them fetches. A failure is remembered for a few seconds."""

    def __init__(self, fetch: Callable[[], tuple[T, float]], clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._value: T | None = None
        self._renew_at = self._end = float("-inf")
        self._failure: KeyUnavailable | None = None
        self._failed_until = float("-inf")
        self._running: threading.Event | None = None

    def get(self) -> T:
        """The credential. While it is renewed early, the old one serves all but the thread that renews it, and that
        one too where the renewal fails. Raises KeyUnavailable."""
        while True:
            with self._lock:
                now = self._clock()
                value = self._value
                if value is not None and now < self._renew_at:
                    return value
                good = value is not None and now < self._end
                failed = self._failure is not None and 0 < self._failed_until - now <= FAILURE_TTL_S
                if value is not None and good and (failed or self._running is not None):
                    return value
                if failed:
                    assert self._failure is not None
                    raise type(self._failure)(str(self._failure))
                done = self._running
                mine = done is None
                if done is None:
                    done = self._running = threading.Event()
            if mine:
                self._renew(done)
            elif not done.wait(_WAIT_S):
                raise KeyDelayed("the credentials are still being fetched")

    def forget(self) -> None:
        """It was refused: the next `get` fetches a new one."""
        with self._lock:
            self._renew_at = self._end = float("-inf")
            self._failed_until = float("-inf")

    def _renew(self, done: threading.Event) -> None:
        value, end = None, float("-inf")
        failure: KeyUnavailable | None = KeyDelayed("the credentials could not be fetched")
        try:
            value, end = self._fetch()
            failure = None
            if end <= self._clock():
                value, failure = None, KeyDelayed("the credentials that were given out have expired already")
        except KeyUnavailable as error:
            failure = error
        finally:
            with self._lock:
                now = self._clock()
                self._failure = failure
                if value is not None:
                    self._value, self._end = value, end
                    # what lives shorter than the margin is renewed at half its life, never at every request
                    self._renew_at = max(end - EARLY_S, now + (end - now) / 2) if end < FOREVER else FOREVER
                else:
                    self._failed_until = now + FAILURE_TTL_S
                self._running = None
            done.set()


def fetch(
    session: requests.Session,
    method: str,
    url: str,
    what: str,
    *,
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, str] | bytes | None = None,
    timeout_s: float = METADATA_TIMEOUT_S,
) -> tuple[int, Mapping[str, str], bytes]:
    """One small exchange: (status, headers, body). `what` names the service in errors. No redirect is followed, an
    answer is at most 64 KiB and must be there within `timeout_s`. Raises KeyDelayed when there is none."""
    deadline = time.monotonic() + timeout_s
    try:
        with session.request(
            method, url, headers=dict(headers or {}), data=data, timeout=timeout_s, allow_redirects=False, stream=True
        ) as answer:  # fmt: skip
            body = b""
            while piece := answer.raw.read(_STEP_BYTES, decode_content=True):
                body += piece
                if len(body) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
                    raise KeyDelayed(f"{what} answered too much, or too slowly")
            return answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, body
    except (requests.RequestException, OSError, exceptions.HTTPError, ValueError) as error:
        raise KeyDelayed(f"{what} does not answer ({type(error).__name__})") from None


def parse_object(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object of an answer or file. Raises KeyUnavailable."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise KeyUnavailable(f"{what} is not a JSON object")
    return found


def run_command(argv: list[str], env: Mapping[str, str], what: str, timeout_s: float) -> bytes:
    """What a command prints. It sees no keys in its environment, and its whole process group ends with it. Raises
    KeyUnavailable."""
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(env),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise KeyUnavailable(
            f"{what} can't be started: {getattr(error, 'strerror', None) or 'bad command'}"
        ) from None
    try:
        out, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            pass  # it has just ended by itself
        child.communicate()
        raise KeyUnavailable(f"{what} did not end within {timeout_s:g} s") from None
    if child.returncode:
        raise KeyUnavailable(f"{what} failed with exit status {child.returncode}")
    return out[: _MAX_ANSWER_BYTES + 1]
