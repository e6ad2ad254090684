"""OpenTelemetry: a trace and the GenAI metrics of every finished request, to a collector over OTLP/HTTP.

The extra `otel`; without it nothing here is imported. A request pays for one append to a bounded queue; a thread of
this module makes spans of the records, the SDK's own threads send them. A collector that is dead or slow costs figures,
which are counted, and one warning a minute. No prompt, no answer, no key and no provider's error text goes out.

A request is a SERVER span, child of the client's own (`traceparent`); each call to a provider is a CLIENT span below it
with the GenAI attributes. Tokens stand in the call's span alone, so that nobody who sums spans counts them twice.
Names: OpenTelemetry semantic conventions 1.36+, "GenAI spans" and "GenAI metrics" (status: development).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ccm.late import regex
from ccm.observe.log import Log
from ccm.observe.record import Attempt, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

MISSING = "[telemetry] otlp_endpoint is set, but OpenTelemetry is not installed: pip install 'claude-code-mux[otel]'"
QUEUE = 2048
EXPORT_TIMEOUT_S = 5.0
METRICS_EVERY_S = 15.0
WARN_EVERY_S = 60.0
MAX_PAIRS = 200  # of provider and model in metrics; the rest is "other"
# ccm's provider types, where the conventions have another name for them
PROVIDER_NAMES = {
    "google": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure-foundry": "azure.ai.inference",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
_TOKEN_BOUNDS = [float(4**power) for power in range(14)]
_SECOND_BOUNDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_PARENT = regex(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
_ANSWERED = "200"
_Attributes = dict[str, str | int | float | bool | list[str]]


class Telemetry:
    """Takes records, any thread's; `stop` sends what is left. `dropped` counts records that nobody had time for."""

    def __init__(
        self,
        endpoint: str,
        version: str,
        clean: Callable[[str], str],
        type_of: Callable[[str], str],
        log: Log,
        environ: Mapping[str, str] = os.environ,
        metrics_every_s: float = METRICS_EVERY_S,
    ) -> None:
        """Raises ImportError without the extra. `type_of` is a provider's type by its name ("" = unknown)."""
        self.dropped = 0
        self._clean, self._type_of, self._log = clean, type_of, log
        self._pairs: set[tuple[str, str]] = set()
        self._queue: deque[RequestRecord] = deque()
        self._something = threading.Event()
        self._stopping = False
        _tell_warnings(log)
        self._traces, self._metrics = _providers(endpoint, version, environ, metrics_every_s)
        self._tracer = self._traces.get_tracer("ccm", version)
        meter = self._metrics.get_meter("ccm", version)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Input and output tokens of a call.",
            explicit_bucket_boundaries_advisory=_TOKEN_BOUNDS,
        )  # fmt: skip
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Duration of a call to a provider.",
            explicit_bucket_boundaries_advisory=_SECOND_BOUNDS,
        )  # fmt: skip
        self._first = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to the first content of a streamed answer.",
            explicit_bucket_boundaries_advisory=_SECOND_BOUNDS,
        )  # fmt: skip
        self._cost = meter.create_counter(
            "ccm.request.cost", "USD", "What requests cost, as far as it is known."
        )
        self._requests = meter.create_counter("ccm.requests", "{request}", "Finished requests by ending.")
        self._thread = threading.Thread(target=self._run, name="ccm-otel", daemon=True)
        self._thread.start()

    def observe(self, record: RequestRecord) -> None:
        """Hands a finished request over. About 1 us; never waits, never raises."""
        if len(self._queue) >= QUEUE:
            self.dropped += 1
            return
        self._queue.append(record)
        if not self._something.is_set():
            self._something.set()

    def stop(self, timeout_s: float = 3.0) -> None:
        """Sends what is left, for at most so long; then gives up."""
        self._stopping = True
        self._something.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._something.wait()
            self._something.clear()
            while self._queue:
                record = self._queue.popleft()
                try:
                    self._tell(record)
                except Exception as error:  # a record we cannot tell of is no reason to tell of none
                    self._log.fault("telemetry", error, id=record.id)
            if self._stopping:
                self._traces.shutdown()
                self._metrics.shutdown(timeout_millis=EXPORT_TIMEOUT_S * 1000)
                return

    # ---- one record

    def _tell(self, record: RequestRecord) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        clean = self._clean
        start = int(record.at * 1e9)
        end = start + int(record.total_s * 1e9)
        bad = record.ending in ("failed", "broken")
        span = self._tracer.start_span(
            f"{_operation(record)} {clean(record.asked_model)}".strip(),
            parent_of(record.traceparent),
            SpanKind.SERVER,
            attributes=self._request_attributes(record),
            start_time=start,
        )
        if bad:
            span.set_status(Status(StatusCode.ERROR))
        below = set_span_in_context(span)
        answered = _answering(record)
        for attempt in record.attempts:
            began = start + int(attempt.started_s * 1e9)
            last = attempt is answered
            attributes = self._attempt_attributes(record, attempt, last)
            call = self._tracer.start_span(
                f"{_operation(record)} {clean(attempt.model)}".strip(), below, SpanKind.CLIENT,
                attributes=attributes, start_time=began,
            )  # fmt: skip
            if "error.type" in attributes:
                call.set_status(Status(StatusCode.ERROR))
            call.end(max(end, began) if last else began + int(attempt.seconds * 1e9))
        span.end(max(end, start))
        self._count(record, answered)

    def _request_attributes(self, record: RequestRecord) -> _Attributes:
        clean = self._clean
        found: _Attributes = {
            "ccm.request.id": record.id,
            "ccm.ending": record.ending,
            "ccm.surface": record.surface,
            "ccm.request.class": record.request_class,
            "ccm.attempts": len(record.attempts),
            "http.request.method": "POST",
            "http.response.status_code": record.status,
            "gen_ai.request.stream": record.stream,
        }
        texts = {
            "gen_ai.conversation.id": record.session,
            "ccm.request.model": record.asked_model,
            "ccm.provider": record.provider,
            "ccm.model": record.model,
            "ccm.route": record.route,
            "ccm.project": record.project,
        }
        found |= {name: clean(value) for name, value in texts.items() if value}
        if record.cost_usd is not None:
            found["ccm.cost_usd"] = record.cost_usd
        if record.losses:
            found["ccm.losses"] = [clean(loss) for loss in record.losses]
        if record.ending in ("failed", "broken"):
            found["error.type"] = record.ending
        return found

    def _attempt_attributes(self, record: RequestRecord, attempt: Attempt, answered: bool) -> _Attributes:
        """The GenAI attributes of one call; those of the answer where it is the one that answered."""
        clean = self._clean
        provider = attempt.endpoint.partition("#")[0]
        found: _Attributes = {
            "gen_ai.operation.name": _operation(record),
            "gen_ai.provider.name": self._provider_name(provider),
            "gen_ai.request.model": clean(attempt.model),
            "gen_ai.request.stream": record.stream,
            "ccm.endpoint": clean(attempt.endpoint),
            "ccm.result": clean(attempt.result),
        }
        if record.session:
            found["gen_ai.conversation.id"] = clean(record.session)
        if attempt.cost_usd is not None:
            found["ccm.cost_usd"] = attempt.cost_usd
        usage = record.usage if answered else attempt.usage
        if usage is not None and (usage.input_total or usage.output):
            found["gen_ai.usage.input_tokens"] = usage.input_total  # with cached ones, as the conventions ask
            found["gen_ai.usage.output_tokens"] = usage.output
            found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read
            found["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write
            if usage.thinking is not None:
                found["gen_ai.usage.reasoning.output_tokens"] = usage.thinking
        if answered:
            found["gen_ai.response.model"] = clean(record.model or attempt.model)
            if record.stop_reason:
                found["gen_ai.response.finish_reasons"] = [clean(record.stop_reason)]
            if record.stream and record.first_content_s is not None:
                first = record.first_content_s - attempt.started_s
                found["gen_ai.response.time_to_first_chunk"] = max(0.0, first)
        if attempt.result != _ANSWERED and attempt.result not in ("cancelled", "hedged"):
            found["error.type"] = clean(attempt.result)
        elif answered and record.ending == "broken":
            found["error.type"] = "broken"
        return found

    def _provider_name(self, provider: str) -> str:
        type = self._type_of(provider)
        return PROVIDER_NAMES.get(type, type if type not in ("", "custom") else self._clean(provider))

    # ---- metrics

    def _count(self, record: RequestRecord, answered: Attempt | None) -> None:
        provider, model = record.provider, self._clean(record.model)
        if (provider, model) not in self._pairs:
            if len(self._pairs) < MAX_PAIRS:
                self._pairs.add((provider, model))
            else:
                model = "other"
        self._requests.add(1, {"ccm.ending": record.ending, "http.response.status_code": record.status})
        if not provider or _operation(record) != "chat":
            return
        labels: dict[str, str] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider_name(provider),
            "gen_ai.request.model": model,
        }
        if record.cost_usd:
            self._cost.add(record.cost_usd, labels)
        for attempt in record.attempts:
            last = attempt is answered
            mine = {**labels, "gen_ai.provider.name": self._provider_name(attempt.endpoint.partition("#")[0])}
            if attempt.result != _ANSWERED:
                mine["error.type"] = self._clean(attempt.result)
            self._duration.record(record.total_s - attempt.started_s if last else attempt.seconds, mine)
        if answered is None:
            return
        labels["gen_ai.response.model"] = model
        usage = record.usage
        for kind, count in (("input", usage.input_total), ("output", usage.output)):
            if count:
                self._tokens.record(count, {**labels, "gen_ai.token.type": kind})
        if record.stream and record.first_content_s is not None:
            self._first.record(max(0.0, record.first_content_s - answered.started_s), labels)


