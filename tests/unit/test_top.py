"""`ccmctl top`: the page at every width, and the plain form."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ccm.cli import top
from ccm.cli.render import Screen, cell_width
from ccm.control import api, recent
from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord


@pytest.fixture
def view(fake_core, monkeypatch):
    monkeypatch.setattr(recent.window, "__defaults__", (lambda: 1000.0,))
    for n in range(40):
        record = RequestRecord(
            f"r{n}", 950.0 + n, asked_model="claude-opus-5-5", status=200, ending="complete", provider="openai",
            endpoint="openai", model="gpt-5.2", first_content_s=0.4, total_s=2.0, cost_usd=0.01, list_cost_usd=0.03,
            usage=Usage(input=1000, cache_read=500, output=60), attempts=[Attempt("openai", "gpt-5.2", "200", 2.0)],
        )  # fmt: skip
        fake_core.recent.append(record)
        fake_core.metrics.observe(record)
    fake_core.router.rows[1]["reason"] = "x" * 150
    fake_core.drill("openai", "529", 3, None, None, None)
    return json.loads(api.call(fake_core, "GET", "/top", {}).body)


def test_rates_times_tokens_and_money(view) -> None:
    page = "\n".join(top.page(view, Screen(), None))
    assert "last 1m: 40 requests/min, 100% well, 1 in flight, first content p50 400ms p95 400ms" in page
    assert "tokens 60k in (20k cached), 2.4k out, 40/s; cost $0.40 ($24.00/h), $0.80 saved" in page
    assert "drill openai 529 is on: for 3 more requests" in page
    row = next(line for line in page.split("\n") if line.startswith("  openai "))
    assert row.split()[1:9] == ["ready", "0", "40", "100%", "400ms", "400ms", "40", "$0.40"]
    assert page.count("claude-opus-5-5") == 12


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("height", [5, 24, 60])
def test_it_stays_inside_the_screen(view, width: int, height: int) -> None:
    lines = top.page(view, Screen(max(width, 20)), height)
    assert len(lines) <= height
    if width >= 80:
        assert max(map(cell_width, lines)) <= width
    if height == 5:
        assert lines[-1] == "…"


def test_without_any_request(fake_core) -> None:
    told = json.loads(api.call(fake_core, "GET", "/top", {}).body)
    page = "\n".join(top.page(told, Screen(80), None))
    assert "0 requests/min, - well" in page and "cost -" in page and "no request has finished yet" in page


def test_plain_blocks_and_json_lines(view, capsys) -> None:
    given = SimpleNamespace(interval=0.2, count=2, plain=True, json=False)
    assert top.run(given, "p", lambda *more: view) == 0
    assert capsys.readouterr().out.count("ccm 1.0.0 on") == 2
    given.json = True
    assert top.run(given, "p", lambda *more: view) == 0
    assert [json.loads(line)["status"]["version"] for line in capsys.readouterr().out.splitlines()] == [
        "1.0.0"
    ] * 2
