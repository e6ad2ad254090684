"""`ccmctl switch --class`: only requests of that class move, now and after a restart, and they still fail over."""

from __future__ import annotations

from collections.abc import Callable

from tests import answers
from tests.gateway import Gateway, providers
from tests.http1 import message, post
from tests.upstream import Upstream

THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4096}


def went_to(gateway: Gateway, **more: object) -> str:
    reply = post(gateway.base_url, {**message(), **more})
    assert reply.status == 200
    return reply.headers["x-ccm-provider"]


def test_only_that_class_moves(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    gw = fresh(providers(up, "alpha", "beta", "gamma"))
    gw.ctl("switch", "gamma", "--class", "think", check=True)
    assert (went_to(gw), went_to(gw, **THINKING)) == ("alpha", "gamma")
    gw.ctl("switch", "beta", check=True)
    assert (went_to(gw), went_to(gw, **THINKING)) == ("beta", "gamma")
    shown = gw.ctl("status", check=True).stdout
    assert "primary    beta, then strategy priority" in shown and "class think: gamma" in shown
    gw.stop()
    gw.start()
    assert (went_to(gw), went_to(gw, **THINKING)) == ("beta", "gamma")
    up.script("/gamma", ("status", 500, {}, answers.error("anthropic", 500, "boom")))
    assert went_to(gw, **THINKING) != "gamma"
    gw.ctl("switch", "--auto", "--class", "think", check=True)
    assert (went_to(gw), went_to(gw, **THINKING)) == ("beta", "beta")
    gw.ctl("switch", "gamma", "--class", "think", "--for", "1h", check=True)
    gw.ctl("switch", "--auto", check=True)
    assert (went_to(gw), went_to(gw, **THINKING)) == ("alpha", "alpha")
