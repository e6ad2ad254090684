"""What every dialect offers, and what it is given. The contract between `proxy` and the dialect modules.

Pure: no I/O, no clock, no randomness of its own (`Context.new_id`). A dialect never sees health or routing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from ccm.messages.events import Event
from ccm.messages.tokens import Usage
from ccm.model import EMPTY, ModelFacts, ProviderError
from ccm.shape import dataclass, field

Request = dict[
    str, Any
]  # a Messages API request body; read only: encoders build new containers, sharing leaves
Message = dict[str, Any]  # a Messages API response body


class Loss(NamedTuple):
    """Something the translation dropped or approximated. `feature` is the Messages field ("cache_control", "top_k",
    "tool_result.is_error"), `how` one of "dropped" | "approximated"; counted per provider and shown to the client."""

    feature: str
    how: str = "dropped"


@dataclass(frozen=True, slots=True)
class Context:
    """All that a translation may depend on besides the request."""

    provider: str  # the provider's configured name, for messages
    family: str  # whose opaque state this upstream understands: "<dialect>/<catalogue type>" (dialects.state)
    model: str  # the upstream's model id
    asked_model: str  # what the client named: goes back as `message.model`
    facts: ModelFacts
    new_id: Callable[[str], str]  # new_id("msg_") -> unique id with that prefix
    stream: bool = False
    quirks: frozenset[str] = frozenset()
    abilities: frozenset[str] = frozenset()
    session: str = ""
    client_headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # lower-case names
    options: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    estimate_tokens: int = 0  # our own count of the input, for message_start where the provider tells late
    native: bool = True  # the client speaks Messages itself and knows the model it names


@dataclass(slots=True)
class Encoded:
    """A request in the provider's dialect. `path` is appended to the provider's base_url; `names` maps tool names as
    sent back to the client's; `cut` are stop sequences that must be cut locally because the provider takes none."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    cut: tuple[str, ...] = ()
    seen_ids: frozenset[str] = (
        frozenset()
    )  # tool ids of the history: an answer's own ids must differ from them

    def lose(self, feature: str, how: str = "dropped") -> None:
        """Notes a loss once."""
        loss = Loss(feature, how)
        if loss not in self.losses:
            self.losses.append(loss)


class Decoder(Protocol):
    """A push decoder of one streamed answer. Frames in, events out, any cut of the bytes the same.

    Push rather than `Iterator -> Iterator`, because committed streams are driven by one selector thread that must
    never wait inside a decoder. `dialects.base.decode` is the pull form.
    """

    usage: Usage
    finished: bool  # the dialect's terminal event was seen and message_stop was given out

    def feed(self, frame: Any) -> list[Event]:
        """Events of one frame. Raises UpstreamError for an error inside the stream, BadUpstream for nonsense."""
        ...

    def end(self) -> list[Event]:
        """The body ended. The last events, or IncompleteStream where the answer is not whole."""
        ...


class Dialect(Protocol):
    """One API. `framing` names how its streams are cut into frames: "sse" or "eventstream"."""

    name: str
    framing: str

    def encode(self, request: Request, ctx: Context) -> Encoded:
        """The request in this dialect. Raises Refusal (400) for what cannot be carried at all."""
        ...

    def decode(self, body: Any, ctx: Context, sent: Encoded) -> Message:
        """A whole answer (parsed JSON). Raises UpstreamError for an error inside a 200, BadUpstream for nonsense."""
        ...

    def decoder(self, ctx: Context, sent: Encoded) -> Decoder:
        """A decoder for one streamed answer."""
        ...

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """An error answer in one shape; overflow texts keep the provider's wording (routing.failures rewrites them)."""
        ...

    def encode_count(self, request: Request, ctx: Context) -> Encoded | None:
        """A request for the provider's own token count, or None where it has no such endpoint."""
        ...

    def decode_count(self, body: Any) -> int:
        """The count in the answer to that."""
        ...
