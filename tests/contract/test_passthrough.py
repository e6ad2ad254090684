"""auth = "passthrough": the client's own key reaches the provider it was configured for, and nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import answers
from tests.gateway import KEY, Gateway, provider
from tests.http1 import message, post
from tests.upstream import Upstream

OWN = "own-key-of-the-client-0123456789"


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    config = provider(up, "theirs", auth="passthrough", priority=1) + provider(up, "ours", priority=2)
    gw = shared_gateway("passthrough", config.replace('api_key_env = "CCM_TEST_KEY"\n', "", 1))
    up.reset()
    gw.reset()
    return gw


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ({"authorization": f"Bearer {OWN}"}, ("authorization", f"Bearer {OWN}")),
        ({"x-api-key": OWN, "authorization": "Bearer ccm-proxy"}, ("x-api-key", OWN)),
    ],
)
def test_the_own_key_arrives(
    up: Upstream, gateway: Gateway, sent: dict[str, str], arrives: tuple[str, str]
) -> None:
    assert post(gateway.base_url, message(), sent).headers["x-ccm-provider"] == "theirs"
    headers = up.seen("/theirs")[-1].headers
    assert headers[arrives[0]] == arrives[1] and "ccm-proxy" not in str(headers)


def test_without_one_the_next_provider_answers(up: Upstream, gateway: Gateway) -> None:
    for _ in range(2):
        reply = post(gateway.base_url, message())
        assert reply.status == 200 and reply.headers["x-ccm-attempts"] == "theirs=credential,ours=200"
    assert up.seen("/theirs") == [] and up.seen("/ours")[-1].headers["x-api-key"] == KEY
    assert (
        post(gateway.base_url, message(), {"authorization": f"Bearer {OWN}"}).headers["x-ccm-provider"]
        == "theirs"
    )


def test_one_clients_bad_key_is_not_the_next_ones_fault(up: Upstream, gateway: Gateway) -> None:
    up.always(
        "/theirs",
        lambda seen: (
            [("answer",)]
            if seen.headers.get("authorization") == f"Bearer {OWN}"
            else [
                (
                    "status",
                    401,
                    {},
                    answers.error("anthropic", 401, "invalid x-api-key: other-key-0123456789ab"),
                )
            ]
        ),
    )
    bad = post(gateway.base_url, message(), {"authorization": "Bearer other-key-0123456789ab"})
    assert bad.status == 200 and bad.headers["x-ccm-provider"] == "ours"
    good = post(gateway.base_url, message(), {"authorization": f"Bearer {OWN}"})
    assert good.headers["x-ccm-provider"] == "theirs"
    everything = gateway.log() + gateway.ctl("requests", "--json").stdout
    assert "other-key-0123456789ab" not in everything and OWN not in everything


def test_the_own_key_goes_to_nobody_else(up: Upstream, gateway: Gateway) -> None:
    up.always("/theirs", ("status", 529))
    reply = post(gateway.base_url, message(), {"authorization": f"Bearer {OWN}", "x-api-key": "ccm-proxy"})
    assert reply.headers["x-ccm-provider"] == "ours"
    assert up.seen("/theirs")[-1].headers["authorization"] == f"Bearer {OWN}"
    assert OWN not in str([seen.headers for seen in up.seen("/ours")])
