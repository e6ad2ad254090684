"""A configuration that changes while ccm runs: by the watch, by SIGHUP and by hand; a bad one changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccm.control.client import ask
from ccm.errors import ControlError
from tests.gateway import Gateway, providers
from tests.http1 import Client, message, post
from tests.upstream import Upstream

Start = Callable[..., Gateway]


def status(gateway: Gateway) -> dict[str, Any]:
    return dict(ask(gateway.env["CCM_SOCKET"], "GET", "/status"))


def until(gateway: Gateway, holds: Callable[[dict[str, Any]], bool], seconds: float = 5.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not holds(now := status(gateway)):
        assert time.monotonic() < end, (
            f"{now['generation']=} {now['config_problem']=}\n{gateway.log()[-1500:]}"
        )
        time.sleep(0.02)
    return now


def names(now: dict[str, Any]) -> list[str]:
    return [row["name"] for row in now["providers"]]


def by_rename(path: Path, text: str) -> None:
    new = path.with_suffix(".swp")
    new.touch(0o600)
    new.write_text(text)
    os.replace(new, path)


def in_two_halves(path: Path, text: str) -> None:
    """Emptied first, then written slowly: no half of it may be taken, or complained about."""
    middle = text.index('base_url = "') + 12  # inside a string: no TOML
    path.write_text(text[:middle])
    time.sleep(0.35)
    path.write_text(text)


def test_the_file_is_watched_however_it_is_saved(fresh: Start, up: Upstream) -> None:
    gateway = fresh(providers(up, "a", "b"))
    path = gateway.config_path
    texts = []
    for order in (("b", "c"), ("c", "d"), ("d", "e")):
        gateway.config_path = gateway.home / "scratch"
        gateway.write(providers(up, *order))
        texts.append(gateway.config_path.read_text())
    gateway.config_path = path
    by_rename(path, texts[0])
    assert names(until(gateway, lambda now: now["generation"] == 2)) == ["b", "c"]
    in_two_halves(path, texts[1])
    assert names(until(gateway, lambda now: now["generation"] == 3)) == ["c", "d"]
    assert "not reloaded" not in gateway.log()
    real = gateway.home / "real.toml"
    real.touch(0o600)
    real.write_text(texts[2])
    link = gateway.home / "link"
    link.symlink_to(real)
    os.replace(link, path)
    assert names(until(gateway, lambda now: now["generation"] == 4)) == ["d", "e"]
    assert 'changes="c: removed; d: priority 2 -> 1; e: added, priority 2' in gateway.log()


def test_a_bad_file_changes_nothing_and_is_told_until_it_is_good(fresh: Start, up: Upstream) -> None:
    gateway = fresh(providers(up, "a"))
    good = gateway.config_path.read_text()
    by_rename(gateway.config_path, good.replace("enabled", "enabeld"))
    now = until(gateway, lambda now: bool(now["config_problem"]))
    assert "ccm-config.toml:" in now["config_problem"] and "enabeld" in now["config_problem"]
    assert (now["generation"], now["health"], names(now)) == (1, "degraded", ["a"])
    assert gateway.log().count("configuration not reloaded") == 1
    with Client(gateway.base_url) as client:
        assert client.post(message()).status == 200
        health = client.call("GET", "/health")
        assert health.status == 200 and health.json()["status"] == "degraded"
    assert "not reloaded: ccm-config.toml:" in gateway.ctl("status").stdout
    by_rename(gateway.config_path, good)
    now = until(gateway, lambda now: not now["config_problem"])
    assert now["generation"] == 2 and now["health"] == "ok"


def test_a_key_file_is_watched(fresh: Start, up: Upstream, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("sk-first-0123456789\n")
    gateway = fresh(
        providers(up, "a", api_key_env="", api_key_file=str(key)).replace('api_key_env = ""\n', "")
    )
    key.write_text("sk-second-0123456789\n")
    until(gateway, lambda now: now["generation"] == 2)
    with Client(gateway.base_url) as client:
        assert client.post(message()).status == 200
    assert "sk-second" in str(up.seen("/a")[-1].headers)
    assert "key changed (fingerprint" in gateway.log() and "sk-second" not in gateway.log()


def test_it_can_be_switched_off_and_sighup_reloads(fresh: Start, up: Upstream) -> None:
    gateway = fresh(providers(up, "a"), proxy={"watch": False})
    gateway.write(providers(up, "a", "b"))
    time.sleep(0.8)
    assert status(gateway)["generation"] == 1
    os.kill(gateway.pid, signal.SIGHUP)
    assert names(until(gateway, lambda now: now["generation"] == 2)) == ["a", "b"]


def test_dry_run_tells_and_does_nothing(fresh: Start, up: Upstream) -> None:
    gateway = fresh(providers(up, "a", "b", "c"), proxy={"watch": False})
    path = gateway.env["CCM_SOCKET"]
    gate = threading.Event()
    up.reset()  # the ledger of earlier tests would answer `wait` too early
    up.script("/a", [("head",), ("gate", gate), ("sse", [])])
    text = gateway.config_path.read_text()
    with Client(gateway.base_url) as client:
        client.send("POST", "/v1/messages", message())
        up.wait("/a", 1)
        gateway.proxy["listen"] = "127.0.0.1:1"
        gateway.write(providers(up, "c", "b"))
        told = ask(path, "POST", "/reload", {"dry_run": True})
        assert told["changes"] == [
            "a: removed, 1 stream will finish",
            "c: priority 3 -> 1",
            f"listen: 127.0.0.1:{gateway.port} -> 127.0.0.1:1, needs `ccmctl restart --handover`",
        ]
        assert "would change" in told["text"] and status(gateway)["generation"] == 1
        answer = ask(path, "POST", "/reload")
        assert "listen" in answer["text"] and any("--handover" in line for line in answer["warnings"])
        now = status(gateway)
        assert now["address"] == f"127.0.0.1:{gateway.port}" and now["generation"] == 2
        assert "listen" in ask(path, "POST", "/reload", {"dry_run": True})["text"], "it is still to come"
        gate.set()
        client.read()
    gateway.config_path.write_text(text[:-30])
    with pytest.raises(ControlError, match="would be refused"):
        ask(path, "POST", "/reload", {"dry_run": True})
    assert not status(gateway)["config_problem"]


def unreadable(path: Path) -> None:
    path.chmod(0)
    if os.geteuid() == 0:  # who may read everything: a link to itself then
        path.unlink()
        path.symlink_to(path)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


NO_CONFIGURATION: dict[str, Callable[[Path], object]] = {
    "is empty": lambda path: path.write_text(""),
    "there is no such file": Path.unlink,
    "can't be read|no such file": unreadable,
    "is a directory": a_directory,
    "is not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "can be changed by everybody": lambda path: path.chmod(0o666),
}


def test_what_can_be_no_configuration(fresh: Start, up: Upstream) -> None:
    gateway = fresh(providers(up, "a"), proxy={"watch": False})
    path, text = gateway.config_path, gateway.config_path.read_text()
    for says, spoil in NO_CONFIGURATION.items():
        spoil(path)
        with pytest.raises(ControlError, match=f"old one stays:(.|\n)*({says})"):
            ask(gateway.env["CCM_SOCKET"], "POST", "/reload")
        now = status(gateway)
        assert now["config_problem"] and now["generation"] == 1 and names(now) == ["a"]
        if path.is_dir():
            path.rmdir()
        by_rename(path, text)
    ask(gateway.env["CCM_SOCKET"], "POST", "/reload")
    assert not status(gateway)["config_problem"]


def test_the_log_goes_where_a_reload_says(
    up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path
) -> None:
    gw = fresh(providers(up, "a"))
    other = tmp_path / "other.log"
    gw.write(providers(up, "a") + f'[logging]\nfile = "{other}"\nformat = "json"\n')
    gw.ctl("reload", check=True)
    assert post(gw.base_url, message(stream=False)).status == 200
    for _ in range(40):
        lines = [json.loads(line) for line in other.read_text().splitlines()]
        if any(line["event"] == "request" for line in lines):
            break
        time.sleep(0.05)
    assert any(line["event"] == "request" for line in lines), lines
    assert "event" not in gw.log().splitlines()[-1], "the old place heard nothing of it"
