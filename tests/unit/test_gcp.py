"""Google's application default credentials against stubs; service accounts through google-auth itself."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccm.config.clouds import google_file, google_source
from ccm.config.secrets import KeyUnavailable
from ccm.upstream import gcp
from ccm.upstream.tokens import KeyDelayed
from tests.answering import Answering

USER = {
    "type": "authorized_user",
    "client_id": "id.apps.googleusercontent.com",
    "client_secret": "client-SECRET",
    "refresh_token": "1//refresh-SECRET",
    "quota_project_id": "billed",
}


class Here:
    """A machine: its environment, files, metadata server and Google's token endpoint."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env: dict[str, str] = {}
        self.local, self.remote = Answering(), Answering()

    def find(self) -> gcp.GoogleToken:
        local: Any = self.local
        remote: Any = self.remote
        return gcp.find(gcp.Place(self.env, self.home, local, remote))

    def adc(self, content: Any) -> Path:
        path = google_file(self.env, self.home)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(0o600)
        return path


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def granted(**more: Any) -> dict[str, Any]:
    return {"access_token": "ya29.granted", "expires_in": 3599, "token_type": "Bearer", **more}


def test_a_login_is_refreshed(here: Here) -> None:
    here.adc(USER)
    here.remote.answer = lambda asked: (200, granted())
    found = here.find()
    assert found.token == "ya29.granted" and found.quota_project == "billed"
    assert 3590 < found.end - time.time() < 3600
    (asked,) = here.remote.asked
    assert (asked.method, asked.url) == ("POST", "https://oauth2.googleapis.com/token")
    assert asked.form == {
        "grant_type": "refresh_token",
        "client_id": USER["client_id"],
        "client_secret": USER["client_secret"],
        "refresh_token": USER["refresh_token"],
    }
    assert here.local.asked == [] and "granted" not in repr(found)


def test_the_file_that_is_named_comes_first(here: Here, tmp_path: Path) -> None:
    here.adc(USER)
    here.env["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "named.json")
    with pytest.raises(KeyUnavailable, match=r"names .*named\.json, which does not exist"):
        here.find()
    here.adc({**USER, "refresh_token": "another", "token_uri": "https://token.example.com/x"})
    here.remote.answer = lambda asked: (200, granted())
    here.find()
    assert here.remote.asked[0].url == "https://token.example.com/x"
    assert here.remote.asked[0].form["refresh_token"] == "another"


def test_the_quota_project_of_the_environment_wins(here: Here) -> None:
    here.adc(USER)
    here.remote.answer = lambda asked: (200, granted(expires_in=None))
    here.env["GOOGLE_CLOUD_QUOTA_PROJECT"] = "other"
    assert here.find().quota_project == "other"
    here.env["GOOGLE_CLOUD_QUOTA_PROJECT"] = "two\r\nlines"
    assert here.find().quota_project == ""


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, {"error": "invalid_grant", "error_description": "leaks SECRET"}, KeyUnavailable, r"400 \(invalid_grant\): run `gcloud auth"),
        (401, {"error": "bad: client-SECRET"}, KeyUnavailable, "refused the login"),
        (500, "SECRET", KeyDelayed, "answered 500"),
        (429, "SECRET", KeyDelayed, "answered 429"),
        (200, "SECRET", KeyUnavailable, "not a JSON object"),
        (200, {"access_token": "a\nSECRET"}, KeyUnavailable, "a token that is none"),
        (200, {"token": "SECRET"}, KeyUnavailable, "a token that is none"),
    ],
)  # fmt: skip
def test_refusals(here: Here, status: int, body: Any, kind: type, said: str) -> None:
    here.adc(USER)
    here.remote.answer = lambda asked: (status, body)
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert type(caught.value) is kind and "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json SECRET", "is not a JSON object"),
        ({**USER, "refresh_token": ""}, "holds no refresh_token: run `gcloud"),
        ({**USER, "token_uri": "http://evil.example.com/"}, "token_uri is not an https URL"),
    ],
)
def test_files_that_do_not_help(here: Here, content: Any, said: str) -> None:
    here.adc(content)
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert here.remote.asked == [] and "SECRET" not in str(caught.value)


