"""Credentials against real services on this machine: Google's flows, AWS's chain and signatures, key commands.

The signatures are judged by botocore, from the request as it arrived; boto3 itself must pass the same judge.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ccm.errors import UpstreamError
from ccm.model import Endpoint, FailureKind, Provider
from ccm.upstream.auth import Authorizer
from ccm.upstream.call import Call
from ccm.upstream.sessions import Sessions
from tests import answers
from tests.gateway import Gateway, provider
from tests.http1 import message, post
from tests.tls import Authority, Proxy, Request, Server, response
from tests.upstream import Seen, Step, Upstream

TOKEN = "own-token"
URL = "https://host.example/v1/x"
needs_openssl = pytest.mark.skipif(bool(Authority.missing()), reason=Authority.missing())


def endpoint(auth: str, dialect: str, url: str = "https://host.example", **options: Any) -> Endpoint:
    return Endpoint("p", Provider("p", "custom", dialect, url, auth=auth, options=options), None)


def as_json(value: Any, status: int = 200, **headers: str) -> bytes:
    return response(status, json.dumps(value).encode(), content_type="application/json", **headers)


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """What `count` threads get that start together."""
    barrier, got = threading.Barrier(count), []

    def run() -> None:
        barrier.wait(5)
        got.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == count
    return got


# ---- Google


def adc(home: Path, **fields: Any) -> None:
    path = home / ".config" / "gcloud" / "application_default_credentials.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    path.chmod(0o600)


def user(home: Path, token_uri: str) -> None:
    adc(home, type="authorized_user", client_id="cid", client_secret="csecret", refresh_token="rtoken", token_uri=token_uri)  # fmt: skip


def tokens(life_s: int = 3600) -> Callable[[Request], bytes]:
    """Gives out ya29.1, ya29.2 ..., slowly enough for others to come meanwhile."""
    count = iter(range(1, 1000))

    def reply(request: Request) -> bytes:
        time.sleep(0.05)
        return as_json(
            {"access_token": f"ya29.{next(count)}", "expires_in": life_s}, metadata_flavor="Google"
        )

    return reply


def test_a_google_login_is_refreshed_once_for_all(tmp_path: Path) -> None:
    with Server(reply=tokens()) as server:
        user(tmp_path, f"{server.url}/token")
        authorizer = Authorizer({"HOME": str(tmp_path)}, TOKEN)
        target = endpoint("google", "gemini")
        got = at_once(20, lambda: authorizer.headers(target, URL, {}, b""))
        assert got == [{"authorization": "Bearer ya29.1"}] * 20
        (asked,) = server.requests
        assert (asked.method, asked.path) == ("POST", "/token"), "nothing in the URL"
        assert (
            asked.body == b"grant_type=refresh_token&client_id=cid&client_secret=csecret&refresh_token=rtoken"
        )
        authorizer.refused(target)
        assert authorizer.headers(target, URL, {}, b"") == {"authorization": "Bearer ya29.2"}


def test_a_short_lived_token_is_renewed_before_it_ends(tmp_path: Path) -> None:
    with Server(reply=tokens(life_s=1)) as server:
        user(tmp_path, f"{server.url}/token")
        authorizer = Authorizer({"HOME": str(tmp_path)}, TOKEN)
        used = set()
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            used.add(authorizer.headers(endpoint("google", "gemini"), URL, {}, b"")["authorization"])
        assert 2 <= len(server.requests) <= 6 and "Bearer ya29.1" in used and len(used) >= 2


def test_googles_metadata_server(tmp_path: Path) -> None:
    with Server(reply=tokens()) as server:
        env = {"HOME": str(tmp_path), "GCE_METADATA_HOST": f"127.0.0.1:{server.port}"}
        authorizer = Authorizer(env, TOKEN)
        got = at_once(8, lambda: authorizer.headers(endpoint("google", "gemini"), URL, {}, b""))
        assert got == [{"authorization": "Bearer ya29.1"}] * 8
        (asked,) = server.requests
        assert asked.path == "/computeMetadata/v1/instance/service-accounts/default/token"
        assert asked.headers["metadata-flavor"] == "Google"


def test_google_away_and_google_refusing(tmp_path: Path) -> None:
    with Server(reply=lambda request: as_json({"error": "invalid_grant"}, 400)) as server:
        user(tmp_path, f"{server.url}/token")
        authorizer = Authorizer({"HOME": str(tmp_path)}, TOKEN)
        with pytest.raises(
            UpstreamError, match=r"invalid_grant.*gcloud auth application-default login"
        ) as caught:
            authorizer.headers(endpoint("google", "gemini"), URL, {}, b"")
        assert caught.value.error.kind is FailureKind.CREDENTIAL
        server.reply = lambda request: response(503)
        with pytest.raises(UpstreamError, match="503") as caught:
            Authorizer({"HOME": str(tmp_path)}, TOKEN).headers(endpoint("google", "gemini"), URL, {}, b"")
        assert caught.value.error.kind is FailureKind.CONNECT


@needs_openssl
def test_the_token_endpoint_is_reached_the_providers_way(tmp_path: Path) -> None:
    """Through the same proxy and with the same private authority as the provider itself."""
    authority = Authority(tmp_path)
    context = authority.server_context(*authority.issue("token"))
    with Server(context, tokens()) as server, Proxy() as proxy:
        user(tmp_path, f"{server.url}/token")
        authorizer = Authorizer({"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:1"}, TOKEN)
        direct = endpoint("google", "gemini")
        with pytest.raises(UpstreamError, match="does not answer"):
            authorizer.headers(direct, URL, {}, b"")
        through = endpoint("google", "gemini", proxy=proxy.url, ca_bundle=str(authority.ca))
        assert authorizer.headers(through, URL, {}, b"") == {"authorization": "Bearer ya29.1"}
        assert [head[:2] for head in proxy.heads] == [("CONNECT", f"127.0.0.1:{server.port}")]
        assert b"rtoken" not in proxy.passed


@needs_openssl
def test_a_service_account_through_google_auth(tmp_path: Path) -> None:
    pytest.importorskip("google.auth")
    key, public = tmp_path / "sa.key", tmp_path / "sa.pub"
    for command in (
        ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)],
        ["pkey", "-in", str(key), "-pubout", "-out", str(public)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)

    def reply(request: Request) -> bytes:
        form = dict(pair.split("=", 1) for pair in request.body.decode().split("&"))
        signed, _, signature = form["assertion"].rpartition(".")
        (tmp_path / "sig").write_bytes(base64.urlsafe_b64decode(signature + "=="))
        (tmp_path / "signed").write_text(signed)
        verify = ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", str(tmp_path / "sig"), str(tmp_path / "signed")]  # fmt: skip
        assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
        claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
        assert claims["iss"] == "sa@project.iam.gserviceaccount.com"
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        return as_json({"access_token": "ya29.sa", "expires_in": 3600})

    with Server(reply=reply) as server:
        adc(
            tmp_path, type="service_account", client_email="sa@project.iam.gserviceaccount.com", private_key_id="1",
            private_key=key.read_text(), token_uri=f"{server.url}/token", project_id="project",
        )  # fmt: skip
        known: list[str] = []
        authorizer = Authorizer({"HOME": str(tmp_path)}, TOKEN, known.append)
        for _ in range(2):
            sent = authorizer.headers(endpoint("google", "gemini"), URL, {}, b"")
            assert sent == {"authorization": "Bearer ya29.sa"}, server.faults
        assert len(server.requests) == 1 and known == ["ya29.sa"]


# ---- AWS: where the keys come from


def issued(seconds: float, name: str = "ASIAISSUED") -> dict[str, str]:
    end = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return {
        "Code": "Success", "AccessKeyId": name, "SecretAccessKey": "issued/secret", "Token": "issued+token",
        "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def imds(request: Request) -> bytes:
    if request.method == "PUT":
        time.sleep(0.05)
        assert request.path == "/latest/api/token"
        return response(200, b"imds-token")
    if request.headers.get("x-aws-ec2-metadata-token") != "imds-token":
        return response(401)
    role = "/latest/meta-data/iam/security-credentials/"
    return response(200, b"the-role") if request.path == role else as_json(issued(3600))


def access_key(authorizer: Authorizer, target: Endpoint | None = None) -> str:
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/invoke"
    sent = authorizer.headers(
        target or endpoint("sigv4", "bedrock"), url, {"content-type": "application/json"}, b"{}"
    )
    return sent["Authorization"].partition("Credential=")[2].partition("/")[0]


def test_instance_metadata(tmp_path: Path) -> None:
    with Server(reply=imds) as server:
        env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
        authorizer = Authorizer(env, TOKEN)
        assert at_once(12, lambda: access_key(authorizer)) == ["ASIAISSUED"] * 12
        assert [(r.method, r.path.rpartition("/")[2]) for r in server.requests] == [
            ("PUT", "token"), ("GET", ""), ("GET", "the-role"),
        ], "one look for twelve requests"  # fmt: skip


def test_container_credentials_are_renewed_and_refetched_after_a_refusal(tmp_path: Path) -> None:
    names = iter(f"ASIA{n}" for n in range(1, 100))
    with Server(reply=lambda request: as_json(issued(7200, next(names)))) as server:
        (tmp_path / "token").write_text("pod-token")
        authorizer = Authorizer(
            {
                "HOME": str(tmp_path),
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/v1/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
            },
            TOKEN,
        )
        target = endpoint("sigv4", "bedrock")
        assert [access_key(authorizer, target) for _ in range(3)] == ["ASIA1"] * 3
        assert server.requests[0].headers["authorization"] == "pod-token"
        (tmp_path / "token").write_text("rotated")
        authorizer.refused(target)
        assert access_key(authorizer, target) == "ASIA2"
        assert server.requests[1].headers["authorization"] == "rotated"


def test_a_metadata_service_that_hangs_costs_seconds_not_minutes(tmp_path: Path) -> None:
    gate = threading.Event()

    def hang(request: Request) -> bytes:
        gate.wait(10)
        return b""

    with Server(reply=hang) as server:
        env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
        authorizer, began = Authorizer(env, TOKEN), time.monotonic()
        with pytest.raises(UpstreamError, match="no AWS credentials"):
            access_key(authorizer)
        assert time.monotonic() - began < 4
        began = time.monotonic()
        with pytest.raises(UpstreamError, match="no AWS credentials"):
            access_key(authorizer)
        assert time.monotonic() - began < 0.5, "and not for every request again"
        gate.set()


def test_boto3_finds_the_same_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    botocore = pytest.importorskip("botocore.session")
    with Server(reply=imds) as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        theirs = botocore.Session().get_credentials().get_frozen_credentials()
        env = {"HOME": str(tmp_path), "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
        assert access_key(Authorizer(env, TOKEN)) == theirs.access_key == "ASIAISSUED"


# ---- AWS: what is signed

ACCESS, SECRET, SESSION = "AKIACONTRACT", "contract/secret+key", "contract-session=="


def judged(request: Request) -> str:
    """What is wrong with the request's signature, as botocore computes it; "" when it is right."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    given = request.headers.get("authorization", "")
    parts = dict(part.strip().partition("=")[::2] for part in given.partition(" ")[2].split(","))
    if not given.startswith("AWS4-HMAC-SHA256 ") or "Credential" not in parts:
        return "not signed"
    access, _, region, service, _ = parts["Credential"].split("/")
    names = parts["SignedHeaders"].split(";")
    if access != ACCESS or not {"host", "x-amz-date"} <= set(names):
        return f"signed by {access}, {names}"
    if SESSION and request.headers.get("x-amz-security-token") != SESSION:
        return "no session token"
    url = f"http://{request.headers['host']}{request.path}"
    again = AWSRequest(request.method, url, {n: request.headers[n] for n in names}, request.body)
    again.context["timestamp"] = request.headers["x-amz-date"]
    judge = SigV4Auth(Credentials(ACCESS, SECRET), service, region)
    text = judge.string_to_sign(again, judge.canonical_request(again))
    wanted = judge.signature(text, again)
    return "" if wanted == parts["Signature"] else f"signature differs for {request.path}"


