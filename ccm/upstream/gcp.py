"""Google access tokens from application default credentials, in Google's order: the file that
GOOGLE_APPLICATION_CREDENTIALS names, gcloud's own file, the metadata server.

A login of a person (`authorized_user`) is refreshed here; every other kind of file (service accounts, federation,
impersonation) needs signatures, for which the extra `claude-code-mux[vertex]` brings google-auth. Nothing is cached
here: `tokens.Renewed` does that.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ccm.config.clouds import google_file
from ccm.config.secrets import KeyUnavailable, key_fault
from ccm.shape import dataclass, field
from ccm.upstream.tokens import KeyDelayed, fetch, parse_object

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_METADATA_HOST = "169.254.169.254"
_METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_FLAVOR = {"metadata-flavor": "Google"}
_REFRESH_TIMEOUT_S = 10.0
_LIFE_S = 3600.0  # where the answer does not say
_MAX_FILE_BYTES = 256 * 1024
_EXTRA = "needs the extra: pip install 'claude-code-mux[vertex]'"
_LOG_IN = "run `gcloud auth application-default login`"


@dataclass(frozen=True, slots=True)
class GoogleToken:
    """An access token. `quota_project` ("" = none) is to be billed and named in a header."""

    token: str = field(repr=False)
    quota_project: str = ""
    end: float = 0.0  # epoch seconds


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: the environment as it was at the start, the home directory, and two sessions: `local` for the
    metadata server, `remote` for Google's token endpoint, which goes through the provider's proxy."""

    env: Mapping[str, str]
    home: Path
    local: requests.Session
    remote: requests.Session


def find(place: Place) -> GoogleToken:
    """An access token that is good now. Blocks for the network. Raises KeyUnavailable, saying what to do; KeyDelayed
    where Google's service is only away."""
    path = google_file(place.env, place.home)
    found = _read(path)
    if found is not None:
        kind = found.get("type")
        if kind == "authorized_user":
            return _refreshed(place, path, found)
        return _by_google_auth(place, path, str(kind), found)
    if place.env.get("GOOGLE_APPLICATION_CREDENTIALS"):
        raise KeyUnavailable(f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which does not exist")
    if place.env.get("NO_GCE_CHECK", "").lower() != "true":
        token = _from_metadata(place)
        if token is not None:
            return token
    raise KeyUnavailable(f"no Google credentials in {path} and no metadata server: {_LOG_IN}")


def _read(path: Path) -> dict[str, Any] | None:
    """The credentials file; None where there is none. One that others may change is refused: they could send the
    refresh token to themselves."""
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            if info.st_mode & stat.S_IWOTH:
                raise KeyUnavailable(f"{path} can be changed by everybody: run chmod 600 on it")
            data = file.read(_MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeyUnavailable(f"{path} can't be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise KeyUnavailable(f"{path} is too long for a credentials file")
    return parse_object(data, str(path))


def _refreshed(place: Place, path: Path, found: Mapping[str, Any]) -> GoogleToken:
    """The token for a refresh token (RFC 6749 section 6). Secrets go in the body."""
    form = {"grant_type": "refresh_token"}
    for name in ("client_id", "client_secret", "refresh_token"):
        value = found.get(name)
        if not isinstance(value, str) or not value:
            raise KeyUnavailable(f"{path} holds no {name}: {_LOG_IN}")
        form[name] = value
    uri = str(found.get("token_uri") or _TOKEN_URI)
    parts = urlsplit(uri)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise KeyUnavailable(f"{path}: its token_uri is not an https URL")
    what = "Google's token endpoint"
    status, _, body = fetch(place.remote, "POST", uri, what, data=form, timeout_s=_REFRESH_TIMEOUT_S)
    if status >= 500 or status == 429:
        raise KeyDelayed(f"{what} answered {status}")
    answer = parse_object(body, f"the answer of {what}")
    if status != 200:
        code = str(answer.get("error", ""))
        shown = f" ({code})" if code.replace("_", "").isalpha() and len(code) < 60 else ""
        raise KeyUnavailable(f"{what} refused the login in {path} with {status}{shown}: {_LOG_IN}")
    project = place.env.get("GOOGLE_CLOUD_QUOTA_PROJECT") or found.get("quota_project_id") or ""
    return _token(answer, what, project if isinstance(project, str) and not key_fault(project) else "")


def _from_metadata(place: Place) -> GoogleToken | None:
    what = "Google's metadata server"
    host = place.env.get("GCE_METADATA_HOST") or _METADATA_HOST
    try:
        status, headers, body = fetch(
            place.local, "GET", f"http://{host}{_METADATA_PATH}", what, headers=_FLAVOR
        )
    except KeyDelayed:
        if place.env.get("GCE_METADATA_HOST"):
            raise
        return None  # not on Google's machines
    if headers.get("metadata-flavor") != "Google":
        return None  # another cloud's
    if status == 404:
        raise KeyUnavailable("this machine has no service account of Google's")
    if status != 200:
        text = f"{what} answered {status}"
        raise KeyDelayed(text) if status >= 500 or status == 429 else KeyUnavailable(text)
    return _token(parse_object(body, f"the answer of {what}"), what, "")


def _token(answer: Mapping[str, Any], what: str, project: str) -> GoogleToken:
    token, life = answer.get("access_token"), answer.get("expires_in")
    text = token.rstrip(".") if isinstance(token, str) else ""  # old metadata servers pad with dots
    if key_fault(text):
        raise KeyUnavailable(f"{what} gave out a token that is none")
    seconds = float(life) if isinstance(life, (int, float)) and life > 0 else _LIFE_S
    return GoogleToken(text, project, time.time() + seconds)


def _by_google_auth(place: Place, path: Path, kind: str, info: Mapping[str, Any]) -> GoogleToken:
    """Every other kind of file, through google-auth where it is installed, over our own session."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
        import google.oauth2.service_account
    except ImportError:
        raise KeyUnavailable(f"{path} is of type {kind[:40]!r}, which {_EXTRA}") from None
    # google-auth's loaders are untyped
    account: Any = google.oauth2.service_account.Credentials
    load: Any = google.auth.load_credentials_from_dict
    try:
        if kind == "service_account":
            found = account.from_service_account_info(info, scopes=[SCOPE])
        else:
            with (
                warnings.catch_warnings()
            ):  # that a file could be somebody else's: this one is the user's own
                warnings.simplefilter("ignore", DeprecationWarning)
                found, _ = load(dict(info), scopes=[SCOPE])
        found.refresh(google.auth.transport.requests.Request(session=place.remote))
    except google.auth.exceptions.TransportError:
        raise KeyDelayed("Google's token endpoint does not answer") from None
    except google.auth.exceptions.GoogleAuthError as error:
        if getattr(error, "retryable", False):
            raise KeyDelayed("Google's token endpoint does not give out tokens now") from None
        raise KeyUnavailable(f"Google refused the credentials in {path} ({type(error).__name__})") from None
    except (ValueError, TypeError, KeyError) as error:
        raise KeyUnavailable(f"{path} is not usable ({type(error).__name__})") from None
    text = str(found.token or "")
    if key_fault(text):
        raise KeyUnavailable(f"the credentials in {path} gave no token")
    end = _end_of(found.expiry)
    return GoogleToken(text, str(getattr(found, "quota_project_id", None) or ""), end)


def _end_of(expiry: Any) -> float:
    """google-auth's naive UTC as epoch seconds."""
    if expiry is None:
        return time.time() + _LIFE_S
    return float((expiry - type(expiry)(1970, 1, 1, tzinfo=expiry.tzinfo)).total_seconds())
