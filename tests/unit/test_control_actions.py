"""The actions: what they do, what they remember, and what they say where they cannot."""

from __future__ import annotations

import pytest

from ccm.control import actions
from ccm.control.state import State
from ccm.errors import ConfigError, ControlError
from ccm.model import Problem


def test_switch_puts_first_and_remembers(fake_core, monkeypatch) -> None:
    monkeypatch.setattr(actions.time, "monotonic", lambda: 50.0)
    assert actions.switch(fake_core, "openai")["text"] == "openai is primary now"
    assert (fake_core.router.primary, fake_core.router.until) == ("openai", None)
    answer = actions.switch(fake_core, "anthropic", 1800)
    assert answer["text"] == "anthropic is primary now for 30m (it was openai)"
    assert (fake_core.router.primary, fake_core.router.until) == ("anthropic", 1850.0)
    assert fake_core.state.primary == "anthropic" and 1790 < fake_core.state.primary_left_s <= 1800
    assert actions.auto(fake_core)["previous"] == "anthropic"
    assert fake_core.router.primary is None and fake_core.state.primary is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("opnai", "did you mean openai?"),
        ("zzz", "configured: anthropic, openai, groq, old"),
        ("groq", "GROQ_API_KEY is not set"),
        ("old", "enabled = true"),
    ],
)
def test_switch_says_why_not(fake_core, name: str, says: str) -> None:
    with pytest.raises(ControlError, match=r"^.+$") as caught:
        actions.switch(fake_core, name)
    assert says in str(caught.value)
    assert fake_core.router.primary is None and fake_core.state.primary is None


def test_disable_enable_drain(fake_core) -> None:
    actions.switch(fake_core, "openai")
    assert "no longer primary" in actions.disable(fake_core, "openai")["text"]
    assert fake_core.router.primary is None
    assert fake_core.router.calls == [("enabled", "openai", False)]
    with pytest.raises(ControlError, match="ccmctl enable openai"):
        actions.switch(fake_core, "openai")
    assert "no provider is left" in actions.disable(fake_core, "anthropic")["text"]
    actions.enable(fake_core, "openai")
    assert fake_core.state.disabled == {"anthropic"}
    assert actions.drain(fake_core, "anthropic")["in_flight"] == 1
    assert fake_core.state.drained == {"anthropic"}
    actions.enable(fake_core, "anthropic")
    assert fake_core.state.drained == frozenset() and ("drain", "anthropic", False) in fake_core.router.calls
    with pytest.raises(ControlError, match="configuration"):
        actions.enable(fake_core, "old")


def test_reset(fake_core) -> None:
    actions.reset(fake_core)
    actions.reset(fake_core, "openai")
    assert fake_core.router.calls == [("reset", None), ("reset", "openai")]
    with pytest.raises(ControlError):
        actions.reset(fake_core, "nobody")


def test_reload_tells_every_problem_and_keeps_the_old_one(fake_core) -> None:
    def refuse():
        raise ConfigError([Problem("c.toml", 3, "a.b", "unknown key"), Problem("c.toml", 9, "x", "bad")])

    fake_core.reloads = refuse
    with pytest.raises(ControlError) as caught:
        actions.reload(fake_core)
    assert "c.toml:3 a.b: unknown key" in str(caught.value) and "c.toml:9" in str(caught.value)
    assert "the old one stays" in str(caught.value)
    fake_core.reloads = lambda: {"generation": 4}
    assert actions.reload(fake_core)["generation"] == 4


def test_restore_gives_the_router_the_last_runs_decisions(fake_core, tmp_path) -> None:
    state = State.load(tmp_path / "s.json", lambda: 1000.0)
    state.set_primary("openai", 60)
    state.set_disabled("anthropic", True)
    state.set_disabled("gone", True)
    state.set_drained("groq", True)
    fake_core.state = State.load(tmp_path / "s.json", lambda: 1010.0)
    actions.restore(fake_core, clock=lambda: 5.0)
    assert (fake_core.router.primary, fake_core.router.until) == ("openai", 55.0)
    assert ("enabled", "anthropic", False) in fake_core.router.calls
    assert ("drain", "groq", True) in fake_core.router.calls
    assert not any(call[1] == "gone" for call in fake_core.router.calls)


@pytest.mark.parametrize("name", ["gone", "old"])
def test_restore_leaves_out_a_primary_that_cannot_be(fake_core, name: str) -> None:
    fake_core.state.set_primary(name)
    fake_core.router.primary = "openai"
    actions.restore(fake_core)
    assert fake_core.router.primary is None and fake_core.state.primary == name


def test_log_level_and_stop(fake_core) -> None:
    assert actions.set_log_level(fake_core, "debug")["previous"] == "info"
    assert fake_core.log_level == "debug"
    with pytest.raises(ControlError, match="debug, info, warning, error"):
        actions.set_log_level(fake_core, "loud")
    assert "1 running" in actions.stop(fake_core)["text"]
    actions.stop(fake_core, drain=False)
    assert fake_core.stops == [True, False]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("45", 45), (" 1.5h ", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert actions.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 years", "1m2", "0s", "400d", "1e5s", "٣m", "9" * 40])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ControlError, match=r"duration|range"):
        actions.parse_duration(text)


def test_a_switch_of_one_class_leaves_the_others_alone(fake_core, monkeypatch) -> None:
    monkeypatch.setattr(actions.time, "monotonic", lambda: 50.0)
    actions.switch(fake_core, "anthropic")
    assert "class think" in actions.switch(fake_core, "openai", 60, "think")["text"]
    assert (fake_core.router.primary, fake_core.router.classes) == ("anthropic", {"think": ("openai", 110.0)})
    assert fake_core.state.class_primaries["think"][0] == "openai"
    assert "(it was openai)" in actions.switch(fake_core, "anthropic", None, "think")["text"]
    assert "was anthropic, anthropic for think" in actions.auto(fake_core)["text"]
    assert (fake_core.router.primary, fake_core.router.classes["think"]) == (None, (None, None))
    assert fake_core.state.class_primaries == {}


def test_who_is_disabled_is_nobodys_primary(fake_core) -> None:
    actions.switch(fake_core, "openai", None, "image")
    assert "class image either" in actions.disable(fake_core, "openai")["text"]
    assert fake_core.router.classes["image"] == (None, None) and fake_core.state.class_primaries == {}


def test_a_class_switch_survives_a_restart(tmp_path) -> None:
    from tests.conftest import FakeCore

    now = [1000.0]
    path = tmp_path / "state.json"
    first = FakeCore(State.load(path, lambda: now[0]))
    actions.switch(first, "openai", 100, "think")
    actions.switch(first, "openai", 10, "image")
    actions.switch(first, "anthropic", None, "default")
    now[0] += 50
    again = FakeCore(State.load(path, lambda: now[0]))
    assert set(again.state.class_primaries) == {"think", "default"}
    actions.restore(again, lambda: 7.0)
    assert again.router.classes == {"think": ("openai", 57.0), "default": ("anthropic", None)}
