"""Which header carries which key, to whom, and what is said when there is none."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ccm.catalog.rows import AUTH_SCHEMES
from ccm.errors import UpstreamError
from ccm.model import Endpoint, FailureKind, KeySource, Provider, Secret
from ccm.upstream import auth, aws, gcp
from ccm.upstream.auth import Authorizer
from ccm.upstream.tokens import KeyDelayed

KEY = "key-0123456789abcdef"
TOKEN = "own-token-of-ccm"
URL = "https://host/v1/messages"
JWT = "eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl"


def endpoint(scheme: str, key: Any = KEY, dialect: str = "openai_chat", **fields: Any) -> Endpoint:
    options = fields.pop("options", {})
    type = fields.pop("type", "custom")
    source = KeySource("env", "K", Secret(key, "environment variable K")) if isinstance(key, str) else key
    provider = Provider("prov", type, dialect, "https://host/v1", auth=scheme, options=options, **fields)
    return Endpoint("prov", provider, source)


def headers(
    target: Endpoint, client: dict[str, str] | None = None, url: str = URL, **env: str
) -> dict[str, str]:
    found = Authorizer(env, TOKEN).headers(target, url, {"host": "host"}, b"{}", client=client or {})
    return {name.lower(): value for name, value in found.items()}


def refusal(target: Endpoint, client: dict[str, str] | None = None, **env: str) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        headers(target, client, **env)
    assert caught.value.error.status == 0 and str(caught.value.error.message).startswith("prov: ")
    return caught.value


@pytest.mark.parametrize(
    ("scheme", "dialect", "key", "sent"),
    [
        ("bearer", "openai_chat", KEY, {"authorization": f"Bearer {KEY}"}),
        ("x-api-key", "anthropic", KEY, {"x-api-key": KEY}),
        ("api-key", "openai_chat", KEY, {"api-key": KEY}),
        ("x-goog-api-key", "gemini", KEY, {"x-goog-api-key": KEY}),
        ("google", "gemini", "ya29.x", {"authorization": "Bearer ya29.x"}),
        ("sigv4", "bedrock", "bedrock-api-key", {"authorization": "Bearer bedrock-api-key"}),
        ("azure", "openai_chat", KEY, {"api-key": KEY}),
        ("azure", "anthropic", KEY, {"api-key": KEY, "x-api-key": KEY}),
        ("azure", "openai_responses", JWT, {"authorization": f"Bearer {JWT}"}),
        ("azure", "anthropic", JWT, {"authorization": f"Bearer {JWT}"}),
        ("none", "anthropic", None, {}),
        ("bearer", "openai_chat", None, {}),
    ],
)
def test_schemes(scheme: str, dialect: str, key: Any, sent: dict[str, str]) -> None:
    assert headers(endpoint(scheme, key, dialect)) == sent


def test_every_scheme_of_the_catalogue_is_known() -> None:
    assert set(AUTH_SCHEMES) - {"passthrough"} == set(auth._SCHEMES)


def test_a_missing_key_is_a_credential_failure_that_names_its_place() -> None:
    missing = KeySource("env", "OPENAI_API_KEY", None, "OPENAI_API_KEY is not set")
    error = refusal(endpoint("bearer", missing)).error
    assert error.kind is FailureKind.CREDENTIAL and error.type == "authentication_error"
    assert error.message == "prov: no key from env OPENAI_API_KEY: OPENAI_API_KEY is not set"


# ---- commands


def command(tmp_path: Path, script: str) -> KeySource:
    path = tmp_path / "key.py"
    path.write_text(script)
    return KeySource("command", f"{sys.executable} -I {path}")


def test_a_key_command_runs_once_until_it_is_refused(tmp_path: Path) -> None:
    count = tmp_path / "count"
    source = command(
        tmp_path,
        f"open({str(count)!r}, 'a').write('x')\nprint('key-' + str(len(open({str(count)!r}).read())))",
    )
    known: list[str] = []
    authorizer = Authorizer({"PATH": "/bin:/usr/bin"}, TOKEN, known.append)
    target = endpoint("bearer", source)
    for _ in range(3):
        assert authorizer.headers(target, URL, {}, b"") == {"authorization": "Bearer key-1"}
    assert authorizer.refused(target) is True
    assert authorizer.headers(target, URL, {}, b"") == {"authorization": "Bearer key-2"}
    assert set(known) == {"key-1", "key-2"}, "the redactor is told before a key is used"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("print('secret value')", "holds blanks"),
        ("import sys; print('secret'); sys.exit(2)", "exit status 2"),
        (f"print({TOKEN!r})", "ccm's own auth_token"),
    ],
)
def test_a_key_command_that_fails(tmp_path: Path, script: str, said: str) -> None:
    error = refusal(endpoint("bearer", command(tmp_path, script)), PATH="/bin:/usr/bin").error
    assert error.kind is FailureKind.CREDENTIAL and said in error.message and "secret" not in error.message


def test_refused_keys_of_other_kinds_wait_for_a_reload() -> None:
    assert Authorizer({}, TOKEN).refused(endpoint("bearer")) is False
    assert Authorizer({}, TOKEN).refused(endpoint("none", None)) is False


# ---- passthrough


@pytest.mark.parametrize(
    ("dialect", "client", "sent"),
    [
        ("anthropic", {"x-api-key": "sk-own"}, {"x-api-key": "sk-own"}),
        ("anthropic", {"authorization": "Bearer sk-own"}, {"authorization": "Bearer sk-own"}),
        (
            "anthropic",
            {"x-api-key": TOKEN, "authorization": "bearer  sk-own "},
            {"authorization": "Bearer sk-own"},
        ),
        ("anthropic", {"x-api-key": "sk-own", "authorization": f"Bearer {TOKEN}"}, {"x-api-key": "sk-own"}),
        ("openai_chat", {"x-api-key": "sk-own"}, {"authorization": "Bearer sk-own"}),
        ("openai_responses", {"authorization": "Bearer sk-own"}, {"authorization": "Bearer sk-own"}),
        ("gemini", {"x-api-key": "own"}, {"x-goog-api-key": "own"}),
    ],
)
def test_the_clients_own_key(dialect: str, client: dict[str, str], sent: dict[str, str]) -> None:
    assert headers(endpoint("passthrough", None, dialect), client) == sent


@pytest.mark.parametrize(
    "client",
    [
        {}, {"x-api-key": TOKEN}, {"authorization": f"Bearer {TOKEN}"}, {"x-api-key": "ccm-proxy"}, {"x-api-key": " "},
        {"authorization": "Basic dXNlcjpzZWNyZXQ="}, {"x-api-key": "a b"}, {"x-api-key": "kéy"}, {"authorization": "Bearer"},
    ],
)  # fmt: skip
def test_without_a_key_of_its_own_nothing_is_passed(client: dict[str, str]) -> None:
    error = refusal(endpoint("passthrough", None, "anthropic"), client).error
    assert error.kind is FailureKind.CREDENTIAL and "the client sent no key of its own" in error.message


def test_the_clients_key_goes_nowhere_else() -> None:
    client = {"x-api-key": "sk-own", "authorization": "Bearer sk-other"}
    for scheme in set(AUTH_SCHEMES) - {"passthrough", "sigv4", "google"}:
        sent = headers(endpoint(scheme), client)
        assert "sk-own" not in str(sent) and "sk-other" not in str(sent)


@pytest.mark.parametrize("key", ["sk-ant-oat01-abc", "sk-ant-ort01-abc", "sk-ant-sid01-abc"])
def test_subscription_logins_are_not_passed(key: str) -> None:
    target = endpoint("passthrough", None, "anthropic", type="anthropic")
    error = refusal(target, {"authorization": f"Bearer {key}"}).error
    assert "subscription" in error.message and key not in error.message


def test_a_key_of_known_origin_goes_to_its_own_provider_only() -> None:
    client = {"x-api-key": "sk-ant-api03-secret"}
    assert headers(endpoint("passthrough", None, "anthropic", type="anthropic"), client) == client
    assert headers(endpoint("passthrough", None, "anthropic", type="custom"), client) == client
    for other in ("deepseek", "openai", "openrouter"):
        error = refusal(endpoint("passthrough", None, "anthropic", type=other), client).error
        assert "one for anthropic" in error.message and "secret" not in error.message


def test_clients_keys_are_told_to_the_redactor_but_not_without_end() -> None:
    known: list[str] = []
    authorizer = Authorizer({}, TOKEN, known.append)
    target = endpoint("passthrough", None, "anthropic")
    for n in range(2000):
        authorizer.headers(target, URL, {}, b"", client={"x-api-key": f"own-{n}"})
        authorizer.headers(target, URL, {}, b"", client={"x-api-key": f"own-{n}"})
    assert known == [f"own-{n}" for n in range(256)]


# ---- clouds


AWS_ENV = {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "aws/secret", "AWS_SESSION_TOKEN": "sess"}


def signed(url: str, **options: str) -> tuple[str, dict[str, str]]:
    sent = headers(
        endpoint("sigv4", None, "bedrock", options=options), url=url, **AWS_ENV, AWS_REGION="eu-north-1"
    )
    match = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKIAENV/\d{8}/([^,]+)/aws4_request, SignedHeaders=([^,]+), Signature=[0-9a-f]{64}",
        sent["authorization"],
    )
    assert match, sent
    return match[1], sent


@pytest.mark.parametrize(
    ("url", "options", "scope"),
    [
        ("https://bedrock-runtime.us-west-2.amazonaws.com/model/x/invoke", {"region": "eu-west-1"}, "us-west-2/bedrock"),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com/m", {}, "us-gov-west-1/bedrock"),
        ("https://vpce-1.bedrock-runtime.ap-south-1.vpce.amazonaws.com/m", {}, "ap-south-1/bedrock"),
        ("https://bedrock-mantle.us-east-2.api.aws/v1/responses", {}, "us-east-2/bedrock-mantle"),
        ("https://bedrock-runtime.cn-north-1.amazonaws.com.cn/m", {}, "cn-north-1/bedrock"),
        ("https://gateway.example.com/bedrock-runtime.us-west-2.amazonaws.com/m", {"region": "eu-west-1"}, "eu-west-1/bedrock"),
        ("http://127.0.0.1:8080/model/x", {}, "eu-north-1/bedrock"),
    ],
)  # fmt: skip
def test_region_and_service_are_the_hosts(url: str, options: dict[str, str], scope: str) -> None:
    found, sent = signed(url, **options)
    assert found == scope and sent["x-amz-security-token"] == "sess"
    assert "aws/secret" not in str(sent)


def test_aws_credentials_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[aws.Place] = []

    def find(place: aws.Place) -> aws.AwsKeys:
        calls.append(place)
        return aws.AwsKeys(f"AKIA{len(calls)}", "s3cret", "t0ken")

    monkeypatch.setattr(aws, "find", find)
    known: list[str] = []
    authorizer = Authorizer({}, TOKEN, known.append)
    target = endpoint("sigv4", None, "bedrock", options={"profile": "work"})
    other = endpoint("sigv4", None, "bedrock", options={"profile": "home"})

    def used(of: Endpoint) -> str:
        sent = authorizer.headers(of, "https://bedrock-runtime.us-east-1.amazonaws.com/m", {}, b"")
        return sent["Authorization"].partition("Credential=")[2].partition("/")[0]

    assert [used(target), used(target), used(other)] == ["AKIA1", "AKIA1", "AKIA2"]
    assert [place.profile for place in calls] == ["work", "home"]
    assert {"s3cret", "t0ken"} <= set(known)
    assert authorizer.refused(target) is True
    assert [used(target), used(other)] == ["AKIA3", "AKIA2"]


def test_google_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[gcp.Place] = []

    def find(place: gcp.Place) -> gcp.GoogleToken:
        calls.append(place)
        return gcp.GoogleToken(f"ya29.{len(calls)}", "billed", float("inf"))

    monkeypatch.setattr(gcp, "find", find)
    known: list[str] = []
    authorizer = Authorizer({}, TOKEN, known.append)
    target = endpoint("google", None, "gemini")
    first = {"authorization": "Bearer ya29.1", "x-goog-user-project": "billed"}
    assert authorizer.headers(target, URL, {}, b"") == first == authorizer.headers(target, URL, {}, b"")
    assert authorizer.refused(target) is True
    assert authorizer.headers(target, URL, {}, b"")["authorization"] == "Bearer ya29.2"
    assert known == ["ya29.1", "ya29.2"]


def test_a_cloud_that_is_away_is_no_credential_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(place: Any) -> Any:
        raise KeyDelayed("Google's token endpoint answered 503")

    monkeypatch.setattr(gcp, "find", away)
    error = refusal(endpoint("google", None, "gemini")).error
    assert error.kind is FailureKind.CONNECT and error.message == "prov: Google's token endpoint answered 503"


def test_a_proxy_that_cannot_be_used_is_told() -> None:
    target = endpoint("google", None, "gemini", options={"ca_bundle": "/no/such/file"})
    error = refusal(target, HOME="/nonexistent").error
    assert (
        error.kind is FailureKind.CREDENTIAL and "the way to the credentials can't be used" in error.message
    )


def test_plain_http_through_a_proxy_carries_the_proxys_credentials() -> None:
    secret = Secret("user:pässword", "environment variable HTTP_PROXY")
    target = endpoint("bearer", options={"proxy": "http://p:3128", "proxy_auth": secret})
    wanted = "Basic " + base64.b64encode("user:pässword".encode()).decode()
    assert headers(target, url="http://10.0.0.1/v1")["proxy-authorization"] == wanted
    assert "proxy-authorization" not in headers(target), "https: only CONNECT carries them"
