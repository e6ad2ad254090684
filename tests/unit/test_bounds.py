"""Nothing is unbounded: every container that outlives a request is filled with more different things than it may hold, and
a scan of the source finds each container that is neither filled here nor has a reason to need no bound (RELIABILITY,
memory). A new cache or queue fails this test until somebody says what bounds it."""

from __future__ import annotations

import ast
import fnmatch
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccm.catalog.models import bundled
from ccm.dialects.names import _foreign
from ccm.dialects.openai_chat.policy import _policy
from ccm.dialects.repair import Repair
from ccm.messages.tokens import Usage
from ccm.model import Endpoint, KeySource, Provider
from ccm.observe.access import AccessLine
from ccm.observe.metrics import Metrics
from ccm.observe.record import Attempt, RequestRecord
from ccm.observe.redact import Redactor
from ccm.proxy.drill import Drills
from ccm.proxy.projects import Projects
from ccm.proxy.repairs import Repairs
from ccm.routing.affinity import Affinity
from ccm.routing.breaker import Breaker
from ccm.routing.budget import RetryBudget
from ccm.routing.cost import History
from ccm.routing.health import EndpointHealth
from ccm.routing.latency import PeakEwma
from ccm.routing.router import Router
from ccm.routing.strategies import TurnTable
from ccm.routing.verdict import pattern
from ccm.settings import Budget, GuardSettings, UsageSettings
from ccm.upstream import session
from ccm.upstream.auth import Authorizer
from ccm.usage.budgets import Ledger
from ccm.usage.forecast import Forecast
from ccm.usage.guard import Guard, Run
from ccm.usage.meter import Meter
from ccm.usage.store import MOST_WAITING, Store
from ccm.wire import http1, jsontext
from ccm.wire.eventstream import Framer
from ccm.wire.eventstream_encode import encode
from ccm.wire.headers import _is_relayed

CCM = Path(__file__).resolve().parents[2] / "ccm"
MANY = 20_000  # twice the largest bound
MAKERS = {
    "dict",
    "list",
    "set",
    "deque",
    "OrderedDict",
    "defaultdict",
    "Counter",
    "Queue",
    "SimpleQueue",
    "WeakValueDictionary",
}


# ------------------------------------------------------------------------------------------------ what is filled
def record(n: int) -> RequestRecord:
    made = RequestRecord(
        f"req_{n:032x}",
        1e9 + n,
        asked_model=f"m{n}",
        session=f"s{n}",
        project=f"p{n}",
        status=200,
        ending="complete",
    )
    made.provider, made.endpoint, made.model, made.route = f"p{n}", f"e{n}", f"m{n}", f"r{n}"
    made.attempts = [Attempt(f"e{n}", f"m{n}", f"{n}", 0.1), Attempt(f"f{n}", f"m{n}", "200", 0.1)]
    made.losses = [f"feature{n}=dropped"]
    made.usage = Usage(input=1, output=1)
    return made


def endpoint() -> Endpoint:
    return Endpoint("e", Provider("p", "custom", "openai_chat", "https://x"), KeySource("none", ""))


def fill_metrics() -> list[int]:
    metrics = Metrics()
    for n in range(MANY):
        metrics.observe(record(n))
    return [
        len(getattr(metrics, name))
        for name in ("_known", "_requests", "_models", "_attempts", "_failovers", "_retries", "_losses")
    ]


def fill_access() -> list[int]:
    line = AccessLine(Redactor(), "json")
    for n in range(MANY):
        assert line.line(1e9, "info", record(n)) is not None
    return [len(line._known)]


def fill_affinity() -> list[int]:
    table = Affinity()
    for n in range(MANY):
        table.bind((f"s{n}", "m"), "e", 0.0)
    return [len(table)]


def fill_history() -> list[int]:
    history = History()
    for n in range(MANY):
        history.learn((f"s{n}", "m"), "t", 0.0, size_bytes=9, input_tokens=3, output_tokens=3, ttl_s=9.0)
        history.learn(("one", "m"), f"t{n}", 0.0, size_bytes=9, input_tokens=3, output_tokens=3, ttl_s=9.0)
    past = history.find(("one", "m"))
    assert past is not None
    return [len(history), len(past.warm)]


def fill_turns() -> list[int]:
    table = TurnTable()
    for n in range(MANY):
        table.of(f"m{n}")
    return [len(table._table)]


def fill_health() -> list[int]:
    health = EndpointHealth(endpoint(), random.Random(1))
    for n in range(2_000):
        row = health.model(f"m{n}", 0.0)
        for _ in range(9):  # one that is out must not keep its place for ever
            row.breaker.fail(row.breaker.generation, 0.0)
    return [len(health.models)]


