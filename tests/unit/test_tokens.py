"""Credentials that expire: one fetch for many, the old one as long as it is good, failures remembered briefly."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from ccm.config.secrets import FAILURE_TTL_S, KeyUnavailable
from ccm.upstream.tokens import EARLY_S, FOREVER, KeyDelayed, Renewed, fetch, parse_object, run_command
from tests.answering import Answering


class Source:
    """Gives "1", "2" ... each good for `life` seconds; `fault` is raised instead when set."""

    def __init__(self, life: float = 3600.0) -> None:
        self.now, self.life, self.count = 1000.0, life, 0
        self.fault: KeyUnavailable | None = None
        self.kept: Renewed[str] = Renewed(self._fetch, lambda: self.now)

    def _fetch(self) -> tuple[str, float]:
        self.count += 1
        if self.fault is not None:
            raise self.fault
        return str(self.count), self.now + self.life


def test_it_is_kept_until_five_minutes_before_its_end() -> None:
    source = Source()
    assert [source.kept.get(), source.kept.get()] == ["1", "1"]
    source.now += 3600 - EARLY_S - 1
    assert source.kept.get() == "1"
    source.now += 1
    assert source.kept.get() == "2" and source.count == 2


def test_a_short_life_is_not_renewed_at_every_request() -> None:
    source = Source(life=200)
    assert source.kept.get() == "1"
    source.now += 99
    assert source.kept.get() == "1"
    source.now += 1
    assert source.kept.get() == "2"


def test_without_an_end_it_is_fetched_once() -> None:
    source = Source(life=FOREVER)
    assert source.kept.get() == "1"
    source.now += 1e9
    assert source.kept.get() == "1"


def test_the_old_one_serves_while_renewing_fails() -> None:
    source = Source()
    assert source.kept.get() == "1"
    source.now += 3400
    source.fault = KeyDelayed("away")
    assert source.kept.get() == "1" and source.count == 2
    assert source.kept.get() == "1" and source.count == 2, "a failed renewal is not tried at every request"
    source.now += FAILURE_TTL_S
    assert source.kept.get() == "1" and source.count == 3
    source.now += 300
    with pytest.raises(KeyDelayed, match="away"):
        source.kept.get()


def test_a_failure_is_remembered_for_seconds_only() -> None:
    source = Source()
    source.fault = KeyUnavailable("log in")
    for _ in range(3):
        with pytest.raises(KeyUnavailable, match="log in") as caught:
            source.kept.get()
        assert type(caught.value) is KeyUnavailable
    assert source.count == 1
    source.now += FAILURE_TTL_S
    source.fault = None
    assert source.kept.get() == "2"


def test_a_clock_that_is_set_back_does_not_keep_a_failure() -> None:
    source = Source()
    source.fault = KeyDelayed("away")
    with pytest.raises(KeyDelayed):
        source.kept.get()
    source.fault, source.now = None, source.now - 3600
    assert source.kept.get() == "2"


def test_forgetting_fetches_anew() -> None:
    source = Source()
    assert source.kept.get() == "1"
    source.kept.forget()
    assert source.kept.get() == "2"
    source.fault = KeyDelayed("away")
    source.kept.forget()
    with pytest.raises(KeyDelayed):
        source.kept.get()


def test_what_has_expired_already_is_a_failure_and_no_loop() -> None:
    source = Source(life=-1)
    with pytest.raises(KeyDelayed, match="expired"):
        source.kept.get()
    assert source.count == 1


def test_a_bug_in_the_fetch_does_not_hang_the_next_one() -> None:
    def broken() -> tuple[str, float]:
        raise RuntimeError("bug")

    kept = Renewed(broken, lambda: 0.0)
    with pytest.raises(RuntimeError):
        kept.get()
    with pytest.raises(KeyDelayed):
        kept.get()


def test_many_waiters_one_fetch() -> None:
    gate, entered, count = threading.Event(), threading.Event(), []

    def slow() -> tuple[str, float]:
        count.append(1)
        entered.set()
        assert gate.wait(5)
        return "key", FOREVER

    kept = Renewed(slow)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(kept.get())) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert entered.wait(5)
    gate.set()
    for thread in threads:
        thread.join(5)
    assert got == ["key"] * 20 and len(count) == 1


def test_the_others_do_not_wait_for_an_early_renewal() -> None:
    gate, entered = threading.Event(), threading.Event()
    now, calls = [0.0], []

    def slow() -> tuple[str, float]:
        calls.append(1)
        if len(calls) > 1:
            entered.set()
            assert gate.wait(5)
        return str(len(calls)), now[0] + 3600

    kept = Renewed(slow, lambda: now[0])
    assert kept.get() == "1"
    now[0] = 3400
    got: list[str] = []
    renewing = threading.Thread(target=lambda: got.append(kept.get()))
    renewing.start()
    assert entered.wait(5)
    assert kept.get() == "1", "this thread does not wait"
    gate.set()
    renewing.join(5)
    assert got == ["2"] and kept.get() == "2"


def test_fetch_bounds_and_follows_nothing() -> None:
    session = Answering(lambda asked: (302, "", {"Location": "http://elsewhere/"}))
    status, headers, _ = fetch(session, "GET", "http://x/", "it")  # type: ignore[arg-type]
    assert status == 302 and headers == {"location": "http://elsewhere/"}
    options = session.asked[0].options
    assert options["allow_redirects"] is False and options["timeout"] == 2.0
    with pytest.raises(KeyDelayed, match="it answered too much"):
        fetch(Answering(lambda asked: (200, "x" * 70_000)), "GET", "http://x/", "it")  # type: ignore[arg-type]
    with pytest.raises(KeyDelayed, match=r"it does not answer \(ConnectionError\)"):
        fetch(Answering(), "GET", "http://x/?secret", "it")  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_only_objects_are_taken(body: bytes) -> None:
    with pytest.raises(KeyUnavailable, match="the thing is not a JSON object"):
        parse_object(body, "the thing")


def test_commands_see_no_keys(tmp_path: Path) -> None:
    env = {"PATH": "/bin:/usr/bin", "OPENAI_API_KEY": "sk-secret", "AWS_SECRET_ACCESS_KEY": "secret"}
    script = "import os; print(sorted(os.environ))"
    out = run_command([sys.executable, "-I", "-c", script], env, "it", 10).decode()
    assert "PATH" in out and "KEY" not in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/no/such/command"], "it can't be started: No such file"),
        (["/bin/sh", "-c", "echo secret; exit 3"], "it failed with exit status 3"),
        (["/bin/sh", "-c", "sleep 60 & sleep 60"], "it did not end within 0.2 s"),
        (["a\0b"], "it can't be started"),
    ],
)
def test_commands_that_fail(argv: list[str], said: str) -> None:
    with pytest.raises(KeyUnavailable, match=said) as caught:
        run_command(argv, {"PATH": "/bin:/usr/bin"}, "it", 0.2 if "sleep" in argv[-1] else 5)
    assert "secret" not in str(caught.value)
