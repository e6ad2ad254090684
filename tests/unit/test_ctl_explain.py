"""`ccmctl explain`: the whole decision in plain lines, and a dry run from standard input."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from ccm.cli import ctl, explained
from ccm.cli.render import Screen
from ccm.errors import ControlError

FINISHED = {
    "id": "req_1", "at": 1_000_000.0, "model": "claude-opus-5-5", "stream": True, "class": "think",
    "classes": ["think", "image"], "rule": "thinkers", "note": "", "session": "s-1", "strategy": "cost",
    "bound_to": "anthropic", "reason": "cheapest", "input_tokens": 36_200, "status": 200, "ending": "complete",
    "error": "", "answered_by": "openai", "answered_model": "gpt-5.2", "first_content_s": 1.5, "total_s": 2.3,
    "output_tokens": 450, "cost_usd": 0.0312, "losses": ["top_k=dropped"],
    "rules": [{"rule": "thinkers: class think", "holds": True}, {"rule": "big: 60k", "holds": False}],
    "candidates": [
        {"endpoint": "openai", "model": "gpt-5.2", "place": 1, "priority": 2, "price_usd": 0.03, "first_content_s": 0.8,
         "ruled_out": "", "bound": True, "in_flight": 2},
        {"endpoint": "groq", "place": 0, "ruled_out": "cooling for 12 s: 429\x1b[31m"},
    ],
    "attempts": [
        {"endpoint": "anthropic", "model": "claude-opus-5-5", "result": "529", "started_s": 0.0, "seconds": 0.12,
         "error": "Overloaded"},
        {"endpoint": "openai", "model": "gpt-5.2", "result": "200", "started_s": 0.35, "seconds": 1.2, "error": ""},
    ],
}  # fmt: skip


def test_everything_that_decided_is_told() -> None:
    page = explained.explain(FINISHED, Screen())
    for line in (
        "200 complete, 2.3s",
        "asked for   claude-opus-5-5, as a stream, 36.2k tokens of input",
        "class       think (also image)",
        "rule        thinkers",
        "strategy    cost; this conversation's cache is at anthropic",
        "decided     cheapest",
        "  holds     thinkers: class think",
        "  -         big: 60k",
        "  1.        openai/gpt-5.2: priority 2, 2 in flight, first content 800ms, $0.03 expected, its cache is warm",
        "  -         groq: cooling for 12 s: 429\\x1b[31m",
        "  +0ms      anthropic/claude-opus-5-5: 529 after 120ms: Overloaded",
        "  +350ms    openai/gpt-5.2: 200 after 1.2s",
        "in the end  answered by openai/gpt-5.2, first content after 1.5s, 450 tokens, $0.0312; "
        "not translated: top_k=dropped",
    ):
        assert line in page, page
    assert "\x1b" not in page


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    assert max(len(line) for line in explained.explain(FINISHED, Screen(width)).split("\n")[1:]) <= width


def test_a_dry_run_says_where_it_would_go() -> None:
    assert explained.explain({"model": "m", "order": ["a/m"]}, Screen()).startswith("it would go to a/m\n")
    refused = explained.explain({"model": "m", "refused": "404 nobody", "order": []}, Screen())
    assert refused.startswith("it would be refused\n") and "refused     404 nobody" in refused


def test_a_failure_says_why() -> None:
    assert "in the end  failed: all down" in explained.explain(
        {**FINISHED, "ending": "failed", "error": "all down"}, Screen()
    )


def given(*argv: str):
    return ctl.parser().parse_args(["explain", *argv])


def feed(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(explained.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_the_request_comes_from_standard_input(monkeypatch) -> None:
    body = {"model": "m", "messages": []}
    feed(monkeypatch, json.dumps(body).encode())
    told = explained.args(given("--dry-run", "--header", "x-app: cli", "--header", "x-b:c:d"))
    assert told == {"request": body, "headers": {"x-app": "cli", "x-b": "c:d"}}
    assert explained.args(given()) == {"id": "last"} and explained.args(given("req_9")) == {"id": "req_9"}


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"{", "no JSON"), (b"[]", "no request"), (b"\xff", "no JSON"), (b" " * (8 * 1024 * 1024), "more than")],
    ids=["half", "list", "bytes", "huge"],
)
def test_what_is_no_request_is_said(monkeypatch, data: bytes, says: str) -> None:
    feed(monkeypatch, data)
    with pytest.raises(ControlError, match=says):
        explained.args(given("--dry-run"))