def fill_breaker() -> list[int]:
    breaker, ewma = Breaker(random.Random(1)), PeakEwma()
    budget = RetryBudget(lambda: 10, lambda: 0.0)
    for n in range(MANY):
        breaker.succeed(breaker.generation, 0.0)
        ewma.add(1.0, float(n))
        budget.begin()
        budget.take(0.0, same_target=True)
        budget.end(0.0, failed=True, useless=True)
    return [
        len(breaker._log),
        len(ewma._recent),
        len(budget._requests),
        len(budget._useless),
        len(budget._waiting),
    ]


def fill_router() -> list[int]:
    router = Router(clock=lambda: 0.0)
    for n in range(1, MANY):
        router.avoid(n, f"e{n}")
    return [len(router._avoid)]


def fill_projects() -> list[int]:
    projects = Projects()
    for n in range(MANY):
        projects.of({}, f"s{n}", b"")
    return [len(projects._known)]


def fill_repairs() -> list[int]:
    repairs = Repairs(lambda: 0.0)
    for n in range(MANY):
        repairs.remember("p", f"m{n}", Repair("drop", ("x",)))
        repairs.remember("p", "one", Repair("drop", (f"x{n}",)))
    return [len(repairs), len(repairs.known("p", "one"))]


def fill_drills() -> list[int]:
    drills = Drills(lambda: 0.0, lambda: 0.0)
    for n in range(500):
        drills.start(f"p{n % 7}", "refuse", 5, 60.0)
        drills.stop()
    return [len(drills._past), len(drills._on)]


def fill_guard() -> list[int]:
    guard = Guard(GuardSettings(repeats=3, spend_factor=3.0))
    for n in range(MANY):
        guard.judge(f"s{n}", Run(0, "", 0), 0.0)
        guard.spent("one", 1.0, 3600.0 * n)
    return [len(guard._sessions), max(len(one.hours) for one in guard._sessions.values())]


def fill_budget() -> list[int]:
    ledger = Ledger(Budget("b", 1.0, per="session"), 0.0)
    for n in range(MANY):
        ledger.account(f"s{n}")
    return [len(ledger.sessions)]


def fill_forecast() -> list[int]:
    forecast = Forecast()
    for n in range(MANY):
        forecast.learn(f"m{n}", 1.0, 0.5)
        forecast.learn("one", 1.0, 0.5)
    return [len(forecast._parts), max(map(len, forecast._parts.values()))]


def fill_meter() -> list[int]:
    meter = Meter(UsageSettings(), None)
    for n in range(MANY):
        meter.settle(record(n))
    return [len(meter._done), len(meter._holds)]


def fill_store() -> list[int]:
    store = Store("/nonexistent/usage.db", 1, lambda text: None)
    one = record(1)
    for _ in range(MANY):
        store.put(one)
    assert store.status()["dropped"] == MANY - MOST_WAITING
    return [len(store._queue), len(store._pending)]


def fill_book() -> list[int]:
    book = bundled().with_entries({})
    for n in range(MANY):
        book.find(f"unheard-of-{n}")
    return [len(book._found)]


def fill_passed_keys() -> list[int]:
    known: set[str] = set()
    provider = Provider("p", "custom", "openai_chat", "https://x", auth="passthrough")
    auth = Authorizer({}, "ccm-proxy", lambda secret: known.add(str(secret)))
    for n in range(3_000):
        auth._passed(provider, {"authorization": f"Bearer key-of-a-client-{n:06d}"})
    return [len(auth._passed_keys), len(known)]


