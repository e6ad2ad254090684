"""What is done beside the first requests: sessions of providers behind TLS, and the key commands."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ccm.errors import UpstreamError
from ccm.model import FailureKind, KeySource, ProviderError
from ccm.process import warming
from ccm.shape import replace
from tests.routing import provider, snapshot


class Pools:
    def __init__(self, fault: Exception | None = None) -> None:
        self.made: list[str] = []
        self.fault = fault
        self.done = threading.Event()

    def pool(self, one: Any) -> None:
        self.made.append(one.name)
        self.done.set()
        if self.fault is not None:
            raise self.fault


class Words:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def warning(self, event: str, **more: Any) -> None:
        self.said.append((event, more["problem"]))

    def fault(self, event: str, fault: BaseException, **more: Any) -> None:
        self.said.append((event, repr(fault)))


def engine(pools: Pools, **providers: Any) -> Any:
    made = [replace(provider(name), **more) for name, more in providers.items()]
    return SimpleNamespace(snapshot=snapshot(*made), sessions=pools, auth=None)


PLAIN, TLS = {"base_url": "http://127.0.0.1:1"}, {"base_url": "https://h.test"}
PROXIED = {"base_url": "http://127.0.0.1:1", "options": {"proxy": "http://127.0.0.1:2"}}


def test_only_who_needs_a_session_gets_one() -> None:
    pools = Pools()
    warming.begin(engine(pools, a=PLAIN, b=TLS, c=PROXIED), Words())  # type: ignore[arg-type]
    assert pools.done.wait(5)
    for thread in threading.enumerate():
        if thread.name == "ccm-warm":
            thread.join(5)
    assert pools.made == ["b", "c"]


def test_there_is_no_thread_where_there_is_nothing_to_do() -> None:
    before = threading.active_count()
    warming.begin(engine(Pools(), a=PLAIN), Words())  # type: ignore[arg-type]
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (UpstreamError(ProviderError(0, "api_error", "b can't be reached", kind=FailureKind.CONNECT)),
         ("provider", "b can't be reached")),
        (ModuleNotFoundError("No module named 'requests'"),
         ("internal error", "ModuleNotFoundError(\"No module named 'requests'\")")),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_told_once_and_the_others_are_made(
    fault: Exception, said: tuple[str, str]
) -> None:
    pools, words = Pools(fault), Words()
    made = engine(pools, b=TLS)
    warming.warm(made, made.snapshot, words)  # type: ignore[arg-type]
    assert (pools.made, words.said) == (["b"], [said])


def test_key_commands_are_tried() -> None:
    asked: list[str] = []
    made = engine(Pools(), a=PLAIN)
    keys = [replace(one, key=KeySource("command", "pass show x")) for one in made.snapshot.endpoints]
    made.snapshot = replace(made.snapshot, endpoints=tuple(keys))
    made.auth = SimpleNamespace(headers=lambda endpoint, *_: asked.append(endpoint.id))
    warming.warm(made, made.snapshot, Words())  # type: ignore[arg-type]
    assert asked == ["a"]
