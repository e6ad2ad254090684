"""When no provider can help: the right status, Anthropic's envelope, and what tells the client when to come back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, free_port, provider, providers
from tests.http1 import Reply, message, post
from tests.upstream import Upstream

SHORT = {"header_s": 0.3, "first_content_s": 0.3, "first_content_thinking_s": 0.3}
OVERFLOW = re.compile(r"prompt is too long: (\d+) tokens > (\d+) maximum")


@pytest.fixture
def gateway(request: pytest.FixtureRequest, up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    dialect = (
        request.node.callspec.params.get("dialect", "anthropic")
        if hasattr(request.node, "callspec")
        else "anthropic"
    )
    gw = shared_gateway(dialect, providers(up, "a", "b", dialect=dialect, timeouts=SHORT))
    up.reset()
    gw.reset()
    return gw


def both(up: Upstream, dialect: str, code: int, text: str, *headers: dict[str, str]) -> None:
    for n, name in enumerate(("/a", "/b")):
        more = headers[n] if n < len(headers) else {}
        up.always(name, ("status", code, more, answers.error(dialect, code, text)))


def check_envelope(reply: Reply, status: int | tuple[int, ...], type: str) -> dict[str, Any]:
    allowed = status if isinstance(status, tuple) else (status,)
    assert reply.status in allowed, (reply.status, reply.body[:300])
    assert reply.headers["content-type"].startswith("application/json")
    value = reply.json()
    assert value["type"] == "error"
    assert value["error"]["type"] == type
    assert value["error"]["message"]
    assert value.get("request_id") or reply.headers.get("request-id")
    return value["error"]


@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat", "gemini"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
class TestAllDown:
    def test_overloaded_is_503_with_a_time(
        self, up: Upstream, gateway: Gateway, dialect: str, stream: bool
    ) -> None:
        both(up, dialect, 529 if dialect == "anthropic" else 503, "Overloaded")
        reply = post(gateway.base_url, message(stream=stream))
        check_envelope(reply, 503, "api_error")
        assert 1 <= int(reply.headers["retry-after"]) <= 30
        assert b"overloaded_error" not in reply.body, "Claude Code gives up after three of those"

    def test_rate_limits_are_429_with_the_soonest_time(
        self, up: Upstream, gateway: Gateway, dialect: str, stream: bool
    ) -> None:
        both(up, dialect, 429, "slow down", {"retry-after": "40"}, {"retry-after": "20"})
        reply = post(gateway.base_url, message(stream=stream))
        check_envelope(reply, 429, "rate_limit_error")
        assert 18 <= int(reply.headers["retry-after"]) <= 20

    def test_rejected_keys_are_403_and_name_the_provider(
        self, up: Upstream, gateway: Gateway, dialect: str, stream: bool
    ) -> None:
        both(up, dialect, 401, "invalid api key")
        error = check_envelope(post(gateway.base_url, message(stream=stream)), 403, "permission_error")
        assert re.search(r"\b[ab]\b", error["message"]), error["message"]
        assert "CCM_TEST_KEY" in error["message"], "the fix: which variable holds the key"


def test_crashed_everywhere(up: Upstream, gateway: Gateway) -> None:
    both(up, "anthropic", 500, "Internal server error")
    check_envelope(post(gateway.base_url, message()), (502, 503), "api_error")


def test_unknown_model_everywhere(up: Upstream, gateway: Gateway) -> None:
    both(up, "anthropic", 404, "model: claude-sonnet-4-5")
    check_envelope(post(gateway.base_url, message()), 404, "not_found_error")


def test_spent_credit_everywhere(up: Upstream, gateway: Gateway) -> None:
    both(up, "anthropic", 400, "Your credit balance is too low to access the Anthropic API.")
    check_envelope(post(gateway.base_url, message()), 403, "permission_error")
    assert len(up.seen("/b")) == 1, "no money left at a is no reason not to ask b"


def test_silence_everywhere(up: Upstream, gateway: Gateway) -> None:
    up.always("/a", ("stall", 5))
    up.always("/b", ("stall", 5))
    reply = post(gateway.base_url, message())
    check_envelope(reply, 504, "timeout_error")
    assert reply.total_s < 3


def test_nobody_there(up: Upstream, shared_gateway: Callable[..., Gateway]) -> None:
    config = provider(f"http://127.0.0.1:{free_port()}", "a", priority=1)
    gw = shared_gateway("nobody", config + provider(f"http://127.0.0.1:{free_port()}", "b", priority=2))
    reply = post(gw.base_url, message())
    check_envelope(reply, (502, 503), "api_error")
    assert reply.total_s < 3


def test_the_attempts_are_listed(up: Upstream, gateway: Gateway) -> None:
    up.always("/a", ("status", 500, {}, answers.error("anthropic", 500, "boom")))
    up.always("/b", ("status", 429, {"retry-after": "9"}, answers.error("anthropic", 429, "slow")))
    reply = post(gateway.base_url, message())
    assert reply.status == 429
    assert "a=500" in reply.headers["x-ccm-attempts"]
    assert "b=429" in reply.headers["x-ccm-attempts"]


@pytest.mark.parametrize(
    ("code", "type", "text"),
    [
        (400, "invalid_request_error", "messages.0.content: Input should be a valid list"),
        (400, "invalid_request_error", "messages: Unexpected role \"system\". The Messages API accepts a top-level"),
        (413, "request_too_large", "Request exceeds the maximum size"),
        (422, "invalid_request_error", "max_tokens: 128000 > 32000, which is the maximum allowed"),
    ],
)  # fmt: skip
def test_the_callers_own_mistake_comes_back_unchanged(
    up: Upstream, gateway: Gateway, code: int, type: str, text: str
) -> None:
    """No failover, no change of status or wording: Claude Code's recovery matches the words (CLIENT 5)."""
    body = {
        "type": "error",
        "error": {"type": type, "message": text},
        "request_id": "req_abc",
        "extra": {"kept": 1},
    }
    up.always("/a", ("status", code, {"request-id": "req_abc"}, body))
    reply = post(gateway.base_url, message())
    assert reply.status == code
    assert reply.json() == body
    assert up.seen("/b") == []
    up.reset()
    up.always("/a", ("answer",))
    assert post(gateway.base_url, message()).headers["x-ccm-provider"] == "a", "its health is untouched"


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("anthropic", answers.error("anthropic", 400, "prompt is too long: 250000 tokens > 200000 maximum")),
        (
            "openai_chat",
            {
                "error": {
                    "message": "This model's maximum context length is 128000 tokens. However, your messages resulted "
                    "in 250000 tokens. Please reduce the length of the messages.",
                    "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
                }
            },
        ),
        (
            "gemini",
            answers.error("gemini", 400, "The input token count (1250000) exceeds the maximum number of tokens allowed (1048576)."),
        ),
    ],
    ids=["anthropic", "openai_chat", "gemini"],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_an_overflow_has_the_words_that_start_compaction(
    up: Upstream, gateway: Gateway, dialect: str, body: dict[str, Any], stream: bool
) -> None:
    up.always("/a", ("status", 400, {}, body))
    up.always("/b", ("status", 400, {}, body))
    error = check_envelope(post(gateway.base_url, message(stream=stream)), 400, "invalid_request_error")
    found = OVERFLOW.search(error["message"])
    assert found, error["message"]
    assert int(found[1]) > int(found[2]) > 0


def test_the_key_is_nowhere_in_an_error(up: Upstream, gateway: Gateway) -> None:
    from tests.gateway import KEY

    both(up, "anthropic", 401, f"invalid key {KEY} given")
    reply = post(gateway.base_url, message())
    assert KEY.encode() not in reply.body
    assert KEY not in gateway.log()
    assert KEY not in gateway.ctl("status").stdout
