"""What `ccm test` asks: which questions there are, how one is asked, what its answer is worth.

A trial is a small streamed request with one tool, sent as a client would send it to a ccm inside this process
(`cli.inside`): never another way to the provider than that of real traffic.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.catalog.rows import bundled_rows
from ccm.cli.inside import Inside
from ccm.dialects.base import Encoded
from ccm.dialects.table import DIALECTS
from ccm.errors import CcmError
from ccm.messages.estimate import estimate
from ccm.messages.fold import Fold
from ccm.messages.tokens import Usage
from ccm.model import TIERS, Endpoint, ModelFacts, Provider, Snapshot, Target
from ccm.observe.record import RequestRecord
from ccm.proxy.attempt import Wanted, context
from ccm.proxy.engine import new_id
from ccm.proxy.folding import Folding
from ccm.routing import rules
from ccm.shape import dataclass, field
from ccm.usage.prices import cost_usd
from ccm.wire.sse import Framer

_MARGIN_S = 5.0  # the engine answers so much before a client would give up
MAX_TOKENS = 1024  # room for a model that thinks before it calls
TOOL_NAME = "report_ready"
_TOOL = {
    "name": TOOL_NAME,
    "description": "Reports that the model is ready.",
    "input_schema": {
        "type": "object",
        "properties": {"word": {"type": "string", "description": "the word to report"}},
        "required": ["word"],
    },
}
_QUESTION = f'Call the tool {TOOL_NAME} with the word "ready". Do nothing else.'
_WORDS = 'Answer with the one word "ready".'
_GATEWAYS = ("anthropic", "custom", "litellm")  # types that may serve Claude under Claude's own names
OK, NO_TOOL, BROKEN, FAILED = "ok", "no tool call", "broken", "failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """One question: an endpoint (provider and key) and a model, for all tiers that become this model there."""

    endpoint: Endpoint
    tiers: tuple[str, ...]
    asked: str  # Claude's name, as Claude Code sends it
    model: str
    facts: ModelFacts

    @property
    def provider(self) -> Provider:
        return self.endpoint.provider

    @property
    def tools(self) -> bool:
        """Whether a tool call can be wanted."""
        return "tools" in self.provider.abilities or (self.facts.known and "tools" in self.facts.abilities)

    @property
    def unmapped(self) -> bool:
        """Whether Claude's own name goes to somebody who can hardly know it."""
        return _unmapped(self.provider)


@dataclass(slots=True)
class Result:
    """What came of a trial. `status` is the provider's own (0: it did not answer, `how` then says what happened); times
    in seconds, `cost_usd` None where no price is known."""

    trial: Trial
    verdict: str
    error: str = ""
    status: int = 0
    how: str = ""
    first_content_s: float | None = None
    total_s: float = 0.0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    losses: list[str] = field(default_factory=list)


def plan(snapshot: Snapshot, book: ModelBook, names: Collection[str], tiers: Sequence[str]) -> list[Trial]:
    """The trials by priority; `names` are providers or endpoints, empty for all. Tiers of one model share a trial."""
    examples = bundled_rows()["anthropic"].tiers
    trials = []
    for endpoint in sorted(snapshot.endpoints, key=lambda e: e.provider.priority):
        provider = endpoint.provider
        if names and provider.name not in names and endpoint.id not in names:
            continue
        by_model: dict[str, list[str]] = {}
        for tier in tiers or TIERS:
            by_model.setdefault(rules.model_for(provider, examples[tier], snapshot.models), []).append(tier)
        if _unmapped(provider):  # every tier would be the same question
            by_model = {next(iter(by_model)): [tier for found in by_model.values() for tier in found]}
        for model, found in by_model.items():
            facts = book.find(model, provider.type)
            trials.append(Trial(endpoint, tuple(found), examples[found[0]], model, facts))
    return trials


def _unmapped(provider: Provider) -> bool:
    """Whether nothing is mapped, and it is not a gateway that may serve Claude by its own names."""
    return not (provider.tiers or provider.models) and not (
        provider.dialect == "anthropic" and provider.type in _GATEWAYS
    )


def body(trial: Trial) -> dict[str, Any]:
    """The request, as a client sends it."""
    question = _QUESTION if trial.tools else _WORDS
    request: dict[str, Any] = {"model": trial.asked, "max_tokens": MAX_TOKENS, "stream": True}
    request["messages"] = [{"role": "user", "content": question}]
    if trial.tools:
        request["tools"] = [_TOOL]
    return request


