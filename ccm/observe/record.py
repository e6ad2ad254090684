"""What is known of one finished request: the single thing that log, metrics, status and the usage store read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.shape import dataclass, field


@dataclass(slots=True)
class Attempt:
    """One upstream call: where it went, how it ended ("200", "529", "connect", "first_content_timeout", "cancelled"),
    and how long it took. `error` is the provider's text for people, without keys."""

    endpoint: str
    model: str
    result: str
    seconds: float
    error: str = ""
    started_s: float = 0.0  # after the request's own beginning
    usage: Usage | None = None  # of an attempt whose tokens nobody saw the end of: cancelled, broken, hedged
    assumed_billed: bool = False  # the provider had begun to answer; whether it charges for that, nobody says
    cost_usd: float | None = None  # None: unknown, or nothing was generated
    price: Price | None = None  # list price of the target


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
    project: str = ""
    price: Price | None = None  # the answering target's list price
    list_price: Price | None = (
        None  # of the target the request would have gone to without ccm: the first by priority
    )
    cost_usd: float | None = (
        None  # of all attempts; None = unknown, never 0 for it. Set when the request is settled
    )
    list_cost_usd: float | None = None  # the same tokens at `list_price`
    warned: list[str] = field(default_factory=list)  # budgets that are nearly used up, for people
    why: Callable[[], dict[str, Any]] | None = None  # tells how its target was chosen (`ccmctl explain`)
    bytes_in: int = 0
    bytes_out: int = 0
    longest_gap_s: float | None = None  # of a stream: the longest wait between two pieces from the provider
    traceparent: str = ""  # the client's header, as it came (W3C trace context)
