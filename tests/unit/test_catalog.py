"""The catalogue's data, and the strictness of its loaders."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tomli

from ccm.catalog import checks, models, rows
from ccm.catalog.checks import bundled_text
from ccm.catalog.models import ModelBook, bare_name, load_models
from ccm.catalog.rows import bundled_rows, find_row, load_rows
from ccm.config import urls
from ccm.dialects.openai_chat import policy
from ccm.errors import ConfigError
from ccm.model import DIALECTS, TIERS, ModelFacts, Price

WANTED = [
    "anthropic",
    "openai",
    "google",
    "vertex",
    "bedrock",
    "azure",
    "azure-foundry",
    "openrouter",
    "groq",
    "together",
    "fireworks",
    "deepinfra",
    "cerebras",
    "moonshot",
    "kimi-coding",
    "nebius",
    "novita",
    "baseten",
    "zenmux",
    "zai",
    "minimax",
    "deepseek",
    "mistral",
    "xai",
    "perplexity",
    "nvidia",
    "sambanova",
    "huggingface",
    "github-models",
    "alibaba",
    "siliconflow",
    "hyperbolic",
    "ollama",
    "lmstudio",
    "vllm",
    "llamacpp",
    "litellm",
    "custom",
    "demo",
]


@pytest.fixture(scope="module")
def book() -> ModelBook:
    return models.bundled()


# ---- providers


def test_all_providers_are_there() -> None:
    assert sorted(bundled_rows()) == sorted(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_row(name: str) -> None:
    row = bundled_rows()[name]
    assert row.display and row.endpoints
    assert len({e.dialect for e in row.endpoints}) == len(row.endpoints), "one endpoint a dialect"
    if name not in ("custom", "demo"):
        assert row.docs.startswith("https://")
    for endpoint in row.endpoints:
        assert endpoint.dialect in DIALECTS
        assert set(endpoint.tiers) in (set(), {*TIERS, "default"}), "all tiers or none"
        if endpoint.base_url and "{" not in endpoint.base_url and name != "perplexity":
            assert urls.normalise(endpoint.base_url, endpoint.dialect) == endpoint.base_url
        ways = {ability for ability in endpoint.abilities if ability.startswith("web_search_")}
        assert not ways or "web_search" in endpoint.abilities, "the router looks for the plain word"
    if row.auth != "none":
        assert row.env, "a provider that needs a key says where it may be"


def test_every_tier_is_a_model_that_the_book_knows(book: ModelBook) -> None:
    unknown = {
        (row.name, model)
        for row in bundled_rows().values()
        for endpoint in row.endpoints
        for model in endpoint.tiers.values()
        if not book.find(model.replace("{geo}", "us"), row.name).known
    }
    assert unknown == set()


def test_anthropics_own_format_comes_first_where_there_is_one() -> None:
    first = {row.name: row.dialect for row in bundled_rows().values()}
    assert first["openai"] == first["xai"] == "openai_responses"
    for name in (
        "anthropic",
        "deepseek",
        "zai",
        "moonshot",
        "minimax",
        "openrouter",
        "fireworks",
        "ollama",
        "vllm",
    ):
        assert first[name] == "anthropic"
    assert first["custom"] == "", "the configuration must say"


def test_rows_are_found_by_their_other_names() -> None:
    for name, row in (("Gemini", "google"), ("claude", "anthropic"), ("glm", "zai"), ("groq", "groq")):
        found = find_row(name)
        assert found is not None and found.name == row
    assert find_row("nobody") is None


def test_the_quirks_are_the_dialects_own() -> None:
    decoders = {"think_tags", "lenient_end", "openapi_schema", "bedrock_converse"}
    assert set(rows.QUIRKS) == set(policy.QUIRKS) | decoders


GOOD_ROW = '[x]\nenv = ["X_KEY"]\nendpoints = [{ dialect = "anthropic", base_url = "https://x.example" }]\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD_ROW + 'colour = "red"\n', "p.toml:4 x.colour: unknown key"),
        (GOOD_ROW + 'quirks = ["fast"]\n', "p.toml:4 x.quirks: unknown quirk 'fast'"),
        (GOOD_ROW + 'abilities = ["sing"]\n', "p.toml:4 x.abilities: unknown ability 'sing'"),
        (GOOD_ROW + 'auth = "basic"\n', "p.toml:4 x.auth: unknown auth scheme 'basic'"),
        (GOOD_ROW + 'tiers = { ops = "m" }\n', "p.toml:4 x.tiers.ops: unknown tier 'ops'"),
        (
            GOOD_ROW + 'tiers = { opus = "sonar" }\n',
            "p.toml:4 x.tiers.opus: sonar takes no tools, and a tier must",
        ),
        (GOOD_ROW + "tiers = { opus = 5 }\n", "p.toml:4 x.tiers: must be a table of strings"),
        (GOOD_ROW + 'auto = "yes"\n', "p.toml:4 x.auto: must be true or false"),
        (GOOD_ROW + "options = []\n", "p.toml:4 x.options: must be a table of lists of strings"),
        (GOOD_ROW + "constants = 1\n", "p.toml:4 x.constants: must be a table"),
        (GOOD_ROW + '[y]\naliases = ["x"]\n', "p.toml:5 y.aliases: 'x' is already the name of x"),
        (
            '[x]\nendpoints = [{ dialect = "klingon" }]\n',
            "p.toml:2 x.endpoints.0.dialect: unknown dialect 'klingon'",
        ),
        ('[x]\nendpoints = [{ dialect = "gemini", base_url = "http://x" }]\n', "must be an https URL"),
        ('[x]\nendpoints = [{ dialect = "gemini", url = "https://x" }]\n', "x.endpoints.0.url: unknown key"),
        ("[x]\nendpoints = {}\n", "p.toml:2 x.endpoints: must be a list of tables"),
        ("[x]\nendpoints = [1]\n", "p.toml:2 x.endpoints.0: must be a table"),
        ('[x]\nenv = "X_KEY"\n', "p.toml:2 x.env: must be a list of strings"),
        ("x = 1\n", "p.toml:1 x: must be a table"),
        ("[x\n", "p.toml:1 column 3"),
    ],
)
def test_a_broken_row_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rows(text, file="p.toml")
    assert told in str(caught.value)


def test_a_good_row_loads() -> None:
    row = load_rows(GOOD_ROW)["x"]
    assert (row.dialect, row.base_url, row.auth, row.auto) == (
        "anthropic",
        "https://x.example",
        "bearer",
        True,
    )
    assert row.endpoint("gemini") is None and row.endpoint() is row.endpoints[0]


# ---- models


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-5[1m]", "claude-sonnet-5"),
        ("claude-sonnet-5-1m", "claude-sonnet-5"),
        ("anthropic/claude-haiku-4.5", "claude-haiku-4-5"),
        ("anthropic/claude-haiku-4.5:free", "claude-haiku-4-5"),
        ("claude-4.5-sonnet", "claude-sonnet-4-5"),
        ("claude-3.5-haiku", "claude-3-5-haiku"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("global.anthropic.claude-opus-4-8", "claude-opus-4-8"),
        ("arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("openai/gpt-5.6", "gpt-5.6"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss-120b"),
        ("gpt-oss:120b", "gpt-oss:120b"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini-2.5-flash-preview-09-2025", "gemini-2.5-flash-preview"),
        ("accounts/fireworks/models/kimi-k2p5", "kimi-k2p5"),
        ("mistral-small-latest", "mistral-small"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("us.amazon.nova-pro-v1:0", "nova-pro"),
        ("[1m]", "[1m]"),
        ("", ""),
    ],
)
def test_bare_names(name: str, bare: str) -> None:
    assert bare_name(name) == bare


@pytest.mark.parametrize(
    ("name", "seller", "window", "input", "thinking"),
    [
        ("claude-opus-5-5", "anthropic", 1_000_000, 4.0, "adaptive"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", 200_000, 3.0, "budget"),
        ("anthropic/claude-haiku-4.5", "openrouter", 200_000, 1.0, "budget"),
        ("anthropic/claude-haiku-4.5:free", "openrouter", 200_000, None, "budget"),
        ("claude-fable-5-2", "anthropic", 1_000_000, None, "adaptive"),
        ("claude-opus-4-1-20250805", "anthropic", 200_000, None, "budget"),
        ("claude-3-5-sonnet-20241022", "anthropic", 200_000, None, ""),
        ("gpt-5.6-terra", "openai", 922_000, 2.0, "effort"),
        ("gpt-5-codex", "openai", 272_000, None, "effort"),
        ("gpt-5.9", "openai", 272_000, None, "effort"),
        ("openai/gpt-oss-120b", "groq", 131_072, 0.15, "effort"),
        ("gpt-oss-120b", "cerebras", 131_072, 0.35, "effort"),
        ("openai/gpt-oss-120b", "together", 131_072, None, "effort"),
        ("deepseek-v4-pro", "deepseek", 1_000_000, 1.32, "effort"),
        ("deepseek-ai/DeepSeek-V4-Pro", "fireworks", 1_000_000, None, "effort"),
        ("gemini-2.5-pro", "google", 1_048_576, 1.25, "budget"),
        ("gemini-3-pro-preview", "google", 1_048_576, None, "level"),
        ("claude-demo-opus", "demo", 200_000, 0.0, ""),
    ],
)
def test_find(
    book: ModelBook, name: str, seller: str, window: int, input: float | None, thinking: str
) -> None:
    facts = book.find(name, seller)
    assert facts.known and facts.name == name
    assert (facts.window, facts.price.input, facts.thinking) == (window, input, thinking)


def test_the_unknown_is_treated_with_caution(book: ModelBook) -> None:
    for name in ("", "gtp-5", "some-model", "gpt-5000", "\x00", "claud"):
        if name == "gpt-5000":
            assert book.find(name).price == Price()
            continue
        assert book.find(name, "openai") == ModelFacts(name=name)


def test_the_cache_of_names_is_bounded(book: ModelBook) -> None:
    small = ModelBook(load_models('[models."m"]\nwindow = 5\n'))
    for n in range(5000):
        small.find(f"nobody-{n}")
    assert len(small._found) <= 4096
    assert small.find("m").window == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[models."m"]\nwindow = 0\n', "m.toml:2 models.m.window: must be a whole number above 0"),
        ('[models."m"]\nwindow = true\n', "m.toml:2 models.m.window"),
        ('[models."m"]\ninput = -1\n', "m.toml:2 models.m.input: must be a price"),
        ('[models."m"]\ninput = "1"\n', "m.toml:2 models.m.input: must be a price"),
        ('[models."m"]\nthinking = "hard"\n', "m.toml:2 models.m.thinking: unknown form of thinking 'hard'"),
        ('[models."m"]\nabilities = ["fly"]\n', "m.toml:2 models.m.abilities: unknown ability 'fly'"),
        ('[models."m"]\nabove = [[1, 2]]\n', "m.toml:2 models.m.above: each step is"),
        ('[models."m"]\nabove = 7\n', "m.toml:2 models.m.above: each step is"),
        ('[models."m"]\nprice = 1\n', "m.toml:2 models.m.price: unknown key"),
        ("models = 1\n", "m.toml:1 models: must be a table"),
        ('[modles."m"]\n', "m.toml:1 modles: unknown key"),
        ("[vendors.v]\nsold = []\n", "m.toml:2 vendors.v.sold: unknown key"),
        ("[models.\n", "m.toml:1 column"),
    ],
)
def test_a_broken_models_file_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_models(text, "m.toml")
    assert told in str(caught.value)


def test_a_users_entry_overrules(book: ModelBook, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[models."gpt-5.6"]\nwindow = 100\ninput = 9.5\nabove = [[50, 1, 2], [10, 3, 4]]\n')
    mine = models.load_book(path)
    facts = mine.find("gpt-5.6", "some-gateway")
    assert (facts.window, facts.price.input) == (100, 9.5)
    assert facts.price.above == ((10, 3.0, 4.0), (50, 1.0, 2.0))
    assert mine.find("gpt-5.6-luna", "openai") == book.find("gpt-5.6-luna", "openai")
    with pytest.raises(ConfigError, match="can't be read"):
        models.load_book(tmp_path / "none.toml")


def test_the_nearest_name(book: ModelBook) -> None:
    assert models.nearest("gtp-5.6", book.names()) == "gpt-5.6"
    assert models.nearest("claude-opus-55", book.names()) == "claude-opus-5-5"
    assert models.nearest("zzz", book.names()) == ""


@pytest.mark.parametrize("name", ["models.toml", "providers.toml"])
def test_the_kept_document_is_the_files_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = bundled_text(name)
    assert json.loads(bundled_text(f"{name}.json"))["of"] == checks.fingerprint(text), (
        "run scripts/build-catalogue"
    )
    monkeypatch.setattr(checks, "parse", lambda *_: pytest.fail("the kept document is there"))
    assert checks.bundled_document(name) == (text, tomli.loads(text))


@pytest.mark.parametrize("kept", ["", "{}", '{"of": "another text", "document": {"x": {}}}'])
def test_a_kept_document_of_another_text_is_not_taken(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "bundled_text", {"a.toml": "[y]\n", "a.toml.json": kept}.__getitem__)
    assert checks.bundled_document("a.toml") == ("[y]\n", {"y": {}})


def test_what_is_shipped_has_no_fault() -> None:
    entries = load_models(bundled_text("models.toml"))
    assert entries == dict(models.bundled()._entries)
    assert load_rows(bundled_text("providers.toml")) == dict(bundled_rows())


def test_loading_is_quick() -> None:
    texts = bundled_text("models.toml"), bundled_text("providers.toml")
    times = []
    for _ in range(5):
        start = time.process_time()
        load_models(texts[0])
        load_rows(texts[1])
        times.append(time.process_time() - start)
    assert min(times) < 0.05, "15 ms with the compiled tomli; the pure one is slower"


_COSTS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
}
_SELLERS = {"gemini": "google", "bedrock_converse": "bedrock"}


def test_the_facts_are_those_recorded(shared: Path, book: ModelBook) -> None:
    recorded = json.loads((shared / "corpus" / "prices.json").read_text("utf-8"))["models"]
    assert len(recorded) > 50
    for name, facts in recorded.items():
        vendor = facts["litellm_provider"]
        seller = _SELLERS.get(vendor, vendor)
        asked = name.removeprefix(f"{vendor}/")
        mine = book.find(asked, seller)
        assert mine.window == facts["max_input_tokens"], name
        assert mine.output_cap == facts["max_output_tokens"], name
        for theirs, ours in _COSTS.items():
            told = getattr(mine.price, ours)
            if theirs in facts:
                assert told == pytest.approx(facts[theirs] * 1e6), (name, ours)
            else:
                assert told is None, (name, ours)
        assert ("tools" in mine.abilities) == bool(facts.get("supports_function_calling")), name
        assert ("images" in mine.abilities) == bool(facts.get("supports_vision")), name
        steps = {limit for limit in (200, 272) if f"input_cost_per_token_above_{limit}k_tokens" in facts}
        assert {step[0] for step in mine.price.above} == {limit * 1000 for limit in steps}, name
