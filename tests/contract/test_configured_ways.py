"""The whole way from the configuration file to the provider: proxies, private authorities, clouds' own credentials."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests import answers
from tests.gateway import KEY, Gateway, provider
from tests.http1 import message, post
from tests.tls import Authority, Proxy, Request, Server, response
from tests.upstream import Upstream

PROXY_SECRET = "corp:pass-canary-123"
WANTED = "Basic " + base64.b64encode(PROXY_SECRET.encode()).decode()
needs_openssl = pytest.mark.skipif(bool(Authority.missing()), reason=Authority.missing())


def as_json(value: object, **headers: str) -> bytes:
    return response(200, json.dumps(value).encode(), content_type="application/json", **headers)


def anthropic(request: Request) -> bytes:
    return as_json(answers.whole("anthropic"))


def shown(gw: Gateway) -> str:
    return gw.log() + "".join(
        gw.ctl(*c.split()).stdout for c in ("status --json", "requests --json", "metrics")
    )


def without_key(table: str) -> str:
    return table.replace('api_key_env = "CCM_TEST_KEY"\n', "")


@needs_openssl
def test_behind_a_proxy_and_a_private_authority(fresh: Callable[..., Gateway], tmp_path: Path) -> None:
    """Proxy with credentials -> tunnel -> private CA -> client certificate with a key of its own."""
    authority = Authority(tmp_path)
    context = authority.server_context(*authority.issue("server"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca)
    cert, key = authority.issue("gateway", "DNS:ccm.example")
    with Server(context, anthropic) as server, Proxy(auth=WANTED) as proxy:
        config = provider(
            server.url, "far", ca_bundle=str(authority.ca), client_cert=str(cert), client_key=str(key),
            proxy=proxy.url, proxy_auth_env="CORP_PROXY_AUTH",
        )  # fmt: skip
        gw = fresh(config, env={"CORP_PROXY_AUTH": PROXY_SECRET})
        found = post(gw.base_url, message(stream=False))
        assert found.status == 200 and found.text == answers.TEXT, gw.log()
        assert [(m, t) for m, t, _ in proxy.heads] == [("CONNECT", f"127.0.0.1:{server.port}")]
        (asked,) = server.requests
        assert asked.headers["x-api-key"] == KEY and "proxy-authorization" not in asked.headers
        assert "pass-canary-123" not in shown(gw)


def test_the_environments_proxy_when_asked_for(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    """10.255.255.1 is nobody's: only the proxy knows that the test's server is meant."""
    up.reset()

    class Elsewhere(Proxy):
        def _forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
            return super()._forward(
                method, target.replace("10.255.255.1:8000", f"127.0.0.1:{up.port}"), headers, body
            )

    with Elsewhere(auth=WANTED) as proxy:
        config = provider("http://10.255.255.1:8000/a", "a", allow_http=True, proxy="env")
        env = {"http_proxy": proxy.url.replace("//", f"//{PROXY_SECRET}@"), "no_proxy": "other.example"}
        gw = fresh(config, env=env)
        assert post(gw.base_url, message(stream=False)).text == answers.TEXT, gw.log()
        assert proxy.heads[0][1] == "http://10.255.255.1:8000/a/v1/messages"
        assert "pass-canary-123" not in shown(gw)
    assert up.seen("/a")[-1].headers["x-api-key"] == KEY


@pytest.mark.parametrize(
    ("lines", "env", "said"),
    [
        ('proxy = "https://p:1"', {}, "is not the URL of an HTTP proxy"),
        ('proxy = "env"', {"https_proxy": "socks5://u:SECRET@p"}, "https_proxy does not hold the URL"),
        ('client_key = "/none.pem"', {}, "/none.pem is not a readable file"),
        ('auth = "passthrough"\napi_key_env = "CCM_TEST_KEY"', {}, "passthrough sends no key of ours"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    fresh: Callable[..., Gateway], lines: str, env: dict[str, str], said: str
) -> None:
    config = (
        f'[providers.x]\ntype = "custom"\ndialect = "anthropic"\nbase_url = "https://x.example"\n{lines}\n'
    )
    with pytest.raises(AssertionError, match=said) as caught:
        fresh(config, env=env)
    assert "SECRET" not in str(caught.value)


def imds(request: Request) -> bytes:
    if request.method == "PUT":
        return response(200, b"imds-token")
    if request.path.endswith("/security-credentials/"):
        return response(200, b"role")
    end = (datetime.now(timezone.utc) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return as_json({"Code": "Success", "AccessKeyId": "ASIAROLE", "SecretAccessKey": "role-secret-canary", "Token": "role-token-canary", "Expiration": end})  # fmt: skip


BEDROCK = '[providers.aws]\ntype = "bedrock"\nbase_url = "{url}"\nregion = "eu-west-1"\n{more}\n[providers.aws.models]\ndefault = "anthropic.claude-x-v1:0"\n'


def test_bedrock_with_the_instances_role(fresh: Callable[..., Gateway]) -> None:
    with Server(reply=imds) as metadata, Server(reply=anthropic) as server:
        config = BEDROCK.format(url=server.url, more="")
        gw = fresh(config, env={"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url})
        for _ in range(3):
            assert post(gw.base_url, message(stream=False)).status == 200, gw.log()
        assert len(metadata.requests) == 3, "one look"
        assert {r.headers["x-amz-security-token"] for r in server.requests} == {"role-token-canary"}
        assert all("Credential=ASIAROLE/" in r.headers["authorization"] for r in server.requests)
        assert "canary" not in shown(gw)
        assert "instance metadata" in gw.ctl("status", "--json").stdout, "where it comes from is shown"


def test_bedrock_with_a_profile_of_the_configuration(fresh: Callable[..., Gateway], tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = work-secret-canary\n")
    with Server(reply=anthropic) as server:
        config = BEDROCK.format(url=server.url, more='profile = "work"')
        env = {
            "AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_BEARER_TOKEN_BEDROCK": "bearer-token-1234567",
        }  # fmt: skip
        gw = fresh(config, env=env)
        assert post(gw.base_url, message(stream=False)).status == 200, gw.log()
        assert "Credential=AKIAWORK/" in server.requests[0].headers["authorization"]
        assert "canary" not in shown(gw)


def test_vertex_with_a_google_login(up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path) -> None:
    up.reset()
    tokens = iter(("ya29.first-canary", "ya29.second-canary"))
    with Server(
        reply=lambda request: as_json({"access_token": next(tokens), "expires_in": 3600})
    ) as token_server:
        adc = tmp_path / "adc.json"
        login = {"type": "authorized_user", "client_id": "c", "client_secret": "client-secret-canary"}
        adc.write_text(
            json.dumps({**login, "refresh_token": "r-canary", "token_uri": f"{token_server.url}/token"})
        )
        config = (
            f'[providers.vertex]\nbase_url = "{up.url}/vertex/v1beta"\nproject = "my-project"\n'
            '[providers.vertex.models]\ndefault = "gemini-x"\n'
        )
        gw = fresh(config, env={"GOOGLE_APPLICATION_CREDENTIALS": str(adc)})
        for _ in range(2):
            reply = post(gw.base_url, message())
            assert reply.status == 200 and reply.text == answers.TEXT, (reply.body, gw.log())
        assert [s.headers["authorization"] for s in up.seen("/vertex")] == ["Bearer ya29.first-canary"] * 2
        assert len(token_server.requests) == 1
        assert "canary" not in shown(gw)


def test_without_any_credentials_in_sight_the_provider_is_left_out(
    up: Upstream, fresh: Callable[..., Gateway]
) -> None:
    up.reset()
    vertex = '[providers.vertex]\nproject = "my-project"\n'
    aws = BEDROCK.format(url=up.url, more="")
    env = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}
    gw = fresh(provider(up, "a") + vertex + aws, env=env)
    assert "there are no application default credentials" in gw.log() and "vertex is left out" in gw.log()
    assert "no profile, container or instance role is in sight" in gw.log()
    assert post(gw.base_url, message()).headers["x-ccm-provider"] == "a"