def open_telemetry(
    endpoint: str, version: str, clean: Callable[[str], str], type_of: Callable[[str], str], log: Log
) -> Telemetry | None:
    """The telemetry of a process; None where none is wanted, or where the extra is missing, which is told."""
    if not endpoint:
        return None
    try:
        found = Telemetry(endpoint, version, clean, type_of, log)
    except ImportError:
        log.error(MISSING)
        return None
    log.info("telemetry", endpoint=endpoint)
    return found


def parent_of(traceparent: str) -> Context | None:
    """The client's span as a parent; None for a header that is missing or not of the form of W3C trace context."""
    match = _PARENT.match(traceparent.strip().lower())
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    flags = TraceFlags(int(match[3], 16) & 1)
    context = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context))


def _operation(record: RequestRecord) -> str:
    return "count_tokens" if record.surface == "count_tokens" else "chat"


def _answering(record: RequestRecord) -> Attempt | None:
    """The attempt whose answer went to the client: the last good one."""
    return next((attempt for attempt in reversed(record.attempts) if attempt.result == _ANSWERED), None)


def _providers(
    endpoint: str, version: str, environ: Mapping[str, str], metrics_every_s: float
) -> tuple[TracerProvider, MeterProvider]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    known: dict[str, Any] = {"service.version": version}
    if not environ.get("OTEL_SERVICE_NAME"):
        known["service.name"] = "ccm"
    resource = Resource.create(known)
    base = endpoint.rstrip("/")
    traces = TracerProvider(resource=resource, shutdown_on_exit=False)
    spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    traces.add_span_processor(BatchSpanProcessor(spans, max_queue_size=QUEUE, schedule_delay_millis=1000))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=EXPORT_TIMEOUT_S),
        export_interval_millis=metrics_every_s * 1000,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
    return traces, MeterProvider([reader], resource=resource, shutdown_on_exit=False)


class _Warnings(logging.Handler):
    """What the SDK says goes to ccm's log, once a minute at most."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._log_to, self._clock = log, clock
        self._next_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        if now >= self._next_at:
            self._next_at = now + WARN_EVERY_S
            self._log_to.warning("telemetry", problem=record.getMessage()[:500])


def _tell_warnings(log: Log) -> None:
    sdk = logging.getLogger("opentelemetry")
    sdk.handlers = [_Warnings(log)]
    sdk.propagate = False