def verifying(request: Request) -> bytes:
    fault = judged(request)
    if fault:
        return as_json({"message": fault, "Type": "User"}, 403, x_amzn_errortype="InvalidSignatureException")
    if request.path.endswith("/converse"):
        told = {"message": {"role": "assistant", "content": [{"text": "hello"}]}}
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        return as_json(
            {"output": told, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}
        )
    return as_json(answers.whole("anthropic"))


@pytest.fixture
def bedrock() -> Any:
    pytest.importorskip("botocore")
    with Server(reply=verifying) as server:
        yield server


AWS_ENV = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION}
MODELS = (
    "anthropic.claude-x-v1:0",
    "us.anthropic.claude",
    "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x",
)


@pytest.mark.parametrize("model", MODELS)
def test_boto3_itself_passes_the_judge(bedrock: Server, model: str) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client(
        "bedrock-runtime", endpoint_url=bedrock.url, region_name="eu-west-1", aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET, aws_session_token=SESSION,
    )  # fmt: skip
    found = client.converse(modelId=model, messages=[{"role": "user", "content": [{"text": "hi"}]}])
    assert found["output"]["message"]["content"][0]["text"] == "hello"
    body = json.loads(client.invoke_model(modelId=model, body=b"{}")["body"].read())
    assert body["content"][0]["text"] == answers.TEXT
    assert len(bedrock.requests) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/model/anthropic.claude-x-v1:0/invoke",
        "/model/anthropic.claude-x-v1%3A0/converse",
        "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.x/invoke",
        "/model/a~b/invoke-with-response-stream?x=1&a=%20",
    ],
)
def test_our_requests_pass_it_as_they_arrive(bedrock: Server, path: str) -> None:
    of = Provider(
        "p", "bedrock", "bedrock", f"{bedrock.url}/base", auth="sigv4", options={"region": "eu-west-1"}
    )
    using, authorizer = Sessions(), Authorizer(AWS_ENV, TOKEN)
    pool = using.pool(of)
    headers = {
        "content-type": "application/json",
        "accept": "*/*",
        "user-agent": "claude-code-mux",
        "x-title": " a  b ",
    }
    body = '{"text": "ünïcödé"}'.encode()
    url = f"http://{pool.authority}{pool.path}{path}"
    headers |= authorizer.headers(Endpoint("p", of, None), url, {**headers, "host": pool.authority}, body)
    call = Call(pool)
    call.send(path, headers, body, time.monotonic() + 5)
    found = call.read_all(time.monotonic() + 5, 100_000)
    assert call.head is not None and call.head.status == 200, found
    call.release()
    call = Call(pool)
    call.send(path, headers, body + b" ", time.monotonic() + 5)
    assert call.head is not None and call.head.status == 403, "the judge does look at the body"
    call.close()
    using.close()


