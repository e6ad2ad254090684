"""A real Prometheus scrapes a running ccm; what the Grafana dashboard and the alert rules ask for really is there."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ccm.control import gauges
from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord
from tests.conftest import FakeCore
from tests.gateway import REPO, Gateway, free_port, providers
from tests.upstream import Upstream

DASHBOARD = REPO / "templates/grafana-dashboard.json"
RULES = REPO / "templates/prometheus-alerts.yaml"
HOSTILE = 'evil"\n\\model{a="b"} 漢'
PROMTOOL = shutil.which("promtool")
PROMETHEUS = shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)"
)


@pytest.fixture
def exposition() -> str:
    """Everything ccm can export: every family, with a budget and a hostile model among it."""
    core = FakeCore()
    meter = SimpleNamespace(
        store=None,
        status=lambda: {
            "budgets": [{"name": "day", "per": "day", "spent_usd": 1.0, "limit_usd": 2, "state": "ok"}]
        },
    )
    core.meter = meter  # type: ignore[attr-defined]
    for model in ("gpt-5.2", HOSTILE):
        tried = [Attempt("anthropic", model, r, 0.1) for r in ("529", "529")] + [
            Attempt("openai", model, "200", 0.1)
        ]
        core.metrics.observe(
            RequestRecord(
                "r", 0.0, status=200, ending="complete", provider="openai", model=model, attempts=tried,
                first_content_s=0.1, total_s=0.2, longest_gap_s=0.1, cost_usd=0.1, list_cost_usd=0.2,
                losses=["top_k=dropped"], usage=Usage(input=1, output=1, thinking=1, web_searches=1),
            )
        )  # fmt: skip
    return gauges.exposition(core)


def samples(text: str) -> dict[str, set[str]]:
    """Names of samples, with the names of their labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of everything the templates ask Prometheus."""
    board = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_dashboard_and_rules_ask_for_what_there_is(exposition: str) -> None:
    known = samples(exposition)
    asked: set[str] = set()
    for where, expression in expressions():
        names = set(re.findall(r"\b(ccm_[a-z_]+|up)\b", re.sub(r'"[^"]*"', '""', expression)))
        assert names, where
        assert names - {"up"} <= set(known), f"{where}: {names - set(known)} is exported nowhere"
        asked |= names
        labels = {label for name in names - {"up"} for label in known[name]} | {"instance", "job"}
        used = re.findall(r'[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)\s*"', expression)
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            used += [label.strip() for label in group.split(",")]
        assert set(used) <= labels, f"{where}: no label {set(used) - labels}"
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    unused = families - {re.sub(r"_bucket$", "", name) for name in asked}
    assert len(unused) < len(families) / 2, f"the templates show too little: {sorted(unused)}"


def test_the_values_the_templates_select_exist(exposition: str) -> None:
    texts = set(re.findall(r'="((?:[^"\\]|\\.)*)"', exposition))
    endings = {"complete", "refused", "failed", "broken", "client_gone", "stopped"}
    for where, expression in expressions():
        for label, values in re.findall(r'\b(kind|state|ending)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', expression):
            for value in values.split("|"):
                assert value in (endings if label == "ending" else texts), f"{where}: {label}={value}"


@needs_promtool
def test_promtool_finds_nothing_wrong(exposition: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"],
        input=exposition.encode(),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stdout + done.stderr
    done = subprocess.run(
        [PROMTOOL, "check", "rules", str(RULES)], capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def ask(url: str, seconds: float, done: Callable[[Any], bool]) -> Any:
    """The JSON at this address as soon as it is `done`."""
    end = time.monotonic() + seconds
    seen: Any = None
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                seen = json.load(answer)
            if done(seen):
                return seen
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url}: {seen}")


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (apt-get install prometheus)")
def test_a_real_prometheus_scrapes_it(tmp_path: Path, up: Upstream, fresh: Callable[..., Gateway]) -> None:
    assert PROMETHEUS is not None
    gateway = fresh(providers(up, "one"))
    up.always("/one", ("answer",))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    for model in (HOSTILE, "claude-opus-5-5"):
        body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        connection.request(
            "POST",
            "/v1/messages",
            json.dumps(body),
            {"content-type": "application/json", "x-api-key": "ccm-proxy"},
        )
        assert connection.getresponse().read()
    connection.close()
    port = free_port()
    (tmp_path / "token").write_text("ccm-proxy")
    target = {
        "job_name": "ccm",
        "scrape_interval": "200ms",
        "scrape_timeout": "200ms",
        "authorization": {"credentials_file": str(tmp_path / "token")},
        "static_configs": [{"targets": [f"127.0.0.1:{gateway.port}"]}],
    }
    config = {"scrape_configs": [target], "rule_files": [str(RULES)]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=tmp_path)
    try:
        api = f"http://127.0.0.1:{port}/api/v1"

        def query(text: str, done: Callable[[Any], bool]) -> Any:
            return ask(f"{api}/query?" + urllib.parse.urlencode({"query": text}), 10, done)["data"]["result"]

        query('up{job="ccm"} == 1', lambda seen: bool(seen["data"]["result"]))
        found = query("ccm_requests_total", lambda seen: len(seen["data"]["result"]) == 2)
        counted = {row["metric"]["model"]: row["value"][1] for row in found}
        assert counted == {HOSTILE: "1", "claude-opus-5-5": "1"}
        (quantile,) = query(
            "histogram_quantile(0.95, sum by (le) (ccm_first_content_seconds_bucket))",
            lambda seen: bool(seen["data"]["result"]),
        )
        assert 0 < float(quantile["value"][1]) < 5
        state = {"$provider": ".*", "$__rate_interval": "1m", "$__range": "1h"}
        for (
            where,
            expression,
        ) in expressions():  # every one of them is PromQL that this Prometheus understands
            for name, value in state.items():
                expression = expression.replace(name, value)
            if not expression.startswith("label_values"):
                answer = ask(
                    f"{api}/query?" + urllib.parse.urlencode({"query": expression}), 5, lambda seen: True
                )
                assert answer["status"] == "success", where
        rules = ask(f"{api}/rules", 5, lambda seen: bool(seen["data"]["groups"]))
        assert len(rules["data"]["groups"][0]["rules"]) == len(
            yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
        )
    finally:
        process.terminate()
        process.wait(15)
