"""Every exception of ccm. One tree, so that a boundary catches what it means to catch.

CcmError
├── ConfigError            all problems of a configuration at once, each with its place and fix
├── Refusal                we answer the client ourselves: status, error type, message (the API's envelope)
├── WireError              bytes that break a protocol
│   ├── BadRequest         at our own door; carries the HTTP status of the answer
│   └── BadUpstream        in a provider's answer (framing, JSON, grammar)
├── UpstreamError          a provider said no, or failed; carries a `model.ProviderError`
│   └── IncompleteStream   the body ended without the dialect's terminal event
├── ClientGone             the client left; neither success nor failure of any target
└── ControlError           a control action that cannot be done; says what would work
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccm.model import Problem, ProviderError


class CcmError(Exception):
    """The root: everything ccm raises on purpose."""


class ConfigError(CcmError):
    """A configuration that must not run. `problems` holds every one found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class Refusal(CcmError):
    """An answer that ccm gives itself, in the API's own error envelope."""

    def __init__(
        self, status: int, type: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.type = type
        self.message = message
        self.headers = dict(headers or {})
        self.surface = "messages"  # whose error envelope the caller understands
        super().__init__(f"{status} {type}: {message}")


class WireError(CcmError):
    """Bytes that break a protocol."""


class BadRequest(WireError):
    """A request head or body that HTTP/1.1 forbids; `status` is what the client gets, then we close."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class BadUpstream(WireError):
    """A provider's answer that breaks HTTP, its framing, its JSON or its event grammar."""


class UpstreamError(CcmError):
    """A provider's own error, or a failure to reach it, in one shape."""

    def __init__(self, error: ProviderError) -> None:
        self.error = error
        super().__init__(str(error))


class IncompleteStream(UpstreamError):
    """The body ended, or broke, before the dialect's terminal event: never success (DESIGN: an end is not a finish)."""


class ClientGone(CcmError):
    """The client closed its connection; the upstream call is to be cancelled."""


class ControlError(CcmError):
    """A control action that cannot be done; `status` is the HTTP status on the control socket."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)