def test_a_running_ccm_signs_for_bedrock(bedrock: Server, fresh: Callable[..., Gateway]) -> None:
    config = (
        f'[providers.aws]\ntype = "bedrock"\nbase_url = "{bedrock.url}"\nregion = "eu-west-1"\n'
        f'[providers.aws.models]\ndefault = "{MODELS[0]}"\n'
    )
    gw = fresh(config, env=AWS_ENV)
    found = post(gw.base_url, message(stream=False))
    assert found.status == 200 and found.text == answers.TEXT, (found.body, gw.log())
    (asked,) = bedrock.requests
    assert asked.path.endswith("/invoke") and SECRET not in str(asked)
    everything = gw.log() + gw.ctl("status", "--json").stdout + gw.ctl("requests", "--json").stdout
    assert SECRET not in everything and SESSION not in everything


# ---- keys from commands and files, through a running ccm


def counting(directory: Path, first: int = 1) -> list[str]:
    """A command that prints key-1-..., key-2-... at its first, second ... run, and takes its time."""
    script = directory / "key.py"
    script.write_text(
        "import os, sys, time\n"
        f"path = {str(directory / 'runs')!r}\n"
        "with open(path, 'a') as f: f.write('x')\n"
        "time.sleep(0.3)\n"
        "assert not [n for n in os.environ if 'KEY' in n or 'TOKEN' in n], 'keys in the environment'\n"
        "print(f'key-{len(open(path).read())}-0123456789abcdef')\n"
    )
    return [sys.executable, "-I", str(script)]


