"""GET /v1/models: Anthropic's shape where its version header is sent, OpenAI's otherwise (R52)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway import Gateway, providers
from tests.http1 import Client
from tests.upstream import Upstream

OPENAI = {"anthropic-version": "", "x-api-key": "", "authorization": "Bearer ccm-proxy"}


@pytest.fixture
def client(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Any:
    models = '\n[models]\n"claude-opus-*" = "big-model"\n"my-alias" = "small-model"\n'
    gw = shared_gateway("models", providers(up, "a", dialect="openai_chat") + models)
    up.reset()
    with Client(gw.base_url) as connection:
        yield connection


def test_the_anthropic_list(client: Client) -> None:
    reply = client.call("GET", "/v1/models?limit=1000")
    assert reply.status == 200
    value = reply.json()
    ids = [row["id"] for row in value["data"]]
    assert ids and len(set(ids)) == len(ids)
    assert (value["first_id"], value["last_id"]) == (ids[0], ids[-1])
    assert value["has_more"] is False
    for row in value["data"]:
        assert row["type"] == "model"
        assert row["display_name"] and row["created_at"]
    assert any(i.startswith("claude") for i in ids), "Claude Code's picker keeps only those"
    assert "my-alias" in ids


def test_the_openai_list(client: Client) -> None:
    value = client.call("GET", "/v1/models", headers=OPENAI).json()
    assert value["object"] == "list"
    assert value["data"]
    for row in value["data"]:
        assert row["object"] == "model"
        assert isinstance(row["created"], int) and row["owned_by"] and row["id"]


def test_a_limit_never_means_less_than_it_says(client: Client) -> None:
    """`limit` may be ignored, but then nothing may claim that there is more."""
    everything = client.call("GET", "/v1/models?limit=1000").json()["data"]
    first = client.call("GET", "/v1/models?limit=1").json()
    assert first["has_more"] is (len(first["data"]) < len(everything))


def test_one_model(client: Client) -> None:
    some = client.call("GET", "/v1/models").json()["data"][0]["id"]
    value = client.call("GET", f"/v1/models/{some}").json()
    assert (value["type"], value["id"]) == ("model", some)
    openai = client.call("GET", f"/v1/models/{some}", headers=OPENAI).json()
    assert (openai["object"], openai["id"]) == ("model", some)


def test_an_unknown_model_is_404(client: Client) -> None:
    reply = client.call("GET", "/v1/models/no-such-model-anywhere")
    assert reply.status == 404
    assert reply.error["type"] == "not_found_error"


def test_the_list_answers_without_a_provider_call(up: Upstream, client: Client) -> None:
    assert client.call("GET", "/v1/models").status == 200
    assert [s for s in up.ledger if s.method == "POST"] == []
