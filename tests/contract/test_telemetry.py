"""Traces and metrics as a collector gets them: real OTLP over HTTP, decoded with the official protobuf classes."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ccm.messages.tokens import Usage
from ccm.observe.log import Log
from ccm.observe.record import Attempt, RequestRecord
from ccm.observe.redact import Redactor
from ccm.observe.telemetry import Telemetry
from tests.conftest import MemorySink
from tests.gateway import Gateway, providers
from tests.upstream import Upstream

pytest.importorskip("opentelemetry.sdk")
trace_pb = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
metrics_pb = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEY = "kk-canary-0123456789abcdef"


class Collector:
    """An OTLP/HTTP receiver on a port of its own: `spans` and `points` as plain dicts."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.points: list[tuple[str, dict[str, Any], Any]] = []
        self.resources: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.take(self.path, body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            traces = trace_pb.ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                self.resources.append(plain(resource.resource.attributes))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            figures = metrics_pb.ExportMetricsServiceRequest.FromString(body)
            for resource in figures.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        data = getattr(metric, metric.WhichOneof("data"))
                        self.points += [(metric.name, plain(p.attributes), p) for p in data.data_points]

    def wait(self, done: Callable[[], bool], seconds: float = 8.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, (self.spans, self.points)
            time.sleep(0.02)


def plain(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_request_as_a_collector_sees_it(collector: Collector) -> None:
    redactor, sink = Redactor(), MemorySink()
    redactor.register(KEY)
    types = {"first": "mistral", "second": "openai"}
    log = Log(sink, redactor)
    telemetry = Telemetry(collector.url, "1.2", redactor.clean, lambda name: types.get(name, ""), log, {})
    record = RequestRecord(
        "req_1", 1_764_000_000.5, asked_model="claude-opus-5-5", session="s-1", stream=True, status=200,
        ending="complete", provider="second", endpoint="second#2", model="gpt-5.2", route=f"rule {KEY}",
        attempts=[
            Attempt("first", "mistral-large", "529", 0.25, error="prompt text of somebody", started_s=0.0),
            Attempt("second#2", "gpt-5.2", "200", 0.5, started_s=0.5, cost_usd=0.25),
        ],
        first_content_s=0.75, total_s=2.0, stop_reason="end_turn", cost_usd=0.25, error="prompt text of somebody",
        usage=Usage(input=10, cache_read=100, cache_write_5m=5, output=20, thinking=7),
        traceparent=f"00-{TRACE}-{SPAN}-01",
    )  # fmt: skip
    telemetry.observe(record)
    telemetry.stop(8.0)
    assert (
        collector.resources[0]["service.name"] == "ccm" and collector.resources[0]["service.version"] == "1.2"
    )
    root, failed, good = sorted(collector.spans, key=lambda span: (span.kind != 2, span.start_time_unix_nano))
    assert root.trace_id.hex() == TRACE and root.parent_span_id.hex() == SPAN
    assert root.name == "chat claude-opus-5-5" and root.kind == 2
    assert root.start_time_unix_nano == 1_764_000_000_500_000_000
    assert root.end_time_unix_nano - root.start_time_unix_nano == 2_000_000_000
    seen = plain(root.attributes)
    assert seen["ccm.ending"] == "complete" and seen["http.response.status_code"] == 200
    assert seen["gen_ai.conversation.id"] == "s-1" and seen["ccm.cost_usd"] == 0.25
    assert "gen_ai.usage.input_tokens" not in seen
    for span in (failed, good):
        assert span.parent_span_id == root.span_id and span.kind == 3
    assert failed.status.code == 2 and plain(failed.attributes)["error.type"] == "529"
    assert plain(failed.attributes)["gen_ai.provider.name"] == "mistral_ai"
    assert failed.end_time_unix_nano - failed.start_time_unix_nano == 250_000_000
    assert good.name == "chat gpt-5.2" and good.status.code == 0
    assert good.start_time_unix_nano - root.start_time_unix_nano == 500_000_000
    assert good.end_time_unix_nano == root.end_time_unix_nano
    seen = plain(good.attributes)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5.2",
        "gen_ai.response.model": "gpt-5.2",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 115,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 100,
        "gen_ai.usage.cache_creation.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "gen_ai.response.finish_reasons": ["end_turn"],
        "gen_ai.response.time_to_first_chunk": 0.25,
    }
    assert {name: seen[name] for name in expected} == expected
    everything = b"".join(span.SerializeToString() for span in collector.spans)
    assert KEY.encode() not in everything and b"prompt text" not in everything

    points = {
        (name, labels.get("gen_ai.token.type", labels.get("error.type", ""))): p
        for name, labels, p in collector.points
    }
    assert points["gen_ai.client.token.usage", "input"].sum == 115
    assert points["gen_ai.client.token.usage", "output"].sum == 20
    assert points["gen_ai.client.operation.duration", ""].sum == pytest.approx(1.5)
    assert points["gen_ai.client.operation.duration", "529"].sum == pytest.approx(0.25)
    assert points["gen_ai.client.operation.time_to_first_chunk", ""].sum == pytest.approx(0.25)
    assert points["ccm.request.cost", ""].as_double == 0.25
    assert list(points["gen_ai.client.token.usage", "input"].explicit_bounds)[:3] == [1, 4, 16]
    labels = next(labels for name, labels, _ in collector.points if name == "gen_ai.client.token.usage")
    assert labels["gen_ai.provider.name"] == "openai" and labels["gen_ai.response.model"] == "gpt-5.2"


def test_names_in_metrics_are_bounded(collector: Collector) -> None:
    log = Log(MemorySink(), Redactor())
    telemetry = Telemetry(collector.url, "1", str, lambda name: "openai", log, {})
    for number in range(1000):
        attempts = [Attempt("a", f"m{number}", "200", 0.1)]
        telemetry.observe(
            RequestRecord("r", 1.0, provider="a", model=f"m{number}", ending="complete", status=200, attempts=attempts,
                          usage=Usage(input=1))
        )  # fmt: skip
        if number % 500 == 499:
            collector.wait(lambda: not telemetry._queue)
    telemetry.stop(8.0)
    models = {
        labels["gen_ai.request.model"] for name, labels, _ in collector.points if name.endswith("token.usage")
    }
    assert len(models) == 201 and "other" in models
    assert telemetry.dropped == 0


def test_a_running_ccm_tells_the_collector(tmp_path, collector: Collector) -> None:
    with Upstream() as up:
        config = providers(up, "one", dialect="openai_chat", type="openai")
        gateway = Gateway(
            tmp_path / "ccm", config + f'\n[telemetry]\notlp_endpoint = "{collector.url}"\n'
        ).start()
        try:
            up.always("/one", ("answer",))
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
            body = {"model": "gpt-5.2", "max_tokens": 9, "stream": True,
                    "messages": [{"role": "user", "content": "secret prompt words"}]}  # fmt: skip
            headers = {
                "content-type": "application/json",
                "x-api-key": "ccm-proxy",
                "traceparent": f"00-{TRACE}-{SPAN}-01",
            }
            connection.request("POST", "/v1/messages", json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            collector.wait(lambda: len(collector.spans) >= 2)
        finally:
            gateway.stop()
        (root,) = [span for span in collector.spans if span.kind == 2]
        (call,) = [span for span in collector.spans if span.kind == 3]
        assert call.parent_span_id == root.span_id
        assert plain(call.attributes)["gen_ai.usage.output_tokens"] > 0
        assert b"secret prompt" not in root.SerializeToString() + call.SerializeToString()
        assert {name for name, _, _ in collector.points} >= {
            "gen_ai.client.token.usage", "gen_ai.client.operation.duration", "ccm.requests",
        }  # fmt: skip
        assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)  # the client's trace goes on