def fill_wire() -> list[int]:
    framer = Framer()
    for n in range(300):
        framer.feed(encode({":event-type": f"e{n}"}, b"{}"))
        http1.parse_request_head(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n" % n)
        tools = [{"name": f"t{n}", "description": "d" * 3_000}]
        jsontext.loads(jsontext.dumps({"tools": tools}).decode())
    shared = jsontext.Shared([1])
    for n in range(300):
        shared.derive(n, object)
    return [len(framer._headers), len(http1._kept), len(jsontext._kept), len(shared._derived)]


def fill_lines() -> list[int]:
    before = dict(http1._lines)
    try:
        for n in range(5_000):
            http1.parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\n\r\n" % n)
        return [len(http1._lines)]
    finally:
        http1._lines.clear()
        http1._lines.update(before)


def fill_contexts() -> list[int]:
    before = dict(session._contexts)
    try:
        session._contexts.update({(("x", n),): None for n in range(300)})  # type: ignore[dict-item,misc]
        session.tls_context("", "", "")  # known already, or made: either way it is one more
        session._contexts.pop(next(iter(session._contexts)), None)
        session._contexts.pop(tuple((name, session.file_version(name)) for name in ("", "", "")), None)
        session.tls_context("", "", "")
        return [len(session._contexts)]
    finally:
        session._contexts.clear()
        session._contexts.update(before)


# (what is filled, how: the sizes afterwards, the largest they may be)
FILLED: list[tuple[tuple[str, ...], Callable[[], list[int]], int]] = [
    (("observe/metrics Metrics *",), fill_metrics, 2_000),
    (("observe/access AccessLine _known",), fill_access, 4_096),
    (("routing/affinity Affinity _table",), fill_affinity, 4_096),
    (("routing/cost History _table", "routing/cost Past warm"), fill_history, 4_096),
    (("routing/strategies TurnTable _table",), fill_turns, 256),
    (("routing/health EndpointHealth models",), fill_health, 1_024),
    (("routing/breaker Breaker _log", "routing/latency PeakEwma _recent", "routing/budget RetryBudget *"), fill_breaker, 10_000),
    (("routing/router Router _avoid",), fill_router, 4_096),
    (("proxy/projects Projects _known",), fill_projects, 4_096),
    (("proxy/repairs Repairs _models",), fill_repairs, 512),
    (("proxy/drill Drills *",), fill_drills, 100),
    (("usage/guard *",), fill_guard, 2_048),
    (("usage/budgets Ledger sessions",), fill_budget, 4_096),
    (("usage/forecast Forecast _parts",), fill_forecast, 256),
    (("usage/meter Meter *",), fill_meter, 10_000),
    (("usage/store Store *",), fill_store, 10_000),
    (("catalog/models ModelBook _found",), fill_book, 4_096),
    (("upstream/auth Authorizer _passed_keys",), fill_passed_keys, 1_024),
    (("wire/eventstream Framer _headers", "wire/jsontext Shared _derived"), fill_wire, 32),
    (("upstream/session  _contexts",), fill_contexts, 64),
    (("wire/http1  _lines",), fill_lines, 2_048),
]  # fmt: skip


@pytest.mark.parametrize(("fill", "bound"), [row[1:] for row in FILLED], ids=[row[0][0] for row in FILLED])
def test_it_stays_within_its_bound(fill: Callable[[], list[int]], bound: int) -> None:
    sizes = fill()
    assert max(sizes) <= bound, sizes
    assert sum(sizes), "nothing was filled: the test is blind"


def test_caches_of_functions_are_bounded() -> None:
    for cache in (_is_relayed, _policy, _foreign, pattern):
        assert (cache.cache_parameters()["maxsize"] or MANY) <= 1_024, cache


# ------------------------------------------------------------------------------------------------ what needs no bound
# pattern of "module Class attribute" -> why
NO_BOUND: dict[str, str] = {
    "cli/*": "a command that ends",
    "config/*": "of one reading of a configuration file (1 MB at most)",
    "catalog/checks *": "of one reading of bundled data",
    "catalog/rows *": "bundled data",
    "catalog/models @ *": "no arguments: one result",
    "config/secrets KeyCommands _known": "the key commands of the configuration",
    "dialects/*": "of one request or one answer: bounded by what those may be (32 MB; 64 MB, or the stream's limits)",
    "messages/*": "of one answer",
    "proxy/answer *": "of one answer",
    "proxy/flow *": "of one request",
    "proxy/tries *": "of one request: as many as attempts",
    "proxy/splice *": "of one answer",
    "proxy/drill Drill met": "tests/unit/test_drill.py",
    "observe/record *": "of one request",
    "observe/exposition *": "of one page",
    "observe/telemetry *": "tests/unit/test_telemetry.py: QUEUE records, MAX_PAIRS pairs",
    "errors *": "of one refusal",
    "late *": "the modules of ccm",
    "control/api  _BY_PATH": "the table of the source",
    "control/state State _classes": "settings.CLASSES",
    "control/unix Server _clients": "MAX_CLIENTS, tests/contract/test_control_socket.py",
    "app App recent": "a deque of RECENT",
    "process/* recent": "a deque of RECENT",
    "process/line Line _out": "MOST_WAITING, tests/unit/test_process_line.py",
    "process/*": "as many as processes, and questions they are asked at this moment",
    "proxy/attempt Wanted notes": "the notes of its head: wire/http1 RequestHead",
    "proxy/engine  _random": "one block of random digits",
    "proxy/engine Engine _uncounted": "cleared at 1,024",
    "proxy/engine Engine heard": "cleared at a bound by proxy/tries",
    "proxy/pump Pump *": "as many as streams: two descriptors each, bounded by them",
    "routing/board Board *": "the endpoints of the configuration",
    "routing/classify *": "of one request",
    "routing/health EndpointHealth waiting": "as many as requests in flight",
    "routing/shared *": "cleared at _TOLD_MOST; what is noted is told at once",
    "routing/strategies Turns *": "the endpoints of the configuration",
    "routing/tickets Memory _heading": "as many as requests in flight",
    "routing/usual Usual _orders": "the endpoints of the configuration",
    "server/connection Connection _parts": "one body of 32 MB; all of them, server/bodies",
    "server/listener Listener _parked": "connection_cap()",
    "server/workers Workers *": "MAX_WORKERS",
    "upstream/auth Authorizer _*": "the providers of the configuration",
    "upstream/poller *": "as many as streams",
    "upstream/sessions *": "the providers of the configuration; POOL_SIZE idle connections each",
    "usage/shared *": "what is noted is told at once",
    "wire/http1 RequestHead notes": "cleared at proxy/attempt _MOST_HEADS; eight heads are kept with theirs",
    "wire/search _Text *": "the needles of the source; texts that are kept are few",
    "wire/sse Framer _data": "one event of 16 MB",
}  # fmt: skip
NO_LIMIT_BUT_FEW = {
    "catalog/models @ bundled functools.cache",
    "catalog/rows @ bundled_rows functools.cache",
    "catalog/rows @ _aliases functools.cache",
}


def is_container(value: ast.expr | None) -> bool:
    """Whether this makes an empty container that something may be put into."""
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, (ast.List, ast.Set)):
        return not value.elts
    if not isinstance(value, ast.Call):
        return False
    function = value.func.value if isinstance(value.func, ast.Subscript) else value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "field":
        return any(
            k.arg == "default_factory" and getattr(k.value, "id", getattr(k.value, "attr", "")) in MAKERS
            for k in value.keywords
        )
    return name in MAKERS


def assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=False)
            else:
                yield target, node.value


def containers(source: str, module: str) -> set[str]:
    """ "module Class attribute" of every container that outlives the function that makes it; caches as "module @ ..."."""
    tree = ast.parse(source)
    found = {
        f"{module}  {target.id}"
        for node in tree.body
        for target, value in assigned(node)
        if isinstance(target, ast.Name) and is_container(value)
    }
    for outer in ast.walk(tree):
        if isinstance(outer, ast.ClassDef):
            for node in ast.walk(outer):
                for target, value in assigned(node):
                    own = isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self"
                    if own and is_container(value):
                        found.add(f"{module} {outer.name} {target.attr}")  # type: ignore[attr-defined]
            found |= {
                f"{module} {outer.name} {target.id}"
                for node in outer.body
                for target, value in assigned(node)
                if isinstance(target, ast.Name) and is_container(value)
            }
        elif isinstance(outer, ast.FunctionDef):
            found |= {
                f"{module} @ {outer.name} {ast.unparse(d)}"
                for d in outer.decorator_list
                if "cache" in ast.unparse(d)
            }
    return found


@functools.cache
def all_containers() -> set[str]:
    found: set[str] = set()
    for path in sorted(CCM.rglob("*.py")):
        found |= containers(path.read_text(), path.relative_to(CCM).with_suffix("").as_posix())
    return found


def test_every_container_has_a_bound_or_a_reason() -> None:
    patterns = [pattern for names, _, _ in FILLED for pattern in names] + list(NO_BOUND)
    nobody = [
        name
        for name in sorted(all_containers())
        if not any(fnmatch.fnmatchcase(name, p) for p in patterns)
        and not (" @ " in name and "maxsize=None" not in name and "lru_cache" in name)
    ]
    assert nobody == [], "what bounds these? fill them in FILLED, or say in NO_BOUND why they need no bound"


def test_every_reason_and_every_filling_is_about_something() -> None:
    found = all_containers()
    idle = {
        pattern
        for pattern in [*NO_BOUND, *(p for names, _, _ in FILLED for p in names)]
        if not any(fnmatch.fnmatchcase(name, pattern) for name in found)
    }
    assert idle == set()


def test_caches_without_a_limit_take_no_arguments() -> None:
    unlimited = {
        name
        for name in all_containers()
        if " @ " in name and ("functools.cache" in name or "maxsize=None" in name)
    }
    assert unlimited == NO_LIMIT_BUT_FEW


def test_the_scan_sees_what_it_should() -> None:
    source = """
import functools
found = {}
LIMITS = {"a": 1}
class A:
    seen: dict[str, int] = field(default_factory=dict)
    def __init__(self):
        self.a, self.b = [], 3
        self.c: deque[int] = deque()
        self.d = OrderedDict[str, int]()
        local = []
@functools.cache
def f(x): ...
"""
    wanted = {"m  found", "m A seen", "m A a", "m A c", "m A d", "m @ f functools.cache"}
    assert containers(source, "m") == wanted
