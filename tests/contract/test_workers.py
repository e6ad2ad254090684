"""[proxy] workers = 2: two processes behind one port that ccmctl shows, and steers, as one ccm."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway, provider, providers
from tests.upstream import Upstream

BODY = json.dumps(
    {"model": "claude-sonnet-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
)
ROUND_ROBIN = '[load_balancing]\nstrategy = "round-robin"\n'


class Client:
    """One kept-alive connection: it stays with the worker that accepted it."""

    def __init__(self, gateway: Gateway) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        self.connection.connect()

    def ask(self, **headers: str) -> tuple[int, str, Any]:
        """(status, the provider that answered, the body) of one Messages request."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(
            "POST", "/v1/messages", BODY, {"authorization": "Bearer ccm-proxy", "content-type": "application/json"} | sent
        )  # fmt: skip
        answer = self.connection.getresponse()
        return answer.status, answer.getheader("x-ccm-provider") or "", json.loads(answer.read())


def control(gateway: Gateway, method: str, path: str, **args: Any) -> Any:
    """What the control socket answers; AssertionError where it says no."""
    connection = http.client.HTTPConnection("ccm", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    connection.sock.connect(gateway.env["CCM_SOCKET"])
    body = json.dumps(args) if method == "POST" else None
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status == 200, data
    return json.loads(data)


def workers(gateway: Gateway) -> list[dict[str, Any]]:
    """The rows of the workers that serve."""
    rows: list[dict[str, Any]] = control(gateway, "GET", "/status")["workers"]
    return [row for row in rows if row["ready"]]


def clients(gateway: Gateway, many: int = 6) -> list[Client]:
    """Connections with both workers, each used once."""
    found = [Client(gateway) for _ in range(many)]
    for client in found:
        assert client.ask()[0] == 200
    held = [row["connections"] for row in workers(gateway)]
    assert len(held) == 2
    assert min(held) >= 1, f"both have some: {held}"
    return found


def soon(is_so: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it becomes so within the time."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as found:
        yield found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a ccm of two workers, which must end well."""
    started: list[Gateway] = []

    def begin(config: str, **more: Any) -> Gateway:
        proxy = {"workers": 2, "drain_timeout_s": 5.0} | more.pop("proxy", {})
        gateway = Gateway(tmp_path, config, proxy=proxy, **more)
        started.append(gateway)
        gateway.start()
        assert soon(lambda: len(workers(gateway)) == 2)
        return gateway

    yield begin
    for gateway in started:
        assert gateway.stop() == 0


def test_one_ccm_is_shown_and_steered(up: Upstream, start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start(providers(up, "a", "b"))
    held = clients(gateway)
    for _ in range(4):
        for client in held:
            assert client.ask()[1] == "a"
    total = 5 * len(held)

    status = control(gateway, "GET", "/status")
    assert status["pid"] == gateway.pid
    assert status["totals"]["requests"] == total
    assert status["in_flight"] == 0
    rows = {row["name"]: row for row in status["providers"]}
    assert rows["a"]["endpoints"][0]["successes"] == total, "counters of both together"
    assert rows["b"]["requests"] == 0
    finished = control(gateway, "GET", "/requests?limit=200")["requests"]
    assert len({row["id"] for row in finished}) == len(finished) == total
    ids = [finished[n]["id"] for n in (0, 1, 2, 3)]
    for id in ids:
        told = control(gateway, "GET", f"/explain?id={id}")
        assert (told["id"], told["answered_by"].partition("#")[0]) == (id, "a")
        assert told["order"], "the worker that decided still knows why"

    asked = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    asked.request("GET", "/metrics", headers={"authorization": "Bearer ccm-proxy"})
    page = asked.getresponse().read().decode()
    counted = [line for line in page.splitlines() if line.startswith("ccm_requests_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == total, "a worker shows all of them, too"

    switched = time.monotonic()
    control(gateway, "POST", "/switch", name="b")
    assert time.monotonic() - switched < 0.5
    assert {client.ask()[1] for client in held} == {"b"}, "the answer means: in both"
    control(gateway, "POST", "/auto")
    control(gateway, "POST", "/disable", name="a")
    assert {client.ask()[1] for client in held} == {"b"}
    control(gateway, "POST", "/enable", name="a")
    assert {client.ask()[1] for client in held} == {"a"}

    control(gateway, "POST", "/drill", name="a", fault="529")
    heard = [client.ask()[1] for client in held]
    assert heard.count("b") >= 1
    drill = control(gateway, "GET", "/drill")["drills"][0]
    assert (drill["count"], drill["on"]) == (1, False), "the next request, and only that, whoever gets it"

    control(gateway, "POST", "/log-level", level="error")
    before = gateway.log().count(" info request ")
    for client in held:
        client.ask()
    assert gateway.log().count(" info request ") == before, "no worker writes them now"
    assert "no handover with [proxy] workers = 2" in gateway.ctl("restart", "--handover").stderr

    total = control(gateway, "GET", "/status")["totals"]["requests"]
    assert gateway.stop() == 0
    with sqlite3.connect(tmp_path / ".claude-code-mux" / "usage.db") as db:
        assert db.execute("SELECT count(*), count(DISTINCT id) FROM requests").fetchone() == (total, total)


def test_what_one_has_learnt_the_other_knows(up: Upstream, start: Callable[..., Gateway]) -> None:
    gateway = start(providers(up, "a", "b"))
    held = clients(gateway)
    up.script("/a", ("status", 429, {"retry-after": "60"}, {"error": {"type": "rate_limit_error"}}))
    met = len(up.seen("/a"))
    assert held[0].ask()[1] == "b"
    time.sleep(0.1)
    assert {client.ask()[1] for client in held} == {"b"}
    assert len(up.seen("/a")) == met + 1, "the other worker did not have to find out"
    row = control(gateway, "GET", "/providers")["providers"][0]
    assert (row["name"], row["state"]) == ("a", "cooling")
    control(gateway, "POST", "/reset", name="a")
    assert {client.ask()[1] for client in held} == {"a"}, "and forgotten by both"


def test_a_session_stays_whoever_gets_its_connection(up: Upstream, start: Callable[..., Gateway]) -> None:
    gateway = start(providers(up, "a", "b") + ROUND_ROBIN)
    held = clients(gateway)
    held[0].ask(x_claude_code_session_id="odd")  # the workers' own turns are no longer in step
    homes = set()
    for session in ("s1", "s2", "s3", "s4", "s5"):
        whom = []
        for client in held:
            whom.append(client.ask(x_claude_code_session_id=session)[1])
            time.sleep(0.02)  # as long as the news may take
        assert len(set(whom)) == 1, (session, whom)
        homes |= set(whom)
    assert homes == {"a", "b"}, "round robin among sessions"


def test_a_worker_that_dies_is_replaced(up: Upstream, start: Callable[..., Gateway]) -> None:
    gateway = start(providers(up, "a", "b"))
    held = clients(gateway)
    control(gateway, "POST", "/switch", name="b")
    victim, other = (row["pid"] for row in workers(gateway))
    os.kill(victim, signal.SIGKILL)
    alive = 0
    for client in held:
        try:
            alive += client.ask()[1] == "b"
        except (OSError, http.client.HTTPException):
            continue
    assert alive >= 1, "the other one's connections go on"
    assert Client(gateway).ask()[0] == 200, "and new ones are served at once"
    assert soon(lambda: len(workers(gateway)) == 2)
    pids = {row["pid"] for row in workers(gateway)}
    assert other in pids
    assert victim not in pids
    fresh = [Client(gateway) for _ in range(6)]
    assert {client.ask()[1] for client in fresh} == {"b"}, "the new one knows what was decided"
    assert min(row["connections"] for row in workers(gateway)) >= 1
    total = control(gateway, "GET", "/status")["totals"]["requests"]
    assert total == len(held) + alive + 1 + len(fresh), "what had ended is not lost"


def test_sigterm_lets_streams_end_and_leaves_nothing(up: Upstream, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, providers(up, "a"), proxy={"workers": 2}).start()
    assert soon(lambda: len(workers(gateway)) == 2)
    pids = [row["pid"] for row in workers(gateway)]
    up.always("/a", [("stall", 0.5), ("answer",)])
    slow = [Client(gateway) for _ in range(4)]
    for client in slow:
        client.connection.request(
            "POST", "/v1/messages", BODY, {"authorization": "Bearer ccm-proxy", "content-type": "application/json"}
        )  # fmt: skip
    up.wait("/a", 4)
    gateway.ask_to_stop()
    for client in slow:
        answer = client.connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["type"] == "message"
    assert gateway.stop() == 0
    assert all(gone(pid) for pid in pids)
    with sqlite3.connect(tmp_path / ".claude-code-mux" / "usage.db") as db:
        assert db.execute("SELECT count(*) FROM requests").fetchone() == (4,), "their account was kept"


def test_workers_end_with_a_supervisor_that_was_killed(up: Upstream, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, providers(up, "a"), proxy={"workers": 2}).start()
    assert soon(lambda: len(workers(gateway)) == 2)
    pids = [row["pid"] for row in workers(gateway)]
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait(5)
    gateway.process = None
    assert soon(lambda: all(gone(pid) for pid in pids))


def test_a_budget_holds_for_all(up: Upstream, start: Callable[..., Gateway]) -> None:
    gateway = start(providers(up, "a") + "[budgets.daily]\nlimit_usd = 0.004\n")
    held = [Client(gateway) for _ in range(4)]
    statuses = []
    for _ in range(10):
        for client in held:
            statuses.append(client.ask()[0])
            time.sleep(0.03)
    served = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert statuses == [200] * served + [429] * (40 - served), "used up is used up, in both"
    row = control(gateway, "GET", "/budgets")["budgets"][0]
    assert row["state"] == "used up"
    each = row["spent_usd"] / served
    assert 0.004 <= row["spent_usd"] < 0.004 + each * 1.01, "overdrawn by one request at most"
    control(gateway, "POST", "/budget", name="daily")
    assert {client.ask()[0] for client in held} == {200}, "lifted in both"
    control(gateway, "POST", "/budget", name="daily", restore=True)
    assert {client.ask()[0] for client in held} == {429}


def test_a_reload_is_one_for_all(up: Upstream, start: Callable[..., Gateway]) -> None:
    gateway = start(providers(up, "a"), proxy={"watch": False})
    held = clients(gateway)
    gateway.write(providers(up, "c"))
    told = control(gateway, "POST", "/reload")
    assert told["generation"] == 2
    assert {client.ask()[1] for client in held} == {"c"}
    assert [row["generation"] for row in workers(gateway)] == [2, 2]
    gateway.write("[providers.c\n")
    assert gateway.ctl("reload").returncode != 0
    assert {client.ask()[1] for client in held} == {"c"}, "a faulty one changes nothing"
    health = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    health.request("GET", "/health")
    assert json.loads(health.getresponse().read())["status"] == "degraded", "and every worker says so"


def test_a_limit_that_cannot_be_shared_is_refused(up: Upstream, tmp_path: Path) -> None:
    config = provider(up, "a", max_in_flight=1)
    gateway = Gateway(tmp_path, config, proxy={"workers": 2})
    with pytest.raises(AssertionError, match="cannot be shared by"):
        gateway.start()
    assert gateway.process is not None
    assert gateway.process.wait(5) == 2
    gateway.process = None