def encoded(trial: Trial) -> Encoded:
    """What the provider would get: the same encoder as for real traffic. Raises CcmError for what it cannot carry."""
    request = body(trial)
    raw = json.dumps(request).encode()
    want = Wanted(raw, lambda: request, trial.asked, True, {}, "", Folding)
    ctx = context(want, Target(trial.endpoint, trial.model, trial.facts), new_id, True)
    return DIALECTS[trial.provider.dialect].encode(request, ctx)


def most_usd(trial: Trial) -> float | None:
    """What the trial can cost at most; None where no price is known."""
    return cost_usd(trial.facts.price, Usage(input=estimate(body(trial)), output=MAX_TOKENS))


def ask(inside: Inside, trial: Trial, timeout_s: float) -> Result:
    """Asks and judges. Never raises for what a provider does."""
    began = time.monotonic()
    raw = json.dumps(body(trial)).encode()
    headers = {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "x-api-key": inside.token,
        "x-ccm-provider": trial.endpoint.id,
        "x-stainless-timeout": f"{timeout_s + _MARGIN_S:g}",
    }
    connection = http.client.HTTPConnection("127.0.0.1", inside.port, timeout=timeout_s + 2 * _MARGIN_S)
    try:
        connection.request("POST", "/v1/messages", raw, headers)
        response = connection.getresponse()
        request_id = response.headers.get("x-ccm-request-id", "")
        if response.status == 200:
            verdict, error = _judge(trial, response)
        else:
            verdict, error = FAILED, _message(response.read())
        result = Result(trial, verdict, error, response.status)
        record = inside.record(request_id) if request_id else None
        _fill(result, record)
    except (OSError, http.client.HTTPException) as error:
        result = Result(trial, FAILED, f"ccm itself did not answer: {error or type(error).__name__}")
    finally:
        connection.close()
    result.total_s = time.monotonic() - began
    result.error = inside.redactor.clean(result.error)
    return result


def _judge(trial: Trial, response: http.client.HTTPResponse) -> tuple[str, str]:
    """Reads the stream as a client does: is it whole, and does it hold what was asked for?"""
    framer, fold = Framer(), Fold()
    try:
        while piece := response.read1(65536):
            for frame in framer.feed(piece):
                event = json.loads(frame.data)
                if event.get("type") == "error":
                    return BROKEN, str(event.get("error", {}).get("message", ""))
                if event.get("type") != "ping":
                    fold.add(event)
    except (ValueError, KeyError, IndexError, TypeError, CcmError) as error:
        return BROKEN, f"the stream is not what the Messages API allows: {type(error).__name__}: {error}"
    if not fold.complete:
        return BROKEN, "the stream ended before the answer did"
    return _worth(trial, fold.message)


def _worth(trial: Trial, message: Mapping[str, Any]) -> tuple[str, str]:
    blocks = message.get("content") or []
    calls = [b for b in blocks if b.get("type") == "tool_use" and b.get("name") == TOOL_NAME]
    if calls and isinstance(calls[0].get("input"), dict) and "word" in calls[0]["input"]:
        return OK, ""
    if calls:
        return NO_TOOL, "it called the tool, but without the argument it had to give"
    text = "".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text").strip()
    if not trial.tools:
        return (OK, "") if text else (FAILED, "the answer is empty")
    if message.get("stop_reason") == "max_tokens":
        return NO_TOOL, f"its {MAX_TOKENS} tokens were used up before it called the tool"
    return NO_TOOL, f"it answered with text instead of calling the tool: {text[:80]}".rstrip(": ")


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode("utf-8", "replace")


def _fill(result: Result, record: RequestRecord | None) -> None:
    if record is None:
        return
    result.losses = list(record.losses)
    result.usage = record.usage
    if record.attempts:
        told = record.attempts[
            -1
        ].result  # "401", "connect": ccm's own answer to the client may have another status
        result.status, result.how = (int(told), "") if told.isdigit() else (0, told.replace("_", " "))
    own_words = record.attempts[-1].error if record.attempts else ""
    if result.status >= 400 and own_words and own_words not in result.error:
        result.error = f"{result.error} [it said: {own_words}]"
    if result.status == 200:
        result.first_content_s = record.first_content_s
        result.cost_usd = cost_usd(result.trial.facts.price, record.usage)
