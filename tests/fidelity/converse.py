"""Gate 4, Bedrock: Converse streams written by Smithy's encoder, read by boto3 directly and by the SDKs through ccm."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import botocore.config  # type: ignore[import-untyped]
import botocore.exceptions  # type: ignore[import-untyped]

from tests.fidelity import sdks, servers
from tests.fidelity.compare import difference, read
from tests.fidelity.sdks import Ask, Question, Reading
from tests.fidelity.table import Ledger, Row
from tests.gateway import Gateway, provider
from tests.upstream import Upstream

Event = dict[str, Any]
_NOVA = "us.amazon.nova-pro-v1:0"
_NO_FAILOVER = {"enabled": False, "max_retries": 0}
_ARGUMENTS = {"path": "/tmp/ü.txt", "lines": [1, 2], "deep": {"a": None, "b": 1.5}}


def _event(type: str, **payload: Any) -> Event:
    return {"event": type, "payload": payload}


def _stream(*blocks: list[Event], stop: str) -> list[Event]:
    usage = {"inputTokens": 21, "outputTokens": 9, "totalTokens": 30}
    inner = [e for block in blocks for e in block]
    tail = [_event("messageStop", stopReason=stop), _event("metadata", usage=usage, metrics={"latencyMs": 5})]
    return [_event("messageStart", role="assistant"), *inner, *tail]


def _text_block(index: int, *pieces: str) -> list[Event]:
    deltas = [_event("contentBlockDelta", contentBlockIndex=index, delta={"text": p}) for p in pieces]
    return [*deltas, _event("contentBlockStop", contentBlockIndex=index)]


def _tool_block(index: int, id: str, name: str, *pieces: str) -> list[Event]:
    start = {"toolUse": {"toolUseId": id, "name": name}}
    return [
        _event("contentBlockStart", contentBlockIndex=index, start=start),
        *(
            _event("contentBlockDelta", contentBlockIndex=index, delta={"toolUse": {"input": p}})
            for p in pieces
        ),
        _event("contentBlockStop", contentBlockIndex=index),
    ]


def _thought_block(index: int, *pieces: str) -> list[Event]:
    deltas = [
        _event("contentBlockDelta", contentBlockIndex=index, delta={"reasoningContent": {"text": p}})
        for p in pieces
    ]
    signature = {"reasoningContent": {"signature": "c2lnbmF0dXJl"}}
    return [
        *deltas,
        _event("contentBlockDelta", contentBlockIndex=index, delta=signature),
        _event("contentBlockStop", contentBlockIndex=index),
    ]


def _bedrock_streams() -> dict[str, list[Event]]:
    text = _text_block(0, "Grüße — ", "思考 🎉", "\nend")
    arguments = json.dumps(_ARGUMENTS, ensure_ascii=False)
    third = len(arguments) // 3
    pieces = (arguments[:third], arguments[third : 2 * third], arguments[2 * third :])
    tool = _tool_block(1, "tooluse_a", "read_file", *pieces)
    begun = _stream(text[:2], stop="end_turn")[:3]
    return {
        "text": _stream(text, stop="end_turn"),
        "text and tool": _stream(text, tool, stop="tool_use"),
        "two tools": _stream(
            _tool_block(0, "tooluse_a", "read_file", *pieces),
            _tool_block(1, "tooluse_b", "get_weather", '{"city":', ' "Bern"}'),
            stop="tool_use",
        ),
        "reasoning": _stream(_thought_block(0, "Let me ", "think."), _text_block(1, "So."), stop="end_turn"),
        "length": _stream(_text_block(0, "and so it en"), stop="max_tokens"),
        "throttled inside": [
            *begun,
            {"exception": "throttlingException", "payload": {"message": "slow down"}},
        ],
        "broken inside": [
            *begun,
            {"exception": "modelStreamErrorException", "payload": {"message": "it fell over"}},
        ],
    }


def streams() -> list[Row]:
    """Every stream, read by boto3 and through every door; and the path that each of them asked for it."""
    ledger = Ledger()
    with Upstream() as up, tempfile.TemporaryDirectory(prefix="ccm-") as home:
        keys = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        gateway = Gateway(
            Path(home), provider(up, "bedrock", "bedrock"), failover=_NO_FAILOVER, env=keys
        ).start()
        client: Any = boto3.client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=f"{up.url}/direct",
            aws_access_key_id="AKIATEST", aws_secret_access_key="secret",
            config=botocore.config.Config(retries={"max_attempts": 0}),
        )  # fmt: skip
        try:
            for name, events in _bedrock_streams().items():
                data = servers.event_stream(events)
                head = ("head", 200, {"content-type": "application/vnd.amazon.eventstream"})
                for prefix in ("/direct", "/bedrock"):
                    up.always(prefix, [head, ("bytes", data)])
                question = Question((("user", name),), _NOVA, tools=(("read_file", {"type": "object"}),))
                want = read(_boto_reader(client), "", question, True, {})
                for door, ask in sdks.DOORS.items():
                    gateway.reset()
                    got = read(ask, gateway.base_url, question, True, {})
                    ledger.row("smithy", "bedrock", door).note(name, _as_boto(got, want))
                sent = [s.path for s in up.seen("/bedrock")][-1].removeprefix("/bedrock")
                meant = [s.path for s in up.seen("/direct")][-1].removeprefix("/direct")
                ledger.row("smithy", "bedrock", "boto3's path").note(
                    name, None if sent == meant else f"{sent} != {meant}"
                )
        finally:
            gateway.stop()
    return ledger.rows


def _boto_reader(client: Any) -> Ask:
    """boto3 as an oracle: what it reads in the answer to the question's first words."""

    def ask(_url: str, q: Question, _stream: bool, _headers: dict[str, str]) -> Reading:
        content = [{"text": q.steps[0][1]}]
        return _folded(
            client.converse_stream(modelId=q.model, messages=[{"role": "user", "content": content}])
        )

    return ask


def _folded(made: Any) -> Reading:
    out = Reading()
    raw: dict[int, list[str]] = {}
    for event in made["stream"]:
        (kind, body), *_ = event.items()
        if kind == "contentBlockStart":
            raw[body["contentBlockIndex"]] = []
            out.tools.append((body["start"]["toolUse"]["name"], raw[body["contentBlockIndex"]]))
        elif kind == "contentBlockDelta":
            delta = body["delta"]
            out.text += delta.get("text", "")
            out.reasoning += delta.get("reasoningContent", {}).get("text", "")
            if "toolUse" in delta:
                raw[body["contentBlockIndex"]].append(delta["toolUse"]["input"])
        elif kind == "messageStop":
            out.stop = {"end_turn": "end", "tool_use": "tool", "max_tokens": "length"}[body["stopReason"]]
        elif kind == "metadata":
            out.input_tokens, out.output_tokens = body["usage"]["inputTokens"], body["usage"]["outputTokens"]
    out.tools = [(name, json.loads("".join(pieces))) for name, pieces in out.tools]
    return out


def _as_boto(got: Reading | Exception, want: Reading | Exception) -> str | None:
    if isinstance(want, botocore.exceptions.EventStreamError):
        return None if isinstance(got, Exception) else f"boto3 raises {want}, but the client read {got!r}"
    return difference(got, want)
