"""OpenTelemetry: what goes out of a finished request under which names, and that nothing of it can hold a request up."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from ccm.messages.tokens import Usage
from ccm.observe.log import Log
from ccm.observe.record import Attempt, RequestRecord
from ccm.observe.redact import Redactor
from ccm.observe.telemetry import MISSING, QUEUE, Telemetry, open_telemetry, parent_of
from tests.conftest import MemorySink

pytest.importorskip("opentelemetry.sdk")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f" 00-{TRACE}-{SPAN}-00 ", False),
        (f"cc-{TRACE}-{SPAN}-01-more", True),
    ],
)
def test_the_clients_span_is_the_parent(header: str, sampled: bool) -> None:
    from opentelemetry.trace import get_current_span

    context = get_current_span(parent_of(header)).get_span_context()
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)
    assert context.is_remote and bool(context.trace_flags & 1) is sampled


@pytest.mark.parametrize(
    "header",
    ["", "x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}",
     f"00-{TRACE}-{SPAN}-01x", f"00-{TRACE[:-1]}-{SPAN}-01"],
)  # fmt: skip
def test_what_is_no_traceparent_is_no_parent(header: str) -> None:
    assert parent_of(header) is None


def test_without_the_extra_ccm_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    sink = MemorySink()
    assert open_telemetry("http://127.0.0.1:9", "1", str, str, Log(sink, Redactor())) is None
    assert len(sink.lines) == 1 and MISSING.encode() in sink.lines[0]
    assert b"pip install 'claude-code-mux[otel]'" in sink.lines[0]


def test_nothing_is_imported_where_nothing_is_wanted() -> None:
    sink = MemorySink()
    assert open_telemetry("", "1", str, str, Log(sink, Redactor())) is None and not sink.lines


def test_a_full_queue_drops_and_counts() -> None:
    telemetry = Telemetry.__new__(Telemetry)
    telemetry.dropped = 0
    telemetry._queue = [None] * QUEUE  # type: ignore[assignment]
    telemetry._something = SimpleNamespace(is_set=lambda: True)  # type: ignore[assignment]
    telemetry.observe(RequestRecord("r", 0.0))
    assert telemetry.dropped == 1 and len(telemetry._queue) == QUEUE


def test_a_dead_collector_costs_a_warning_and_no_time() -> None:
    sink = MemorySink()
    telemetry = open_telemetry("http://127.0.0.1:9", "1", str, lambda name: "", Log(sink, Redactor()))
    assert telemetry is not None
    record = RequestRecord(
        "req_1", time.time(), provider="a", model="m", status=200, ending="complete",
        attempts=[Attempt("a", "m", "200", 0.1)], usage=Usage(input=1, output=1),
    )  # fmt: skip
    began = time.perf_counter()
    for _ in range(100):
        telemetry.observe(record)
    assert time.perf_counter() - began < 0.05
    began = time.perf_counter()
    telemetry.stop(1.0)
    assert time.perf_counter() - began < 2.0
    problems = [line for line in sink.lines if b"problem=" in line]
    assert len(problems) <= 1
