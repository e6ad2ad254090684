"""What is known of one finished request: the single thing that log, metrics, status and the usage store read."""

from __future__ import annotations

from dataclasses import dataclass, field

from ccm.messages.tokens import Usage


@dataclass(slots=True)
class Attempt:
    """One upstream call: where it went, how it ended ("200", "529", "connect", "first_content_timeout", "cancelled"),
    and how long it took. `error` is the provider's text for people, without keys."""

    endpoint: str
    model: str
    result: str
    seconds: float
    error: str = ""


@dataclass(slots=True)
class RequestRecord:
    """Filled by `proxy.flow` while a request runs, handed to every observer once, when it has ended.

    `ending` says who ended it and how: "complete" | "refused" (we answered ourselves) | "failed" (every target failed)
    | "broken" (after commit) | "client_gone" | "stopped" (shutdown). Times are seconds; `at` is wall-clock epoch.
    """

    id: str
    at: float
    surface: str = "messages"  # messages | chat | responses | count_tokens
    asked_model: str = ""
    request_class: str = "default"
    session: str = ""
    stream: bool = False
    status: int = 0  # what the client got
    ending: str = ""
    provider: str = ""  # who answered (or was last tried)
    endpoint: str = ""
    model: str = ""
    route: str = ""  # which rule and strategy chose it, for people
    attempts: list[Attempt] = field(default_factory=list)
    first_content_s: float | None = None
    total_s: float = 0.0
    usage: Usage = field(default_factory=Usage)
    stop_reason: str | None = None
    losses: list[str] = field(default_factory=list)  # "feature=dropped"
    error: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
