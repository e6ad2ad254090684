"""AWS's chain of credentials against stubs; botocore is the judge of order and contents where it can be asked."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ccm.config.clouds import aws_files, aws_source
from ccm.config.secrets import KeyUnavailable
from ccm.upstream import aws
from ccm.upstream.tokens import FOREVER, KeyDelayed
from tests.answering import Answer, Answering, Asked

NEVER = "9999-01-01T00:00:00Z"
ISSUED = {"AccessKeyId": "ASIAISSUED", "SecretAccessKey": "issued/secret", "Token": "issued+token"}


def end_in(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Here:
    """A machine: its environment, files, metadata services and STS."""

    def __init__(self, home: Path) -> None:
        self.home, self.env = home, {"PATH": "/bin:/usr/bin"}
        self.local, self.remote = Answering(), Answering()
        self.profile = self.region = ""

    def find(self) -> aws.AwsKeys:
        local: Any = self.local
        remote: Any = self.remote
        return aws.find(aws.Place(self.env, self.home, local, remote, self.profile, self.region))

    def credentials(self, text: str) -> None:
        self._write("credentials", text)

    def config(self, text: str) -> None:
        self._write("config", text)

    def _write(self, name: str, text: str) -> None:
        (self.home / ".aws").mkdir(exist_ok=True)
        (self.home / ".aws" / name).write_text(text)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def keys(name: str) -> str:
    return f"aws_access_key_id = AKIA{name.upper()}\naws_secret_access_key = {name}/+secret\n"


# ---- environment


def test_environment_comes_first(here: Here) -> None:
    here.env |= {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "s/+=", "AWS_SESSION_TOKEN": "tok"}
    here.credentials(f"[default]\n{keys('file')}")
    found = here.find()
    assert (found.access_key, found.secret_key, found.session_token) == ("AKIAENV", "s/+=", "tok")
    assert found.end == FOREVER and found.source == "environment variable AWS_ACCESS_KEY_ID"
    assert here.local.asked == [] and here.remote.asked == []


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_it_is_an_error_and_not_somebody_elses_key(here: Here, name: str) -> None:
    here.env[name] = "AKIAVALUE"
    here.credentials(f"[default]\n{keys('file')}")
    with pytest.raises(KeyUnavailable, match="half of the AWS credentials") as caught:
        here.find()
    assert "AKIAVALUE" not in str(caught.value) and name not in str(caught.value)


def test_a_line_break_in_a_key_is_refused_without_showing_it(here: Here) -> None:
    here.env |= {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "abc\ndef"}
    with pytest.raises(KeyUnavailable, match="the secret key holds blanks or several lines") as caught:
        here.find()
    assert "abc" not in str(caught.value)


def test_secrets_are_in_no_repr(here: Here) -> None:
    here.env |= {
        "AWS_ACCESS_KEY_ID": "AKIAENV",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_SESSION_TOKEN": "veiled",
    }
    assert "hidden" not in repr(here.find()) and "veiled" not in repr(here.find())


# ---- shared files


def test_profiles_of_both_files(here: Here) -> None:
    here.credentials(f"[default]\n{keys('one')}\n[work]\n{keys('two')}aws_session_token = st\n")
    here.config(f"[profile work]\nregion = eu-west-1\n[profile cfg]\n{keys('three')}")
    assert here.find().access_key == "AKIAONE"
    here.env["AWS_PROFILE"] = "work"
    found = here.find()
    assert (found.access_key, found.secret_key, found.session_token) == ("AKIATWO", "two/+secret", "st")
    assert found.source == "AWS profile work"
    assert time.time() < found.end <= time.time() + aws.REREAD_S, "other tools replace keys in files"
    here.env["AWS_PROFILE"] = "cfg"
    assert here.find().access_key == "AKIATHREE"
    here.profile = "work"
    assert here.find().access_key == "AKIATWO", "what the configuration names comes before the environment"


def test_a_configured_profile_beats_keys_in_the_environment(here: Here) -> None:
    here.env |= {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "x"}
    here.credentials(f"[work]\n{keys('two')}")
    assert here.find().access_key == "AKIAENV"
    here.profile = "work"
    assert here.find().access_key == "AKIATWO"


def test_the_credentials_file_wins_over_the_config_file(here: Here) -> None:
    here.credentials(f"[default]\n{keys('credentials')}")
    here.config(f"[default]\n{keys('config')}")
    assert here.find().access_key == "AKIACREDENTIALS"


def test_files_named_by_variables(here: Here, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.write_text(f"[default]\n{keys('named')}")
    here.env["AWS_SHARED_CREDENTIALS_FILE"] = "~/elsewhere"
    assert here.find().access_key == "AKIANAMED"
    assert aws_files({"AWS_CONFIG_FILE": "/etc/aws"}, tmp_path)[1] == Path("/etc/aws")


@pytest.mark.parametrize(
    ("credentials", "config", "said"),
    [
        ("[default]\n", "", "AWS profile 'work' is not in"),
        ("[work]\naws_access_key_id = A\n", "", "AWS profile work holds half"),
        ("", "[profile work]\nsso_start_url = https://x\n", "AWS profile work is a browser login: add `credential_process"),
        ("", "[profile work]\nregion = x\n", "AWS profile work holds no credentials"),
        ("", "[profile work]\nrole_arn = arn:a\nmfa_serial = m\nsource_profile = b\n", "one-time code"),
        ("", "[profile work]\nrole_arn = arn:a\n", "assumes a role, but with no credentials"),
        ("", "[profile work]\nrole_arn = arn:a\nsource_profile = b\n[profile b]\nrole_arn = arn:b\nsource_profile = work\n", "lead in a circle"),
        ("", "[profile work]\nrole_arn = arn:a\nsource_profile = nope\n", "AWS profile 'nope' is not in"),
        ("", "[profile work]\ncredential_process = 'unbalanced\n", "credential_process of AWS profile work is not a command"),
        ("no section SECRETVALUE\n", "", "is not a file of AWS profiles"),
        ("[work]\naws_access_key_id = AKIA SECRETVALUE\naws_secret_access_key = y\n", "", "the access key holds blanks"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_profile_is_said(here: Here, credentials: str, config: str, said: str) -> None:
    here.credentials(credentials)
    here.config(config)
    here.env["AWS_PROFILE"] = "work"
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert "SECRETVALUE" not in str(caught.value)


def test_a_default_profile_without_credentials_is_passed_over(here: Here) -> None:
    here.config("[default]\nregion = eu-central-1\n")
    with pytest.raises(KeyUnavailable, match="no AWS credentials in the environment, in a profile"):
        here.find()
    assert here.local.urls == ["PUT http://169.254.169.254/latest/api/token"]


def process(here: Here, printed: str, more: str = "") -> None:
    script = here.home / "process.py"
    script.write_text(f"import os\n{more}\nprint({printed!r})\n")
    here.config(f"[default]\ncredential_process = {sys.executable} -I {script}\n")


def test_credential_process(here: Here) -> None:
    here.env["OPENAI_API_KEY"] = "sk-secret"
    told = {
        "Version": 1,
        "AccessKeyId": "ASIAP",
        "SecretAccessKey": "p",
        "SessionToken": "t",
        "Expiration": end_in(900),
    }
    process(here, json.dumps(told), "assert 'OPENAI_API_KEY' not in os.environ")
    found = here.find()
    assert (found.access_key, found.secret_key, found.session_token) == ("ASIAP", "p", "t")
    assert 890 < found.end - time.time() < 901


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ('{"Version": 2}', "not of version 1"),
        ("SECRETVALUE", "is not a JSON object"),
        ('{"Version": 1, "AccessKeyId": "SECRETVALUE"}', "the secret key is empty"),
        ('{"Version": 1, "AccessKeyId": 5}', "the answer holds no credentials"),
        ('{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "SECRETVALUE", "Expiration": "soon"}', "readable expiration"),
    ],
)  # fmt: skip
def test_a_credential_process_that_prints_nonsense(here: Here, printed: str, said: str) -> None:
    process(here, printed)
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert "SECRETVALUE" not in str(caught.value)


# ---- roles


def sts_answer(action: str, **more: str) -> str:
    members = {"AccessKeyId": "ASIAROLE", "SecretAccessKey": "role&amp;secret", "SessionToken": "role-token"}
    members |= {"Expiration": NEVER, **more}
    inner = "".join(f"<{k}>{v}</{k}>" for k, v in members.items())
    return f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Credentials>{inner}</Credentials></{action}Response>'


def test_web_identity(here: Here, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("eyJ.web.token\n")
    here.env |= {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
        "AWS_ROLE_SESSION_NAME": "pod",
    }
    here.region = "eu-west-3"
    here.remote.answer = lambda asked: (200, sts_answer("AssumeRoleWithWebIdentity"))
    found = here.find()
    assert (found.access_key, found.secret_key, found.session_token) == (
        "ASIAROLE",
        "role&secret",
        "role-token",
    )
    (asked,) = here.remote.asked
    assert asked.url == "https://sts.eu-west-3.amazonaws.com/" and "authorization" not in asked.headers
    assert asked.form == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": "arn:aws:iam::1:role/r",
        "RoleSessionName": "pod",
        "WebIdentityToken": "eyJ.web.token",
    }


def test_a_profile_that_assumes_a_role(here: Here) -> None:
    here.credentials(f"[base]\n{keys('base')}")
    here.config(
        "[profile work]\nrole_arn = arn:r\nsource_profile = base\nexternal_id = ext\nduration_seconds = 900\n"
        "role_session_name = me\nregion = eu-west-2\n"
    )
    here.env["AWS_PROFILE"] = "work"
    here.remote.answer = lambda asked: (200, sts_answer("AssumeRole"))
    assert here.find().access_key == "ASIAROLE"
    (asked,) = here.remote.asked
    assert asked.url == "https://sts.eu-west-2.amazonaws.com/"
    scope = asked.headers["authorization"].partition("Credential=")[2].partition(",")[0].split("/")
    assert scope[0] == "AKIABASE" and scope[2:] == ["eu-west-2", "sts", "aws4_request"]
    form = asked.form
    assert (form["RoleArn"], form["ExternalId"], form["DurationSeconds"]) == ("arn:r", "ext", "900")
    assert form["RoleSessionName"] == "me" and "base/+secret" not in str(asked)


def test_roles_over_roles_and_own_keys(here: Here) -> None:
    """A role of a role; the innermost profile names itself as its source and means its own keys."""
    here.credentials(f"[inner]\n{keys('inner')}role_arn = arn:inner\nsource_profile = inner\n")
    here.config("[profile outer]\nrole_arn = arn:outer\nsource_profile = inner\n")
    here.env["AWS_PROFILE"] = "outer"
    here.remote.answer = lambda asked: (200, sts_answer("AssumeRole"))
    assert here.find().access_key == "ASIAROLE"
    assert [asked.form["RoleArn"] for asked in here.remote.asked] == ["arn:inner", "arn:outer"]
    assert here.remote.asked[1].headers["x-amz-security-token"] == "role-token"


def test_a_role_from_the_environments_keys(here: Here) -> None:
    here.env |= {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "x"}
    here.config("[profile work]\nrole_arn = arn:r\ncredential_source = Environment\n")
    here.profile = "work"
    here.remote.answer = lambda asked: (200, sts_answer("AssumeRole"))
    assert here.find().access_key == "ASIAROLE"
    assert "Credential=AKIAENV/" in here.remote.asked[0].headers["authorization"]


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (403, "<Error><Code>AccessDenied</Code><Message>SECRETVALUE</Message></Error>", KeyUnavailable, "refused AssumeRoleWithWebIdentity: AccessDenied"),
        (400, "SECRETVALUE", KeyUnavailable, "refused AssumeRoleWithWebIdentity: 400"),
        (503, "", KeyDelayed, "503"),
        (200, "<html>SECRETVALUE</html>", KeyUnavailable, "the access key is empty"),
    ],
)  # fmt: skip
def test_sts_refusals(here: Here, tmp_path: Path, status: int, body: str, kind: type, said: str) -> None:
    (tmp_path / "token").write_text("tok")
    here.env |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": "arn:r"}
    here.remote.answer = lambda asked: (status, body)
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert type(caught.value) is kind and "SECRETVALUE" not in str(caught.value)


def test_sts_over_plain_http_is_refused(here: Here, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("tok")
    here.env |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": "arn:r"}
    here.env["AWS_ENDPOINT_URL_STS"] = "http://sts.example.com"
    with pytest.raises(KeyUnavailable, match="https"):
        here.find()
    assert here.remote.asked == []


# ---- container and instance


def test_container_credentials(here: Here, tmp_path: Path) -> None:
    (tmp_path / "pod-token").write_text("pod-secret\n")
    here.env |= {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "pod-token"),
    }
    here.local.answer = lambda asked: (200, {**ISSUED, "Expiration": end_in(600)})
    found = here.find()
    assert found.access_key == "ASIAISSUED" and found.session_token == "issued+token"
    assert 595 < found.end - time.time() < 601
    (asked,) = here.local.asked
    assert (
        asked.url == "http://169.254.170.23/v1/credentials" and asked.headers["authorization"] == "pod-secret"
    )
    here.env["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = "/v2/credentials/uuid"
    here.find()
    assert here.local.asked[-1].url == "http://169.254.170.2/v2/credentials/uuid"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/creds", "http://169.254.169.254/x", "http://10.0.0.1/", "ftp://127.0.0.1/", "http://", "x",
        "http://169.254.170.2.example.com/", "http://localhost.example.com/",
    ],
)  # fmt: skip
def test_the_container_token_goes_to_no_other_host(here: Here, url: str) -> None:
    here.env |= {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod-secret",
    }
    with pytest.raises(KeyUnavailable, match="must be https, or a local address"):
        here.find()
    assert here.local.asked == []


@pytest.mark.parametrize("url", ["https://creds.example.com/x", "http://127.0.0.1:1234/x", "http://localhost/x", "http://[fd00:ec2::23]/v1", "http://169.254.170.2/v3"])  # fmt: skip
def test_container_hosts_that_may_be_asked(here: Here, url: str) -> None:
    here.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = url
    here.local.answer = lambda asked: (200, ISSUED)
    assert here.find().end == FOREVER and here.local.asked[0].url == url


def test_a_token_with_line_breaks_is_no_header(here: Here) -> None:
    here.env |= {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\r\nb: c"}  # fmt: skip
    with pytest.raises(KeyUnavailable, match="not one line"):
        here.find()


def imds(
    role: str = "my-role", last: Any = None, token: Any = (200, "imds-token")
) -> Callable[[Asked], Answer]:
    def answer(asked: Asked) -> Answer:
        if asked.method == "PUT" and asked.url.endswith("/latest/api/token"):
            assert asked.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"
            return token
        assert asked.headers["x-aws-ec2-metadata-token"] == "imds-token"
        if asked.url.endswith("/security-credentials/"):
            return (200, role) if role else (404, "")
        assert asked.url.endswith(f"/security-credentials/{role}"), asked.url
        return last or (200, {"Code": "Success", **ISSUED, "Expiration": end_in(7200)})

    return answer


def test_instance_metadata_version_2(here: Here) -> None:
    here.local.answer = imds()
    found = here.find()
    assert found.access_key == "ASIAISSUED" and found.source == "instance metadata"
    assert here.local.urls == [
        "PUT http://169.254.169.254/latest/api/token",
        "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/my-role",
    ]
    assert all(asked.options["timeout"] == 2.0 for asked in here.local.asked)


def test_instance_metadata_elsewhere_or_off(here: Here) -> None:
    here.local.answer = imds()
    here.env["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"] = "IPv6"
    here.find()
    assert here.local.asked[0].url == "http://[fd00:ec2::254]/latest/api/token"
    here.env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "http://127.0.0.1:9/"
    here.find()
    assert here.local.asked[-1].url.startswith("http://127.0.0.1:9/latest/")
    here.env["AWS_EC2_METADATA_DISABLED"] = "True"
    here.local.asked.clear()
    with pytest.raises(KeyUnavailable, match="no AWS credentials"):
        here.find()
    assert here.local.asked == []


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (lambda asked: (404, "not found"), KeyUnavailable, "no AWS credentials"),
        (imds(role=""), KeyUnavailable, "no AWS credentials"),
        (imds(token=(200, "two\nlines")), KeyUnavailable, "a token that is none"),
        (imds(last=(200, {"Code": "Failed", "Message": "SECRETVALUE"})), KeyDelayed, "no credentials for its role"),
        (imds(last=(500, "")), KeyDelayed, "answered 500"),
        (imds(last=(403, "")), KeyUnavailable, "answered 403"),
    ],
)  # fmt: skip
def test_instance_metadata_that_does_not_help(here: Here, answer: Any, kind: type, said: str) -> None:
    here.local.answer = answer
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert type(caught.value) is kind and "SECRETVALUE" not in str(caught.value)


# ---- what can be seen without asking


def test_where_credentials_will_come_from(tmp_path: Path) -> None:
    dmi = tmp_path / "dmi"
    dmi.mkdir()

    def seen(profile: str = "", **env: str) -> str:
        return aws_source(env, tmp_path, profile, dmi)

    assert seen() == ""
    assert seen(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b") == "environment variable AWS_ACCESS_KEY_ID"
    assert seen(AWS_ACCESS_KEY_ID="a") == ""
    assert seen(AWS_WEB_IDENTITY_TOKEN_FILE="/t", AWS_ROLE_ARN="r") == "web identity token"
    assert seen(AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="/x") == "container credentials"
    assert seen(AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1") == "instance metadata"
    (dmi / "sys_vendor").write_text("Amazon EC2\n")
    assert seen() == "instance metadata" and seen(AWS_EC2_METADATA_DISABLED="true") == ""
    assert seen("work", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b") == ""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("")
    assert seen(AWS_PROFILE="p") == f"profile p in {tmp_path / '.aws' / 'config'}"
    assert seen("work").startswith("profile work in")


def test_botocore_finds_the_same(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("botocore.session")
    here.credentials(
        f"[default]\n{keys('one')}[work]\n{keys('two')}aws_session_token = st\n[dup]\n{keys('cred')}"
    )
    here.config(
        f'[profile dup]\n{keys("conf")}[profile "with blank"]\n{keys("blank")}[default]\nregion = x\n'
    )
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, path in zip(
        ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), aws_files({}, here.home), strict=True
    ):
        monkeypatch.setenv(name, str(path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for profile in ("", "default", "work", "dup", "with blank"):
        theirs = session.Session(profile=profile or None).get_credentials()
        here.profile = profile
        ours = here.find()
        assert (ours.access_key, ours.secret_key, ours.session_token or None) == tuple(
            theirs.get_frozen_credentials()
        )[:3]
