"""What a translation cannot carry is named: to the client in `x-ccm-loss`, to the user in the log and `ccmctl metrics`.

And only that: what did arrive in another form is no loss.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway import Gateway, provider
from tests.http1 import post
from tests.upstream import Upstream

MARK = {"cache_control": {"type": "ephemeral"}}
FAILED = "no such file: ünïcödé"
DIALECTS = ("anthropic", "openai_chat", "openai_responses", "gemini")


def request(stream: bool = True, **more: Any) -> dict[str, Any]:
    """A turn after a failed tool call; cache_control at every place that the Messages API has for it, and top_k."""
    call = {"type": "tool_use", "id": "toolu_0123456789", "name": "read", "input": {"path": "/x"}}
    result = {"type": "tool_result", "tool_use_id": call["id"], "is_error": True, "content": FAILED}
    tool = {"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}
    return {
        "model": "claude-sonnet-4-5", "max_tokens": 100, "top_k": 7, "stream": stream,
        "system": [{"type": "text", "text": "Be kind.", **MARK}],
        "tools": [{**tool, **MARK}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Read /x.", **MARK}]},
            {"role": "assistant", "content": [{**call, **MARK}]},
            {"role": "user", "content": [{**result, **MARK}]},
        ],
        **more,
    }  # fmt: skip


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    up.reset()
    return shared_gateway("loss", "".join(provider(up, d, d) for d in DIALECTS))


def ask(gateway: Gateway, dialect: str, body: dict[str, Any]) -> tuple[set[str], Any]:
    """(what `x-ccm-loss` names, the reply)."""
    reply = post(gateway.base_url, body, {"x-ccm-provider": dialect})
    assert reply.status == 200, reply.body
    return set(filter(None, reply.headers.get("x-ccm-loss", "").split(", "))), reply


def counted(gateway: Gateway) -> Counter[tuple[str, str]]:
    told = json.loads(gateway.ctl("metrics", "--json", check=True).stdout)
    return Counter({(row["provider"], row["feature"]): row["count"] for row in told["losses"]})


@pytest.mark.parametrize("stream", [True, False])
def test_gemini_names_cache_control_and_carries_the_rest(
    up: Upstream, gateway: Gateway, stream: bool
) -> None:
    before = counted(gateway)
    lost, _ = ask(gateway, "gemini", request(stream))
    assert lost == {"cache_control=dropped"}
    (seen,) = up.seen("/gemini")
    assert "cache_control" not in seen.raw.decode() and "cacheControl" not in seen.raw.decode()
    assert seen.json["generationConfig"]["topK"] == 7
    (answer,) = [
        p["functionResponse"] for c in seen.json["contents"] for p in c["parts"] if "functionResponse" in p
    ]
    assert answer["response"] == {"error": FAILED}, "is_error is Gemini's own `error`"
    assert counted(gateway) - before == {("gemini", "cache_control"): 1}, "once a request, however many marks"


def test_ccmctl_metrics_shows_it_to_people(up: Upstream, gateway: Gateway) -> None:
    ask(gateway, "gemini", request())
    lines = [line.split() for line in gateway.ctl("metrics", check=True).stdout.split("\n")]
    shown = [line for line in lines if line[:2] == ["gemini", "cache_control"]]
    assert len(shown) == 1 and int(shown[0][2]) == counted(gateway)["gemini", "cache_control"]
    assert 'lost="cache_control=dropped"' in gateway.log()


def test_what_gemini_does_not_know_is_named_field_by_field(up: Upstream, gateway: Gateway) -> None:
    more = {"service_tier": "auto", "metadata": {"user_id": "u"}, "context_management": {"edits": []}}
    lost, _ = ask(gateway, "gemini", request(**more))
    assert lost == {f"{name}=dropped" for name in (*more, "cache_control")}
    assert not [name for name in more if name in up.seen("/gemini")[-1].json]


def test_chat_completions_knows_no_top_k(up: Upstream, gateway: Gateway) -> None:
    lost, _ = ask(gateway, "openai_chat", request())
    assert lost == {"cache_control=dropped", "top_k=dropped"}
    sent = up.seen("/openai_chat")[-1].json
    assert "top_k" not in sent
    (answer,) = [m for m in sent["messages"] if m["role"] == "tool"]
    assert answer["content"] == f"Error: {FAILED}", "is_error stands in the words"


def test_responses_knows_no_top_k(up: Upstream, gateway: Gateway) -> None:
    lost, _ = ask(gateway, "openai_responses", request())
    assert "top_k=dropped" in lost
    sent = up.seen("/openai_responses")[-1].json
    assert "top_k" not in sent and "cache_control" not in json.dumps(sent)


def test_nothing_is_lost_on_the_way_to_anthropic(up: Upstream, gateway: Gateway) -> None:
    before = counted(gateway)
    lost, reply = ask(gateway, "anthropic", request())
    assert lost == set() and "x-ccm-loss" not in reply.headers
    assert up.seen("/anthropic")[-1].json == request()
    assert counted(gateway) == before


def test_without_a_loss_there_is_no_header(gateway: Gateway) -> None:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    for dialect in DIALECTS:
        lost, reply = ask(gateway, dialect, body)
        assert lost == set() and "x-ccm-loss" not in reply.headers, dialect