def test_a_file_that_everybody_may_change_is_refused(here: Here) -> None:
    here.adc(USER).chmod(0o666)
    with pytest.raises(KeyUnavailable, match="can be changed by everybody"):
        here.find()


def test_metadata_server(here: Here) -> None:
    here.local.answer = lambda asked: (
        200,
        granted(access_token="ya29.meta....."),
        {"Metadata-Flavor": "Google"},
    )
    assert here.find().token == "ya29.meta"
    (asked,) = here.local.asked
    assert asked.url == "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token"
    assert asked.headers["metadata-flavor"] == "Google" and asked.options["timeout"] == 2.0
    here.env["GCE_METADATA_HOST"] = "127.0.0.1:8080"
    here.find()
    assert here.local.asked[-1].url.startswith("http://127.0.0.1:8080/computeMetadata/")
    here.env = {"NO_GCE_CHECK": "true"}
    here.local.asked.clear()
    with pytest.raises(KeyUnavailable, match="run `gcloud auth application-default login`"):
        here.find()
    assert here.local.asked == []


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (None, KeyUnavailable, "no metadata server"),
        ((200, granted()), KeyUnavailable, "no metadata server"),
        ((404, "", {"metadata-flavor": "Google"}), KeyUnavailable, "no service account"),
        ((503, "", {"metadata-flavor": "Google"}), KeyDelayed, "answered 503"),
        ((403, "", {"metadata-flavor": "Google"}), KeyUnavailable, "answered 403"),
    ],
)
def test_a_metadata_server_that_is_none(here: Here, answer: Any, kind: type, said: str) -> None:
    here.local.answer = lambda asked: answer
    with pytest.raises(KeyUnavailable, match=said) as caught:
        here.find()
    assert type(caught.value) is kind


def test_a_named_metadata_server_that_is_away_is_only_delayed(here: Here) -> None:
    here.env["GCE_METADATA_HOST"] = "127.0.0.1:1"
    with pytest.raises(KeyDelayed):
        here.find()


def test_other_kinds_need_the_extra(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.adc({"type": "service_account", "private_key": "SECRET"})
    original: Callable[..., Any] = builtins.__import__

    def without_google(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("google"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_google)
    with pytest.raises(KeyUnavailable) as caught:
        here.find()
    assert "'service_account', which needs the extra: pip install 'claude-code-mux[vertex]'" in str(
        caught.value
    )


def test_a_service_account_file_that_is_broken(here: Here) -> None:
    pytest.importorskip("google.auth")
    here.adc(
        {"type": "service_account", "private_key": "SECRET", "client_email": "a@b", "token_uri": "https://x"}
    )
    with pytest.raises(KeyUnavailable) as caught:
        here.find()
    assert "SECRET" not in str(caught.value) and here.remote.asked == []


def test_where_credentials_will_come_from(tmp_path: Path) -> None:
    dmi = tmp_path / "dmi"
    dmi.mkdir()

    def seen(**env: str) -> str:
        return google_source(env, tmp_path, dmi)

    assert seen() == ""
    assert seen(GCE_METADATA_HOST="h") == "metadata server"
    (dmi / "product_name").write_text("Google Compute Engine\n")
    assert seen() == "metadata server" and seen(NO_GCE_CHECK="true") == ""
    path = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert seen() == f"application default credentials in {path}"
    assert google_file({"CLOUDSDK_CONFIG": "/c"}, tmp_path) == Path("/c/application_default_credentials.json")
    assert google_file({"GOOGLE_APPLICATION_CREDENTIALS": "~/k"}, tmp_path) == tmp_path / "k"
