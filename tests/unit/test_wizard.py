"""The wizard's rooms: files with keys, answers, the conversation, and that writing is all or nothing."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli

from ccm.catalog.rows import find_row
from ccm.cli.wizard import sources, writing
from ccm.cli.wizard.ask import Ended, Impossible, Questions, chosen, numbered
from ccm.cli.wizard.places import dotenv, exported, places
from ccm.cli.wizard.sources import Source
from ccm.cli.wizard.talk import Given, Plan, Talk, strategy_named
from ccm.model import Secret

KEY = "sk-canary-0123456789abcdef"


def questions(*answers: str) -> Questions:
    return Questions(io.StringIO("".join(f"{a}\n" for a in answers)), terminal=False)


@pytest.fixture
def talk(tmp_path: Path) -> Callable[..., Talk]:
    """`talk("answer", ..., env={...}, given=Given(...), servers=[...])`; no answers at all: nobody is there."""

    def make(
        *answers: str,
        env: dict[str, str] | None = None,
        given: Given = Given(),  # noqa: B008 - frozen
        servers: tuple[Source, ...] = (),
    ) -> Talk:
        ask = questions(*answers) if answers else None
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        environ = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", **(env or {})}
        return Talk(environ, tmp_path, folder, ask, given, lambda: servers)

    return make


def row(name: str):
    found = find_row(name)
    assert found is not None
    return found


# ---- files


def test_dotenv_values(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        "# c\nexport A_KEY='it''s'\nB_KEY=\"two words\"\nABC_KEY=plain # why\nD_KEY=$OTHER\nE_KEY=\nlower=1\nF_KEY = x\r\n"
    )
    assert dict(dotenv(path)) == {"A_KEY": "it", "B_KEY": "two words", "ABC_KEY": "plain", "F_KEY": "x"}
    assert dict(dotenv(tmp_path)) == {} and dict(dotenv(tmp_path / "none")) == {}


def test_places_tell_names_and_values_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude/settings.json").write_text(
        json.dumps({"env": {"OPENAI_API_KEY": KEY, "X": "y", "N": 3}})
    )
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex/auth.json").write_text('{"OPENAI_API_KEY": null, "tokens": {"id_token": "x"}}')
    (tmp_path / ".env").write_text(f"GROQ_API_KEY={KEY}\n")
    found = places(tmp_path, tmp_path, ["OPENAI_API_KEY", "GROQ_API_KEY"])
    assert [(p.path.name, p.names) for p in found] == [
        (".env", ("GROQ_API_KEY",)),
        ("settings.json", ("OPENAI_API_KEY",)),
    ]
    assert KEY not in repr(found) and found[1].value("OPENAI_API_KEY") == KEY
    (tmp_path / ".claude/settings.json").write_text("{broken")
    assert found[1].value("OPENAI_API_KEY") == ""


def test_shell_files_are_looked_at_for_names_only(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text(
        f"export XAI_API_KEY={KEY}\n# export GROQ_API_KEY=x\nalias OPENAI_API_KEY2=1\n"
    )
    (tmp_path / ".config/fish").mkdir(parents=True)
    (tmp_path / ".config/fish/config.fish").write_text("set -gx MISTRAL_API_KEY (pass mistral)\n")
    found = exported(tmp_path, ["XAI_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "OPENAI_API_KEY"])
    assert {name: path.name for name, path in found.items()} == {
        "XAI_API_KEY": ".bashrc",
        "MISTRAL_API_KEY": "config.fish",
    }


def test_a_fifo_among_the_files_does_not_hold_the_wizard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    assert places(tmp_path, tmp_path, ["OPENAI_API_KEY"]) == []


# ---- answers


def test_numbers_names_and_what_is_neither() -> None:
    names = ["openai", "groq"]
    assert [chosen(a, names) for a in ("1", "2", "GROQ ", "0", "3", "²", "x", "")] == [
        "openai", "groq", "groq", "", "", "", "", ""
    ]  # fmt: skip
    assert numbered([("a", "one"), ("long", "")]) == ["  1  a     one", "  2  long"]


def test_yes_and_no_in_several_tongues_and_three_misses() -> None:
    ask = questions("", "J", "nein", "maybe", "x", "y?")
    assert ask.yes("?", True) is True and ask.yes("?", False) is True and ask.yes("?", True) is False
    with pytest.raises(Impossible):
        ask.yes("?", True)
    with pytest.raises(Ended):
        ask.line("?")


def test_a_key_from_a_pipe_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    ask = questions("seen", KEY)
    assert (ask.line("a "), ask.secret("b ")) == ("seen", KEY)
    out = capsys.readouterr().out
    assert "seen" in out and KEY not in out


# ---- the conversation


def test_the_order_is_the_answers_and_a_key_can_be_typed(talk: Callable[..., Talk], capsys) -> None:
    env = {"OPENAI_API_KEY": KEY, "GROQ_API_KEY": KEY + "2"}
    plan = talk("groq, 1 DeepSeek", "1", "two words", KEY + "3", "cheapest", env=env).plan()
    assert [(s.row.name, s.kind) for s in plan.sources] == [
        ("groq", "env"),
        ("openai", "env"),
        ("deepseek", "typed"),
    ]
    assert plan.strategy == "cost" and plan.kept == {"deepseek": Secret(KEY + "3", "")}
    out = capsys.readouterr().out
    assert "that holds blanks" in out and "canary" not in out


def test_ways_to_name_a_key(talk: Callable[..., Talk], tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_text(KEY)
    held.chmod(0o644)
    answers = ("openai groq xai", "2", "", "3", "pass 'show", "pass show groq", "4", str(held))
    talking = talk(*answers, "failover", "nowhere")
    with pytest.raises(Impossible):  # a file that others can read is no answer, nor is "failover"
        talking.plan()
    held.chmod(0o600)
    plan = talk(*answers, "failover").plan()
    assert [s.settings("K") for s in plan.sources] == [
        {"api_key_env": '"OPENAI_API_KEY"'},
        {"api_key_command": '["pass", "show", "groq"]'},
        {"api_key_file": f'"{held}"'},
    ]
    assert plan.kept == {}


def test_keys_in_files_are_taken_only_when_agreed(talk: Callable[..., Talk], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"MISTRAL_API_KEY={KEY}\nHF_TOKEN=hf_0123456789\n")
    (tmp_path / ".zshrc").write_text("export XAI_API_KEY=x\n")
    no = talk("n", "", "", env={"OPENAI_API_KEY": KEY}).plan()
    assert [s.row.name for s in no.sources] == ["openai"] and no.kept == {}
    yes = talk("y", "", "", env={"OPENAI_API_KEY": KEY}).plan()
    assert [s.row.name for s in yes.sources] == ["openai", "mistral"] and set(yes.kept) == {"mistral"}
    assert KEY not in repr(yes)
    silent = talk(env={"OPENAI_API_KEY": KEY}).plan()
    assert [s.row.name for s in silent.sources] == ["openai"]
    flagged = talk(env={"OPENAI_API_KEY": KEY}, given=Given(use_files=True)).plan()
    assert set(flagged.kept) == {"mistral"}


def test_a_server_on_this_machine_is_used_when_there_is_nothing_else(talk: Callable[..., Talk]) -> None:
    server = Source(row("ollama"), sources.LOCAL, "127.0.0.1:11434", models=("qwen3", "gemma"))
    alone = talk(servers=(server,)).plan()
    assert alone.sources[0].settings("K") == {"models": '{ default = "qwen3" }'}
    beside = talk(env={"OPENAI_API_KEY": KEY}, servers=(server,)).plan()
    assert [s.row.name for s in beside.sources] == ["openai"]
    asked = talk("2", "gemma", env={"OPENAI_API_KEY": KEY}, servers=(server,)).plan()
    assert asked.sources[0].settings("K") == {"models": '{ default = "gemma" }'}


def test_what_a_cloud_needs_is_asked_for(talk: Callable[..., Talk], tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\n")
    plan = talk("bedrock", "US East", "us-east-1").plan()
    assert plan.sources[0].settings("K") == {"region": '"us-east-1"'}
    assert talk("bedrock", env={"AWS_REGION": "eu-west-1"}).plan().sources[0].settings("K") == {}
    with pytest.raises(Impossible, match="AWS_REGION"):
        talk(given=Given(("bedrock",))).plan()


def test_a_question_mark_lists_the_catalogue(talk: Callable[..., Talk], capsys) -> None:
    talk("?", "", env={"OPENAI_API_KEY": KEY}).plan()
    out = capsys.readouterr().out
    assert "deepseek" in out and "custom" not in out


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("failover", "priority"), ("cheapest", "cost"), ("fastest", "latency"), ("weighted", "weighted")],
)
def test_strategies_by_wish_and_by_name(name: str, strategy: str) -> None:
    assert strategy_named(name) == strategy
    with pytest.raises(Impossible, match="did you mean"):
        strategy_named("failovr")


def test_local_servers_are_asked_for_models(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"http://127.0.0.1:11434/v1": ("m",), "http://127.0.0.1:8000/v1": ()}
    monkeypatch.setattr(sources, "_models", lambda url, timeout_s: listed.get(url, ()))
    assert [(s.row.name, s.models) for s in sources.local_servers()] == [("ollama", ("m",))]


# ---- writing


@pytest.fixture
def plan() -> Plan:
    typed = Source(row("deepseek"), sources.TYPED, key=Secret(KEY, "typed"))
    return Plan((Source(row("openai"), sources.ENV, "OPENAI_API_KEY"), typed), "cost")


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_the_key_is_in_its_file_and_nowhere_else(plan: Plan, tmp_path: Path) -> None:
    text = writing.composed(plan, writing.template_text())
    written = writing.write(plan, text, tmp_path / "config/c.toml", tmp_path)
    (kept,) = written.keys
    assert kept == tmp_path / ".claude-code-mux/keys/deepseek" and kept.read_text() == KEY + "\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert [p for p, content in tree(tmp_path).items() if content and KEY.encode() in content] == [str(kept)]
    value = tomli.loads(text)
    assert value["providers"]["deepseek"]["api_key_file"] == "~/.claude-code-mux/keys/deepseek"
    assert {n for n, p in value["providers"].items() if p["enabled"]} == {"openai", "deepseek"}


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_all_or_nothing(plan: Plan, tmp_path: Path, monkeypatch, fault: BaseException, at: int) -> None:
    target = tmp_path / "config" / "c.toml"
    target.parent.mkdir()
    target.write_text("mine")
    before, done, real = tree(tmp_path), [], writing.write_atomically

    def failing(path: str, data: bytes) -> None:
        if len(done) == at:
            done.append(path)
            raise fault
        done.append(path)
        real(path, data)

    monkeypatch.setattr(writing, "write_atomically", failing)
    with pytest.raises(type(fault)):
        writing.write(plan, "[x]\n", target, tmp_path)
    assert len(done) > at and tree(tmp_path) == before


def test_backups_never_meet(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing.time, "strftime", lambda form: "20260101-000000")
    target = tmp_path / "c.toml"
    for number in range(3):
        writing.write(plan, f"# {number}\n", target, tmp_path)
    names = sorted(p.name for p in tmp_path.glob("c.toml*"))
    assert names == ["c.toml", "c.toml.bak-20260101-000000", "c.toml.bak-20260101-000000-1"]
    assert writing.write(plan, "# 2\n", target, tmp_path).backup is None


def test_a_rehearsal_leaves_nothing_and_leaves_out_what_cannot_be_asked(plan: Plan) -> None:
    later = Source(row("xai"), sources.RC, "XAI_API_KEY", Path("/x"))
    with writing.rehearsed(Plan((*plan.sources, later), "cost"), writing.template_text()) as config:
        value = tomli.loads(config.read_text())
        held = Path(value["providers"]["deepseek"]["api_key_file"])
        assert held.read_text() == KEY + "\n" and "xai" not in value["providers"]
        folder = config.parent
    assert not folder.exists()


def test_text_is_toml_whatever_it_holds() -> None:
    for text in ('a"b\\c', "tab\t\x7f\x01", "日本"):
        assert tomli.loads(f"x = {sources.toml(text)}") == {"x": text}