def runs(directory: Path) -> int:
    path = directory / "runs"
    return len(path.read_text()) if path.exists() else 0


def by_command(up: Upstream, directory: Path) -> str:
    config = provider(up, "a", api_key_command=counting(directory))
    return config.replace('api_key_env = "CCM_TEST_KEY"\n', "")


def test_a_key_command_runs_once_for_many_requests(
    up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path
) -> None:
    up.reset()
    gw = fresh(by_command(up, tmp_path), env={"SOME_API_KEY": "hidden"})
    assert runs(tmp_path) == 0, "not before it is needed"
    statuses = at_once(12, lambda: post(gw.base_url, message()).status)
    assert statuses == [200] * 12 and runs(tmp_path) == 1
    assert {s.headers["x-api-key"] for s in up.seen("/a")} == {"key-1-0123456789abcdef"}


def test_a_refused_key_is_asked_for_again(
    up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path
) -> None:
    up.reset()

    def only_the_second(seen: Seen) -> list[Step]:
        if seen.headers["x-api-key"].startswith("key-2"):
            return [("answer",)]
        return [("status", 401, {}, answers.error("anthropic", 401, "expired"))]

    up.always("/a", only_the_second)
    gw = fresh(by_command(up, tmp_path))
    replies = [post(gw.base_url, message()) for _ in range(2)]
    assert replies[-1].status == 200, replies[-1].body
    assert runs(tmp_path) == 2
    assert post(gw.base_url, message()).status == 200 and runs(tmp_path) == 2


def test_a_broken_key_command_is_told_without_its_output(
    up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path
) -> None:
    up.reset()
    config = provider(up, "a", api_key_command="echo hidden-output; echo hidden-error >&2; exit 7")
    gw = fresh(config.replace('api_key_env = "CCM_TEST_KEY"\n', ""))
    reply = post(gw.base_url, message())
    assert reply.status == 403 and up.seen("/a") == []
    everything = reply.body.decode() + gw.log() + gw.ctl("requests", "--json").stdout
    assert "exit status 7" in everything and "hidden" not in everything.replace("echo hidden", "")


def test_a_key_file_must_be_ours_alone(up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path) -> None:
    up.reset()
    file = tmp_path / "key"
    file.write_text("key-of-the-file-0123456789\n")
    config = provider(up, "a", api_key_file=str(file)).replace('api_key_env = "CCM_TEST_KEY"\n', "")
    file.chmod(0o644)
    with pytest.raises(AssertionError, match=r"can be read by others: run chmod 600"):
        fresh(config)
    file.chmod(0o600)
    gw = fresh(config)
    assert post(gw.base_url, message()).status == 200
    assert up.seen("/a")[-1].headers["x-api-key"] == "key-of-the-file-0123456789"
